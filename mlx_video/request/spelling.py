"""How a message names options: written as commands spell them (`--height 100`), respelt for a caller in Python.

Knows the tables of options; knows no message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlx_video.request.generating import Request
from mlx_video.request.options import options_of
from mlx_video.request.upscaling import Upscaling
from mlx_video.types import DTYPES, Told

_TABLES = (*options_of(Request), *options_of(Upscaling))
NAMES = {
    "model_repo": "where", "text_encoder_repo": "text_encoder", "output_path": "path", "output_audio": "audio_path",
    "save_frames": "frames", "audio_start_time": "audio_file: start",
    **{name: name for name in ("dtype", "vae_dtype", "quantize", "low_memory", "memory_limit", "variant", "keep")},
    **{one.name: one.name for one in _TABLES},
}  # fmt: skip
"""Keywords by what commands call them."""
_CHOICES = {"dtype": DTYPES, "vae_dtype": DTYPES, **{one.name: one.choices for one in _TABLES if one.hint is str}}
_SWITCHES = {"low_memory", "save_frames", *(one.name for one in _TABLES if one.hint in (bool, bool | None))}
_FLAG = re.compile(r"(\bno )?--(no-)?([a-z][a-z0-9-]*[a-z0-9])(?: (\S+?)(?=[,;:.)]*(?:\s|$)))?")
_VALUE = re.compile(r"[+-]?(\d[\d.,]*(e[+-]?\d+)?|nan|inf)|'[^']*'|[A-Z]+|[\w.-]+/[\w.-]+")


def keywords(text: str) -> str:
    """A message with its options as keywords: `height=100`, `audio=False`, `tiling="auto"`; others stay as they are."""
    return _FLAG.sub(_keyword, text)


def _keyword(found: re.Match[str]) -> str:
    off, flag, value = found[1] or found[2], found[3].replace("-", "_"), found[4] or ""
    name = NAMES.get(flag)
    if name is None:
        return found[0]
    rest = f" {value}" if value else ""
    if flag in _SWITCHES:
        return f"{name}{rest}" if value == "has" else f"{name}={not off}{rest}"
    if value in _CHOICES.get(flag, ()) or "/" in value or (value and flag == "pipeline"):
        return f'{name}="{value}"'
    return f"{name}={value}" if _VALUE.fullmatch(value) else f"{name}{rest}"


@contextmanager
def in_keywords() -> Iterator[None]:
    """Within it, or in a function that it decorates, what a user is told names keywords, not flags."""
    try:
        yield
    except Told as fault:
        fault.said = keywords(fault.args[0])
        raise


def told(tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, with options as keywords."""
    return lambda text: tell(keywords(text))
