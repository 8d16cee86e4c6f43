"""--video-decoder diffusion: the same latents, pictures made of them and of a draw of noise; what goes with it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline
from mlx_video.diffusion.noise import DECODING, seeded
from mlx_video.jobs.decode import to_uint8
from mlx_video.lending.loader import load
from mlx_video.request import Request
from mlx_video.types import UserError
from tests.support import small_pack

ASKED = {"prompt": "a red ball", "height": 64, "width": 128, "num_frames": 9, "audio": False}
CANVAS = (1, 3, 17, 96, 128)
"""Of 9 x 64 x 128, which is shorter and lower than the small decoder's windows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small pack of LTX-2.5."""
    return small_pack.make(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def made(folder):
    """A clip with either decoder, and the first's frames."""
    with LTXPipeline.from_pretrained(str(folder)) as pipe:
        diffused = pipe.generate(**ASKED, seed=3, video_decoder="diffusion")
        frames = np.stack(list(diffused))
        return diffused, frames, pipe.generate(**ASKED, seed=3)


def test_latents_are_the_same_and_pictures_are_not(made):
    diffused, frames, plain = made
    assert np.array_equal(np.array(diffused.latents["video"]), np.array(plain.latents["video"]))
    other = np.stack(list(plain))
    assert frames.shape == other.shape == (9, 64, 128, 3)
    assert not np.array_equal(frames, other)


def test_pictures_are_the_decoders_for_the_seeds_own_draw(made, folder):
    diffused, frames, _ = made
    decoder = load("diffusion_decoder", folder)
    latent = mx.array(np.array(diffused.latents["video"])).transpose(0, 2, 3, 4, 1)
    noise = seeded(3)(DECODING, CANVAS).transpose(0, 2, 3, 4, 1)
    wanted = np.array(to_uint8(decoder(latent, noise)[0])).astype(int)
    assert np.abs(wanted - frames).max() <= 1
    assert np.array_equal(np.stack(list(diffused)), frames)


def test_a_stored_clip_is_decoded_as_it_was(made, folder, tmp_path):
    diffused, frames, _ = made
    diffused.store(tmp_path / "clip")
    with LTXPipeline.from_pretrained(str(folder)) as pipe:
        assert np.array_equal(np.stack(list(pipe.open(tmp_path / "clip"))), frames)


def test_noise_that_is_handed_in_is_taken(made, folder):
    own, zeros = seeded(3), np.zeros(CANVAS, np.float32)
    asked: list[str] = []

    def noise(name, shape):
        asked.append(name)
        return zeros if name == DECODING else own(name, shape)

    with LTXPipeline.from_pretrained(str(folder)) as pipe:
        clip = pipe.generate(**ASKED, seed=3, video_decoder="diffusion", noise=noise)
        assert asked.count(DECODING) == 1
        assert np.array_equal(np.array(clip.latents["video"]), np.array(made[0].latents["video"]))
        assert not np.array_equal(np.stack(list(clip)), made[1])


def test_its_memory_is_planned(folder):
    with LTXPipeline.from_pretrained(str(folder)) as pipe:
        phases = [
            {phase.name: phase.peak for phase in pipe.plan(Request(**ASKED, video_decoder=kind)).phases}["decode"]
            for kind in ("conv", "diffusion")
        ]
    assert phases[1] > 0
    assert phases[0] != phases[1]


@pytest.mark.parametrize(
    ("without", "asked", "said"),
    [
        (small_pack.DIFFUSION, "diffusion", "needs LTX-2.5's diffusion video VAE"),
        (small_pack.VIDEO, None, "has no convolutional video decoder"),
    ],
)
def test_a_decoder_that_is_not_there_is_named_before_anything_runs(tmp_path, without, asked, said):
    folder = small_pack.make(tmp_path, without=(without,))
    with LTXPipeline.from_pretrained(str(folder)) as pipe, pytest.raises(UserError, match=said):
        pipe.generate(**ASKED, video_decoder=asked)


def test_the_diffusion_decoder_alone_is_enough(tmp_path, made):
    folder = small_pack.make(tmp_path, without=(small_pack.VIDEO,))
    with LTXPipeline.from_pretrained(str(folder)) as pipe:
        assert np.array_equal(np.stack(list(pipe.generate(**ASKED, seed=3, video_decoder="diffusion"))), made[1])


@pytest.mark.parametrize(
    ("more", "said"),
    [({"tiling": "default"}, "auto or none"), ({"stream": True}, "--stream has no effect")],
)
def test_options_of_the_other_decoder_are_refused(more, said):
    from mlx_video.models.ltx_2.recipes import RECIPES

    with pytest.raises(UserError, match=said):
        Request(**ASKED, video_decoder="diffusion", **more).check(RECIPES)
