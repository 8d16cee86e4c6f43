"""What a network's weights take in memory, from the headers of its files: nothing is read and nothing allocated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_video.weights.store import DTYPE_BYTES, Entry

_WIDENED = {"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64", "I8"}
"""What becomes numbers of the precision that is computed in."""


class Weights(NamedTuple):
    """Bytes of a network: all, what lies outside its parts, and what one part takes where parts are read from disk;
    and how many parts there are.
    """

    whole: int
    rest: int
    visit: int
    """Largest visit: one part in compute precision plus one (it or the next) as read from disk."""
    read: int
    """Of all on disk."""
    part: int = 0
    """Largest part, in memory."""
    parts: int = 0

    def held(self, streamed: bool) -> int:
        """What is in memory at a time."""
        return self.rest + self.visit if streamed else self.whole

    def times(self, share: float) -> Weights:
        """With so many bytes for each of these."""
        whole, rest, visit, read, part = (round(count * share) for count in self[:-1])
        return Weights(whole, rest, visit, read, part, self.parts)


def weigh(
    entries: Mapping[str, Entry],
    path_of: Callable[[str], str | None],
    visited: Sequence[str],
    dtype: mx.Dtype,
    packed: Callable[[str], float | None] = lambda path: None,
) -> Weights:
    """The weights of a network that computes in `dtype`.

    path_of: name of a tensor -> path in the network, None where it is not the network's. visited: as the network's
    class states it. packed: path -> bytes for each value of a tensor that is quantized while loading, None for others.
    """
    used: Counter[tuple[int, int] | None] = Counter()
    raw: Counter[tuple[int, int] | None] = Counter()
    for name, entry in entries.items():
        path = path_of(name)
        if path is not None:
            each = packed(path) or (dtype.size if entry.dtype in _WIDENED else DTYPE_BYTES[entry.dtype])
            part = _part(path, visited)
            used[part] += round(math.prod(entry.shape) * each)
            raw[part] += entry.nbytes
    order = sorted(part for part in used if part is not None)
    # A tensor used in its file's own precision needs no second copy.
    itself = [0 if used[part] == raw[part] else raw[part] for part in order]
    following = [*(raw[part] for part in order), 0][1:]
    visit = max((used[part] + max(both) for part, *both in zip(order, itself, following, strict=True)), default=0)
    largest = max((used[part] for part in order), default=0)
    return Weights(used.total(), used[None], visit, raw.total(), largest, len(order))


def _part(path: str, visited: Sequence[str]) -> tuple[int, int] | None:
    """The part that a path leads into, by its place in the order of visits; None for none."""
    for place, start in enumerate(visited):
        if path.startswith(f"{start}."):
            number = path[len(start) + 1 :].partition(".")[0]
            return place, int(number) if number.isdigit() else 0
    return None
