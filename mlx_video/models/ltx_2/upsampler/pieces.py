"""Takes a long latent through the upsampler in pieces of time, with the numbers of the whole latent at once.

Two things in that network look beyond a piece. Its convolutions look one frame ahead and back: each keeps its last
frames until the next piece comes. Its group norms look at everything: a walk through all pieces measures the first
norm, a second walk, with that one known, measures the next, and so on; the last walk gives the result. That takes
about eight times as long as one pass (measured; two fifths of what decoding the result takes) and holds memory to a
piece's. Knows nothing of the network but what its layers ask of a `NormWalk`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from mlx_video.models.ltx_2.pieces import TIME, Stream


class Moments(NamedTuple):
    """Mean and variance of each channel over all frames, rows and columns, (B, 1, C) float32; of how many values."""

    mean: mx.array
    variance: mx.array
    number: int

    @classmethod
    def of(cls, flat: mx.array) -> Moments:
        """Of (B, values, C)."""
        mean = flat.mean(axis=1, keepdims=True)
        return cls(mean, mx.square(flat - mean).mean(axis=1, keepdims=True), flat.shape[1])

    def joined(self, other: Moments) -> Moments:
        """Of both sets of values together (Chan's formula, which keeps its digits whatever the means are)."""
        share = other.number / (self.number + other.number)
        way = other.mean - self.mean
        variance = self.variance + (other.variance - self.variance) * share + mx.square(way) * (share * (1 - share))
        return Moments(self.mean + way * share, variance, self.number + other.number)


class NormWalk(Stream):
    """What the layers keep on one way of a latent's pieces through the network. A new one serves a whole latent."""

    def __init__(self, known: dict[int, Moments] | None = None):
        """`known`: by `id` of its norm, where the latent comes in pieces; None where it comes as a whole."""
        super().__init__()
        self.measuring: int | None = None
        self.measured: Moments | None = None
        self._known = known

    def edge(self, frame: mx.array) -> mx.array:
        """Zeros."""
        return mx.zeros_like(frame)

    def delayed(self, layer: object, x: mx.array, count: int) -> mx.array:
        """As for any clip, but beyond a norm that this walk measures nothing comes out, and nothing is kept."""
        if count == 0 and self.measuring is not None:
            self.take(layer, "delayed")
            return x[:, :0]
        return super().delayed(layer, x, count)

    def moments(self, layer: object, flat: mx.array) -> Moments | None:
        """What `layer` normalises (B, values, C) with, or None where this walk is there to measure that.

        Nothing can go on beyond a norm that is not known.
        """
        if self._known is None:
            return Moments.of(flat)
        found = self._known.get(id(layer))
        if found is None and flat.shape[1]:
            new = Moments.of(flat)
            self.measured = new if self.measured is None else self.measured.joined(new)
            self.measuring = id(layer)
        return found

    def evaluate(self, *arrays: mx.array) -> None:
        """Computes what is measured, too."""
        super().evaluate(*arrays, *(() if self.measured is None else self.measured[:2]))


def in_pieces(
    network: Callable[[mx.array, NormWalk], mx.array],
    latent: mx.array,
    size: int,
    report: Callable[[int], None] = lambda walks: None,
) -> mx.array:
    """`network(latent)` of (B, F, H, W, C), with `size` latent frames on their way at a time.

    The same up to rounding. `report` is told how many walks are done.
    """
    frames = latent.shape[TIME]
    known: dict[int, Moments] = {}
    while True:
        walk, results = NormWalk(known), []
        for start in range(0, frames, size):
            walk.last = start + size >= frames
            result = network(latent[:, start : start + size], walk)
            walk.evaluate(result)
            results.append(result)
        if walk.measuring is None or walk.measured is None:
            return mx.concatenate([result for result in results if result.shape[TIME]], axis=TIME)
        known[walk.measuring] = walk.measured
        report(len(known))
