"""Writes safetensors files a piece at a time, so that memory does not grow with the size of what is written.

Tensors are given lazily with the precision to write them in; each is evaluated, written and dropped before the next. A
full disk raises OSError here, where MLX's own writer raises an error without a number. Knows the format and nothing of
what the tensors mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.types import UserError

SHARD_BYTES = 4 << 30
"""Largest shard."""
PIECE_BYTES = 128 << 20
"""Largest piece of a tensor that is cast and written at once."""
_CODES = {
    mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16", mx.float16: "F16",
    mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32", mx.float32: "F32", mx.uint64: "U64", mx.int64: "I64",
}  # fmt: skip


class Pending(NamedTuple):
    """A tensor to write, in the precision that it will have."""

    array: mx.array
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.array.size * self.dtype.size


Told = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


def write_shards(folder: Path, tensors: dict[str, Pending], metadata: Mapping[str, str], told: Told) -> None:
    """Writes `tensors` to `folder` as one file, or as numbered shards with an index; empties the mapping as it goes.

    Raises UserError, naming the tensor, where a value does not fit float16, and OSError where the disk is full.
    """
    plan = list(_shards({name: tensor.nbytes for name, tensor in tensors.items()}))
    index: dict[str, str] = {}
    total = sum(tensor.nbytes for tensor in tensors.values())
    for number, names in enumerate(plan, 1):
        file = "model.safetensors" if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        write(folder / file, {name: tensors.pop(name) for name in names}, metadata, told)
        index.update(dict.fromkeys(names, file))
    if len(plan) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=1))


def _shards(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    shard: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if shard and filled + size > SHARD_BYTES:
            yield shard
            shard, filled = [], 0
        shard.append(name)
        filled += size
    if shard:
        yield shard


def write(
    path: Path, tensors: dict[str, Pending], metadata: Mapping[str, str], told: Told, *, tidy: bool = True
) -> None:
    """Writes `tensors` to one file, emptying the mapping as it goes. Raises as `write_shards` does.

    tidy: whether memory that MLX has to spare is given back after each; work that goes on would only take it again.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        shape = list(tensor.array.shape)
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in list(tensors):
            for piece in _pieces(tensors.pop(name), name, path.name):
                file.write(piece)
                told(len(piece))
            if tidy:
                mx.clear_cache()


def settle(path: Path) -> None:
    """Waits until a file's bytes are on the disk, so that a name given to it after a loss of power has them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some disks know no such thing
            os.fsync(handle)
    finally:
        os.close(handle)


def checksum(arrays: Mapping[str, mx.array], text: str = "") -> str:
    """A digest of arrays with their names, shapes and precisions, and of a text that belongs to them."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).data)
    return f"blake2b {digest.hexdigest()}"  # never to be taken for a number


def _pieces(tensor: Pending, name: str, file: str) -> Iterator[memoryview]:
    rows = tensor.array.reshape(1) if tensor.array.ndim == 0 else tensor.array
    wide = max(math.prod(rows.shape[1:]) * max(rows.dtype.size, tensor.dtype.size), 1)
    step = max(PIECE_BYTES // wide, 1)
    for start in range(0, rows.shape[0], step):
        piece = rows[start : start + step]
        narrowed = piece.astype(tensor.dtype)
        if tensor.dtype == mx.float16 and piece.dtype != mx.float16 and mx.isinf(narrowed).any():
            raise UserError(
                f"{name} of {file} holds values beyond 65504, the largest of float16; convert to bfloat16 or float32."
            )
        if narrowed.size:
            yield memoryview(mx.contiguous(narrowed).reshape(-1).view(mx.uint8))  # type: ignore[arg-type]
