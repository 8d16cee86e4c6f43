"""Long sequences in tiles, so that memory and the work of one evaluation do not grow with their length.

Knows no network: a function that keeps the length of its input, and how far it sees, is all that it is told.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def in_tiles(
    function: Callable[[mx.array], mx.array], x: mx.array, *, tile: int, before: int, after: int = 0
) -> mx.array:
    """`function(x)`, computed in tiles of `tile` steps along axis 1, so that memory does not grow with the length of x.

    The function keeps the length of axis 1, and a step of its result depends on at most `before` earlier and `after`
    later steps of x. Tiles are given that much of their surroundings, so only rounding tells the result from the whole.
    Each tile is evaluated before the next.
    """
    length = x.shape[1]
    if length <= tile + before + after:
        return function(x)
    pieces = []
    for start in range(0, length, tile):
        end, first = min(start + tile, length), max(start - before, 0)
        piece = function(x[:, first : min(end + after, length)])[:, start - first : end - first]
        mx.eval(piece)
        pieces.append(piece)
    return mx.concatenate(pieces, axis=1)
