"""Each way in which a clip can be plainly wrong is told with figures, from weights that make it so; sound ones pass."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Clip, LTXPipeline, generate
from mlx_video.results import faults
from tests.jobs.test_runs import SMALL

CHECKPOINT = "ltx-2.3-22b-distilled.safetensors"
SLOW = pytest.mark.slow
ASKED = ("a fox", "-H", 64, "-W", 64, "-n", 9, "--dtype", "float32")


def told(*frames):
    watched = faults.Watched()
    assert len(list(watched.watch(frames))) == len(frames)
    return " ".join(watched.faults)


def frame(seed, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (16, 24, 3)).astype(np.uint8)


PLAIN = np.full((16, 24, 3), (0, 177, 64), np.uint8)
BURNT = np.where(frame(0) < 100, 0, 255).astype(np.uint8)
NIGHT = np.where(frame(0) < 250, 0, frame(1)).astype(np.uint8)
PAGE = np.where(frame(0)[..., :1] < 40, 20, 255).repeat(3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([frame(0, 0, 4), frame(1, 0, 5)], "black: no sample of all 2 frames is above 4 of 255"),
        ([PLAIN, PLAIN + np.uint8(2)], "one colour: within all 2 frames no channel differs by more than 0 of 255"),
        ([PLAIN], "one colour: within its one frame"),
        ([frame(0), frame(0), frame(0)], "frozen: all 3 frames are the same, bit for bit"),
        ([BURNT, BURNT[::-1]], "saturated: 37% of its samples are 0 and 63% are 255"),
    ],
)  # fmt: skip
def test_frames_are_told_of(frames, said):
    assert said in told(*frames)


def test_pictures_that_may_be_wanted_are_not_told_of():
    assert told(frame(0), frame(1)) == ""  # noise
    assert told(frame(0)) == ""  # a single frame does not stand still
    assert told(NIGHT, NIGHT[::-1]) == told(PAGE, PAGE[::-1]) == ""
    barely = PLAIN.copy()
    barely[0, 0, 0] = 5
    assert told(PLAIN, barely) == ""
    assert faults.Watched().faults == ()


def test_sounds_are_told_of():
    noise = np.random.default_rng(0).normal(0, 1, (2, 4800)).astype(np.float32)
    assert faults.of_sound(noise * 0) == ("There is no sound: its level is 0 of full scale (RMS).",)
    assert "no samples" in faults.of_sound(noise[:, :0])[0]
    assert faults.of_sound(np.clip(noise, -1, 1)) == (
        f"The sound is clipped: {np.mean(abs(noise) >= 0.999):.0%} of its samples are at full scale.",
    )
    assert faults.of_sound(noise * 1e-4) == faults.of_sound(np.clip(noise * 0.5, -1, 1)) == ()


def test_latents_are_told_of():
    video, audio = mx.random.normal((1, 128, 3, 2, 2)), mx.random.normal((1, 8, 9, 16))
    assert faults.of_latents("stage 1", {"video": video, "audio": audio}) == ()
    assert "one colour" in faults.of_latents("stage 1", {"video": mx.broadcast_to(video[..., :1, :1], video.shape)})[0]
    still = mx.broadcast_to(video[:, :, :1], video.shape)
    assert faults.of_latents("stage 1", {"video": still}) == (
        "After stage 1 the picture is frozen: all 3 latent frames are the same.",
    )
    quiet = faults.of_latents("stage 1", {"video": video, "audio": mx.zeros(audio.shape)})
    assert quiet == ("After stage 1 the sound stands still: its latent differs by 0 at most in time.",)
    assert faults.of_latents("stage 1", {"video": video[..., :1, :1]}) == ()  # a single cell is of one colour


@pytest.fixture
def altered(small_folder, tmp_path):
    """altered(name, change): the folder of a checkpoint in which tensors whose names begin so are others."""

    def make(beginning, change):
        folder = shutil.copytree(small_folder("2.3"), tmp_path / "model")
        arrays, metadata = mx.load(str(folder / CHECKPOINT), return_metadata=True)
        found = [name for name in arrays if name.startswith(beginning)]
        assert found
        for name in found:
            arrays[name] = change(name, arrays[name])
        mx.eval(arrays)
        (folder / CHECKPOINT).unlink()
        mx.save_safetensors(str(folder / CHECKPOINT), arrays, metadata)
        return folder

    return make


def only_a_bias(value):
    """Of a last convolution: nothing is left but a bias."""
    return lambda name, array: mx.full(array.shape, value if name.endswith("bias") else 0.0, array.dtype)


def times(factor):
    return lambda name, array: array * factor


def last_of_vocoders(factor):
    """The two networks' last convolutions, times a factor."""
    return lambda name, array: array * factor if "conv_post" in name else array


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize(
    ("tensors", "change", "flags", "said"),
    [
        ("vae.decoder.conv_out", only_a_bias(-2.0), ("--no-audio",), "black: no sample of all 9 frames is above 0"),
        pytest.param("vae.decoder.conv_out", times(1e4), ("--no-audio",), "picture is saturated", marks=SLOW),
        ("vocoder.", last_of_vocoders(0.0), (), "There is no sound: its level is 0 of full scale"),
        pytest.param("vocoder.", last_of_vocoders(1e4), (), "The sound is clipped", marks=SLOW),
    ],
)  # fmt: skip
def test_a_faulty_clip_is_written_and_told_and_its_latents_are_kept(
    altered, tmp_path, capsys, tensors, change, flags, said
):
    folder, video = altered(tensors, change), tmp_path / "a.mp4"
    status = generate.main([*map(str, ASKED), *flags, "--model-repo", str(folder), "-o", str(video)])
    last = capsys.readouterr().err.splitlines()[-1]
    assert status == 1
    assert said in last
    kept = tmp_path / "a.latents.safetensors"
    assert last.endswith(f"{video} is written as it is, and its latents are kept in {kept}.")
    assert video.stat().st_size
    assert len(Clip.open(kept)) == 9


@pytest.mark.usefixtures("texts_are_kept")
def test_what_stands_still_after_stage_1_is_told_at_once(altered):
    # A transformer without a velocity leaves what it is given, here nothing; its first stage is of a single cell.
    folder, heard = altered("model.diffusion_model.proj_out", times(0.0)), []
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        clip = pipe.generate(**SMALL, audio=False, on_message=heard.append, noise=lambda name, shape: mx.zeros(shape))
    assert heard == list(clip.faults)
    assert "After stage 1 the picture is frozen: all 2 latent frames are the same." in heard


@pytest.mark.usefixtures("texts_are_kept")
def test_a_sound_clip_has_no_faults_whatever_is_looked_at(small_folder, tmp_path):
    with LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32") as pipe:
        clip = pipe.generate(**SMALL)
        assert clip.faults == ()
        clip.save(tmp_path / "a.mp4")
        assert clip.faults == ()


def test_latents_that_cannot_be_kept_are_told_of(altered, tmp_path, capsys, texts_are_kept):
    folder, video = altered("vae.decoder.conv_out", only_a_bias(0.25)), tmp_path / "a.mp4"
    (tmp_path / "a.latents.safetensors").write_text("mine")
    assert generate.main([*map(str, ASKED), "--no-audio", "--model-repo", str(folder), "-o", str(video)]) == 1
    assert "could not be kept" in capsys.readouterr().err
    assert (tmp_path / "a.latents.safetensors").read_text() == "mine"
