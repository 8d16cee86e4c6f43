"""The README's own commands run, as they stand there but for the model, the size and the files they name."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
LINES = re.findall(r"^    (?:.* && )?python -m mlx_video\.(\w+) (.+)$", README, re.MULTILINE)
NEEDS_THE_HUB = ("mlx-community/",)


def commands(name: str) -> list[str]:
    return [rest for command, rest in LINES if command == name]


def changed(line: str, files: dict[str, str]) -> list[str]:
    """The flags with our own files in place of those that the README only imagines."""
    return [files.get(word, word) for word in shlex.split(line)]


@pytest.mark.parametrize("line", commands("generate"))
def test_generate(line, small_folder, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, sound = str(inputs / "picture.png"), str(inputs / "sound.wav")
    files = {"first.png": picture, "final.png": picture, "song.mp3": sound, "30": "0.1"}
    generation = "2.3" if "2.3" in line else "2"
    folder = small_folder(generation)
    lora = next(str(path) for path in folder.iterdir() if "lora" in path.name)
    words = changed(line, {**files, "Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Out": lora})
    if "--embedding" in words:
        encode = importlib.import_module("mlx_video.encode").main
        assert encode(["-p", "fox", "-o", "fox.safetensors", "--model-repo", str(folder), "--quiet"]) == 0
    if "demo" not in words:
        words += ["--model-repo", str(folder), "-H", "64", "-W", "64"]
    words += ["-n", "9", "-o", "out.mp4", "--quiet"] + (["--steps", "2"] if "dev-two-stage" in words else [])
    assert importlib.import_module("mlx_video.generate").main(words) == 0
    if "--plan" in words:
        assert not Path("out.mp4").exists()
    else:
        assert Path("out.mp4").stat().st_size > 500


@pytest.mark.parametrize("line", commands("encode"))
def test_encode(line, small_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*shlex.split(line), "--model-repo", str(small_folder("2")), "--quiet"]
    assert importlib.import_module("mlx_video.encode").main(words) == 0


@pytest.mark.parametrize("line", commands("upscale"))
def test_upscale(line, small_folder, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate = importlib.import_module("mlx_video.generate").main
    clip = ["--model-repo", str(small_folder("2")), "-p", "fox", "-H", "64", "-W", "64", "-n", "9", "--quiet"]
    assert generate([*clip, "-o", "clip.mp4"]) == 0
    words = changed(line, {"photo.png": str(inputs / "picture.png")})
    assert (
        importlib.import_module("mlx_video.upscale").main([*words, "--model-repo", str(small_folder("2")), "--quiet"])
        == 0
    )


@pytest.mark.parametrize("line", commands("convert"))
def test_convert_then_info(line, small_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = changed(line, {"Lightricks/LTX-2": str(small_folder("2"))})
    assert importlib.import_module("mlx_video.convert").main([*words, "--quiet"]) == 0
    for info in commands("info"):
        assert importlib.import_module("mlx_video.info").main(shlex.split(info)) == 0
    assert "distilled" in capsys.readouterr().out


def test_every_command_is_shown():
    assert {command for command, _ in LINES} >= {"generate", "encode", "upscale", "convert", "info"}
