"""A clip in segments, with a keyframe at the end of each: where they lie, and the tiles that meet at them.

What the DFR pipeline is built on. Its keyframes are made beside the video: first at the ends of the segments; then,
each time that the frames are doubled, in their middles as well, while those that are there hold the video. A keyframe
is a latent frame of its own that stands for a single pixel frame. Knows no sampler and no network.
Source: the reference's dfr_layout and dfr_pipeline (v1.2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_video.diffusion.conditioning import AppendKeyframe, Condition, GenerateKeyframe, ReplaceFrame
from mlx_video.types import TIME_SCALE

LENGTHS = (24, 32)
"""Frames of a segment."""
LEAD = 1
"""Segments that a later tile sees of the one before: its first latents are of a clip's start, and are dropped."""
HOLD = 0.95
"""How strongly a tile is held at keyframes that are there."""
MOST_FPS = 60.0
"""That the transformer is told, however many are shown: of more, it cannot place eight within a latent frame."""


class Segments(NamedTuple):
    """`total` segments of `length` pixel frames each, after the clip's first frame."""

    length: int
    total: int

    @classmethod
    def of(cls, frames: int, rate: int = 1) -> Segments:
        """Those of a clip of `frames` at least, by what has to be made beyond it, then by fewer keyframes.

        rate: how often as many frames a second the clip has by now (1, 2, 4). The keyframes of the rate before stand
        as many frames apart in all of them, so that later segments are twice as long.
        """
        content = frames - 1
        length = min(LENGTHS, key=lambda one: (-content % one, -one))
        count = -(-content // length)
        return cls(length, count) if rate == 1 else cls(2 * length, count * rate // 2)

    @property
    def frames(self) -> int:
        """Pixel frames in all."""
        return self.length * self.total + 1

    def whole(self) -> Tile:
        """All of them as one tile, whose keyframes are the segments' ends."""
        return Tile(self.length, 0, 0, self.total, middles=False)

    def tiles(self, count: int) -> Iterator[Tile]:
        """`count` tiles, or as many as there are segments; the first ones have the more. Reference: tile_ranges."""
        count = min(count, self.total)
        share, over = divmod(self.total, count)
        own = 0
        for i in range(count):
            stop = own + share + (i < over)
            yield Tile(self.length, max(own - LEAD, 0), own, stop, middles=True)
            own = stop


class Tile(NamedTuple):
    """Segments `begin` to `stop` of a clip, of which those from `own` on are this tile's to make."""

    length: int
    begin: int
    own: int
    stop: int
    middles: bool
    """Keyframes are made in the segments' middles, while those at their ends are there; else at the ends."""

    @property
    def span(self) -> tuple[int, int]:
        """[start, stop) of its latent frames; where two tiles meet, the latent before the keyframe is the first's."""
        return self.begin * self.length // TIME_SCALE, self.stop * self.length // TIME_SCALE + 1

    @property
    def made(self) -> list[int]:
        """The pixel frames of the keyframes that it makes, counted from its own first one."""
        first = self.length // 2 if self.middles else self.length
        return [first + self.length * i for i in range(self.stop - self.begin)]

    @property
    def beside(self) -> int:
        """Latent frames that it has beside its own: keyframes that are made, and those that hold it."""
        return len(self.made) + (self.stop - max(self.begin, 1) + 1 if self.middles else 0)

    def conditions(
        self, shown: Sequence[Condition], keyframes: mx.array | None, video: mx.array | None
    ) -> list[Condition]:
        """What steers it: pictures of the whole clip, keyframes that are there, and those that it makes, in this order.

        keyframes: at the segments' ends (1, 128, count, H, W), None where there are none yet; video: the latent that
        the tile starts from (1, 128, F, H, W), None where it starts from noise.
        """
        if not self.middles:
            seeds = [None if keyframes is None else keyframes[:, :, i : i + 1] for i in range(self.stop)]
            return [*shown, *map(GenerateKeyframe, self.made, seeds)]
        if keyframes is None or video is None:
            raise ValueError("Keyframes between others need those, and a video to start from")
        held = [
            AppendKeyframe(keyframes[:, :, end - 1 : end], (end - self.begin) * self.length, HOLD)
            for end in range(max(self.begin, 1), self.stop + 1)
        ]
        fresh = [GenerateKeyframe(at, video[:, :, at // TIME_SCALE :][:, :, :1]) for at in self.made]
        return [*self._seen(shown), *held, *fresh]

    def _seen(self, shown: Sequence[Condition]) -> Iterator[Condition]:
        """Those of the clip's pictures that are within it, by its own frames; at its first frame one replaces that."""
        first, last = self.begin * self.length, self.stop * self.length
        for one in shown:
            frame = one.frame if isinstance(one, AppendKeyframe) else 0
            if not first <= frame <= last:
                continue
            if isinstance(one, AppendKeyframe) and frame == first:
                yield ReplaceFrame(one.latent, 0, one.strength)
            else:
                yield one._replace(frame=frame - first) if isinstance(one, AppendKeyframe) else one

    def keyframes(self, tokens: mx.array, grid: tuple[int, int, int]) -> mx.array:
        """Those that it made and no tile before it, (1, 128, n, H, W).

        tokens: all that it ends with (1, T, 128), on `grid` (F, H, W).
        """
        _, rows, columns = grid
        count = len(self.made)
        found = tokens[:, -count * rows * columns :].swapaxes(1, 2)
        return found.reshape(1, -1, count, rows, columns)[:, :, self.own - self.begin :]


def merged(ends: mx.array, middles: mx.array) -> mx.array:
    """Keyframes at the ends and in the middles of all segments, (1, 128, count, H, W) each, in their order."""
    both = mx.stack([middles, ends], axis=3)
    return both.reshape(*ends.shape[:2], -1, *ends.shape[3:])
