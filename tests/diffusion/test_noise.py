import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.noise import draw_tokens, given, seeded
from mlx_video.diffusion.tokens import patchify
from mlx_video.types import AudioShape, UserError, VideoShape

CLIP = VideoShape(9, 64, 32, 24.0)
GRID = (1, 128, 2, 2, 1)


def test_adding_a_draw_changes_no_other():
    alone = seeded(7)("stage1/audio", (1, 8, 5, 16))
    noise = seeded(7)
    noise("stage1/video", GRID)
    noise("stage1/sde/0/video", GRID)
    assert mx.array_equal(noise("stage1/audio", (1, 8, 5, 16)), alone)


def test_names_and_seeds_give_different_draws():
    draws = [
        seeded(s)(n, (64,)) for s in (0, 1, -1, 2**70) for n in ("stage1/video", "stage2/video", "stage1/sde/1/video")
    ]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(np.corrcoef(np.array(a), np.array(b))[0, 1]) < 0.6


def test_draws_are_standard_normal_float32():
    x = seeded(3)("stage1/video", (1, 128, 4, 8, 8))
    assert x.dtype == mx.float32
    values = np.array(x, np.float64)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((values**3).mean()) < 0.05


def test_a_seed_means_the_same_noise_in_every_release():
    # Changing this number changes everybody's videos.
    recorded = [0.6640730500221252, -2.543605327606201, 1.2902640104293823]
    np.testing.assert_allclose(np.array(seeded(42)("stage1/video", (3,))), recorded, atol=1e-4)


def test_appended_tokens_leave_the_clips_own_noise_alone():
    noise = seeded(5)
    own = draw_tokens(noise, "stage1/video", CLIP, 4)
    longer = draw_tokens(noise, "stage1/video", CLIP, 7)
    assert mx.array_equal(own, patchify(noise("stage1/video", GRID)))
    assert longer.shape == (1, 7, 128)
    assert mx.array_equal(longer[:, :4], own)
    assert mx.array_equal(longer[:, 4:], noise("stage1/video/appended", (1, 3, 128)))
    assert draw_tokens(noise, "stage1/audio", AudioShape(6), 6, batch=2).shape == (2, 6, 128)


def test_given_arrays_and_functions_are_used():
    values = np.random.default_rng(0).standard_normal(GRID)
    asked = []

    def function(name, shape):
        asked.append((name, shape))
        return values

    for noise in (given({"stage1/video": values}), given(function), given({"stage1/video": mx.array(values)})):
        x = noise("stage1/video", GRID)
        assert x.dtype == mx.float32
        assert np.array_equal(np.array(x), values.astype(np.float32))
        noise.finish()
    assert asked == [("stage1/video", GRID)]


def test_a_missing_name_is_named_with_its_neighbours():
    noise = given({"stage1/vido": np.zeros(GRID), "other": np.zeros(3)})
    with pytest.raises(UserError, match=r"'stage1/video' \(1, 128, 2, 2, 1\).*given: stage1/vido"):
        noise("stage1/video", GRID)
    with pytest.raises(UserError, match="given: nothing"):
        given({})("stage1/video", GRID)


def test_an_unused_name_is_named_at_the_end():
    noise = given({"stage1/video": np.zeros(GRID), "stage1/sde/9/video": np.zeros(GRID)})
    noise("stage1/video", GRID)
    with pytest.raises(UserError, match="stage1/sde/9/video, which this run does not draw"):
        noise.finish()


@pytest.mark.parametrize("make", [lambda x: {"stage1/video": x}, lambda x: lambda name, shape: x])
def test_a_wrong_shape_is_refused(make):
    with pytest.raises(UserError, match=r"'stage1/video' has shape \(1, 4, 128\); this run needs \(1, 128, 2, 2, 1\)"):
        given(make(np.zeros((1, 4, 128))))("stage1/video", GRID)


def test_what_is_no_array_is_refused():
    with pytest.raises(UserError, match="'stage1/video' is not an array of numbers"):
        given({"stage1/video": "loud"})("stage1/video", GRID)
