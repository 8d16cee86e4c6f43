"""What callers of `LTXPipeline` may pass (paths, tuples, one or several), brought to the one form that a Request has.

Knows types; opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import kinds
from mlx_video.request import Request
from mlx_video.types import AudioIn, ImageAt, Lora, UserError

DTYPES = ("float16", "bfloat16", "float32")


def request_of(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Request:
    """A Request from the keywords of `generate`; raises UserError for a keyword that is not known.

    defaults: values that the model needs otherwise than others. Wrong kinds are told by `Request.check`.
    """
    hints = kinds.hints_of(Request)
    kinds.known("generate", given, [*hints, "noise", "on_step", "on_preview", "on_message"])
    readers = {"image": images_of, "audio_file": audio_of, "lora": loras_of}
    read = {name: readers[name](value) if name in readers else value for name, value in given.items()}
    return Request(**{**defaults, **{name: kinds.plain(value, hints[name]) for name, value in read.items()}})


def dtype_of(dtype: Any, name: str = "dtype") -> mx.Dtype | None:
    """From a name or an MLX type; raises UserError for one that networks do not compute in.

    name: what the caller calls it.
    """
    known = {key: getattr(mx, key) for key in DTYPES}
    if dtype is None or (isinstance(dtype, mx.Dtype) and dtype in known.values()):
        return dtype
    if isinstance(dtype, str) and dtype in known:
        return known[dtype]
    what = kinds.shown(dtype) or (f"={dtype}" if isinstance(dtype, mx.Dtype) else f", {kinds.named(type(dtype))},")
    raise UserError(f"{name}{what} is not known; there are {', '.join(DTYPES)}.")


def loras_of(given: Any) -> tuple[Lora, ...]:
    """From a path, a Lora, a tuple (path, strength), or several of them; raises UserError for anything else."""
    return tuple(_one("lora", item, Lora) for item in _several(given))


def images_of(given: Any) -> tuple[ImageAt, ...]:
    """From a path, an ImageAt, a tuple (path, frame, strength), or several of them; raises UserError otherwise."""
    return tuple(_one("image", item, ImageAt) for item in _several(given))


def audio_of(given: Any) -> AudioIn | None:
    """From a path, an AudioIn or a tuple (path, start); raises UserError otherwise."""
    return None if given is None else _one("audio_file", given, AudioIn)


def _several(given: Any) -> list[Any]:
    """One thing or several: a tuple that starts with a path and goes on with a number is one."""
    if given is None:
        return []
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


def _one(name: str, item: Any, kind: type) -> Any:
    if isinstance(item, (str, Path)):
        return kind(str(item))
    if isinstance(item, (tuple, list)) and item and isinstance(item[0], (str, Path)):
        hints = list(kinds.hints_of(kind).values())
        if len(item) <= len(hints):
            return kind(*(kinds.plain(value, hint) for value, hint in zip(item, hints[: len(item)], strict=True)))
    if isinstance(item, kind):
        return item
    given, wanted = kinds.named(type(item)), kinds.named(kind)
    raise UserError(f"{name} is given as {given}; give a path, {wanted}, or a tuple that starts with a path.")
