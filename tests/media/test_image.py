"""Pictures in and out: what is handled, what is refused, and numbers that were recorded from the torch reference."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from mlx_video.media.image import EXIF_ORIENTATION, compress, fill, is_picture, read_image, save_image
from mlx_video.types import UserError
from tests.support.cases import load_image


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A ramp down, a ramp across, and their product."""
    down = np.linspace(0, 1, height)[:, None] * np.ones(width)
    across = np.linspace(0, 1, width) * np.ones((height, 1))
    planes = [down, across, down * across, 1 - down][:channels]
    return (255 * np.stack(planes, axis=-1)).astype(np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------------ fitting to a size


def test_bilinear_numbers():
    # torch.nn.functional.interpolate(x, size=(3, 6), mode="bilinear", align_corners=False) of a 2x4 ramp
    image = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    expected = np.array(
        [
            [0.0, 0.5, 1.1666667, 1.8333333, 2.5, 3.0],
            [2.0, 2.5, 3.1666667, 3.8333333, 4.5, 5.0],
            [4.0, 4.5, 5.1666667, 5.8333333, 6.5, 7.0],
        ]
    )
    np.testing.assert_allclose(fill(image, 3, 6)[..., 0], expected, atol=1e-6)


def test_same_size_is_untouched():
    image = picture(32, 48)
    np.testing.assert_array_equal(fill(image, 32, 48), image.astype(np.float32))


def test_middle_is_kept():
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    assert fill(wide, 32, 32).min() == 255
    tall = wide.swapaxes(0, 1)
    assert fill(tall, 32, 32).min() == 255
    # An odd remainder goes to the far side.
    assert fill(np.arange(35, dtype=np.uint8)[None, :, None].repeat(32, 0), 32, 32)[0, 0, 0] == 1


def test_shrinking_does_not_smooth():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::4] = 255
    # One in two columns of a fourfold pattern is met between two pixels: an anti-aliased result would be flat.
    assert set(np.unique(fill(stripes, 16, 16))) == {0.0}


def test_thin_pictures_cost_no_memory():
    strip = np.full((1, 20_000, 3), 7, np.uint8)
    result = fill(strip, 256, 512)  # a full rescale would have 5 million columns
    assert result.shape == (256, 512, 3)
    assert result.max() == 7


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("crf", [0, 33])
def test_tiny_pictures(size, crf, tmp_path):
    path = saved(tmp_path / "tiny.png", np.full((*size, 3), 200, np.uint8))
    result = load_image(path, 64, 32, crf)
    assert result.shape == (64, 32, 3)
    assert result.dtype == np.float32
    assert np.abs(result - (200 / 127.5 - 1)).max() < 4 / 127.5


def test_range(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    image[16:] = 255
    result = load_image(saved(tmp_path / "a.png", image), 32, 32, 0)
    assert (result.min(), result.max()) == (-1.0, 1.0)


# ------------------------------------------------------------------------------------------------ compression


def test_compression_loses_as_asked():
    rng = np.random.default_rng(0)
    image = (picture(96, 128) * 0.8 + rng.integers(0, 50, (96, 128, 3))).astype(np.uint8)
    losses = [np.abs(compress(image, crf).astype(int) - image).mean() for crf in (0, 18, 33, 45)]
    assert losses[0] == 0
    assert losses[1] < losses[2] < losses[3]


def test_compression_cuts_to_even_sizes():
    assert compress(picture(33, 47), 33).shape == (32, 46, 3)
    assert compress(picture(33, 47), 0).shape == (33, 47, 3)
    assert compress(picture(1, 47), 33).shape == (1, 47, 3)


def test_too_long_a_side_to_encode():
    with pytest.raises(UserError, match=r"40000x2.*8192"):
        compress(np.zeros((2, 40_000, 3), np.uint8), 33)


# ------------------------------------------------------------------------------------------------ what files hold


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation, tmp_path):
    upright = picture(24, 40)
    # How a camera stores what is to be shown as `upright`: the inverse of each of the eight turns.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = saved(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_damaged_exif_is_left_out(tmp_path):
    path = saved(tmp_path / "a.jpg", picture(24, 40), exif=b"Exif\x00\x00broken, not TIFF at all")
    assert read_image(path).shape == (24, 40, 3)


def test_transparency_is_dropped_not_blended(tmp_path):
    image = picture(16, 16, 4)
    image[..., 3] = 0
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", image)), image[..., :3])


def test_sixteen_bits_are_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    path = tmp_path / "a.png"
    Image.fromarray(ramp).save(path)
    result = read_image(path)
    np.testing.assert_array_equal(result, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, -1))


def test_sixteen_bits_in_colour(tmp_path):
    import struct
    import zlib

    # Pillow cannot write these, so by hand: 2x1 pixels, 16 bits, RGB.
    pixels = [(0x0102, 0x8000, 0xFFFF), (0xFF00, 0x0000, 0x7FFF)]
    row = b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(file)
    np.testing.assert_array_equal(read_image(path)[0], [[value >> 8 for value in pixel] for pixel in pixels])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "F", "I"])
