"""Official files of the real size that take no disk: the published names, shapes and config, and zeros for numbers.

A header is written and the file is cut to its length; a file system that knows holes stores nothing else.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from mlx_video.weights.store import DTYPE_BYTES
from tests.support import real_keys

FILES = {"2": "ltx-2-19b-distilled.safetensors", "2.3": "ltx-2.3-22b-distilled.safetensors"}
VERSIONS = {"2": None, "2.3": "2.3.0"}
T = TypeVar("T")
_BLOCK = re.compile(r"model\.diffusion_model\.transformer_blocks\.(\d+)\.")


def make(folder: Path, generation: str, *, blocks: int | None = None, without: tuple[str, ...] = ()) -> Path:
    """Writes the checkpoint, with its first `blocks` alone if that is given, `without` names that begin so."""
    config = real_keys.config(generation)
    tensors = {name: t for name, t in real_keys.load(generation).items() if not name.startswith(without or ("\0",))}
    if blocks is not None:
        config["transformer"]["num_layers"] = blocks
        tensors = first_blocks(tensors, blocks)
    metadata = {"config": json.dumps(config)}
    if VERSIONS[generation]:
        metadata["model_version"] = VERSIONS[generation]
    path = folder / FILES[generation]
    write(path, {name: (t.dtype, t.shape) for name, t in tensors.items()}, metadata)
    return path


def first_blocks(tensors: Mapping[str, T], blocks: int) -> dict[str, T]:
    """Without those of the transformer's later blocks."""
    return {n: t for n, t in tensors.items() if not ((found := _BLOCK.match(n)) and int(found[1]) >= blocks)}


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
