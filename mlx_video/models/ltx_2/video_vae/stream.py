"""Takes a clip through a stack of blocks piece by piece in time, with the numbers of the whole clip at once.

A convolution needs the frames before and after the ones it computes. Each keeps the last frames of a piece until the
next one comes, so a piece leaves a block a few frames shorter and later than it came, and nothing is computed twice.
Memory depends on the size of a piece, not on the length of the clip. Knows no weights and no shapes but time's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import mlx.core as mx

from mlx_video import platform

TIME = 1
"""The axis of frames in (B, F, H, W, C)."""


class Piece(NamedTuple):
    """Consecutive frames (B, F, H, W, C) of a clip, and whether they end it."""

    frames: mx.array
    last: bool


class Stream:
    """What the layers of one block keep between the pieces of one clip. A new one serves a whole clip at once."""

    def __init__(self) -> None:
        """Nothing seen yet, and the coming piece is the last one unless `last` is set to False."""
        self.last = True
        self._kept: dict[tuple[int, str], mx.array] = {}
        self._pending = 0.0

    def window(self, layer: object, x: mx.array, before: int, after: int, stride: int = 1) -> mx.array:
        """Frames for a convolution of before + 1 + after taps in time: those kept, then x; at its ends the clip's
        first and last frames are repeated. May hold too few frames for any output.
        """
        kept = self._kept.pop((id(layer), "window"), None)
        if kept is not None:
            x = mx.concatenate([kept, x], axis=TIME)
        elif x.shape[TIME] == 0:
            return x
        starts = [x[:, :1]] * before if kept is None else []
        ends = [x[:, -1:]] * after if self.last else []
        window = mx.concatenate([*starts, x, *ends], axis=TIME) if starts or ends else x
        if not self.last:
            outputs = max(0, (window.shape[TIME] - before - after - 1) // stride + 1)
            self._keep(layer, "window", window, outputs * stride)
        return window

    def delayed(self, layer: object, x: mx.array, count: int) -> mx.array:
        """The oldest `count` frames that have come in as x and not gone out: what a residual path adds."""
        kept = self._kept.pop((id(layer), "delayed"), None)
        if kept is not None:
            x = mx.concatenate([kept, x], axis=TIME)
        if x.shape[TIME] == count:
            return x
        self._keep(layer, "delayed", x, count)
        return x[:, :count]

    def begins(self, layer: object, count: int) -> bool:
        """Whether these `count` frames are the clip's first at `layer`; True once, for the first that are any."""
        if count == 0 or (id(layer), "begun") in self._kept:
            return False
        if not self.last:
            self._kept[id(layer), "begun"] = mx.array(True)
        return True

    def _keep(self, layer: object, what: str, x: mx.array, start: int) -> None:
        # A copy, not a slice: a slice would keep the whole buffer alive.
        self._kept[id(layer), what] = mx.take(x, mx.arange(start, x.shape[TIME]), axis=TIME)

    def worked(self, operations: float, x: mx.array) -> None:
        """Counts the operations that lead to x, and computes it before they are too many for one evaluation."""
        self._pending += operations
        if self._pending > platform.flops_per_evaluation():
            self.evaluate(x)

    def evaluate(self, *arrays: mx.array) -> None:
        """Computes `arrays` and all that is kept, so that neither holds on to what it came from."""
        mx.eval(*arrays, *self._kept.values())
        self._pending = 0.0


Block = Callable[[mx.array, Stream], mx.array]


class Through(Iterator[Piece]):
    """Pieces on their way through one block, at most `limit` frames at a time (None: as they come).

    Iterates without a generator, because a suspended generator would keep its pieces alive.
    """

    def __init__(self, block: Block, pieces: Iterable[Piece], limit: int | None):
        """Pulls from `pieces` only as asked."""
        self._block, self._pieces, self._limit = block, iter(pieces), limit
        self._waiting: deque[Piece] = deque()
        self._stream = Stream()

    def __next__(self) -> Piece:
        """The next piece that has frames."""
        while True:
            frames, last = self._take()
            self._stream.last = last
            frames = self._block(frames, self._stream)
            self._stream.evaluate(frames)
            if frames.shape[TIME]:
                return Piece(frames, last)

    def _take(self) -> Piece:
        if not self._waiting:
            frames, last = next(self._pieces)
            count = frames.shape[TIME]
            if self._limit is None or count <= self._limit:
                return Piece(frames, last)
            for start in range(0, count, self._limit):
                end = start + self._limit
                self._waiting.append(Piece(frames[:, start:end], last and end >= count))
        return self._waiting.popleft()
