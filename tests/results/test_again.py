"""What a finished file says of how it was made, and the same once more."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mlx_video import AudioIn, ImageAt, Lora, UserError, generate, info
from mlx_video.media import settings
from mlx_video.media.video import write_video
from mlx_video.results import again
from tests.support import small, small_pack
from tests.support.readback import read

SIZE = ("-H", "64", "-W", "64", "-n", "9", "--quiet")


def make(*words) -> None:
    assert generate.main([*map(str, words), "--save-frames"]) == 0


def frames(path) -> np.ndarray:
    """As decoded: what x264 makes of them depends on its threads."""
    return np.stack([np.array(Image.open(file)) for file in sorted(path.with_suffix("").glob("*.png"))])


CASES = {
    "distilled": ("2", []),
    "no sound": ("2", ["--no-audio"]),
    "keyframes": ("2.5", ["--num-generated-keyframes", "1", "--video-decoder", "diffusion"]),
    "guided": (
        "2.3",
        ["--pipeline", "dev", "--steps", "2", "--cfg-scale", "2", "--stg-scale", "0", "--stg-blocks", "1"],
    ),
    "quantized": ("2.3", ["--pipeline", "dev-two-stage", "--steps", "2", "--quantize", "8", "--dtype", "bfloat16"]),
    "length": ("2.5", ["--auto-duration", "0.2:0.5"]),
}


@pytest.mark.quick("distilled", "no sound")
@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize("name", CASES)
def test_the_same_once_more_frame_by_frame(small_folder, tmp_path, name) -> None:
    generation, more = CASES[name]
    size = SIZE if name != "length" else ("-H", "64", "-W", "64", "--quiet")
    model = ("--model-repo", small_folder(generation))
    make("-p", "a red fox", *size, *more, *model, "--seed", "5", "-o", tmp_path / "a.mp4")
    make("--again", tmp_path / "a.mp4", *model, "--quiet", "-o", tmp_path / "b.mp4")
    one, other = (settings.read(tmp_path / f"{file}.mp4") for file in "ab")
    assert one == other
    assert (frames(tmp_path / "a.mp4") == frames(tmp_path / "b.mp4")).all()
    make("--again", tmp_path / "b.mp4", *model, "--quiet", "--seed", "6", "-o", tmp_path / "c.mp4")
    assert settings.read(tmp_path / "c.mp4") == {**one, "seed": 6}
    assert (frames(tmp_path / "a.mp4") != frames(tmp_path / "c.mp4")).any()


@pytest.fixture
def made(small_folder, inputs, tmp_path):
    """A clip with a picture, a sound and a LoRA, which lie beside it."""
    folder = small_folder("2.3")
    for name in ("picture.png", "sound.wav"):
        shutil.copy(inputs / name, tmp_path)
    shutil.copy(folder / small.LORAS["2.3"], tmp_path / "style.safetensors")
    picture, sound, style = (tmp_path / name for name in ("picture.png", "sound.wav", "style.safetensors"))
    words = [
        "--image",
        picture,
        "0",
        "0.5",
        "--audio-file",
        sound,
        "--audio-start-time",
        "0.1",
        "--lora",
        style,
        "0.25",
    ]
    make("-p", "a fox", *SIZE, *words, "--model-repo", folder, "-o", tmp_path / "a.mp4")
    return tmp_path / "a.mp4"


@pytest.mark.usefixtures("texts_are_kept")
def test_pictures_sounds_and_loras_are_found_beside_the_file(made, small_folder, tmp_path) -> None:
    found = again.read(made)
    assert found.request["image"] == (ImageAt(str(tmp_path / "picture.png"), 0, 0.5),)
    assert found.request["audio_file"] == AudioIn(str(tmp_path / "sound.wav"), 0.1)
    assert found.request["lora"] == (Lora(str(tmp_path / "style.safetensors"), 0.25),)
    assert found.notes == ()
    assert str(tmp_path) not in json.dumps(read(made).metadata)
    make("--again", made, "--model-repo", small_folder("2.3"), "--quiet", "-o", tmp_path / "b.mp4")
    assert (frames(made) == frames(tmp_path / "b.mp4")).all()


def test_inputs_that_are_gone_or_changed_are_told(made, tmp_path) -> None:
    (tmp_path / "picture.png").write_bytes((tmp_path / "picture.png").read_bytes() + b"\0")
    assert again.read(made).notes == (f"{tmp_path / 'picture.png'} is not the file that a.mp4 was made with.",)
    (tmp_path / "picture.png").unlink()
    with pytest.raises(UserError, match=r"made with --image picture.png, which lies neither beside it nor in"):
        again.read(made)
    assert "image" not in again.read(made, without=["image"]).request


def test_a_prompt_that_was_written_out_is_taken_as_it_was_made(tmp_path) -> None:
    said = {"pipeline": "distilled", "prompt": "a long one", "original_prompt": "a fox", "enhance_prompt": True}
    found = again.read(film(tmp_path / "a.mp4", **said, temperature=0, prompt_writer="google/gemma-3-4b-it"))
    assert found.request == {"pipeline": "distilled", "prompt": "a long one"}


def film(path, **values):
    write_video(path, [np.zeros((64, 64, 3), np.uint8)] * 2, 24, metadata=values)
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no settings"),
        ({"refine": True}, "was not made by generate"),
        ({"pipeline": "distilled", "image": 5}, "not as written"),
        ({"pipeline": "distilled", "image": [{"paths": "a"}]}, "not as written"),
        ({"pipeline": "distilled", "audio_file": "a"}, "not as written"),
        ({"pipeline": "distilled", "image": [{"path": "/etc/hosts"}]}, "not as written"),
        ({"pipeline": "distilled", "lora": [{"path": "../a.safetensors"}]}, "not as written"),
        ({"pipeline": "distilled", "model_repo": "/tmp"}, "not as written"),
        ({"pipeline": "distilled", "model_repo": 5}, "not as written"),
        ({"pipeline": "distilled", "model": "my.safetensors", "generation": "LTX-2.3"}, r"my.safetensors \(LTX-2.3\)"),
        ({"pipeline": "distilled", "model_repo": "demo", "height": "tall"}, "height"),
        ({"pipeline": "distilled", "model_repo": "demo", "seed": [1]}, "seed"),
        ({"pipeline": "distilled", "model_repo": "demo", "prompt": "a fox", "steps": -3}, "--steps -3 is out of range"),
    ],
)
def test_files_that_cannot_be_made_again(tmp_path, capfd, values, message) -> None:
    import re

    file = film(tmp_path / "a.mp4", **values)
    assert generate.main(["--again", str(file), "-o", str(tmp_path / "b.mp4")]) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not (tmp_path / "b.mp4").exists()


def test_info_prints_them_and_they_may_be_left_out(small_folder, tmp_path, capfd) -> None:
    pack = small_folder("2.5")
    model = ("--model-repo", pack, *SIZE)
    make("-p", "a red fox", *model, "-o", tmp_path / "a.mp4", "--output-audio", tmp_path / "a.wav")
    assert info.main([str(tmp_path / "a.mp4")]) == 0
    said = capfd.readouterr().out
    assert "a red fox" in said
    assert small_pack.TRANSFORMER.format("distilled").rpartition("/")[2] in said
    assert settings.read(tmp_path / "a.wav") == settings.read(tmp_path / "a.mp4")
    make("-p", "a red fox", *model, "-o", tmp_path / "b.mp4", "--no-metadata")
    with pytest.raises(UserError, match="made with --no-metadata"):
        settings.read(tmp_path / "b.mp4")
