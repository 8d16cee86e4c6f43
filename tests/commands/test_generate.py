"""The command `generate` from its flags to its files, and every mistake: status 2, one line, nothing written."""

import json
import os
import re
import signal
import wave
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import cli, generate
from mlx_video.lending import loader
from tests.support import small
from tests.support.readback import read
from tests.support.small_gemma import make_gemma

SMALL = ["--prompt", "a red ball", "--height", 64, "--width", 64, "--num-frames", 9]
CHECKPOINT = small.NAMES["2"].format("distilled")
DEV = small.NAMES["2"].format("dev")


@pytest.fixture
def folder(small_folder):
    return small_folder("2")


@pytest.fixture
def out(tmp_path):
    """The folder that a test's outputs go to."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def line(folder, out, *more):
    return [*SMALL, "--model-repo", folder, "-o", out / "a.mp4", *more]


def latents(clip):
    return {modality: np.array(value).tobytes() for modality, value in clip.latents.items()}


# ------------------------------------------------------------------------------------------------ outputs


def test_sound_frames_and_stream(command, folder, out, made):
    more = ["--output-audio", out / "a.wav", "--save-frames", "--stream"]
    status, said = command(generate.main, *line(folder, out, *more))
    assert status == 0, said
    assert sorted(path.name for path in out.iterdir()) == ["a", "a.mp4", "a.wav"]
    assert read(out / "a.mp4").frames == 9
    from mlx_video.media.image import read_image

    pictures = sorted((out / "a").iterdir())
    assert len(pictures) == 9
    for picture, frame in zip(pictures, made[0], strict=True):
        np.testing.assert_array_equal(read_image(picture), frame)
    with wave.open(str(out / "a.wav"), "rb") as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 24_000, 2)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T / 32767
    # As long as the pictures and as the sound in the video: silence follows what was decoded.
    assert heard.shape[1] == round(9 / 24 * 24_000)
    samples = made[0].waveform.shape[1]
    np.testing.assert_allclose(heard[:, :samples], np.clip(made[0].waveform, -1, 1), atol=1 / 32767)
    assert not heard[:, samples:].any()
    from mlx_video.media.audio import read_audio

    assert read_audio(out / "a.mp4")[0].shape == heard.shape


def test_metadata_holds_what_was_asked_and_what_was_filled_in(command, folder, out):
    assert command(generate.main, *line(folder, out, "--pipeline", "dev", "--steps", 2, "--cfg", 4, "--quiet"))[0] == 0
    metadata = read(out / "a.mp4").metadata
    assert metadata["steps"] == 2
    assert metadata["video_guidance"]["cfg_scale"] == 4.0
    assert metadata["audio_guidance"]["cfg_scale"] == 7.0
    assert metadata["video_guidance"]["stg_blocks"] == [1]  # 29 of 48 blocks, of 3
    assert "blurry" in metadata["negative_prompt"]


def test_pictures_and_sounds_come_in_by_flags(command, folder, out, made, inputs):
    from mlx_video import AudioIn, ImageAt, LTXPipeline

    picture, sound = inputs / "picture.png", inputs / "sound.wav"
    more = ["--image", picture, "--image", picture, "last", 0.5, 0, "--audio-file", sound, "--audio-start-time", 0.5]
    assert command(generate.main, *line(folder, out, *more, "--quiet")) == (0, "")
    with LTXPipeline.from_pretrained(folder) as pipe:
        images = [str(picture), ImageAt(str(picture), "last", 0.5, 0)]
        options = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}
        clip = pipe.generate(**options, image=images, audio_file=AudioIn(str(sound), 0.5))
    assert latents(made[0]) == latents(clip)
    assert read(out / "a.mp4").sound == (6000, 16_000)  # the file's own rate, as long as the video


def test_an_output_that_is_there_is_replaced_whole(command, folder, out):
    (out / "a.mp4").write_bytes(b"something else")
    assert command(generate.main, *line(folder, out, "--quiet")) == (0, "")
    assert read(out / "a.mp4").frames == 9


def test_a_seed_is_a_file(command, folder, out, made):
    for seed in (1, 1, 2):
        assert command(generate.main, *line(folder, out, "--seed", seed, "--quiet"))[0] == 0
    first, again, other = map(latents, made)
    assert first == again
    assert first["video"] != other["video"]


def test_every_phase_is_told_with_its_time_and_peak(command, folder, out):
    *phases, last = command(generate.main, *line(folder, out))[1].splitlines()
    names = ["text", "stage 1", "upsample", "stage 2", "waveform", "decode"]
    assert [re.match(r" *(\D+\d?)  (\d+)/\2 in \d:\d\d, peak [\d.]+ MiB$", text)[1] for text in phases] == names
    made = f"{out / 'a.mp4'}: 64x64, 9 frames at 24 fps (0.38 s), with sound; seed 42, {folder.name}, in "
    assert re.fullmatch(re.escape(made) + r"\d:\d\d", last)
    assert command(generate.main, *line(folder, out, "--quiet"))[1] == ""


# ------------------------------------------------------------------------------------------------ ended early


@pytest.mark.parametrize("phase", ["text", "stage 1", "stage 2", "decode"])
def test_ctrl_c_ends_with_130_and_leaves_nothing(command, folder, out, phase, monkeypatch):
    def interrupt(self, progress):
        if progress.phase == phase and progress.done >= progress.total // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.Bars, "__call__", interrupt)
    more = ["--output-audio", out / "a.wav", "--save-frames"]
    status, said = command(generate.main, *line(folder, out, *more))
    assert (status, said) == (130, "mlx_video.generate: interrupted; nothing was written.\n")
    assert list(out.iterdir()) == []


def test_a_polite_kill_is_an_interrupt(command, folder, out, monkeypatch):
    def terminate(self, progress):
        if progress.phase == "decode" and progress.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli.Bars, "__call__", terminate)
    before = signal.getsignal(signal.SIGTERM)
    assert command(generate.main, *line(folder, out))[0] == 130
    assert signal.getsignal(signal.SIGTERM) == before
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.fixture
def refused(command, out, monkeypatch):
    """refused(line, *said) runs a command that must end with 2 and one line that says all of `said`, writing nothing.

    And it must do so before any network is read: all of these can be known from headers.
    """

    def run(words, *said):
        read = []
        for name in ("give_weights", "read_text_encoder"):
            original = getattr(loader, name)
            monkeypatch.setattr(loader, name, lambda *a, original=original, **k: read.append(a) or original(*a, **k))
        status, message = command(generate.main, *words)
        assert status == 2, message
        assert message.count("\n") == 1, message
        assert message.startswith("mlx_video.generate: ")
        for part in said:
            assert str(part) in message
        assert list(out.iterdir()) == []
        assert not read, message
        return message

    return run


def beside(folder, path, *left_out) -> Path:
    """A folder at `path` with links to everything in `folder` but `left_out`."""
    path.mkdir()
    for entry in folder.iterdir():
        if entry.name not in left_out:
            (path / entry.name).symlink_to(entry)
    return path


def altered(folder, path, change, name=CHECKPOINT) -> Path:
    """As `beside`, with one file's tensors and metadata changed by `change(tensors, metadata)`."""
    tensors, metadata = mx.load(str(folder / name), return_metadata=True)
    tensors, metadata = dict(tensors), dict(metadata)
    change(tensors, metadata)
    beside(folder, path, name)
    mx.save_safetensors(str(path / name), tensors, metadata)
    return path


