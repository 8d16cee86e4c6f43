"""Settings inside pictures and sounds; those inside films are in test_video.py."""

import struct
import wave

import numpy as np
import pytest
from PIL import Image

from mlx_video import UserError
from mlx_video.media import settings
from mlx_video.media.audio import write_wav
from mlx_video.media.image import save_image

ABOUT = {"prompt": "größer\n🦊", "negative_prompt": "fog", "seed": 7, "width": 64, "height": 32, "mlx_video": "1.0",
         "model": "m", "pipeline": "dev", "steps": 30, "cfg_scale": 3.0}  # fmt: skip
PICTURE = np.zeros((4, 6, 3), np.uint8)
SOUND = np.linspace(-1, 1, 2 * 99, dtype=np.float32).reshape(2, 99)


def test_a_picture_has_them_in_its_text(tmp_path) -> None:
    save_image(tmp_path / "a.png", PICTURE, ABOUT)
    assert settings.read(tmp_path / "a.png") == ABOUT
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["parameters"] == settings.parameters(ABOUT)
        assert (np.array(image) == PICTURE).all()
    save_image(tmp_path / "b.png", PICTURE)
    with pytest.raises(UserError, match="no settings"):
        settings.read(tmp_path / "b.png")
    save_image(tmp_path / "c.jpg", PICTURE, ABOUT)  # has no place for them


def test_a_sound_has_them_behind_its_samples(tmp_path) -> None:
    for extra in ("", "x"):  # of even and odd length
        write_wav(tmp_path / "a.wav", SOUND, 8000, {**ABOUT, "prompt": extra})
        assert settings.read(tmp_path / "a.wav")["prompt"] == extra
        with wave.open(str(tmp_path / "a.wav")) as file:
            assert (file.getnframes(), file.getframerate()) == (99, 8000)
        raw = (tmp_path / "a.wav").read_bytes()
        assert struct.unpack("<I", raw[4:8]) == (len(raw) - 8,)
    write_wav(tmp_path / "b.wav", SOUND, 8000)
    with pytest.raises(UserError, match="no settings"):
        settings.read(tmp_path / "b.wav")


def test_what_galleries_and_people_read() -> None:
    *prompt, negative, pairs = settings.parameters(ABOUT).splitlines()
    assert prompt == ["größer", "🦊"]
    assert negative == "Negative prompt: fog"
    expected = "Steps: 30, CFG scale: 3.0, Seed: 7, Model: m, Pipeline: dev, Size: 64x32, Version: mlx_video 1.0"
    assert pairs == expected
    assert settings.line(ABOUT) == "größer 🦊 (dev, m, seed 7, mlx_video 1.0)"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', '"x"', "{}" + " " * settings.MOST])
def test_damaged_settings_are_told(tmp_path, text) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(settings.KEY, text)
    Image.fromarray(PICTURE).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match=r"damaged settings|cannot be read|no settings"):
        settings.read(tmp_path / "a.png")


@pytest.mark.parametrize("cut", [0, 3, 11, 13, 20, 50, 400])
def test_cut_sounds_are_told(tmp_path, cut) -> None:
    write_wav(tmp_path / "a.wav", SOUND, 8000, ABOUT)
    raw = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(raw[:cut])
    with pytest.raises(UserError, match=r"no WAV|no settings|damaged"):
        settings.read(tmp_path / "a.wav")
