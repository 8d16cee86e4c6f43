"""The decoder's attention: every token to the box of tokens around it, with positions that turn pairs of neighbours.

A call computes a box of queries out of the box of tokens that they see; both are told by their places in the clip.
Knows no blocks, no noise and no order in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.config.diffusion_decoder import Triple
from mlx_video.models.ltx_2.diffusion_decoder.neighbourhood import Reach, attend, reach

NORM_EPS = 1e-6
LONGEST_PERIOD = 10_000.0


class Box(NamedTuple):
    """Some of a clip's tokens, by their frames, rows and columns."""

    frames: range
    rows: range
    columns: range


class Extent(NamedTuple):
    """How far a clip goes at one stage."""

    frames: int | None
    """None where that is not known yet, and so many are there that no query at hand sees the end."""
    rows: int
    columns: int


class NeighbourhoodAttention(nn.Module):
    """Queries and keys are RMS-normed by head, turned, and compared in a window (reference: `NeighborhoodAttention`).

    repeats_columns: at the picture's left and right border the border's column is repeated, as keys and values, half a
    window far, instead of the window being moved inward. This is what the reference's default mode comes to, which
    computes the last stage in four slabs of columns (`chunked_eager`).
    """

    def __init__(self, dim: int, head_dim: int, window: Triple, *, repeats_columns: bool = False):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm = nn.RMSNorm(head_dim, NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, NORM_EPS)
        self.window, self.repeats_columns = window, repeats_columns
        self.dim, self.head_dim = dim, head_dim

    @property
    def margin(self) -> int:
        """Columns that are repeated on either side."""
        return self.window[2] // 2 if self.repeats_columns else 0

    def reaches(self, queries: Box, extent: Extent) -> tuple[Reach, Reach, Reach]:
        """Which frames, rows and columns the queries see; columns count from the first repeated one."""
        t = reach(queries.frames, self.window[0], extent.frames)
        h = reach(queries.rows, self.window[1], extent.rows)
        if self.repeats_columns:
            return t, h, Reach(np.asarray(queries.columns), self.window[2])
        return t, h, reach(queries.columns, self.window[2], extent.columns)

    def __call__(self, x: mx.array, seen: Box, queries: Box, extent: Extent) -> mx.array:
        """x (B, T, H, W, D): normed tokens of the box `seen`, all columns. Returns (B, t, h, W, D) for `queries`."""
        batch = len(x)
        first = queries.frames.start - seen.frames.start, queries.rows.start - seen.rows.start
        asking = x[:, first[0] : first[0] + len(queries.frames), first[1] : first[1] + len(queries.rows)]
        q = self._turned(self.q_norm(self._part(asking, 0)), queries)
        k, v = self.k_norm(self._part(x, 1)), self._part(x, 2)
        columns = seen.columns
        if self.repeats_columns:
            columns = range(columns.start - self.margin, columns.stop + self.margin)
            inside = mx.array(np.clip(np.asarray(columns), seen.columns.start, seen.columns.stop - 1))
            k, v = (mx.take(array, inside, axis=3) for array in (k, v))
        k = self._turned(k, seen._replace(columns=columns))
        t, h, w = self.reaches(queries, extent)
        found = attend(
            q, k, _by_head(v), (t.after(seen.frames.start), h.after(seen.rows.start), w), 1 / math.sqrt(self.head_dim)
        )
        found = found.reshape(batch, -1, *found.shape[1:]).transpose(0, 2, 3, 4, 1, 5)
        return self.proj(found.reshape(*found.shape[:4], self.dim))

    def _part(self, x: mx.array, index: int) -> mx.array:
        """Queries, keys or values (B, T, H, W, heads, head_dim)."""
        some = slice(index * self.dim, (index + 1) * self.dim)
        y = mx.addmm(self.qkv.bias[some], x, self.qkv.weight[some].T)
        return y.reshape(*x.shape[:-1], -1, self.head_dim)

    def _turned(self, x: mx.array, places: Box) -> mx.array:
        """Turned by the places of its tokens, by head: (B * heads, T, H, W, head_dim)."""
        cos, sin = rotation(places, self.head_dim)
        return _by_head(_turn(x, cos, sin))


def _by_head(x: mx.array) -> mx.array:
    batch, t, h, w, heads, dim = x.shape
    return x.transpose(0, 4, 1, 2, 3, 5).reshape(batch * heads, t, h, w, dim)


@mx.compile
def _turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    # Elements 2j and 2j + 1 are a pair. Turned, first ones stand before second ones, in queries and keys alike, which
    # changes no product of the two.
    first, second = x[..., ::2].astype(mx.float32), x[..., 1::2].astype(mx.float32)
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def rotation(places: Sequence[range], head_dim: int) -> tuple[mx.array, mx.array]:
    """Cosines and sines (T, H, W, 1, head_dim / 2), float32: a quarter of the pairs for time, then rows and columns.

    Angles are taken on the host and rounded to float32 as the reference has them. Source: RotaryPosEmbed3D.
    """
    shape = [len(one) for one in places]
    cosines: list[mx.array] = []
    sines: list[mx.array] = []
    for axis, (own, dim) in enumerate(zip(places, axis_dims(head_dim), strict=True)):
        frequencies = np.power(LONGEST_PERIOD, -np.arange(0, dim, 2, dtype=np.float64) / dim).astype(np.float32)
        angles = np.asarray(own, np.float32)[:, None] * frequencies
        across = [1, 1, 1, 1, len(frequencies)]
        across[axis] = len(own)
        for function, found in ((np.cos, cosines), (np.sin, sines)):
            table = mx.array(function(angles.astype(np.float64)).astype(np.float32)).reshape(across)
            found.append(mx.broadcast_to(table, (*shape, 1, len(frequencies))))
    return mx.concatenate(cosines, axis=-1), mx.concatenate(sines, axis=-1)


def axis_dims(head_dim: int) -> Triple:
    """Elements of a head that turn with time, rows and columns: 16, 24 and 24 of 64."""
    time = head_dim // 4 // 2 * 2
    # The rest is halved, and each half consists of pairs.
    if (head_dim - time) // 2 % 2:
        time -= 2
    space = (head_dim - time) // 2
    return time, space, space