def test_a_file_without_metadata(refused, folder, tmp_path, out):
    bad = altered(folder, tmp_path / "bad", lambda tensors, metadata: metadata.clear())
    refused(line(bad / CHECKPOINT, out), bad / CHECKPOINT, "no LTX-2 checkpoint", "config in its metadata")


def test_a_file_with_another_config(refused, folder, tmp_path, out):
    def change(tensors, metadata):
        metadata["config"] = json.dumps({**small.config("2"), "vae": {"_class_name": "Other"}})

    refused(line(altered(folder, tmp_path / "bad", change), out), "vae._class_name", "Other", "CausalVideoAutoencoder")


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_truncated_file(refused, folder, tmp_path, out, where):
    bad = beside(folder, tmp_path / "bad", CHECKPOINT)
    whole = (folder / CHECKPOINT).read_bytes()
    (bad / CHECKPOINT).write_bytes(whole[:-1000])
    data = len(whole) - 8 - int.from_bytes(whole[:8], "little")
    path = bad / CHECKPOINT if where == "file" else bad
    refused(line(path, out), bad / CHECKPOINT, "truncated", f"{data - 1000:,} bytes", f"{data:,} expected")


def test_a_file_that_is_no_safetensors(refused, folder, tmp_path, out):
    bad = beside(folder, tmp_path / "bad", CHECKPOINT)
    (bad / CHECKPOINT).write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    refused(line(bad / CHECKPOINT, out), bad / CHECKPOINT, "37 bytes")


