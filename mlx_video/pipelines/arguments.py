"""What callers of `LTXPipeline` may pass (paths, tuples, one or several), brought to the one form that a Request has.

Knows types; opens no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.types import AudioIn, ImageAt, Lora, UserError

DTYPES = ("float16", "bfloat16", "float32")


def dtype_of(dtype: str | mx.Dtype | None, name: str = "dtype") -> mx.Dtype | None:
    """From a name or an MLX type; raises UserError for one that is not known. name: what the caller calls it."""
    if dtype is None:
        return None
    known = {key: getattr(mx, key) for key in DTYPES}
    if isinstance(dtype, str) and dtype in known:
        return known[dtype]
    if isinstance(dtype, mx.Dtype) and dtype in known.values():
        return dtype
    raise UserError(f"{name} {dtype!r} is not known; there are {', '.join(DTYPES)}.")


def loras_of(given: Any) -> tuple[Lora, ...]:
    """From a path, a Lora, a tuple (path, strength), or several of them; raises UserError for anything else."""
    return tuple(_one(item, Lora) for item in _several(given))


def images_of(given: Any) -> tuple[ImageAt, ...]:
    """From a path, an ImageAt, a tuple (path, frame, strength), or several of them; raises UserError otherwise."""
    return tuple(_one(item, ImageAt) for item in _several(given))


def audio_of(given: str | Path | AudioIn | None) -> AudioIn | None:
    """From a path or an AudioIn."""
    return given if given is None or isinstance(given, AudioIn) else AudioIn(str(given))


def _several(given: Any) -> list[Any]:
    """One thing or several: a tuple that starts with a path and goes on with a number is one."""
    if isinstance(given, (str, Path, ImageAt, Lora)):
        return [given]
    if (
        isinstance(given, tuple)
        and len(given) > 1
        and isinstance(given[0], (str, Path))
        and not isinstance(given[1], (str, Path))
    ):
        return [given]
    return list(given) if isinstance(given, Sequence) else [given]


def _one(item: Any, kind: type) -> Any:
    if isinstance(item, kind):
        return item
    if isinstance(item, (str, Path)):
        return kind(str(item))
    try:
        path, *rest = item
        return kind(str(path), *rest)
    except TypeError as error:
        raise UserError(
            f"{item!r} is not a {kind.__name__}: give a path, a {kind.__name__}, or a tuple that starts with a path."
        ) from error
