"""Numbers that are not finite end a run where they appear, and never as a black clip with status 0."""

import json
import os
import shutil
import struct

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, UserError, generate, upscale
from mlx_video.diffusion.noise import seeded
from mlx_video.jobs import stages as run
from mlx_video.lending.finite import Origin, all_finite
from mlx_video.media.image import save_image
from mlx_video.types import RunError
from tests.support.stages import refine

CHECKPOINT = "ltx-2.3-22b-distilled.safetensors"
SIZE = ("--height", 64, "--width", 64, "--num-frames", 9)
BLOCK = "model.diffusion_model.transformer_blocks.0."


def damage(file, beginning, number=float("nan")):
    """Overwrites the first number of the first tensor whose name begins so; returns its name."""
    data = bytearray(file.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in sorted(header) if name.startswith(beginning))
    start = 8 + length + header[name]["data_offsets"][0]
    wide = struct.pack("<f", number)
    written = wide if header[name]["dtype"] == "F32" else wide[2:]
    data[start : start + len(written)] = written
    file.unlink()
    file.write_bytes(data)
    return name


@pytest.fixture
def folder(upscale_folder, tmp_path):
    """A copy of the small checkpoint, to be damaged."""
    return shutil.copytree(upscale_folder("2.3"), tmp_path / "model")


@pytest.mark.quick("*attn1.to_q*", "*vocoder*", "*language_model*", "*conv_in-options5*")
@pytest.mark.parametrize(
    ("file", "tensor", "options", "said"),
    [
        (CHECKPOINT, BLOCK + "attn1.to_q.weight", ("--no-audio",), "stage 1, step 1 of 8, gave"),
        (CHECKPOINT, BLOCK + "audio_attn1.to_q.weight", (), "stage 1, step 1 of 8, gave"),
        (CHECKPOINT, "model.diffusion_model.patchify_proj", ("--no-audio", "--low-memory"), "stage 1, step 1 of 8"),
        (CHECKPOINT, "model.diffusion_model.video_embeddings_connector.", ("--no-audio",), "encoding the prompt gave"),
        ("gemma/model.safetensors", "language_model.model.norm", ("--no-audio",), "encoding the prompt gave"),
        (CHECKPOINT, "vae.decoder.conv_in", ("--no-audio",), "decoding the video gave"),
        (CHECKPOINT, "vae.decoder.conv_out", ("--no-audio", "--tiling", "aggressive"), "decoding the video gave"),
        (CHECKPOINT, "vae.per_channel_statistics.mean-of-means", ("--no-audio",), "upsampling gave"),
        (CHECKPOINT, "vae.encoder.conv_in", ("--image", "picture.png"), "encoding the picture picture.png gave"),
        (CHECKPOINT, "audio_vae.encoder.conv_in", ("--audio-file", "sound.wav"), "encoding the sound gave"),
        (CHECKPOINT, "audio_vae.decoder.conv_in", (), "decoding the sound gave"),
        (CHECKPOINT, "vocoder.", (), "making the waveform gave"),
        ("ltx-2.3-spatial-upscaler-x2-1.1.safetensors", "final_conv", ("--no-audio",), "upsampling gave"),
    ],
)  # fmt: skip
def test_a_damaged_weight_ends_the_run_and_is_named(folder, inputs, command, monkeypatch, file, tensor, options, said):
    monkeypatch.chdir(inputs)
    name = damage(folder / file, tensor)
    output = folder / "o.mp4"
    status, text = command(generate.main, "-p", "x", "--model-repo", folder, *SIZE, *options, "-o", output, "--quiet")
    assert (status, text.count("\n")) == (2, 1), text
    assert said in text
    assert f"because {name} of the" in text
    assert (folder / file).name in text
    assert not list(folder.glob("*.mp4*"))


