"""What a network's weights take in memory, from the headers of its files: nothing is read and nothing allocated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_video.weights.store import DTYPE_BYTES, Entry

_FLOATS = {"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"}


class Weights(NamedTuple):
    """Bytes of a network: all, what lies outside its parts, and what one part takes where parts are read from disk."""

    whole: int
    rest: int
    visit: int
    """Largest visit: one part in compute precision plus one (it or the next) as read from disk."""
    read: int
    """Of all on disk."""

    def held(self, streamed: bool) -> int:
        """What is in memory at a time."""
        return self.rest + self.visit if streamed else self.whole

    def times(self, share: float) -> Weights:
        """Of values that are so much larger."""
        return Weights(*(round(count * share) for count in self))


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
    used: Counter[str] = Counter()
    raw: Counter[str] = Counter()
    for name, entry in entries.items():
        path = path_of(name)
        if path is None:
            continue
        each = packed(path) or (dtype.size if entry.dtype in _FLOATS else DTYPE_BYTES[entry.dtype])
        owner = _owner(path, visited)
        used[owner] += round(math.prod(entry.shape) * each)
        raw[owner] += entry.nbytes
    order = sorted((owner for owner in used if owner), key=lambda owner: _place(owner, visited))
    # A tensor used in its file's own precision needs no second copy.
    itself = [0 if used[owner] == raw[owner] else raw[owner] for owner in order]
    following = [*(raw[owner] for owner in order), 0][1:]
    visit = max((used[o] + max(both) for o, *both in zip(order, itself, following, strict=True)), default=0)
    return Weights(used.total(), used[""], visit, raw.total())


def _place(owner: str, visited: Sequence[str]) -> tuple[int, int]:
    """Sorts parts in the order in which they are visited."""
    start = next(start for start in visited if owner == start or owner.startswith(f"{start}."))
    return visited.index(start), int(owner[len(start) + 1 :] or 0)


def _owner(path: str, visited: Sequence[str]) -> str:
    """The part that a path leads into: "blocks.3" for "blocks.3.ff.weight"; "" for none."""
    for start in visited:
        if path.startswith(f"{start}."):
            first = path[len(start) + 1 :].partition(".")[0]
            return f"{start}.{first}" if first.isdigit() else start
    return ""
