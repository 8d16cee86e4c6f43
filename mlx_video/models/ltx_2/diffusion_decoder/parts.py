"""Parts of a picture that are decoded one after the other, each with a margin as wide as the last two stages see.

A token of the result depends on those within half a window for each block. A part is given so much of its
surroundings, and its margin is cut off afterwards, so only rounding tells parts from the whole picture: they have no
seams and are not blended. Knows no network.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_video.models.ltx_2.config.diffusion_decoder import DiffusionDecoderConfig
from mlx_video.models.ltx_2.diffusion_decoder.canvas import Canvas


class Span(NamedTuple):
    """Cells of the fourth stage along one axis: those of a part with its margin, and of these the part's own."""

    start: int
    stop: int
    first: int
    last: int
    pixels: int
    """Of one cell."""

    @property
    def whole(self) -> slice:
        """With its margin."""
        return slice(self.start, self.stop)

    @property
    def seen(self) -> slice:
        """The same in pixels."""
        return slice(self.start * self.pixels, self.stop * self.pixels)


class Part(NamedTuple):
    """Rows and columns of one part."""

    rows: Span
    columns: Span

    @classmethod
    def whole(cls, config: DiffusionDecoderConfig, canvas: Canvas) -> Part:
        """All of the picture."""
        return parts(config, canvas, 1, 1)[0]

    def cells(self, x: mx.array) -> mx.array:
        """Of tokens (B, F, H, W, C) before the fourth stage, those of the part with its margin."""
        return x[:, :, self.rows.whole, self.columns.whole]

    def pixels(self, noise: mx.array) -> mx.array:
        """Of noise (B, F, height, width, 3), that of the part with its margin."""
        return noise[:, :, self.rows.seen, self.columns.seen]

    def place(self, canvas: Canvas) -> tuple[slice, slice]:
        """Rows and columns of the clip's picture that the part gives."""
        rows, columns = (
            slice(max(own.first * own.pixels, first) - first, min(own.last * own.pixels, first + side) - first)
            for own, first, side in ((self.rows, canvas.top, canvas.height), (self.columns, canvas.left, canvas.width))
        )
        return rows, columns

    def kept(self, pixels: mx.array, canvas: Canvas) -> mx.array:
        """Pixels (B, F, height, width, 3) of the part with its margin -> those at `place`."""
        rows, columns = self.place(canvas)
        top, left = canvas.top - self.rows.seen.start, canvas.left - self.columns.seen.start
        return pixels[:, :, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]


def parts(config: DiffusionDecoderConfig, canvas: Canvas, rows: int, columns: int) -> list[Part]:
    """The picture in `rows` times `columns` parts of about one size, row by row."""
    across = [_spans(config, canvas, axis, count) for axis, count in ((1, rows), (2, columns))]
    return [Part(row, column) for row in across[0] for column in across[1]]


def margin(config: DiffusionDecoderConfig, axis: int) -> int:
    """Cells of the fourth stage that a result's token depends on, to either side along `axis` (1: rows, 2: columns)."""
    fourth, last = config.stages[-2:]
    fine = last.depth * (last.window[axis] // 2)
    return fourth.depth * (fourth.window[axis] // 2) + -(-fine // fourth.growth[axis])


def _spans(config: DiffusionDecoderConfig, canvas: Canvas, axis: int, count: int) -> list[Span]:
    pixels = config.stages[-2].growth[axis] * config.patch_size
    cells, wide = canvas.size[axis] // pixels, margin(config, axis)
    found = []
    for i in range(count):
        first, last = i * cells // count, (i + 1) * cells // count
        found.append(Span(max(first - wide, 0), min(last + wide, cells), first, last, pixels))
    return found
