"""Whether what is to be written can be, before anything heavy runs. Knows files and sizes; no clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_video.media import audio as audio_files
from mlx_video.media import image as image_files
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
    check_apart(list(needed), inputs or {})
    check_room(needed)
    return path
