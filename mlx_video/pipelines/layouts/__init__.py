"""From a path to a `Checkpoint`: which of the known layouts lies there, told by file headers alone.

A layout is a pair of functions in LAYOUTS: one that recognises it, one that describes it. They read headers and JSON
files, never tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlx_video.pipelines.checkpoint import Checkpoint
from mlx_video.pipelines.layouts import converted, official, packs
from mlx_video.pipelines.layouts.neighbours import Place
from mlx_video.types import UserError

__all__ = ["LAYOUTS", "open_checkpoint"]

LAYOUTS: tuple[tuple[Callable[[Place], bool], Callable[[Place, str], Checkpoint]], ...] = (
    (converted.recognise, converted.describe),
    (packs.recognise_folders, packs.describe_folders),
    (packs.recognise_files, packs.describe_files),
    (official.recognise, official.describe),
)
"""Each known layout: how to tell it, and how to describe it. The first that recognises a path is taken."""


def open_checkpoint(path: Path, variant: str) -> Checkpoint:
    """Describes what lies at `path` (a file or folder), preferring the checkpoint of `variant` where there are two.

    Raises UserError where `path` is nothing that is known, with what was looked for.
    """
    place = Place(path)
    for recognise, describe in LAYOUTS:
        if recognise(place):
            return describe(place, variant)
    raise UserError(
        f"{path} holds no LTX-2 checkpoint: looked for {converted.MARKER} (a folder that mlx_video.convert wrote), for a "
        f".safetensors file with a transformer and a config in its metadata (an official checkpoint), for transformer/ "
        f"with shards, and for transformer*.safetensors (packs of other MLX converters)."
    )
