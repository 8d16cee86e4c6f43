"""Pictures: files to arrays as the model was trained to see them, and arrays to files.

Knows how a picture is turned upright, brought to sRGB, compressed once and fitted to a size; knows no latents.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_video.media.containers import H264, check_encoders
from mlx_video.media.files import check_input, check_place, replacing
from mlx_video.media.settings import tags
from mlx_video.types import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of pictures that `save_image` writes."""
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose further frames are a film; elsewhere (MPO, TIFF) they are views or pages, and the first is meant."""
EXIF_ORIENTATION = 0x0112
DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, RuntimeError, struct.error,
)  # fmt: skip
"""What Pillow's readers raise on files that are not what they say."""
JPEG_QUALITY = 95
ENCODER_SIDE = 8192
"""Pixels a side that x264 takes with room to spare."""
MAX_PIXELS = ENCODER_SIDE**2
"""Of a picture; reading it takes up to 12 bytes for each."""


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8, upright, in sRGB.

    All eight EXIF orientations are applied (the reference: rotations only). Transparency is dropped, not blended: the
    colours stored under it show, as in the reference. 16-bit samples keep their upper 8 bits.
    Raises UserError where the file is absent, empty, no picture, damaged or an animation.
    """
    path = check_input(path, "a picture file")
    with _open(path) as image:
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise UserError(f"{path} holds samples that are not finite numbers; save it as RGB.")
        try:
            return np.array(_to_srgb(_upright(image)), dtype=np.uint8)
        except ValueError as error:
            raise UserError(
                f"{path} has colours of a kind ({image.mode}) that cannot be read; save it as RGB."
            ) from error


def is_picture(path: str | Path) -> bool:
    """Whether a file begins as a picture does, readable or not; its name counts where that does not tell."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path):
            return True
    except UnidentifiedImageError:
        return Path(path).suffix.lower() in SUFFIXES
    except (*DAMAGED, Image.DecompressionBombError):
        return True


def _open(path: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of large pictures and of odd tags; what matters of that is raised.
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(path)
            frames = getattr(image, "n_frames", 1)
            if image.format in ANIMATED and frames > 1:
                raise UserError(f"{path} is an animation of {frames} frames; give a still picture.")
            if math.prod(image.size) > MAX_PIXELS:
                width, height = image.size
                raise UserError(
                    f"{path} has {width}x{height} pixels; {MAX_PIXELS / 1e6:.0f} million are the most, such as "
                    f"{ENCODER_SIDE}x{ENCODER_SIDE}. Scale it down."
                )
            image.load()
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture that can be read; PNG, JPEG, WebP, TIFF, BMP and GIF can.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large a picture: {error}") from error
    except DAMAGED as error:
        raise UserError(f"{path} is damaged or cut short: {error}.") from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        turn = turns.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except DAMAGED as error:
        log.warning("The picture's EXIF data is damaged and not used: %s", error)
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageCms

    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode in ("RGBA", "RGBX", "P", "PA"):
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("The picture's colour profile cannot be used, its colours are taken as sRGB: %s", error)
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def compress(image: np.ndarray, crf: int) -> np.ndarray:
    """One H.264 frame there and back: (H, W, 3) uint8 -> the same with odd last rows and columns left out.

    `crf` 0, and pictures less than 2 pixels high or wide, come back as they are. Matrix and threads are the library's
    defaults, so the result is the reference's own on the same machine. Reference (v1.2.0): `preprocess`.
    """
    import av

    if crf == 0 or min(image.shape[:2]) < 2:
        return image
    check_encoders([H264])
    height, width = (side // 2 * 2 for side in image.shape[:2])
    with io.BytesIO() as buffer:
        try:
            with av.open(buffer, "w", format="mp4") as container:
                stream = container.add_stream(H264, rate=1, options={"crf": str(crf), "preset": "veryfast"})
                stream.height, stream.width = height, width
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
                container.mux(stream.encode())
        except av.FFmpegError as error:
            reason = f"A picture of {width}x{height} pixels cannot be encoded ({error.strerror})"
            raise UserError(f"{reason}; scale it down to {ENCODER_SIDE} pixels a side at most.") from error
        buffer.seek(0)
        with av.open(buffer, "r") as encoded:
            return next(encoded.decode(video=0)).to_ndarray(format="rgb24")


def fill(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales (H, W, C) until it covers height x width and cuts the middle out: float32, values as they were.

    Bilinear between pixel centres without anti-aliasing, in float32 as torch does it; only the part that is kept is
    computed. Reference: `resize_and_center_crop`.
    """
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    # The reference rounds up, so that the scaled picture is never a pixel short of the cut.
    top, bottom, down = _weights(rows, math.ceil(rows * scale), height)
    left, right, across = _weights(columns, math.ceil(columns * scale), width)
    across = across[:, None]

    def line(index: np.ndarray) -> np.ndarray:
        picked = image[index].astype(np.float32)
        found: np.ndarray = picked[:, left] * (1 - across) + picked[:, right] * across
        return found

    down = down[:, None, None]
    found: np.ndarray = line(top) * (1 - down) + line(bottom) * down
    return found


def _weights(size: int, scaled: int, kept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # For each of the `kept` middle pixels of `scaled`: its two neighbours among `size`, and the second one's weight.
    start = (scaled - kept) // 2
    centres = np.arange(start, start + kept, dtype=np.float32) + np.float32(0.5)
    position = np.maximum(np.float32(size / scaled) * centres - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), position - first.astype(np.float32)


def bytes_needed(count: int, height: int, width: int) -> int:
    """At most what so many pictures take on disk as PNG: noise cannot be made smaller, and has a few bytes more."""
    return count * (height * (3 * width + 8) + 4096)


def check_output(path: str | Path) -> Path:
    """The path, once it is sure that a picture can be written there; else raises UserError."""
    return check_place(path, SUFFIXES)


def save_image(path: str | Path, image: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes (H, W, 3) uint8 sRGB as PNG, JPEG or WebP (both of high quality), whole or not at all.

    metadata: kept in a PNG's text chunks, as `media.settings` has them; the other formats have no place for it.
    Raises UserError as `check_output` does.
    """
    from PIL import Image

    path = check_output(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"A picture is (H, W, 3) uint8; got {image.shape} {image.dtype}.")
    more: dict[str, Any] = {"quality": JPEG_QUALITY}
    if metadata and path.suffix.lower() == ".png":
        from PIL.PngImagePlugin import PngInfo

        more = {"pnginfo": PngInfo()}
        for key, text in tags(metadata).items():
            more["pnginfo"].add_itxt(key, text)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, **more)
