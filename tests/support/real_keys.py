"""Every tensor of the published LTX-2 and LTX-2.3 files: name, dtype, shape; and the configs in their metadata.

The lists were made without weights, from the reference's own classes at full size on torch's meta device, and checked
against the published files: numbers of tensors and sizes in bytes agree. `fixtures/keys_<generation>.json.gz` holds
them with the indices of repeated blocks folded: "transformer_blocks.0-47.ff.net.2.bias" stands for 48 tensors.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

GENERATIONS = ("2", "2.3")
FOLDER = Path(__file__).parents[1] / "fixtures"
LORA_RANK = 384
_INDEX = re.compile(r"(blocks\.)(\d+)\.")
_RANGE = re.compile(r"(blocks\.)(\d+)-(\d+)\.")


class Tensor(NamedTuple):
    """What a file's header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def load(generation: str) -> dict[str, Tensor]:
    """All tensors of the single-file checkpoint, every component: 4,052 (LTX-2) or 5,947 (LTX-2.3)."""
    return _unfold(_read(generation)["checkpoint"])


def config(generation: str) -> dict:
    """The `config` in the checkpoint's metadata; a fresh copy."""
    return json.loads(json.dumps(_read(generation)["config"]))


def upsamplers(generation: str) -> dict[str, tuple[dict, dict[str, Tensor]]]:
    """Name ("spatial_x2", ...) -> the upsampler file's config and its tensors."""
    return {name: (part["config"], _unfold(part["tensors"])) for name, part in _read(generation)["upsamplers"].items()}


def lora(generation: str) -> dict[str, Tensor]:
    """The distilled LoRA of rank 384: a pair for each Linear of the transformer, and for LTX-2's text projection."""
    found = {}
    for name, (_, shape) in load(generation).items():
        base = name.removeprefix("model.").removesuffix(".weight")
        in_transformer = base.startswith("diffusion_model.") and "_embeddings_connector." not in base
        if not name.endswith(".weight") or len(shape) != 2 or not (in_transformer or base.endswith(".aggregate_embed")):
            continue
        rank = min(LORA_RANK, *shape)
        found[f"{base}.lora_A.weight"] = Tensor("BF16", (rank, shape[1]))
        found[f"{base}.lora_B.weight"] = Tensor("BF16", (shape[0], rank))
    return found


@functools.cache
def _read(generation: str) -> dict:
    with gzip.open(FOLDER / f"keys_{generation}.json.gz", "rt") as file:
        return json.load(file)


def _unfold(folded: dict[str, list]) -> dict[str, Tensor]:
    found = {}
    for name, (dtype, shape) in folded.items():
        span = _RANGE.search(name)
        indices = range(int(span[2]), int(span[3]) + 1) if span else [None]
        for i in indices:
            found[name if i is None else _RANGE.sub(rf"\g<1>{i}.", name)] = Tensor(dtype, tuple(shape))
    return found


def _fold(tensors: dict[str, dict]) -> dict[str, list]:
    groups = defaultdict(list)
    for name, tensor in tensors.items():
        index = _INDEX.search(name)
        groups[_INDEX.sub(r"\g<1>#.", name, count=1), tensor["dtype"], tuple(tensor["shape"])].append(
            index and int(index[2])
        )
    folded = {}
    for (name, dtype, shape), indices in groups.items():
        if len(indices) > 1 and sorted(indices) == list(range(min(indices), max(indices) + 1)):
            folded[name.replace("#", f"{min(indices)}-{max(indices)}")] = [dtype, list(shape)]
        else:
            folded.update({name.replace("#", str(i)): [dtype, list(shape)] for i in indices})
    return folded


def pack(report: dict) -> Path:
    """Writes the fixture from a report {generation, config, checkpoint: {name: {shape, dtype}}, upsamplers}."""
    path = FOLDER / f"keys_{report['generation']}.json.gz"
    content = {
        "config": report["config"],
        "checkpoint": _fold(report["checkpoint"]),
        "upsamplers": {
            name: {"config": part["config"], "tensors": _fold(part["tensors"])}
            for name, part in report["upsamplers"].items()
        },
    }
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))
    return path


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        pack(json.loads(Path(argument).read_text()))