def test_every_mode_gives_colours(mode, tmp_path):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "F", "I") else "a.png")
    grey = Image.fromarray(np.full((8, 8), 128, np.uint8))
    options = {"transparency": 1} if mode == "PA" else {}  # PNG's form of a palette with transparency
    grey.convert("P" if mode == "PA" else mode).save(path, **options)
    result = read_image(path)
    assert result.shape == (8, 8, 3)
    if mode not in ("1", "I"):  # one bit is dithered; 128 of 65536 is black
        assert np.abs(result.astype(int) - 128).max() <= 2


def test_profile_is_applied(tmp_path):
    # A profile whose red primary is much weaker than sRGB's: the same numbers mean less red.
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = data.index(b"rXYZ")
    start = int.from_bytes(data[at + 4 : at + 8], "big") + 8
    for i in range(3):
        value = int.from_bytes(data[start + 4 * i : start + 4 * i + 4], "big", signed=True)
        data[start + 4 * i : start + 4 * i + 4] = (value // 2).to_bytes(4, "big", signed=True)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    plain = read_image(saved(tmp_path / "a.png", red))
    turned = read_image(saved(tmp_path / "b.png", red, icc_profile=bytes(data)))
    assert plain[0, 0].tolist() == [200, 0, 0]
    assert 140 < turned[0, 0, 0] < 155  # sRGB's curve of half the light of 200
    broken = read_image(saved(tmp_path / "c.png", red, icc_profile=b"nothing of the kind"))
    assert broken[0, 0].tolist() == [200, 0, 0]


# ------------------------------------------------------------------------------------------------ what is refused


def test_refusals(tmp_path):
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    jpeg = saved(tmp_path / "whole.jpg", picture(64, 64))
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:700])
    for name, message in (
        ("none.png", "does not exist"),
        ("zero.png", "0 bytes"),
        ("text.png", "not a picture that can be read"),
        ("cut.png", "damaged or cut short"),
        ("cut.jpg", "damaged or cut short"),
        ("", "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tif", ".bmp"])
def test_damage_of_any_kind_is_a_users_error(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # damage may claim any size, which costs time
    path = saved(tmp_path / f"a{suffix}", picture(16, 20))
    data, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for at in rng.integers(0, len(damaged), 4):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[2] == 3
        except UserError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_are_refused_and_stills_are_not(suffix, tmp_path):
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (0, 120, 240)]
    moving, still = tmp_path / f"moving{suffix}", tmp_path / f"still{suffix}"
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    frames[1].save(still)
    with pytest.raises(UserError, match="animation of 3 frames"):
        read_image(moving)
    assert abs(int(read_image(still)[0, 0, 0]) - 120) <= 2


def test_camera_pairs_are_not_animations(tmp_path):
    # MPO: a JPEG with a second view, as phones and drones write it.
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (120, 240)]
    path = tmp_path / "a.mpo"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert abs(int(read_image(path)[0, 0, 0]) - 120) <= 2


def test_pictures_of_too_many_pixels_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("read"))
    for width, height in ((12_000, 12_000), (70_000, 1000), (8193, 8192)):
        data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + chunk.replace(b"IHDR", b"IDAT"))
        with pytest.raises(UserError, match=rf"{width}x{height} pixels; 67 million are the most, such as 8192x8192"):
            read_image(tmp_path / "a.png")


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too large a picture"):
        read_image(saved(tmp_path / "a.png", picture(32, 32)))


def test_pictures_are_told_from_other_files_by_what_they_hold(tmp_path):
    saved(tmp_path / "a.png", picture(8, 8))
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "text.mp4").write_text("no picture")
    found = {path.name: is_picture(path) for path in tmp_path.iterdir()}
    assert found == {"a.png": True, "a.mp4": True, "cut.png": True, "text.mp4": False}


# ------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize(("suffix", "loss"), [(".png", 0), (".jpg", 6), (".webp", 8)])
def test_save_and_read_back(suffix, loss, tmp_path):
    image = picture(48, 64)
    save_image(tmp_path / f"a{suffix}", image)
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - image).max() <= loss
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_save_refuses(tmp_path):
    with pytest.raises(UserError, match=r"'\.bmp'"):
        save_image(tmp_path / "a.bmp", picture(8, 8))
    with pytest.raises(ValueError, match="uint8"):
        save_image(tmp_path / "a.png", picture(8, 8).astype(np.float32))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_picture_of_what_is_no_number_is_refused(tmp_path, number):
    samples = np.zeros((8, 8), np.float32)
    samples[3, 4] = number
    Image.fromarray(samples).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff holds samples that are not finite numbers"):
        read_image(tmp_path / "a.tiff")
