import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.tokens import latent_shape, patchify, positions, unpatchify, video_positions
from mlx_video.types import AudioShape, VideoShape
from tests.diffusion import cases

SHAPES = [VideoShape(25, 96, 160, 24.0), VideoShape(1, 32, 32, 30.0), AudioShape(7), AudioShape(1)]


def numbered(shape, batch=2):
    size = latent_shape(shape, batch)
    return mx.arange(int(np.prod(size)), dtype=mx.float32).reshape(size)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape):
    latent = numbered(shape)
    tokens = patchify(latent)
    assert tokens.shape == (2, shape.tokens if isinstance(shape, VideoShape) else shape.frames, 128)
    assert mx.array_equal(unpatchify(tokens, shape), latent)


@pytest.mark.parametrize("shape", SHAPES)
def test_appended_tokens_are_dropped(shape):
    latent = numbered(shape)
    longer = mx.concatenate([patchify(latent), mx.full((2, 5, 128), -1.0)], axis=1)
    assert mx.array_equal(unpatchify(longer, shape), latent)


def test_order_of_tokens_and_channels():
    video = numbered(VideoShape(17, 64, 96, 24.0), 1)
    tokens = patchify(video)
    assert tokens[0, (2 * 2 + 1) * 3 + 2, 9].item() == video[0, 9, 2, 1, 2].item()
    audio = numbered(AudioShape(4), 1)
    assert patchify(audio)[0, 3, 5 * 16 + 11].item() == audio[0, 5, 3, 11].item()


def test_a_latent_has_four_or_five_axes():
    with pytest.raises(ValueError, match="5 axes"):
        patchify(mx.zeros((2, 3, 4)))


@pytest.mark.parametrize(("frames", "height", "width", "fps"), cases.POSITIONS)
def test_positions_are_the_recorded_ones_bit_for_bit(frames, height, width, fps):
    clip, recorded = VideoShape(frames, height, width, fps), np.load(cases.FIXTURE)
    for kind, shape in (("video", clip), ("audio", AudioShape.of(clip))):
        wanted = recorded[f"positions/{kind}_{frames}_{height}_{width}_{fps}"]
        assert np.array_equal(np.array(positions(shape, 2)), np.repeat(wanted, 2, axis=0))


def test_the_first_latent_frame_covers_one_pixel_frame():
    seconds = np.array(positions(VideoShape(17, 32, 32, 8.0)))[0, 0] * 8
    np.testing.assert_allclose(seconds, [[0, 1], [1, 9], [9, 17]], rtol=1e-6)
    seconds = np.array(positions(AudioShape(3)))[0, 0] * 100
    np.testing.assert_allclose(seconds, [[0, 1], [1, 5], [5, 9]], rtol=1e-6)


@pytest.mark.parametrize(
    ("frame", "single", "expected"),
    [(0, True, [[0, 1]]), (11, True, [[11, 12]]), (0, False, [[0, 1], [1, 9]]), (11, False, [[11, 19], [19, 27]])],
)
def test_where_a_keyframe_lies(frame, single, expected):
    grid = (len(expected), 1, 2)
    where = np.array(video_positions(grid, 2.0, first=frame, causal=frame == 0, single=single, batch=3))
    assert where.shape == (3, 3, 2 * len(expected), 2)
    np.testing.assert_allclose(where[1, 0, ::2] * 2.0, expected)
    np.testing.assert_allclose(where[1, 2, :2], [[0, 32], [32, 64]])