def test_a_damaged_lora_is_named(folder, command):
    lora = folder / "style.safetensors"
    shutil.copy(folder / "ltx-2.3-22b-distilled-lora-384.safetensors", lora)
    name = damage(lora, "diffusion_model.transformer_blocks.1.attn1.to_q.", float("inf"))
    line = ("-p", "x", "--model-repo", folder, *SIZE, "--no-audio", "--lora", lora, "0.5", "-o", folder / "o.mp4")
    status, text = command(generate.main, *line, "--quiet")
    assert (status, text.count("\n")) == (2, 1), text
    assert f"because {name} of the LoRA {lora} holds such numbers; leave that LoRA out." in text


def test_finite_weights_that_overflow_are_a_fault_with_its_likely_causes(folder, command):
    lora = folder / "style.safetensors"
    shutil.copy(folder / "ltx-2.3-22b-distilled-lora-384.safetensors", lora)
    arrays = {name: array * 1e20 for name, array in mx.load(str(lora)).items()}
    mx.eval(arrays)
    lora.unlink()
    mx.save_safetensors(str(lora), arrays)
    line = ("-p", "x", "--model-repo", folder, *SIZE, "--no-audio", "--lora", lora, "0.5", "-o", folder / "o.mp4")
    status, text = command(generate.main, *line, "--dtype", "bfloat16", "--quiet")
    assert (status, text.count("\n")) == (1, 1), text
    assert "stage 1, step 1 of 8, gave numbers that are not finite" in text
    assert f"leave out or weaken the LoRA {lora} (strength 0.5); compute in float32 (--dtype float32" in text


def test_upscaling_ends_too(folder, command):
    save_image(folder / "in.png", np.zeros((64, 64, 3), np.uint8))
    line = ("-i", folder / "in.png", "-o", folder / "o.png", "--model-repo", folder)
    damage(folder / "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", "final_conv")
    status, text = command(upscale.main, *line)
    assert status == 2
    assert "upsampling gave numbers that are not finite" in text
    damage(folder / CHECKPOINT, "vae.encoder.conv_in")
    assert "encoding the pictures gave" in command(upscale.main, *line)[1]
    assert not (folder / "o.png").exists()


def test_refining_ends_too():
    class Network:
        def prepare(self, *_):
            return None

        def __call__(self, x, sigma, prepared, passes, batched):
            return [{"video": mx.full(x["video"].shape, float("nan"))}]

    told = []
    with pytest.raises(RunError, match=r"refine, step 1 of 3, gave numbers that are not finite"):
        refine(Network(), mx.zeros((1, 128, 2, 2, 2)), {}, seeded(0), told.append)
    assert len(told) == 1


def test_a_kept_prompt_is_never_one_of_those(folder, command, monkeypatch):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(folder / "cache"))
    damage(folder / "gemma/model.safetensors", "language_model.model.norm")
    line = ("-p", "x", "--model-repo", folder, *SIZE, "-o", folder / "o.mp4")
    assert [command(generate.main, *line)[0] for _ in range(2)] == [2, 2]
    assert not os.path.exists(folder / "cache")


def test_noise_that_is_given_has_to_be_finite(small_folder):
    def noise(name, shape):
        array = np.zeros(shape, np.float32)
        array.flat[3] = np.nan if name == "stage2/video" else 0.0
        return array

    with LTXPipeline.from_pretrained(small_folder("2.3")) as pipe, pytest.raises(UserError, match="'stage2/video'"):
        pipe.generate(prompt="x", height=64, width=64, num_frames=9, audio=False, noise=noise)


def test_the_check_is_one_evaluation_with_the_step(small_folder, monkeypatch):
    evaluations = []
    evaluate = mx.eval
    monkeypatch.setattr(run.mx, "eval", lambda *a: (evaluations.append(1), evaluate(*a))[1])
    arrays = {"video": mx.ones((2, 3)), "audio": mx.ones((2, 3))}
    Origin().check("this", arrays)
    assert len(evaluations) == 1
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(RunError, match="this gave"):
            Origin().check("this", {**arrays, "audio": mx.array([1.0, bad])})
    assert all_finite({"whole numbers": mx.array([1, 2]), "largest": mx.array([3e38, 3e38])}).item()
