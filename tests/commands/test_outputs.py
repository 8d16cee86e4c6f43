"""No command writes over what it reads, and places without room are refused before anything is loaded."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_video import LTXPipeline, UserError, encode, generate, upscale
from mlx_video.media.image import save_image
from mlx_video.media.video import write_video
from tests.support import films

SIZE = ("--height", 64, "--width", 64, "--num-frames", 9)


@pytest.fixture
def unused(monkeypatch):
    """A pipeline that must not be opened."""

    def opened(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr(LTXPipeline, "from_pretrained", opened)


def spellings(folder, name):
    """`name` in `folder`, spelt and linked in several ways; all end in .mp4 or .wav as it does."""
    suffix = os.path.splitext(name)[1]
    for link, make in (("soft", os.symlink), ("hard", os.link)):
        make(folder / name, folder / f"{link}{suffix}")
        yield folder / f"{link}{suffix}"
    yield folder / name
    yield f"{folder}/../{folder.name}/{name}"


def test_generate_never_writes_over_its_inputs(inputs, tmp_path, command, unused):
    write_video(tmp_path / "in.mp4", (np.zeros((64, 64, 3), np.uint8) for _ in range(3)), 24)
    shutil.copy(inputs / "sound.wav", tmp_path / "in.wav")
    shutil.copy(inputs / "picture.png", tmp_path / "picture.png")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    film = list(spellings(tmp_path, "in.mp4"))
    os.link(tmp_path / "picture.png", tmp_path / "picture.mp4")
    lines = [("--audio-file", tmp_path / "in.mp4", "-o", output) for output in film]
    lines += [("--lora", tmp_path / "in.mp4", "0.5", "-o", output) for output in film]
    lines += [("--image", tmp_path / "picture.png", "-o", tmp_path / "picture.mp4")]
    for output in spellings(tmp_path, "in.wav"):
        lines.append(("--audio-file", tmp_path / "in.wav", "-o", tmp_path / "o.mp4", "--output-audio", output))
    for line in lines:
        status, said = command(generate.main, "-p", "x", *line)
        assert (status, said.count("\n")) == (2, 1), said
        assert "is the input itself (--" in said
    status, said = command(generate.main, "--embedding", tmp_path / "in.mp4", "-o", tmp_path / "in.mp4")
    assert status == 2
    assert "is the input itself (--embedding" in said
    assert before == {file: file.read_bytes() for file in before}


def test_a_clip_is_never_saved_over_what_it_was_made_of(small_folder, inputs, tmp_path):
    films.write(tmp_path / "in.mp4", 9, 64, 64)
    before = (tmp_path / "in.mp4").read_bytes()
    with LTXPipeline.from_pretrained(small_folder("2.3")) as pipe:
        clip = pipe.generate(prompt="x", height=64, width=64, num_frames=9, audio_file=str(tmp_path / "in.mp4"))
    with pytest.raises(UserError, match="is the input itself"):
        clip.save(tmp_path / "in.mp4")
    assert (tmp_path / "in.mp4").read_bytes() == before


def test_encode_never_writes_over_the_model(small_folder, tmp_path, command):
    folder = tmp_path / "model"
    shutil.copytree(small_folder("2.3"), folder)
    files = [file for file in folder.rglob("*.safetensors") if "dev" not in file.name]
    before = {file: file.read_bytes() for file in files}
    for file in files:
        status, said = command(encode.main, "-p", "x", "--model-repo", folder, "-o", file)
        if "temporal" not in file.name:
            assert status == 2
            assert "is the input itself (a file of the model" in said
    assert before == {file: file.read_bytes() for file in files}


def test_a_working_folder_that_is_gone(tmp_path, command, unused, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, said = command(generate.main, "-p", "x")
    assert (status, said.count("\n")) == (2, 1)
    assert "is not there any more" in said


def test_no_room_is_said_before_the_run(small_folder, inputs, tmp_path, command, unused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, free=150_000))
    line = ("-p", "x", *SIZE, "-o", tmp_path / "o.mp4")
    status, said = command(generate.main, *line)
    assert status == 2
    assert "has 0.1 MB free; o.mp4 may need 0.2 MB" in said
    status, said = command(generate.main, *line, "--no-audio", "--save-frames")
    assert status == 2
    assert "o.mp4 and o may need 0.3 MB" in said


def test_no_room_for_an_upscaled_film(upscale_folder, tmp_path, command, monkeypatch):
    save_image(tmp_path / "in.png", np.zeros((96, 96, 3), np.uint8))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, free=1000))
    folder = upscale_folder("2.3")
    status, said = command(upscale.main, "-i", tmp_path / "in.png", "-o", tmp_path / "o.png", "--model-repo", folder)
    assert status == 2
    assert "o.png may need 0.1 MB" in said
    assert os.listdir(tmp_path) == ["in.png"]
