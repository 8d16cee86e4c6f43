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

from mlx_video.models.ltx_2.pieces import TIME, Stream


class Piece(NamedTuple):
    """Consecutive frames (B, F, H, W, C) of a clip, and whether they end it."""

    frames: mx.array
    last: bool


Block = Callable[[mx.array, Stream], mx.array]


class Through(Iterator[Piece]):
    """Pieces on their way through one block, at most `limit` frames at a time (None: as they come).

    Iterates without a generator, because a suspended generator would keep its pieces alive.
    """

    def __init__(self, block: Block, pieces: Iterable[Piece], limit: int | None):
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
