"""The demo's training tools on small pieces: the way from a model folder to training and back, long clips, pictures."""

import numpy as np
import pytest

pytest.importorskip("torch")  # before what imports it
import torch
from ltx_core.components.patchifiers import VideoLatentPatchifier, get_pixel_coords
from ltx_core.types import SpatioTemporalScaleFactors, VideoLatentShape
from safetensors.torch import load_file

from mlx_video.checkpoints import demo
from tools.demo_model import bank, codec, configs, network, pack, train, unpack, world
from tools.demo_model.reference import build

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def shipped() -> dict:
    return {key: value.float() for key, value in load_file(demo.folder() / configs.FILES["dev"]).items()}


def _fit(shipped: dict, sign: float) -> dict:
    """A codec with the statistics that shipped, but for the sign of its components."""
    mean, scale = (shipped["vae.per_channel_statistics." + name] for name in ("mean-of-means", "std-of-means"))
    basis = torch.linalg.qr(torch.randn(8192, codec.PARTS, generator=torch.Generator().manual_seed(0)))[0]
    return {"block_mean": torch.zeros(8192), "basis": basis, "mean": mean * sign, "scale": scale}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shipped):
    """A training folder that goes on from the model that shipped."""
    path = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "fit", lambda: _fit(shipped, -1.0))
        unpack.unpack(str(demo.folder()), str(path))
    return path


def test_a_model_goes_into_training_and_comes_out_the_same(folder, tmp_path):
    pack.pack(str(folder), str(tmp_path))
    for part in ("dev", "lora", "upsampler", "gemma"):
        name = configs.FILES[part] + ("/model.safetensors" if part == "gemma" else "")
        before, after = load_file(demo.folder() / name), load_file(tmp_path / name)
        assert before.keys() == after.keys()
        for key, value in before.items():
            scaled = key.startswith("vae.decoder.") and torch.equal(value, after[key] * pack.STREAM)
            assert scaled or torch.equal(value, after[key]), key


def test_the_codecs_signs_are_those_of_the_weights(folder, shipped):
    signs = torch.load(folder / "codec.pt")["basis"] / _fit(shipped, 1.0)["basis"]
    assert torch.equal(signs, -torch.ones_like(signs))


def test_another_codec_is_refused(shipped):
    statistics = (shipped["vae.per_channel_statistics." + name] for name in ("mean-of-means", "std-of-means"))
    other = _fit(shipped, 1.0)
    other["scale"] = other["scale"].flip(0)
    with pytest.raises(ValueError, match="not the one of these weights"):
        unpack.align(other, *statistics)


def test_the_packed_decoder_draws_the_same_with_numbers_that_half_precision_holds(shipped):
    weights = pack.below(shipped, pack.PREFIX["video_decoder"])
    weights |= {k.removeprefix("vae."): v for k, v in shipped.items() if k.startswith("vae.per_channel_statistics.")}
    latents = 2 * torch.randn(1, 128, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    peaks, drawn = [], []
    for state in (weights, pack.tame(weights)):
        decoder, found = build("video_decoder").eval(), []
        decoder.load_state_dict(state)
        for module in decoder.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.register_forward_hook(lambda _, __, out, found=found: found.append(float(out.abs().max())))
        with torch.no_grad():
            drawn.append(decoder(latents))
        peaks.append(max(found))
    assert peaks[1] < 8000 < peaks[0]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3


@pytest.mark.parametrize("motion", [world.LEFT, world.BOUNCES, world.GROWS])
def test_a_long_clip_of_a_bank_is_the_long_clip_that_would_be_drawn(motion):
    scenes = world.draw_scenes([(3, 1, motion, 2)], np.random.default_rng(0))
    frames = (bank.FRAMES, 8 * bank.LONGEST - 7)
    short, long = (codec.to_blocks(world.render(scenes, n, 64)).flatten(1, 3) for n in frames)
    places = bank.lengthen(torch.tensor([motion]), bank.LONGEST)[0]
    per_latent = 2 * 2  # rows and columns
    picked = short.unflatten(1, (-1, per_latent))[:, places].flatten(1, 2)
    assert (picked - long).abs().max() < 1e-4


def test_a_long_sound_of_a_bank_repeats_where_the_sound_does():
    places, hop = bank.sound_places(101), 640  # samples of a latent at 16 kHz
    for meaning, phase in world.sounds():
        wave = world.tone(meaning, phase, 101 * hop, 16000).view(101, hop)
        assert (wave[places][5:] - wave[5:]).abs().max() < 1e-2


def test_what_moves_stays_in_the_picture():
    scenes = world.draw_scenes([(3, 0, motion, 0) for motion in range(7)], np.random.default_rng(0))
    x, y, radius = world.trajectory(scenes, 97)
    assert (torch.stack([x, y]) > 0.05).all()
    assert (torch.stack([x, y]) < 0.95).all()
    assert radius.max() < 0.35


@pytest.mark.parametrize("frame", [1, 16, 32])
def test_a_picture_at_another_frame_stands_where_the_reference_has_it(frame):
    bounds = VideoLatentPatchifier(patch_size=1).get_patch_grid_bounds(
        output_shape=VideoLatentShape(batch=1, channels=128, frames=1, height=4, width=6), device=torch.device("cpu")
    )
    expected = get_pixel_coords(bounds, SpatioTemporalScaleFactors.default(), causal_fix=False).float()
    expected[:, 0] = (expected[:, 0] + frame) / world.FPS
    assert torch.allclose(network.picture_positions(frame, 4, 6), expected)


def test_times_of_parts_can_be_set_and_mistakes_are_told():
    times = train.read_times(["polish=3.5", "upsampler=0"], 2.0, trained=False)
    assert (times["polish"], times["upsampler"], times["vocoder"]) == (3.5, 0.0, 16)
    assert train.read_times([], 1.0, trained=True)["vocoder"] == 0
    for wrong in ("polsh=3", "polish", "polish=soon", "polish=-1"):
        with pytest.raises(SystemExit, match="PART=MINUTES"):
            train.read_times([wrong], 1.0, trained=False)
