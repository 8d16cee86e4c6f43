"""Video and sound files as PyAV opens them, and the encoders that it was built with.

The one place that knows how PyAV's versions differ. Knows no frames and no samples.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_video.types import UserError

if TYPE_CHECKING:
    from av.container import InputContainer

H264: Final = "libx264"


def open_file(path: str | Path) -> InputContainer:
    """A file to read from, whatever bytes its tags hold. Raises av.FFmpegError where it is none that FFmpeg reads."""
    import av

    # From version 19 on PyAV does this by itself, and no longer takes the word for it.
    options: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    container: av.container.InputContainer = av.open(str(path), **options)
    return container


def check_encoders(names: Collection[str]) -> None:
    """Raises UserError, saying what there is instead, where PyAV was built without one of the encoders."""
    import av

    for name in names:
        try:
            av.codec.Codec(name, "w")
        except ValueError as error:
            kind = "264" if name == H264 else name
            there = [other for other in sorted(av.codecs_available) if kind in other and _encodes(other)]
            raise UserError(
                f"The installed PyAV {av.__version__} cannot encode with {name}, which writing needs; it has "
                f"{', '.join(there) or 'nothing like it'}. PyAV's own wheels have it: pip install --force-reinstall av."
            ) from error


def _encodes(name: str) -> bool:
    import av

    try:
        return av.codec.Codec(name, "w").is_encoder
    except ValueError:
        return False
