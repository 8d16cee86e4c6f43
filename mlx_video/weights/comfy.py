"""Files packed for ComfyUI: whole numbers of 8 bit, turned by Hadamard matrices ("int8-convrot"), are read as the
numbers that they stand for; 4-bit floats ("nvfp4") are told.

A layer has `weight` (I8), `weight_scale` (one number, or one for each row) and `comfy_quant`, the bytes of a JSON
object that says the format; where that is turned, each row in groups by a symmetric orthogonal matrix, which turns it
back as well. Source: comfy-kitchen 0.2.40 (`TensorWiseINT8Layout`, `_build_hadamard`), ComfyUI's `ops.py` for the
JSON's keys, and the counts in the published files' headers. Knows no networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.reading import parse_json, shown
from mlx_video.types import UserError
from mlx_video.weights.store import Entry

INT8, FORMAT = "I8", "int8_tensorwise"
MARK = "comfy_quant"
MAX_MARK = 4096
"""Bytes of a mark; the published have 72."""
GROUP = 256
"""Columns that are turned together where the mark does not say how many."""
MAX_GROUP = 4096
_TURN = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))
"""The matrix of four columns, of which larger ones are Kronecker powers: regular, so that every row has one sum."""


class Mark(NamedTuple):
    """What a layer's mark says: the columns that were turned together, or 0."""

    group: int


def companions(name: str) -> tuple[str, str]:
    """The names of what belongs to a packed weight: its scale and its mark."""
    return f"{name}_scale", f"{name.rpartition('.')[0]}.{MARK}"


def shapes(names: Iterable[str], entries: Mapping[str, Entry]) -> list[str]:
    """Those of `names` that `widen` gives: all but marks, and scales of whole numbers.

    Raises UserError for 4-bit floats and for scales that do not fit their weights.
    """
    kept = []
    for name in names:
        layer, _, leaf = name.rpartition(".")
        weight = entries.get(f"{layer}.weight")
        if weight is not None and weight.dtype == "U8" and f"{layer}.weight_scale_2" in entries:
            raise UserError(
                f"{layer}.weight is packed as nvfp4, 4-bit floats for NVIDIA's GPUs, which is not read here; take the "
                f"bf16 file in its place, with --quantize 8 or 4."
            )
        if leaf == MARK or (leaf == "weight_scale" and weight is not None and weight.dtype == INT8):
            continue
        if entries[name].dtype == INT8 and leaf == "weight" and any(own in entries for own in companions(name)):
            _check(name, entries)
        kept.append(name)
    return kept


def is_packed(name: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a tensor is a weight in whole numbers that has what belongs to it."""
    entry = entries[name]
    return entry.dtype == INT8 and len(entry.shape) == 2 and all(own in entries for own in companions(name))


def widen(arrays: Mapping[str, mx.array], entries: Mapping[str, Entry], dtype: mx.Dtype) -> dict[str, mx.array]:
    """`arrays` with whole numbers as `dtype`, scaled and turned back in float32; marks and scales are left out.

    Lazy, but for the marks. Raises UserError for a mark that says another format, and as `shapes` does.
    """
    result = {}
    for name in shapes(arrays, entries):
        array = arrays[name]
        if is_packed(name, entries):
            scale, mark = companions(name)
            columns = array.shape[1]
            group = _read(mark, arrays[mark], columns).group
            value = array.astype(mx.float32) * arrays[scale].astype(mx.float32).reshape(-1, 1)
            if group:
                value = (value.reshape(-1, group) @ mx.array(hadamard(group))).reshape(array.shape)
            array = value.astype(dtype)
        result[name] = array
    return result


@cache
def hadamard(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The symmetric orthogonal matrix (size, size) that rows are turned by; size is a power of four."""
    four, found = np.array(_TURN, np.float32), np.ones((1, 1), np.float32)
    while len(found) < size:
        found = np.kron(found, four)
    return np.asarray(found / np.float32(math.sqrt(size)), np.float32)


def _read(name: str, mark: mx.array, columns: int) -> Mark:
    try:
        values = parse_json(np.array(mark.view(mx.uint8)).tobytes())
    except ValueError as error:
        raise UserError(f"{name} is damaged: it is not JSON ({error}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        said = values.get("format") if isinstance(values, dict) else values
        raise UserError(f"{name} says that its weight's format is {shown(said)}; supported here: {FORMAT}.")
    # The keys may stand one level deeper.
    inner = values.get("params")
    values = {**(inner if isinstance(inner, dict) else {}), **values}
    turned, group = values.get("convrot", False), values.get("convrot_groupsize", GROUP)
    if turned is False:
        return Mark(0)
    fits = type(group) is int and 4 <= group <= MAX_GROUP and group & (group - 1) == 0 and group.bit_length() % 2 == 1
    if turned is not True or not fits or columns % group:
        raise UserError(
            f"{name} says convrot = {shown(turned)} in groups of {shown(group)} for rows of {columns}; a group is a "
            f"power of four from 4 to {MAX_GROUP} that divides them, such as {GROUP}."
        )
    return Mark(group)


def _check(name: str, entries: Mapping[str, Entry]) -> None:
    shape = entries[name].shape
    scale, mark = (entries.get(own) for own in companions(name))
    if len(shape) != 2 or scale is None or mark is None:
        raise UserError(
            f"{name} is whole numbers of 8 bit {list(shape)} without {' and '.join(companions(name))}, which say what "
            f"they stand for; take the bf16 file in its place."
        )
    if math.prod(scale.shape) not in (1, shape[0]) or scale.dtype not in ("F32", "F16", "BF16"):
        raise UserError(
            f"{name}_scale is {scale.dtype} {list(scale.shape)} for a tensor of shape {list(shape)}; supported here: "
            f"one scale for the tensor, or one for each of its {shape[0]} rows."
        )
    if mark.dtype not in ("U8", "I8") or len(mark.shape) != 1 or not 2 <= mark.nbytes <= MAX_MARK:
        raise UserError(
            f"{companions(name)[1]} is {mark.dtype} {list(mark.shape)}; it should be a row of at most {MAX_MARK:,} "
            f"bytes (U8)."
        )
