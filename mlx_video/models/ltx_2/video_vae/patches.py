"""Moves pixels between space and channels, without arithmetic; all arrays are (B, F, H, W, C).

Two orders of channels exist. At the pixels' end a patch is (C, column, row): the column varies slower than the row.
Inside the networks it is (C, frame, row, column). Knows no weights.
"""

from __future__ import annotations

import mlx.core as mx

Factors = tuple[int, int, int]
"""How much time, rows and columns grow or shrink."""


def patchify(pixels: mx.array, size: int) -> mx.array:
    """(B, F, H * size, W * size, C) -> (B, F, H, W, C * size * size). Reference: ops.patchify."""
    batch, frames, height, width, channels = pixels.shape
    x = pixels.reshape(batch, frames, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(batch, frames, height // size, width // size, channels * size**2)


def unpatchify(x: mx.array, size: int) -> mx.array:
    """The way back: (B, F, H, W, C * size * size) -> (B, F, H * size, W * size, C). Reference: ops.unpatchify."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames, height, width, channels // size**2, size, size)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(batch, frames, height * size, width * size, channels // size**2)


def space_to_depth(x: mx.array, factors: Factors) -> mx.array:
    """(B, F * t, H * h, W * w, C) -> (B, F, H, W, C * t * h * w)."""
    batch, frames, height, width, channels = x.shape
    t, h, w = factors
    x = x.reshape(batch, frames // t, t, height // h, h, width // w, w, channels)
    return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(
        batch, frames // t, height // h, width // w, channels * t * h * w
    )


def depth_to_space(x: mx.array, factors: Factors) -> mx.array:
    """The way back: (B, F, H, W, C * t * h * w) -> (B, F * t, H * h, W * w, C)."""
    batch, frames, height, width, channels = x.shape
    t, h, w = factors
    x = x.reshape(batch, frames, height, width, channels // (t * h * w), t, h, w)
    return x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        batch, frames * t, height * h, width * w, channels // (t * h * w)
    )
