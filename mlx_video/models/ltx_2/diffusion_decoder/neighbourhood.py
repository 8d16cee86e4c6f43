"""Attention in which a query sees the keys of a box around it, in time, rows and columns; no dense mask is ever made.

Queries are taken in blocks of neighbours. The boxes of a block lie in one larger box, the block's slab, and a mask of
block by slab says which of its keys each query sees. All slabs have one size, and the masks of all blocks that lie
alike against their slabs (nearly all: those away from the borders) are one, so that blocks go to the attention kernel
many at a time: three copies and one attention for each lot. Knows no weights and no positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.cpu import forms

BLOCK = (4, 4, 4)
"""Queries of a block in time, rows and columns, at most. A window of 11 x 11 x 11 has 1,331 keys; slabs of 14 x 14 x 14
hold 2.1 times as many, those of 8 x 8 x 8 queries 4.4 times. Smaller blocks copy more keys than they save products."""
LOT_BYTES = 256 << 20
"""Of keys, values and (on a CPU) scores that are gathered at a time; two lots may be on their way at once."""

SCORES_HELD = 6
"""Arrays of scores in a lot on a CPU: MLX takes memory for all steps of a softmax before it has done the first."""


class Reach(NamedTuple):
    """What queries in a row along one axis see: each `size` keys, query i those from `starts[i]` on."""

    starts: np.ndarray
    """Among the keys that are given, never falling."""
    size: int

    def after(self, first: int) -> Reach:
        """Of keys from which the `first` are cut off."""
        return Reach(self.starts - first, self.size)

    @property
    def stop(self) -> int:
        """One beyond the last key that any query sees."""
        return int(self.starts[-1]) + self.size


def reach(queries: range, window: int, length: int | None) -> Reach:
    """Of queries at these places of an axis of `length` keys (None: its end is farther than any of them sees).

    A window of `window` keys begins half of it, rounded down, before its query. At the ends it is moved inward, never
    cut; an axis that is shorter than the window is seen whole. Source: NATTEN's definition; ltx_core fallback_na.
    """
    size = window if length is None else min(window, length)
    starts = np.maximum(np.asarray(queries) - size // 2, 0)
    return Reach(starts if length is None else np.minimum(starts, length - size), size)


class _Blocks(NamedTuple):
    """Neighbouring blocks along one axis that lie alike against their slabs, whose slabs begin `step` keys apart."""

    queries: slice
    """Of the axis, filled up to whole blocks."""
    blocks: int
    first: int
    """Key of the first slab."""
    step: int
    offsets: tuple[int, ...]
    """Where the window of each query of a block begins in the slab."""


class _Axis(NamedTuple):
    """One axis, cut into blocks of `size` queries that see slabs of `seen` keys."""

    size: int
    seen: int
    window: int
    runs: list[_Blocks]

    def mask(self, run: _Blocks) -> np.ndarray:
        """(queries of a block, keys of a slab): what each sees."""
        key, start = np.arange(self.seen), np.asarray(run.offsets)[:, None]
        return (key >= start) & (key < start + self.window)

    @property
    def queries(self) -> int:
        """With those that fill the last block."""
        return int(self.runs[-1].queries.stop)


def _axis(found: Reach, length: int, most: int) -> _Axis:
    starts, window = found
    count = -(-len(starts) // most)
    size = -(-len(starts) // count)
    starts = np.pad(starts, (0, count * size - len(starts)), "edge").reshape(count, size)
    seen = int((starts[:, -1] - starts[:, 0]).max()) + window
    firsts = np.minimum(starts[:, 0], length - seen)
    offsets = [tuple(one) for one in (starts - firsts[:, None]).tolist()]
    runs: list[_Blocks] = []
    for i, (first, own) in enumerate(zip(firsts.tolist(), offsets, strict=True)):
        last = runs[-1] if runs else None
        if last is not None and last.offsets == own:
            step = first - last.first if last.blocks == 1 else last.step
            if first == last.first + last.blocks * step:
                grown = slice(last.queries.start, (i + 1) * size)
                runs[-1] = last._replace(queries=grown, blocks=last.blocks + 1, step=step)
                continue
        runs.append(_Blocks(slice(i * size, (i + 1) * size), 1, first, 0, own))
    return _Axis(size, seen, window, runs)


def _parts(run: _Blocks, most: int) -> Iterator[_Blocks]:
    """The run, at most so many blocks at a time."""
    size = len(run.offsets)
    for done in range(0, run.blocks, most):
        count = min(most, run.blocks - done)
        start = run.queries.start + done * size
        yield run._replace(queries=slice(start, start + count * size), blocks=count, first=run.first + done * run.step)


def attend(queries: mx.array, keys: mx.array, values: mx.array, reaches: Sequence[Reach], scale: float) -> mx.array:
    """softmax(scale queries keys^T) values over each query's box: (N, t, h, w, D), evaluated lot by lot.

    queries (N, t, h, w, D), as many along each axis as its `Reach` says; keys and values (N, T, H, W, D). N stands for
    samples and heads alike.
    """
    axes = [_axis(one, length, most) for one, length, most in zip(reaches, keys.shape[1:4], BLOCK, strict=True)]
    sides = queries.shape[1:4]
    fill = [(0, axis.queries - side) for axis, side in zip(axes, sides, strict=True)]
    if any(after for _, after in fill):
        queries = mx.pad(queries, [(0, 0), *fill, (0, 0)], mode="edge")
    waiting: list[mx.array] = []
    # A lot takes whole rows of blocks, and whole pictures of them, as far as there is room.
    room, (_, rows, columns) = _room(queries, axes), (max(run.blocks for run in axis.runs) for axis in axes)
    limits = [max(1, room // (rows * columns)), max(1, room // columns), room]

    def joined(chosen: tuple[_Blocks, ...]) -> mx.array:
        axis = len(chosen)
        if axis == len(axes):
            lot = _lot(queries, keys, values, axes, chosen, scale)
            mx.async_eval(lot)
            if waiting:
                mx.eval(waiting.pop())
            waiting.append(lot)
            return lot
        parts = [joined((*chosen, part)) for run in axes[axis].runs for part in _parts(run, limits[axis])]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1 + axis)

    return joined(())[:, : sides[0], : sides[1], : sides[2]]


def _room(queries: mx.array, axes: Sequence[_Axis]) -> int:
    """How many blocks go at a time."""
    block, slab = prod(axis.size for axis in axes), prod(axis.seen for axis in axes)
    each = block_bytes(len(queries), block, slab, queries.shape[-1], queries.itemsize)
    return max(1, LOT_BYTES // each)


def block_bytes(count: int, block: int, slab: int, dim: int, size: int) -> int:
    """Of a block of so many queries and its slab of keys, with `count` samples and heads of `dim` values."""
    copied = count * 2 * (slab + block) * dim * size
    return copied + count * block * slab * SCORES_HELD * 4 if platform.cpu_forms() else copied


def _lot(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    axes: Sequence[_Axis],
    runs: Sequence[_Blocks],
    scale: float,
) -> mx.array:
    """The result for the queries of these blocks: (N, t, h, w, D)."""
    count, dim, counts = len(queries), queries.shape[-1], [run.blocks for run in runs]
    sizes = [axis.size for axis in axes]
    t, h, w = (run.queries for run in runs)
    # (N, blocks and queries of each axis by turns, D) -> (N, blocks, queries, D)
    split = [n for pair in zip(counts, sizes, strict=True) for n in pair]
    own = queries[:, t, h, w].reshape(count, *split, dim).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    own = own.reshape(count, prod(counts), prod(sizes), dim)
    slabs = (_slabs(array, [axis.seen for axis in axes], runs) for array in (keys, values))
    result = _softmax(own, *slabs, scale, _mask([a.mask(run) for a, run in zip(axes, runs, strict=True)], own.dtype))
    result = result.reshape(count, *counts, *sizes, dim).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return result.reshape(count, *(n * size for n, size in zip(counts, sizes, strict=True)), dim)


def _slabs(array: mx.array, seen: Sequence[int], runs: Sequence[_Blocks]) -> mx.array:
    """What these blocks see: (N, blocks, keys of a slab, D), copied out of (N, T, H, W, D)."""
    count, times, rows, columns, dim = array.shape
    places = (rows * columns * dim, columns * dim, dim)
    between = [run.step * stride for run, stride in zip(runs, places, strict=True)]
    first = sum(run.first * stride for run, stride in zip(runs, places, strict=True))
    shape = (count, *(run.blocks for run in runs), *seen, dim)
    found = mx.as_strided(array, shape, (times * places[0], *between, *places, 1), first)
    return found.reshape(count, prod(shape[1:4]), prod(seen), dim)


def _mask(sides: Sequence[np.ndarray], dtype: mx.Dtype) -> mx.array:
    """0 where a query of a block sees a key of its slab, else -inf: (1, 1, queries, keys)."""
    t, h, w = sides
    seen = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
    queries = t.shape[0] * h.shape[0] * w.shape[0]
    return mx.where(mx.array(seen.reshape(1, 1, queries, -1)), 0.0, -np.inf).astype(dtype)


def _softmax(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array) -> mx.array:
    if queries.dtype == mx.float32 and platform.cpu_forms():
        return forms.attend(queries, keys, values, scale, mask)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
