"""What MLX's CPU backend computes slowly, in forms that it computes fast: the same numbers but for rounding.

On a GPU none of this runs. `platform.cpu_forms` is the one switch: with it off a CPU computes as a Mac does, which the
parity tests do once. Knows no network.
"""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_video.cpu import winograd

SCORES_AT_ONCE = 1 << 24
"""Most attention scores that are held at a time (64 MiB), unless one head has more."""
ROWS_TO_DEQUANTIZE = 16
"""From this many rows on, a weight is made whole before a product. For 384 rows and a weight of 4096 x 4096 MLX's
quantized product takes 4.0 s, dequantizing and a plain product 0.3 s (8 bit) to 0.5 s (4 bit)."""
COLUMNS_LIMIT = 128 << 20
"""Bytes. conv3d first copies each input 27 times over (once for every tap); at most so many at once."""
WINOGRAD_PIXELS, WINOGRAD_FRAME = 1024, 256
"""Pixels of a clip, and of a frame, from which on transforming the weights for Winograd's form pays: with 128 to 1,024
channels both forms take the same time there, and at 5,000 pixels half of it to two thirds."""
_PI_HIGH, _PI_LOW = 3.140625, math.pi - 3.140625
"""pi in two parts; whole multiples of the first are exact in float32."""
_SINE = (1.0, -0.16666658222675323, 0.008333048783242702, -0.00019808890647254884, 2.6048139716294827e-06)
"""sin(r) / r by powers of r^2 for |r| <= pi/2, right to 8e-9: interpolated at Chebyshev nodes."""
_ROUNDER = 1.5 * 2**23
"""Added to a float32 below 2^22 and taken away again, it leaves the nearest whole number."""


def exp(x: mx.array) -> mx.array:
    """e^x. MLX's own exponential takes 8.4 ns an element and a power, the C library's, 2.9 (one Zen 5 core): in a
    transformer block softmax and GELU are most of what is not matrix products.
    """
    return mx.power(2.0, x * math.log2(math.e))


def attend(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None = None) -> mx.array:
    """softmax(scale queries keys^T + mask) values, each (B, heads, T, head_dim); mask: (1, 1, T, keys), or none.

    MLX's own is not fused here, holds the scores of all heads at once, and takes half as long again for exponentials.
    """
    batch, heads, tokens, _ = queries.shape
    step = max(SCORES_AT_ONCE // (batch * tokens * keys.shape[2]), 1)
    done = []
    for some in (slice(first, first + step) for first in range(0, heads, step)):
        scores = (queries[:, some] * scale) @ keys[:, some].swapaxes(-1, -2)
        scores = scores if mask is None else scores + mask
        weights = exp(scores - scores.max(axis=-1, keepdims=True))
        done.append(weights @ values[:, some] / weights.sum(axis=-1, keepdims=True))
    return mx.concatenate(done, axis=1)


def sine_squared(x: mx.array) -> mx.array:
    """sin(x)^2 in float32. MLX takes 14 ns for one sine; squared it has the period pi and no sign, so it is reduced to
    [-pi/2, pi/2] and summed up in plain arithmetic: 2 ns, right to 3e-7 while |x| < 1000.
    """
    # Whole turns have no slope; taken through the rounding, they would cancel all of x's.
    turns = mx.stop_gradient((x * (1 / math.pi) + _ROUNDER) - _ROUNDER)
    r = (x - turns * _PI_HIGH) - turns * _PI_LOW
    z = mx.square(r)
    series = z * _SINE[-1] + _SINE[-2]
    for coefficient in _SINE[-3::-1]:
        series = series * z + coefficient
    return mx.square(series) * z


def conv1d(x: mx.array, weight: mx.array, padding: int, dilation: int) -> mx.array:
    """Correlates x (B, S, C), with `padding` zeros at either end, with weight (O, K, C): one matrix product per tap.

    A dilated one of MLX's runs in naive loops, some 70 times as slow as a product; the others are unrolled.
    """
    x = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    taps = mx.contiguous(weight.swapaxes(0, 1))
    length = x.shape[1] - dilation * (len(taps) - 1)
    total = x[:, :length] @ taps[0].T
    for i in range(1, len(taps)):
        total = mx.addmm(total, x[:, i * dilation : i * dilation + length], taps[i].T)
    return total


def conv3d(window: mx.array, weight: mx.array, bias: mx.array, space: int) -> mx.array:
    """One clip (1, F + 2, H, W, I), with `space` (0 or 1) zeros to be set around its rows and columns, by weight
    (O, 3, 3, 3, I): (1, F, H', W', O), in the form that is the fastest for this size.
    """
    taps = winograd.TAPS
    _, frames, rows, columns, channels = window.shape
    frames, rows, columns = frames - taps + 1, rows + 2 * (space - 1), columns + 2 * (space - 1)
    if rows * columns >= WINOGRAD_FRAME and frames * rows * columns >= WINOGRAD_PIXELS:
        if space:
            window = mx.pad(window, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
        return winograd.convolve(window, weight, bias)
    step = max(1, COLUMNS_LIMIT // (taps**3 * rows * columns * channels * window.itemsize))
    parts = [
        mx.conv3d(window[:, start : start + step + taps - 1], weight, 1, (0, space, space)) + bias
        for start in range(0, frames, step)
    ]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
