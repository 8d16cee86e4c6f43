"""Weights that files keep in few bits of a kind that MLX has no layers for, as the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import mlx.core as mx

from mlx_video.types import UserError
from mlx_video.weights import comfy, fp8
from mlx_video.weights.store import Entry


def shapes(names: Iterable[str], entries: Mapping[str, Entry], where: object = "") -> dict[str, tuple[int, ...]]:
    """What `widen` gives for tensors called `names`, from headers alone: name -> shape.

    Raises UserError, beginning with `where`, for what is not read.
    """
    try:
        return fp8.shapes(comfy.shapes(names, entries), entries)
    except UserError as fault:
        raise UserError(f"{where}: {fault}" if where else str(fault)) from fault


def widen(arrays: Mapping[str, mx.array], entries: Mapping[str, Entry], dtype: mx.Dtype) -> dict[str, mx.array]:
    """`arrays` as `dtype` where they are 8-bit floats or scaled whole numbers, else as they are; lazy.

    What belongs to such weights (scales, marks) is left out. Raises UserError for what is not read.
    """
    return fp8.widen(comfy.widen(arrays, entries, dtype), entries, dtype)


def needed_for(name: str) -> tuple[str, ...]:
    """The names of what `widen` may need beside a tensor."""
    return comfy.companions(name)
