"""Sums and standard deviations over whole latents that stay accurate in float32.

MLX's CPU backend adds the elements of one reduction one after the other: the standard deviation of three million
values comes out 1e-3 too small. Adding in groups, then the groups' sums in groups, keeps the error near 1e-7 on every
backend. Knows nothing of guidance or noise.
"""

from __future__ import annotations

import mlx.core as mx

_GROUP = 128
"""Elements added in one reduction; a token's width, so that the first round needs no padding."""


def total(x: mx.array) -> mx.array:
    """The sum of each batch item: (B, ...) -> (B,)."""
    x = x.reshape(x.shape[0], -1)
    while x.shape[1] > 1:
        x = mx.pad(x, [(0, 0), (0, -x.shape[1] % _GROUP)]).reshape(x.shape[0], -1, _GROUP).sum(axis=-1)
    return x[:, 0]


def standardise(x: mx.array) -> mx.array:
    """Each batch item moved to mean 0 and unbiased standard deviation 1: (B, ...) -> (B, ...)."""
    centred, deviation = _centre(x)
    return centred / deviation


def deviation(x: mx.array) -> mx.array:
    """One unbiased standard deviation over everything in `x`: (...) -> ()."""
    return _centre(x[None])[1].reshape(())


def _centre(x: mx.array) -> tuple[mx.array, mx.array]:
    """Per batch item: `x` less its mean (B, ...), and its standard deviation (B, 1, ...)."""
    per_item = (x.shape[0],) + (1,) * (x.ndim - 1)
    count = x.size // x.shape[0]
    centred = x - (total(x) / count).reshape(per_item)
    return centred, mx.sqrt(total(mx.square(centred)) / (count - 1)).reshape(per_item)
