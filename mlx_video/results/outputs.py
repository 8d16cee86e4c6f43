"""Whether what is to be written can be, before anything heavy runs. Knows files and sizes; no clip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.media import audio as audio_files
from mlx_video.media import image as image_files
from mlx_video.media import settings as settings_files
from mlx_video.media import video as video_files
from mlx_video.media.files import check_apart, check_new_folder, check_room
from mlx_video.reading import path_of
from mlx_video.results.look import Look
from mlx_video.types import UserError

PICTURE_BYTES = 4 << 20
"""Of a preview or a contact sheet at most: 1.3 million pixels."""


def check_outputs(
    path: str | Path,
    look: Look,
    *,
    audio: str | Path | None = None,
    frames: bool = False,
    pictures: Sequence[str | Path] = (),
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """The path, with `~` spelt out; raises UserError, before anything heavy, where an output could not be written.

    That is also where it is of another kind than the source, there is too little room for it, or it is one of the
    `inputs`. pictures: further ones of moderate size, such as a contact sheet.
    """
    path, needed = _needed(path, look, audio, frames, pictures)
    check_apart(list(needed), inputs or {})
    check_room(needed)
    return path


class Place(NamedTuple):
    """Where one of many clips goes, and what of."""

    path: str | Path
    look: Look
    audio: str | Path | None = None
    frames: bool = False
    inputs: Mapping[str, str] | None = None


def check_places(places: Iterable[Place]) -> None:
    """As `check_outputs`, for many clips: there must be room for all, no two may go to one place, and none to what
    another one reads.
    """
    needed: dict[Path, int] = {}
    inputs: dict[str, str] = {}
    for place in places:
        # What an earlier run has made stays, or is told of when its turn comes.
        path = path_of(place.path, advice="give the name of a file")
        _, own = _needed(path, place.look, place.audio, place.frames and not path.exists())
        for one, size in own.items():
            if one in needed:
                raise UserError(f"Two clips of this run would be written to {one}; give each an output of its own.")
            needed[one] = size
        inputs.update(place.inputs or {})
    check_apart(list(needed), inputs)
    check_room(needed)


def is_made(place: Place, settings: Mapping[str, Any]) -> bool:
    """Whether everything that would be written is there already, by what its own settings say of how it was made."""
    path = path_of(place.path)
    folder = path.with_suffix("")
    if not path.is_file() or (place.audio is not None and not path_of(place.audio).is_file()):
        return False
    if place.frames and not (folder.is_dir() and len(list(folder.iterdir())) == place.look.shape.frames):
        return False
    try:
        found = settings_files.read(path)
    except UserError:
        return False
    wanted = json.loads(json.dumps(settings, default=str))
    if "original_prompt" in found:
        found["prompt"] = found.pop("original_prompt")
    if wanted.get("auto_duration") is not None:  # the prompt has decided
        wanted["num_frames"] = found.get("num_frames")
    return bool(found == wanted)


def _needed(
    path: str | Path, look: Look, audio: str | Path | None, frames: bool, pictures: Sequence[str | Path] = ()
) -> tuple[Path, dict[Path, int]]:
    """The path, and the bytes that each output takes."""
    if audio is not None and look.sound is None:
        raise UserError(f"--output-audio {audio} has nothing to hold: the clip is made without sound.")
    if pictures and look.still:
        raise UserError(f"{pictures[0]} has nothing to show: only a video has a contact sheet.")
    path = path_of(path, advice="give the name of a file")
    own, other = (image_files, video_files) if look.still else (video_files, image_files)
    if look.source is not None and path.suffix.lower() in other.SUFFIXES:
        kind = "picture" if look.still else "video"
        raise UserError(f"{look.source} is a {kind}, so {path} must be one, too: {', '.join(own.SUFFIXES)}.")
    shape, needed = look.shape, {}
    size = (shape.frames, shape.height, shape.width)
    if look.still:
        needed[image_files.check_output(path)] = image_files.bytes_needed(*size)
    else:
        copied = look.source if look.sound == "source" else None
        heard = look.sound in ("latents", "given")
        path = video_files.check_output(path, sound=heard, audio_from=copied)
        needed[path] = video_files.bytes_needed(*size, shape.seconds if heard else 0.0)
        needed[path] += Path(copied).stat().st_size if copied else 0
    if audio is not None:
        needed[audio_files.check_output(audio)] = audio_files.bytes_needed(shape.seconds)
    if frames:
        needed[check_new_folder(path.with_suffix(""))] = image_files.bytes_needed(*size)
    for picture in pictures:
        needed[image_files.check_output(picture)] = PICTURE_BYTES
    return path, needed
