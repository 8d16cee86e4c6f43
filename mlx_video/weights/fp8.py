"""Official fp8 files: 8-bit floats (e4m3) with a scale beside them, read as the numbers that they stand for.

`layer.weight_scale` is one number for the tensor or one for each row; `layer.input_scale` serves a product in 8 bit and
is left out. Knows no networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import mlx.core as mx

from mlx_video.types import UserError
from mlx_video.weights.store import Entry

FLOAT8, OTHER_FLOAT8 = "F8_E4M3", "F8_E5M2"
"""As safetensors headers call them. MLX reads the bytes of the first as uint8, and the second not at all."""
_SCALES = ("weight_scale", "bias_scale", "input_scale")


def shapes(names: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """What `widen` gives for tensors called `names`, from headers alone: name -> shape. Raises as it does."""
    result = {}
    for name in names:
        entry = entries[name]
        if entry.dtype == OTHER_FLOAT8:
            raise UserError(f"{name} is an 8-bit float of the kind e5m2; supported here: e4m3.")
        if entry.dtype == FLOAT8:
            _check_scale(name, entries)
        elif _belongs_to_float8(name, entries):
            continue
        result[name] = entry.shape
    return result


def widen(arrays: Mapping[str, mx.array], entries: Mapping[str, Entry], dtype: mx.Dtype) -> dict[str, mx.array]:
    """`arrays` with 8-bit floats as `dtype`, their scales multiplied in; lazy. Scales themselves are left out.

    The product is taken in float32 and rounded once. Raises UserError for scales by block, and for e5m2.
    """
    result = {}
    for name in shapes(arrays, entries):
        array = arrays[name]
        if entries[name].dtype == FLOAT8:
            value = mx.from_fp8(array, dtype=mx.float32)
            if f"{name}_scale" in arrays:
                scale = arrays[f"{name}_scale"].astype(mx.float32)
                value = value * scale.reshape(-1, *[1] * (array.ndim - 1))
            array = value.astype(dtype)
        result[name] = array
    return result


def check_scales(arrays: Mapping[str, mx.array], entries: Mapping[str, Entry], where: object) -> None:
    """Reads the scales of 8-bit floats and whole numbers.

    Raises UserError, naming `where`, for one that is no finite number.

    A scale spoils a whole tensor and takes next to no time to read.
    """
    narrow = (name for name in arrays if entries[name].dtype in (FLOAT8, "I8"))
    names = [f"{name}_scale" for name in narrow if f"{name}_scale" in arrays]
    finite = [mx.all(mx.isfinite(arrays[name])) for name in names]
    mx.eval(finite)
    for name, fine in zip(names, finite, strict=True):
        if not fine.item():
            raise UserError(f"{where}: tensor {name!r} has values that are not finite numbers.")


def _belongs_to_float8(name: str, entries: Mapping[str, Entry]) -> bool:
    layer, _, leaf = name.rpartition(".")
    own = (entries.get(f"{layer}.{other}") for other in ("weight", "bias"))
    return leaf in _SCALES and any(entry is not None and entry.dtype == FLOAT8 for entry in own)


def _check_scale(name: str, entries: Mapping[str, Entry]) -> None:
    scale, shape = entries.get(f"{name}_scale"), entries[name].shape
    if scale is not None and math.prod(scale.shape) not in (1, shape[0]):
        raise UserError(
            f"{name}_scale has shape {list(scale.shape)} for a tensor of shape {list(shape)}; supported here: one "
            f"scale for the tensor, or one for each of its {shape[0]} rows."
        )
