"""LTX-2.5's published split pack: the names, dtypes and shapes of every tensor of its ten files, and their metadata.

As in `real_keys`: made without weights, and checked against the published headers. Repeated blocks are folded:
"model.layers.{0-4}.mlp.up_proj.weight" stands for five tensors. The dev transformer's file is the distilled one's but
for its numbers, and is not listed twice.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from pathlib import Path

from tests.support import sparse
from tests.support.real_keys import Tensor

FILE = Path(__file__).parents[1] / "fixtures" / "keys_2.5.json.gz"
TRANSFORMER = "diffusion_models/ltx-2.5-22b-distilled-transformer-bf16"
TEXT_ENCODER = "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16"
VIDEO, DIFFUSION, SOUND = (f"vae/ltx-2.5-{name}-bf16" for name in ("video-vae-conv", "video-vae", "audio-vae"))
DURATION = "model_patches/ltx-2.5-duration-head-bf16"
LORA = "loras/ltx-2.5-22b-distilled-lora-450-bf16"
_RANGE = re.compile(r"\{(\d+)-(\d+)\}")


@functools.cache
def _read() -> dict:
    with gzip.open(FILE, "rt") as file:
        return json.load(file)


def files() -> tuple[str, ...]:
    """What the pack has, without endings."""
    return tuple(_read())


def metadata(name: str) -> dict:
    """Of a file; a fresh copy, its values as JSON has them."""
    return json.loads(json.dumps(_read()[name]["metadata"]))


def tensors(name: str) -> dict[str, Tensor]:
    """Of a file."""
    found = {}
    for folded, (dtype, shape) in _read()[name]["tensors"].items():
        span = _RANGE.search(folded)
        indices = range(int(span[1]), int(span[2]) + 1) if span else [None]
        for i in indices:
            found[folded if i is None else _RANGE.sub(str(i), folded)] = Tensor(dtype, tuple(shape))
    return found


def part(name: str) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """The config in a file's metadata, and its tensors' shapes."""
    return metadata(name)["config"], {key: tensor.shape for key, tensor in tensors(name).items()}


def config() -> dict:
    """What one file's config would say of them all: transformer, convolutional and audio autoencoders, vocoder."""
    return {key: value for name in (TRANSFORMER, VIDEO, SOUND) for key, value in metadata(name)["config"].items()}


def write(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """The whole pack as files of holes, both variants, but for those whose names begin with one of `without`."""
    for name in files():
        if name.startswith(without or ("\0",)):
            continue
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata(name).items()}
        sparse.write(path, dict(tensors(name)), said)
    one = folder / f"{TRANSFORMER}.safetensors"
    if one.exists():
        one.with_name(one.name.replace("distilled", "dev")).symlink_to(one.name)
    return folder
