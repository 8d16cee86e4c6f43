import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.conditioning import (
    AppendKeyframe,
    Freeze,
    GenerateKeyframe,
    ReplaceFrame,
    initial_state,
    keyframe_places,
    noised,
    start,
)
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


def test_a_generated_keyframe_is_appended_free_and_marked_for_one_pixel_frame():
    before = ReplaceFrame(frame("first")).apply(initial_state(CLIP), CLIP)
    after = GenerateKeyframe(11).apply(before, CLIP)
    assert after.latent.shape == (1, 24, 128)
    for field in ("latent", "clean", "mask"):
        assert mx.array_equal(getattr(after, field)[:, :18], getattr(before, field))
    assert not mx.any(after.latent[:, 18:]).item()
    assert not mx.any(after.clean[:, 18:]).item()
    assert mx.array_equal(after.mask[:, 18:], mx.ones((1, 6, 1)))
    where = np.array(after.positions)[0, :, 18:]
    np.testing.assert_allclose(where[0], [[11 / 24, 12 / 24]] * 6, rtol=1e-6)
    # Rows and columns as the clip's own first frame has them.
    assert np.array_equal(where[1:], np.array(before.positions)[0, 1:, :6])
    assert mx.array_equal(unpatchify(after.clean, CLIP), unpatchify(before.clean, CLIP))


def test_keyframes_are_the_first_frame_and_those_that_are_generated():
    state = initial_state(CLIP, latent("grid", 1, 128, 3, 2, 3))
    assert state.keyframes[0, :, 0].tolist() == [1] * 6 + [0] * 12
    state = ReplaceFrame(frame(), 0).apply(state, CLIP)
    state = AppendKeyframe(frame("key"), 0, 0.9).apply(state, CLIP)
    state = GenerateKeyframe(3).apply(state, CLIP)
    state = AppendKeyframe(frame("other", 2), 16, single=False).apply(state, CLIP)
    marked = [1] * 6 + [0] * 12 + [0] * 6 + [1] * 6 + [0] * 12
    assert state.keyframes[0, :, 0].tolist() == marked
    assert noised(state, latent("noise", 1, 42, 128)).keyframes[0, :, 0].tolist() == marked


def test_a_sound_has_no_keyframes():
    assert initial_state(SOUND).keyframes is None
    assert start(SOUND, seeded(1), "stage1/audio", conditions=[Freeze(latent("sound", 1, 8, 5, 16))]).keyframes is None


def test_a_clip_of_one_latent_frame_is_a_keyframe():
    assert initial_state(VideoShape(1, 64, 96, 24.0)).keyframes.min().item() == 1


def test_generated_keyframes_draw_noise_of_their_own():
    drawn = {"stage1/video": cases.array("n", 1, 128, 3, 2, 3), "stage1/video/appended": cases.array("m", 1, 12, 128)}
    noise = given(drawn)
    state = start(CLIP, noise, "stage1/video", conditions=[GenerateKeyframe(5), GenerateKeyframe(11)])
    noise.finish()
    assert mx.array_equal(unpatchify(state.latent, CLIP), latent("n", 1, 128, 3, 2, 3))
    assert mx.array_equal(state.latent[:, 18:], latent("m", 1, 12, 128))


@pytest.mark.parametrize(
    ("count", "frames", "places"),
    [(0, 17, []), (1, 17, [8]), (2, 17, [5, 11]), (3, 9, [2, 4, 6]), (3, 7, [2, 3, 4]), (5, 7, [1, 2, 3, 4, 5])],
)  # fmt: skip
def test_generated_keyframes_lie_evenly_between_the_ends(count, frames, places):
    assert keyframe_places(count, frames) == places
