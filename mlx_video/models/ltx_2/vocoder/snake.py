"""The anti-aliased snake of LTX-2.3's vocoder: x + sin^2(alpha x) / beta, taken at twice the rate between two filters.

The reference inserts zeros, filters, applies the function and filters again while dropping every other sample. Here
both filters are matrix products over short overlapping windows, which are views: a banded matrix makes the samples of a
block from the block and its neighbours, and skips what would be inserted or dropped. Channels-last, (B, S, C). Knows no
file and no sample rate.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.cpu import forms

TAPS = 12
"""Of either filter; the rate is doubled and halved. Source: ltx_core vocoder.Activation1d."""
REACH = 6
"""Samples to either side that one activation sees."""
BLOCK = 16
"""Samples that one product makes of BLOCK + 6 (or 2 * BLOCK + 10); 8 and 32 take as long on a CPU."""
TINY = 1e-9
"""Keeps the division by beta finite. Source: ltx_core vocoder.SnakeBeta."""

_ROW, _COLUMN = np.arange(2 * BLOCK)[:, None], np.arange(BLOCK + 6)[None]
_UP = TAPS - 1 + _ROW - 2 * _COLUMN
"""(2 * BLOCK, BLOCK + 6): which tap takes a window's sample to one at twice the rate; beyond the taps none does."""
_DOWN = np.arange(2 * BLOCK + 10)[None] - 2 * np.arange(BLOCK)[:, None]
"""(BLOCK, 2 * BLOCK + 10): the same on the way back."""


class AntiAliasedSnake(nn.Module):
    """(B, S, C) -> (B, S, C). `alpha` and `beta` are logarithms, one of each per channel.

    Source: ltx_core vocoder.Activation1d over SnakeBeta.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = mx.zeros((channels,))
        self.beta = mx.zeros((channels,))
        self.up_filter = mx.zeros((1, 1, TAPS))
        self.down_filter = mx.zeros((1, 1, TAPS))

    def __call__(self, x: mx.array) -> mx.array:
        """Applies the activation to x (B, S, C)."""
        snake = _snake if platform.cpu_forms() else _snake_compiled
        doubled = snake(double(x, self.up_filter), mx.exp(self.alpha), 1 / (mx.exp(self.beta) + TINY))
        return halve(doubled, self.down_filter)


def double(x: mx.array, kernel: mx.array) -> mx.array:
    """Doubles the rate of x (B, S, C): (B, 2 * S, C). The first and the last sample go on beyond the ends.

    Source: ltx_core vocoder.UpSample1d with ratio 2.
    """
    windows = _windows(x, before=3, after=3, step=BLOCK)
    return (_band(2 * kernel, _UP) @ windows).reshape(len(x), -1, x.shape[-1])[:, : 2 * x.shape[1]]


def halve(x: mx.array, kernel: mx.array) -> mx.array:
    """Filters x (B, 2 * S, C) and drops every other sample: (B, S, C). The ends are treated as in `double`.

    Source: ltx_core vocoder.DownSample1d with ratio 2.
    """
    windows = _windows(x, before=5, after=5, step=2 * BLOCK)
    return (_band(kernel, _DOWN) @ windows).reshape(len(x), -1, x.shape[-1])[:, : x.shape[1] // 2]


def sine_squared(x: mx.array) -> mx.array:
    """sin(x)^2 in float32."""
    return forms.sine_squared(x) if platform.cpu_forms() else mx.square(mx.sin(x))


def _snake(x: mx.array, frequency: mx.array, height: mx.array) -> mx.array:
    return x + height * sine_squared(frequency * x)


_snake_compiled = mx.compile(_snake)
"""One kernel on a GPU; on a CPU a C++ compiler would have to be there, and would gain little."""


def _windows(x: mx.array, *, before: int, after: int, step: int) -> mx.array:
    """x (B, S, C), its ends repeated, as overlapping windows (B, blocks, before + step + after, C), `step` apart."""
    batch, length, channels = x.shape
    blocks = -(-length // step)
    first = mx.broadcast_to(x[:, :1], (batch, before, channels))
    last = mx.broadcast_to(x[:, -1:], (batch, after + blocks * step - length, channels))
    extended = mx.concatenate([first, x, last], axis=1)
    strides = (extended.shape[1] * channels, step * channels, channels, 1)
    return mx.as_strided(extended, (batch, blocks, before + step + after, channels), strides)


def _band(kernel: mx.array, tap: np.ndarray) -> mx.array:
    """The matrix whose element is the kernel's tap of that number, or 0 where there is no such tap."""
    taps = mx.concatenate([kernel.reshape(TAPS), mx.zeros((1,), kernel.dtype)])
    return taps[mx.array(np.where((tap >= 0) & (tap < TAPS), tap, TAPS))]
