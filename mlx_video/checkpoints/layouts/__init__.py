"""From a path to a `Checkpoint`: which of the known layouts lies there, told by file headers alone.

A layout is a pair of functions in LAYOUTS: one that recognises it, one that describes it. They read headers and JSON
files, never tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.layouts import converted, official, packs
from mlx_video.checkpoints.layouts.neighbours import OLDER, SPLIT_FOLDERS, SPLIT_PARTS, Place
from mlx_video.types import UserError

__all__ = ["LAYOUTS", "open_checkpoint"]

LAYOUTS: tuple[tuple[Callable[[Place], bool], Callable[[Place, str], Checkpoint]], ...] = (
    (converted.recognise, converted.describe),
    (official.recognise, official.describe),
    (packs.recognise_folders, packs.describe_folders),
    (packs.recognise_files, packs.describe_files),
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
    if place.own.faults:
        raise place.own.faults[0]
    for file in place.own.of(OLDER):
        raise UserError(f"{file} is {OLDER}; what is read is LTX-2, 2.3 and 2.5.")
    for part in SPLIT_PARTS:
        for file in place.own.of(part):
            if path.is_dir() and path.name not in SPLIT_FOLDERS:
                raise UserError(
                    f"{path} has a part of LTX-2.5's pack ({file.name}, its {part}) and no transformer; put the "
                    f"transformer's .safetensors file there."
                )
            raise UserError(
                f"{file} is a part of LTX-2.5's pack, its {part}; name the pack's folder, or the transformer's file in "
                f"its diffusion_models/."
            )
    kinds = ", ".join(f"{file.name}: {kind}" for file, (kind, _) in place.own.found.items())
    raise UserError(
        f"{path} holds no LTX-2 checkpoint, which is a .safetensors file with a transformer's config in its metadata "
        f"(an official one), a folder with {converted.MARKER} (of mlx_video.convert), or a pack of another MLX "
        f"converter, with the transformer in model.safetensors, transformer*.safetensors or transformer/. "
        f"Found: {kinds or 'no .safetensors file'}."
    )
