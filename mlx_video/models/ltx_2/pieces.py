"""What a network's layers keep while one clip goes through them in pieces of time, so that nothing is computed twice.

A layer that looks beyond a piece keeps its last frames until the next one comes. Knows no shapes but time's.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_video import platform

TIME = 1
"""The axis of frames in (B, F, H, W, C)."""


class Stream:
    """Frames kept by layer between the pieces of one clip. A new one serves a whole clip at once."""

    def __init__(self) -> None:
        """Nothing seen yet, and the coming piece is the last one unless `last` is set to False."""
        self.last = True
        self._frames: dict[tuple[int, str], mx.array] = {}
        self._pending = 0.0

    def take(self, layer: object, what: str) -> mx.array | None:
        """What `layer` has kept under that name, which then is no longer kept."""
        return self._frames.pop((id(layer), what), None)

    def keep(self, layer: object, what: str, x: mx.array, start: int) -> None:
        """Keeps the frames of x from `start` on: a copy, for a slice would keep the whole buffer alive."""
        self._frames[id(layer), what] = mx.take(x, mx.arange(start, x.shape[TIME]), axis=TIME)

    def window(self, layer: object, x: mx.array, before: int, after: int, stride: int = 1) -> mx.array:
        """Frames for a convolution of before + 1 + after taps in time: those kept, then x, and at the clip's ends what
        `edge` makes of its first and last frame. May hold too few frames for any output.
        """
        kept = self.take(layer, "window")
        if kept is None and x.shape[TIME] == 0:
            return x
        start = [self.edge(x[:, :1])] * before if kept is None else [kept]
        end = [self.edge((x if kept is None or x.shape[TIME] else kept)[:, -1:])] * after if self.last else []
        window = mx.concatenate([*start, x, *end], axis=TIME)
        if not self.last:
            outputs = max(0, (window.shape[TIME] - before - after - 1) // stride + 1)
            self.keep(layer, "window", window, outputs * stride)
        return window

    def edge(self, frame: mx.array) -> mx.array:
        """What lies beyond a clip's end, from the frame (B, 1, H, W, C) there: the same again."""
        return frame

    def delayed(self, layer: object, x: mx.array, count: int) -> mx.array:
        """The oldest `count` frames that have come in as x and not gone out: what a residual path adds."""
        kept = self.take(layer, "delayed")
        if kept is not None:
            x = mx.concatenate([kept, x], axis=TIME)
        if x.shape[TIME] == count:
            return x
        self.keep(layer, "delayed", x, count)
        return x[:, :count]

    def begins(self, layer: object, count: int) -> bool:
        """Whether these `count` frames are the clip's first at `layer`; True once, for the first that are any."""
        if count == 0 or (id(layer), "begun") in self._frames:
            return False
        if not self.last:
            self._frames[id(layer), "begun"] = mx.array(True)
        return True

    def worked(self, operations: float, x: mx.array) -> None:
        """Counts the operations that lead to x, and computes it before they are too many for one evaluation."""
        self._pending += operations
        if self._pending > platform.flops_per_evaluation(x.dtype):
            self.evaluate(x)

    def evaluate(self, *arrays: mx.array) -> None:
        """Computes `arrays` and all that is kept, so that neither holds on to what it came from."""
        mx.eval(*arrays, *self._frames.values())
        self._pending = 0.0
