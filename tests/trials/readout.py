"""Reads back what a command made: whether it is whole, a digest of what it holds, and whether it shows anything."""

from __future__ import annotations

import hashlib
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np

FLAT = 1.0
"""Levels of 255: frames that vary by less than this everywhere show nothing."""


BLOCK, NEAR = 16, 10.0
"""Pixels, and levels of 255: the same frames of 64x64 noise came out of H.264 up to 62 levels apart in single pixels,
from process to process, and hardly at all in the mean of a block."""


class Look(NamedTuple):
    """Digest of pixels and samples; whether all pictures are of one colour; means of blocks of pixels, of a film."""

    digest: str
    flat: bool
    sketch: tuple[float, ...] = ()


def look(path: Path) -> Look | str:
    """What a result holds, or a word about what is wrong with it."""
    if not path.exists():
        return "is not there"
    if path.is_dir():
        return _folder(path)
    readers = {".safetensors": _arrays, ".npz": _npz, ".wav": _sound, ".png": _picture}
    return readers.get(path.suffix, _film)(path)


def _of(pieces: list[np.ndarray], flat: bool = False) -> Look:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(repr((piece.dtype.str, piece.shape)).encode() + np.ascontiguousarray(piece).tobytes())
    return Look(digest.hexdigest(), flat)


def _film(path: Path) -> Look | str:
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with av.open(str(path)) as container:
            tracks = container.streams.audio
            sound = [frame.to_ndarray() for frame in container.decode(audio=0)] if tracks else []
    except (av.error.FFmpegError, IndexError) as error:
        return f"cannot be read ({error})"
    if not frames:
        return "has no frames"
    if not all(np.isfinite(piece).all() for piece in sound):
        return "has sound that is not finite"
    flat = all(float(frame.std(axis=(0, 1)).max()) < FLAT for frame in frames)
    return _of([*frames, *sound], flat)._replace(sketch=tuple(x for frame in frames for x in _blocks(frame)))


def _blocks(frame: np.ndarray) -> list[float]:
    rows, columns = frame.shape[0] // BLOCK * BLOCK, frame.shape[1] // BLOCK * BLOCK
    parts = frame[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, 3)
    return parts.mean(axis=(1, 3), dtype=np.float64).ravel().tolist()


def alike(a: Look, b: Look) -> bool:
    """Whether two results are the same but for what an encoder with several threads does otherwise each time."""
    if a.digest == b.digest:
        return True
    near = len(a.sketch) == len(b.sketch) > 0
    return near and max(abs(x - y) for x, y in zip(a.sketch, b.sketch, strict=True)) < NEAR


def _picture(path: Path) -> Look | str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        return f"cannot be read ({error})"
    return _of([pixels], float(pixels.std(axis=(0, 1)).max()) < FLAT)


def _sound(path: Path) -> Look | str:
    try:
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    except (wave.Error, EOFError) as error:
        return f"cannot be read ({error})"
    return _of([samples]) if samples.size else "has no samples"


def _arrays(path: Path) -> Look | str:
    import mlx.core as mx

    try:
        arrays = mx.load(str(path))
    except RuntimeError as error:
        return f"cannot be read ({error})"
    assert isinstance(arrays, dict)
    plain = [np.array(array.astype(mx.float32)) for _, array in sorted(arrays.items())]
    if not all(np.isfinite(array).all() for array in plain if array.dtype.kind == "f"):
        return "has numbers that are not finite"
    return _of(plain)


def _npz(path: Path) -> Look | str:
    with np.load(path, allow_pickle=False) as arrays:
        return _of([arrays[name] for name in sorted(arrays)])


def _folder(path: Path) -> Look | str:
    """Of a converted folder: every tensor of it, and that there is one."""
    files = sorted(path.rglob("*.safetensors"))
    pictures = sorted(path.glob("*.png"))
    if not files and not pictures:
        return "is empty"
    looks = [look(file) for file in files + pictures]
    wrong = [found for found in looks if isinstance(found, str)]
    return wrong[0] if wrong else _of([np.frombuffer("".join(f.digest for f in looks).encode(), np.uint8)])
