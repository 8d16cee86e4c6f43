"""Segments and tiles: every latent frame and every keyframe of a clip is made once, and tiles begin at keyframes."""

import mlx.core as mx
import pytest

from mlx_video.diffusion.conditioning import AppendKeyframe, GenerateKeyframe, ReplaceFrame, initial_state
from mlx_video.diffusion.segments import HOLD, Segments, merged
from mlx_video.types import VideoShape


@pytest.mark.parametrize(
    ("frames", "length", "total"),
    [(9, 24, 1), (25, 24, 1), (33, 32, 1), (41, 24, 2), (57, 32, 2), (89, 32, 3), (97, 32, 3), (121, 24, 5)],
)
def test_a_clip_is_filled_up_to_whole_segments_as_little_as_can_be(frames, length, total):
    assert Segments.of(frames) == (length, total)
    assert Segments.of(frames).whole().made == [length * (i + 1) for i in range(total)]


@pytest.mark.parametrize("rate", [2, 4])
@pytest.mark.parametrize("frames", range(9, 410, 24))
def test_tiles_are_the_whole_clip(frames, rate):
    first, segments = Segments.of(frames), Segments.of(frames, rate)
    assert segments.frames == (first.frames - 1) * rate + 1
    tiles = list(segments.tiles(rate))
    assert len(tiles) == min(rate, segments.total)
    assert [tile.own for tile in tiles[1:]] == [tile.stop for tile in tiles[:-1]]
    assert (tiles[0].begin, tiles[-1].stop, tiles[-1].span[1]) == (0, segments.total, (segments.frames - 1) // 8 + 1)
    assert all(tile.own - tile.begin == 1 for tile in tiles[1:])
    middles = [tile.begin * tile.length + at for tile in tiles for at in tile.made[tile.own - tile.begin :]]
    assert middles == [segments.length // 2 + segments.length * i for i in range(segments.total)]


def test_later_keyframes_are_as_many_frames_apart_as_the_first():
    ends = mx.arange(3.0).reshape(1, 1, 3, 1, 1)
    assert merged(ends, ends - 0.5).flatten().tolist() == [-0.5, 0, 0.5, 1, 1.5, 2]
    assert [Segments.of(89, rate) for rate in (1, 2, 4)] == [(32, 3), (64, 3), (64, 6)]


def test_a_tile_is_steered_by_what_lies_within_it():
    latent, video = mx.zeros((1, 128, 1, 2, 3)), mx.random.normal((1, 128, 17, 2, 3))
    keyframes = mx.random.normal((1, 128, 4, 2, 3))
    shown = [ReplaceFrame(latent), *(AppendKeyframe(latent, frame, 0.5) for frame in (20, 48, 100, 150))]
    one, two = Segments(48, 4).tiles(2)
    assert (one.span, two.span) == ((0, 13), (6, 25))
    first, second = one.conditions(shown, keyframes, video[:, :, :13]), two.conditions(shown, keyframes, video)
    assert first[:3] == [*shown[:3]]
    assert [c.frame for c in first[3:]] == [48, 96, 24, 72]
    assert second[0] == ReplaceFrame(latent, 0, 0.5)
    assert [c.frame for c in second[1:]] == [52, 102, 0, 48, 96, 144, 24, 72, 120]
    held, made = second[3:7], second[7:]
    assert all(isinstance(one, AppendKeyframe) and one.strength == HOLD for one in held)
    assert [mx.array_equal(one.latent, keyframes[:, :, i : i + 1]) for i, one in enumerate(held)] == [True] * 4
    assert [mx.array_equal(one.latent, video[:, :, i : i + 1]) for i, one in zip((3, 9, 15), made, strict=True)]
    with pytest.raises(ValueError, match="Keyframes between others"):
        two.conditions(shown, None, video)


def test_keyframes_are_the_last_tokens_without_those_of_the_lead():
    video, grid = VideoShape(97, 64, 96, 24.0), (13, 2, 3)
    _, tile = Segments(48, 2).tiles(2)
    state, keyframes = initial_state(video), mx.random.normal((1, 128, 2, 2, 3))
    for condition in tile.conditions([], keyframes, mx.random.normal((1, 128, 13, 2, 3))):
        state = condition.apply(state, video)
    assert state.latent.shape[1] == (13 + tile.beside) * 6
    found = tile.keyframes(state.latent, grid)
    assert found.shape == (1, 128, 1, 2, 3)
    assert mx.array_equal(found.reshape(1, 128, 6).swapaxes(1, 2), state.latent[:, -6:])


def test_a_seed_of_another_size_is_refused():
    video = VideoShape(9, 64, 96, 24.0)
    with pytest.raises(ValueError, match="cannot stand for a keyframe"):
        GenerateKeyframe(3, mx.zeros((1, 128, 1, 2, 2))).apply(initial_state(video), video)
