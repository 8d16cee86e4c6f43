"""Pictures against the torch reference: sizes, the H.264 trip, colours, transparency and orientation.

PyPI's 1.0.0 knows neither EXIF nor colour profiles; those cases run where a later reference is on the path.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from mlx_video.media.image import EXIF_ORIENTATION
from tests.parity.reference import torch
from tests.support.cases import load_image

pytestmark = pytest.mark.parity
media_io = pytest.importorskip("ltx_pipelines.utils.media_io")

LATER = hasattr(media_io, "load_image_and_preprocess")
needs_later = pytest.mark.skipif(not LATER, reason="ltx-pipelines 1.0.0 applies neither orientation nor profiles")
LEVEL = 1 / 127.5


def reference(path, height: int, width: int, crf: int) -> np.ndarray:
    load = media_io.load_image_and_preprocess if LATER else media_io.load_image_conditioning
    result = load(str(path), height, width, dtype=torch.float32, device=torch.device("cpu"), crf=crf)
    return np.moveaxis(result[0, :, 0].numpy(), 0, -1)


def picture(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Soft shapes with some grain, so that the codec has something to lose."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(3, 20, (channels, 2))
    waves = [np.sin(rows / down + columns / across) for down, across in slopes]
    grain = rng.normal(0, 12, (height, width, channels))
    return (127 + 90 * np.stack(waves, axis=-1) + grain).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("crf", [0, 18, 33])
@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((150, 210), (64, 96)),
        ((97, 61), (128, 128)),
        ((33, 200), (96, 64)),
        ((64, 96), (64, 96)),
        ((211, 37), (32, 160)),
        ((2, 3), (64, 32)),
        ((1, 1), (32, 32)),
        ((1, 40), (32, 64)),
    ],
)
def test_sizes_and_compression(size, target, crf, tmp_path):
    if min(size) < 2 and crf and not LATER:
        pytest.skip("ltx-pipelines 1.0.0 cannot compress a picture of one pixel")
    path = tmp_path / "picture.png"
    Image.fromarray(picture(sum(size) + crf, *size)).save(path)
    assert np.abs(load_image(path, *target, crf) - reference(path, *target, crf)).max() < (1e-5 if crf == 0 else LEVEL)


def test_transparency_is_dropped(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture(1, 60, 90, 4)).save(path)
    assert np.abs(load_image(path, 64, 64, 33) - reference(path, 64, 64, 33)).max() < LEVEL


@needs_later
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(orientation, tmp_path):
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(picture(orientation, 50, 81)).save(path, exif=exif)
    assert np.abs(load_image(path, 64, 96, 33) - reference(path, 64, 96, 33)).max() < LEVEL


def profile(red: tuple[float, float]) -> bytes:
    """An RGB profile that is not sRGB: sRGB's with its red primary moved, which shifts every saturated colour."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = data.index(b"rXYZ")
    offset = int.from_bytes(data[at + 4 : at + 8], "big")
    for axis, value in enumerate(red):
        start = offset + 8 + 4 * axis
        data[start : start + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    return bytes(data)


@needs_later
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "CMYK", "1"])
@pytest.mark.parametrize("with_profile", [False, True])
def test_modes_and_profiles(mode, with_profile, tmp_path):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    stored = mode if mode in ("RGBA", "CMYK") else "RGB"
    image = Image.frombytes(stored, (52, 70), picture(5, 70, 52, len(stored)).tobytes()).convert(mode)
    image.save(path, **({"icc_profile": profile((0.6, 0.35))} if with_profile else {}))
    ours, theirs = load_image(path, 64, 64, 0), reference(path, 64, 64, 0)
    assert np.abs(ours - theirs).max() < LEVEL
    if with_profile and mode in ("RGB", "RGBA"):
        image.save(path)
        assert np.abs(ours - load_image(path, 64, 64, 0)).max() > 5 * LEVEL


@needs_later
def test_palette(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture(6, 40, 56)).convert("P").save(path, transparency=3)
    assert np.abs(load_image(path, 64, 64, 0) - reference(path, 64, 64, 0)).max() < LEVEL


@needs_later
def test_damaged_profile_is_left_out(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture(7, 40, 56)).save(path, icc_profile=b"not a profile" * 20)
    assert np.abs(load_image(path, 64, 64, 0) - reference(path, 64, 64, 0)).max() < LEVEL