PARTS = {
    "transformer": "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight",
    "connectors": "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.weight",
    "video decoder": "vae.decoder.conv_in.conv.weight",
    "audio decoder": "audio_vae.decoder.conv_in.conv.weight",
    "vocoder": "vocoder.conv_pre.weight",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor(refused, folder, tmp_path, out, part):
    bad = altered(folder, tmp_path / "bad", lambda tensors, metadata: tensors.pop(PARTS[part]))
    refused(line(bad, out), part, CHECKPOINT, "1 tensor", "missing")


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_shape(refused, folder, tmp_path, out, part):
    def change(tensors, metadata):
        array = tensors[PARTS[part]]
        shapes.extend([list(array.shape), [array.shape[0] + 1, *array.shape[1:]]])
        tensors[PARTS[part]] = mx.zeros(shapes[1], mx.bfloat16)

    shapes = []
    bad = altered(folder, tmp_path / "bad", change)
    refused(line(bad, out), part, PARTS[part], f"shape {shapes[1]}", f"expected {shapes[0]}")


def test_a_surplus_tensor(refused, folder, tmp_path, out):
    extra = "model.diffusion_model.transformer_blocks.0.attn9.to_q.weight"
    bad = altered(folder, tmp_path / "bad", lambda tensors, _: tensors.update({extra: mx.zeros((2, 2))}))
    refused(line(bad, out), "transformer", "not known", "transformer_blocks.0.attn9.to_q.weight")


def test_a_bad_upsampler(refused, folder, tmp_path, out):
    name = small.UPSAMPLERS["2"]
    bad = altered(folder, tmp_path / "bad", lambda tensors, _: tensors.pop("final_conv.bias"), name)
    refused(line(bad, out), "upsampler", name, "missing", "final_conv.bias")


def test_a_text_encoder_of_another_width(refused, folder, tmp_path, out):
    make_gemma(tmp_path / "other", width=48)
    refused(line(folder, out, "--text-encoder-repo", tmp_path / "other"), "width 48", "192 features", "takes 128")


def test_no_text_encoder(refused, folder, tmp_path, out):
    bad = beside(folder, tmp_path / "bad", "gemma")
    refused(line(bad, out), "No text encoder", bad, "--text-encoder-repo")


@pytest.mark.parametrize("flag", ["-o", "--output-audio"])
def test_an_output_folder_that_is_not_there(refused, folder, tmp_path, out, flag):
    suffix = ".mp4" if flag == "-o" else ".wav"
    nowhere = tmp_path / "nowhere"
    refused(line(folder, out, flag, nowhere / f"a{suffix}"), nowhere, "does not exist", "mkdir")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody may write to")
def test_an_output_folder_that_cannot_be_written_to(refused, folder, out):
    refused(line(folder, out, "-o", "/proc/a.mp4"), "/proc", "cannot be written to")


def test_an_output_of_another_kind(refused, folder, out):
    refused(line(folder, out, "-o", out / "a.gif"), "a.gif", ".mp4")
    refused(line(folder, out, "--output-audio", out / "a.mp3"), "a.mp3", ".wav")
    refused(line(folder, out, "--no-audio", "--output-audio", out / "a.wav"), "a.wav", "without sound")


def test_frames_where_something_is_already(refused, folder, tmp_path, out):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept.txt").write_text("kept")
    refused(line(folder, out, "-o", tmp_path / "a.mp4", "--save-frames"), tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(("name", "pipeline"), [(CHECKPOINT, "dev"), (CHECKPOINT, "dev-two-stage"), (DEV, "distilled")])
def test_a_checkpoint_of_the_other_variant(refused, folder, out, name, pipeline):
    own, other = ("distilled", "dev") if name == CHECKPOINT else ("dev", "distilled")
    words = f"{name} is a {own} checkpoint, but the {pipeline} pipeline needs a {other} one"
    refused(line(folder / name, out, "--pipeline", pipeline), words)


@pytest.mark.parametrize("pipeline", ["distilled", "dev-two-stage", "dev-two-stage-hq"])
def test_no_upsampler(refused, folder, tmp_path, out, pipeline):
    bad = beside(folder, tmp_path / "bad", small.UPSAMPLERS["2"])
    refused(line(bad, out, "--pipeline", pipeline), "No spatial x2 upsampler", bad, pipeline)


@pytest.mark.parametrize("pipeline", ["dev-two-stage", "dev-two-stage-hq"])
def test_no_distilled_lora(refused, folder, tmp_path, out, pipeline):
    bad = beside(folder, tmp_path / "bad", small.LORAS["2"])
    refused(line(bad, out, "--pipeline", pipeline), "No distilled LoRA", bad, pipeline)
    # Without it the other pipelines do.
    assert generate.main([*map(str, line(bad, tmp_path, "--pipeline", "dev", "--steps", 1, "--quiet"))]) == 0


@pytest.fixture
def lora(tmp_path):
    def write(change=lambda name, array: (name, array)):
        tensors = dict(change(name, array) for name, array in small.lora_tensors("2").items())
        mx.save_safetensors(str(tmp_path / "lora.safetensors"), tensors)
        return tmp_path / "lora.safetensors"

    return write


def test_a_lora_that_is_not_there(refused, folder, tmp_path, out, lora):
    refused(line(folder, out, "--lora", tmp_path / "lor.safetensors"), "--lora", "lor.safetensors", "neither")
    path = lora()
    refused(line(folder, out, "--lora", tmp_path / "lore.safetensors"), f"Did you mean {path}?")


def test_a_lora_of_another_size(refused, folder, out, lora):
    def change(name, array):
        wide = name.endswith("attn1.to_q.lora_B.weight")
        return name, mx.concatenate([array, array]) if wide else array

    message = refused(line(folder, out, "--lora", lora(change)), "lora.safetensors", "[64, 32]", "[32, 32]")
    assert "attn1.to_q" in message
    assert "another generation or size" in message


def test_a_lora_of_another_generation(refused, small_folder, out, tmp_path):
    # The tables of 2.3 have nine rows, those of 2 have six.
    words = line(small_folder("2"), out, "--lora", small_folder("2.3") / small.LORAS["2.3"])
    message = refused(words, "[288, 32]", "[192, 32]")
    assert "adaln_single.linear" in message


def test_a_lora_without_a_match(refused, folder, out, lora):
    path = lora(lambda name, array: (name.replace("diffusion_model.", "diffusion_model.other."), array))
    refused(line(folder, out, "--lora", path), path, "changes nothing")


def test_a_lora_that_matches_in_part_is_told_of(command, folder, out, lora):
    path = lora(lambda name, array: (name.replace("blocks.2.attn1.to_q", "blocks.9.attn1.to_q"), array))
    status, said = command(generate.main, *line(folder, out, "--lora", path))
    assert status == 0
    total = len(small.lora_tensors("2")) // 2
    assert f"lora.safetensors: {total - 1} of {total} layers matched; not known: " in said
    assert "transformer_blocks.9.attn1.to_q" in said


@pytest.mark.parametrize("block", [3, -1])
def test_a_block_that_is_not_there(refused, folder, out, block):
    refused(line(folder, out, "--pipeline", "dev", "--stg-blocks", block), f"--stg-blocks {block}", "0 to 2")


def test_a_model_that_is_not_there(refused, folder, out):
    said = "neither a file or folder here nor a Hugging Face id", f"Did you mean {folder}?"
    refused(line(f"{folder}s", out), f"{folder}s", *said)


def test_a_folder_without_a_model(refused, tmp_path, out):
    (tmp_path / "empty").mkdir()
    refused(line(tmp_path / "empty", out), tmp_path / "empty", "no LTX-2 checkpoint")


def test_pictures_that_cannot_be_used(refused, folder, tmp_path, out, inputs):
    (tmp_path / "empty.png").write_bytes(b"")
    refused(line(folder, out, "--image", tmp_path / "empty.png"), "empty.png", "0 bytes")
    (tmp_path / "text.png").write_text("no picture")
    refused(line(folder, out, "--image", tmp_path / "text.png"), "text.png", "not a picture")
    refused(line(folder, out, "--image", tmp_path / "none.png"), "none.png", "does not exist")
    picture = inputs / "picture.png"
    refused(line(folder, out, "--image", picture, 9), "frame 9", "0 to 8", "-9 to -1")
    refused(line(folder, out, "--image", picture, "--image", picture), "both ask for frame 0")
    refused(line(folder, out, "--image", picture, 0, 2), "strength 2", "0 to 1")


def test_sounds_that_cannot_be_used(refused, command, folder, tmp_path, out, inputs):
    assert command(generate.main, *line(folder, tmp_path, "--no-audio"))[0] == 0

    def heard(name, *more):
        return line(folder, out, "--audio-file", name, *more)

    refused(heard(tmp_path / "a.mp4"), "a.mp4", "no sound track")
    refused(heard(inputs / "sound.wav", "--audio-start-time", 1.5), "1.50 s long", "1.5 s is past its end")
    refused(heard(inputs / "sound.wav", "--audio-start-time", -1), "--audio-start-time -1")
    refused(heard(inputs / "none.wav"), "none.wav", "does not exist")
    refused(heard(inputs / "sound.wav", "--no-audio"), "--audio-file", "--no-audio")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--height", 100], ["--height 100", "multiple of 32", "96 or 128"]),
        (["--height", -64], ["--height -64", "nearest: 32"]),
        (["--width", 100000], ["--width 100000", "8192"]),
        (["--num-frames", 10, "--strict-frames"], ["--num-frames 10", "1 + 8k", "9 or 17"]),
        (["--pipeline", "dev", "--height", 32], ["--height 32", "64"]),
        (["--steps", 9], ["--steps 9", "distilled", "1 to 8"]),
        (["--cfg-scale", 3], ["--cfg-scale has no effect in the distilled pipeline", "dev-two-stage-hq"]),
        (["--plan", "--placeholder"], ["--plan and --placeholder exclude each other"]),
        (["--pipeline", "dev", "--steps", 0], ["--steps 0", "1 to 1000"]),
        (["--prompt", "  "], ["prompt is empty"]),
        (["--fps", 0], ["--fps 0"]),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_do_not_go(refused, folder, out, more, said):
    refused(line(folder, out, *more), *said)
