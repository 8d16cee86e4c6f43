import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.conditioning import AppendKeyframe, Freeze, ReplaceFrame, initial_state, noised, start
from mlx_video.diffusion.noise import given, seeded
from mlx_video.diffusion.tokens import patchify, positions, unpatchify, video_positions
from mlx_video.types import AudioShape, VideoShape
from tests.diffusion import cases

CLIP = VideoShape(17, 64, 96, 24.0)  # a grid of 3 x 2 x 3: 18 tokens, 6 in each latent frame
SOUND = AudioShape(5)


def latent(name, *shape):
    return mx.array(cases.array(name, *shape))


def frame(name="picture", count=1):
    return latent(name, 1, 128, count, 2, 3)


def test_nothing_is_kept_at_first():
    for shape in (CLIP, SOUND):
        state = initial_state(shape, batch=2)
        assert mx.array_equal(state.mask, mx.ones_like(state.mask))
        assert not mx.any(state.latent).item()
        assert mx.array_equal(state.positions, positions(shape, 2))
    grid = latent("grid", 2, 128, 3, 2, 3)
    state = initial_state(CLIP, grid, batch=2)
    assert mx.array_equal(state.latent, patchify(grid))
    assert mx.array_equal(state.clean, state.latent)
    assert state.mask.shape == (2, 18, 1)


@pytest.mark.parametrize(("count", "at"), [(1, 0), (1, 2), (2, 1)])
def test_replacing_frames_touches_clean_and_mask_there_alone(count, at):
    before = initial_state(CLIP, latent("grid", 1, 128, 3, 2, 3))
    after = ReplaceFrame(frame(count=count), at, 0.7).apply(before, CLIP)
    there = slice(6 * at, 6 * (at + count))
    elsewhere = np.ones(18, bool)
    elsewhere[there] = False
    assert mx.array_equal(after.latent, before.latent)
    assert mx.array_equal(after.clean[:, there], patchify(frame(count=count)))
    np.testing.assert_allclose(after.mask[0, there], 0.3, rtol=1e-6)
    for field in ("clean", "mask"):
        assert np.array_equal(
            np.array(getattr(after, field))[:, elsewhere], np.array(getattr(before, field))[:, elsewhere]
        )


@pytest.mark.parametrize(
    ("picture", "at"), [(latent("x", 1, 128, 1, 3, 2), 0), (frame(), 3), (frame(), -1), (frame(count=2), 2)]
)
def test_a_frame_that_does_not_fit_is_refused(picture, at):
    with pytest.raises(ValueError, match="does not fit"):
        ReplaceFrame(picture, at).apply(initial_state(CLIP), CLIP)


def test_a_keyframe_is_appended_and_dropped_again():
    before = ReplaceFrame(frame("first")).apply(initial_state(CLIP), CLIP)
    after = AppendKeyframe(frame("key"), 16, 0.9).apply(before, CLIP)
    assert after.latent.shape == (1, 24, 128)
    for field in ("latent", "clean", "mask"):
        assert mx.array_equal(getattr(after, field)[:, :18], getattr(before, field))
    assert not mx.any(after.latent[:, 18:]).item()
    assert mx.array_equal(after.clean[:, 18:], patchify(frame("key")))
    np.testing.assert_allclose(after.mask[0, 18:], 0.1, rtol=1e-6)
    assert mx.array_equal(
        after.positions[:, :, 18:], video_positions((1, 2, 3), 24.0, first=16, causal=False, single=True)
    )
    assert mx.array_equal(unpatchify(after.clean, CLIP)[:, :, :1], frame("first"))


@pytest.mark.parametrize("scale", [0.0, 0.909375, 1.0])
def test_a_frozen_modality_takes_no_noise(scale):
    sound = latent("sound", 1, 8, 5, 16)
    state = start(SOUND, seeded(1), "stage1/audio", conditions=[Freeze(sound)], scale=scale)
    assert mx.array_equal(state.latent, patchify(sound))
    assert mx.array_equal(state.clean, state.latent)
    assert not mx.any(state.mask).item()
    with pytest.raises(ValueError, match="cannot stand for"):
        Freeze(latent("x", 1, 8, 4, 16)).apply(initial_state(SOUND), SOUND)


def test_noise_goes_in_by_scale_and_then_by_mask():
    state = initial_state(CLIP, latent("grid", 1, 128, 3, 2, 3))
    state = ReplaceFrame(frame(), strength=0.4).apply(state, CLIP)
    noise = latent("noise", 1, 18, 128)
    mixed = 0.3 * np.array(state.latent) + 0.7 * np.array(noise)
    wanted = 0.4 * np.array(state.clean) + 0.6 * mixed
    wanted[:, 6:] = mixed[:, 6:]
    np.testing.assert_allclose(noised(state, noise, 0.7).latent, wanted, atol=1e-6)


def test_all_noise_and_no_noise_are_exact():
    state = ReplaceFrame(frame()).apply(initial_state(CLIP, latent("grid", 1, 128, 3, 2, 3)), CLIP)
    noise = latent("noise", 1, 18, 128) * 1e4
    assert mx.array_equal(noised(state, noise, 1.0).latent[:, 6:], noise[:, 6:])
    assert mx.array_equal(noised(state, noise, 0.0).latent[:, 6:], state.latent[:, 6:])
    assert mx.array_equal(noised(state, noise, 0.9).latent[:, :6], state.clean[:, :6])


def test_a_guide_leaves_the_clips_own_start_alone():
    plain = start(CLIP, seeded(4), "stage1/video")
    guided = start(CLIP, seeded(4), "stage1/video", conditions=[AppendKeyframe(frame(), 8, 0.5)])
    assert mx.array_equal(guided.latent[:, :18], plain.latent)
    assert guided.latent.shape == (1, 24, 128)


def test_start_draws_by_name():
    noise = given(
        {"stage2/video": cases.array("n", 1, 128, 3, 2, 3), "stage2/video/appended": cases.array("m", 1, 6, 128)}
    )
    state = start(CLIP, noise, "stage2/video", conditions=[AppendKeyframe(frame(), 8, 0.0)])
    noise.finish()
    assert mx.array_equal(unpatchify(state.latent, CLIP), latent("n", 1, 128, 3, 2, 3))
    assert mx.array_equal(state.latent[:, 18:], latent("m", 1, 6, 128))


def test_an_initial_latent_of_another_size_is_refused():
    with pytest.raises(ValueError, match="initial latent"):
        initial_state(CLIP, latent("x", 1, 128, 2, 2, 3))
