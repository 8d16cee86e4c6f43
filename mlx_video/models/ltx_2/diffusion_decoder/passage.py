"""How a clip goes through the decoder's blocks piece by piece in time, with the numbers of the whole clip at once.

A block sees a few frames to either side. It keeps those that coming frames will see, and gives what has all its
neighbours: a piece leaves it later than it came, and nothing but keys and values is computed twice. So memory depends
on the number of blocks and of frames that they see, not on the length of the clip. Knows no weights and no pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import mlx.core as mx

from mlx_video.models.ltx_2.diffusion_decoder.blocks import Block, DiffusionBlock
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.stream import Piece


class Passage:
    """One clip's way through one block, at most `step` frames computed at a time (None: as they come)."""

    def __init__(self, block: Block, step: int | None = None):
        self._block, self._step = block, step
        self._window = block.attn.window[0]
        self._held: mx.array | None = None
        self._first = self._done = 0

    def __call__(self, frames: mx.array, stream: Stream) -> mx.array:
        """The next frames (B, F, H, W, C) in, those that are ready out, evaluated; `stream.last`: no more will come."""
        frames = self._taken_in(frames)
        held = frames if self._held is None else mx.concatenate([self._held, frames], axis=1)
        self._held = None
        total = self._first + held.shape[1]
        length = total if stream.last else None
        before = self._window // 2
        # The first frames' windows begin with the clip, so none of them is ready before a whole window is there.
        ready = total if stream.last else max(total - self._window + before + 1, 0) if total >= self._window else 0
        step = self._step or max(ready - self._done, 1)
        done = [
            self._block(held, self._first, range(start, min(start + step, ready)), length)
            for start in range(self._done, ready, step)
        ]
        self._done = max(ready, self._done)
        if not stream.last:
            # One frame more than the next one sees: should the clip end here, windows move inward.
            start = max(self._done - before - 1, 0)
            self._held = mx.take(held, mx.arange(start - self._first, held.shape[1]), axis=1)
            self._first = start
            mx.eval(self._held)
        if not done:
            return held[:, :0]
        return done[0] if len(done) == 1 else mx.concatenate(done, axis=1)

    def _taken_in(self, frames: mx.array) -> mx.array:
        return frames


class DiffusionPassage(Passage):
    """Through a block of the last stage, which takes in the context of each frame as it comes."""

    def __init__(self, block: DiffusionBlock, contexts: Contexts, step: int | None = None):
        super().__init__(block, step)
        self._diffusion, self._contexts, self._came = block, contexts, 0
        contexts.readers.append(self)

    @property
    def came(self) -> int:
        """Frames that it has taken in."""
        return self._came

    def _taken_in(self, frames: mx.array) -> mx.array:
        start = self._came
        self._came += frames.shape[1]
        return self._diffusion.take_in(frames, self._contexts.take(start, self._came))


class Contexts:
    """Frames of context from when they are made until the last block of the last stage has taken them in."""

    def __init__(self) -> None:
        self.readers: list[DiffusionPassage] = []
        self._frames: deque[mx.array] = deque()
        self._first = 0

    def add(self, frames: mx.array) -> None:
        """The next frames (B, F, H, W, C), each kept by itself."""
        for i in range(frames.shape[1]):
            self._frames.append(mx.take(frames, mx.array([i]), axis=1))
        mx.eval(list(self._frames))

    def take(self, start: int, stop: int) -> mx.array:
        """Frames [start, stop); those that all have taken in are let go."""
        found = [self._frames[i - self._first] for i in range(start, stop)]
        seen = min(reader.came for reader in self.readers)
        while self._first < seen:
            self._frames.popleft()
            self._first += 1
        return found[0] if len(found) == 1 else mx.concatenate(found, axis=1)


class Until(Iterator[Piece]):
    """Pieces as far as the clip has `count` frames; what comes after is never asked for."""

    def __init__(self, pieces: Iterator[Piece], count: int, change: Callable[[mx.array], mx.array] = lambda x: x):
        """change: done to the frames that stay."""
        self._pieces, self._left, self._change = pieces, count, change

    def __next__(self) -> Piece:
        """The next piece that has frames."""
        if not self._left:
            raise StopIteration
        frames = next(self._pieces).frames[:, : self._left]
        self._left -= frames.shape[1]
        return Piece(self._change(frames), not self._left)
