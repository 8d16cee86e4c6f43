"""Networks stay for the next borrower: many clips that go phase by phase have each of them built and read once.

Of large networks one is kept, the last that was borrowed, until another is wanted; small ones stay beside it. Knows no
checkpoint: what a network is made of is its key.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.nn as nn

from mlx_video.lending.visits import release

SMALL = 512 << 20
"""Bytes of weights up to which a network is kept beside others, such as those of sound; plans count them."""


@dataclass
class _Kept:
    network: nn.Module
    size: int
    loans: int = 0


class Shelf:
    """What was lent and came back. One line of work at a time uses it: see `platform.computing`."""

    def __init__(self) -> None:
        """Empty, and open."""
        self._kept: dict[Hashable, _Kept] = {}
        self._open = True

    @contextmanager
    def lend(
        self, key: Hashable, make: Callable[[], nn.Module], size: int, spent: Callable[[nn.Module], bool]
    ) -> Iterator[nn.Module]:
        """The network that is kept under `key`, else what `make` makes.

        size: bytes of its weights. spent: asked when nobody has it any more, whether it is no longer what it was.
        """
        kept = self._kept.get(key)
        if kept is None:
            self.make_room(size)
            kept = self._kept[key] = _Kept(make(), size)
        kept.loans += 1
        try:
            yield kept.network
        finally:
            kept.loans -= 1
            if not kept.loans and (not self._open or spent(kept.network)):
                self._drop(key)

    def make_room(self, size: int = SMALL + 1) -> None:
        """Lets go of large networks that nobody has, before one of `size` bytes comes; a small one needs no room."""
        if size > SMALL:
            for key in [key for key, kept in self._kept.items() if kept.size > SMALL and not kept.loans]:
                self._drop(key)

    def close(self) -> None:
        """Lets go of everything; what somebody has goes when it comes back."""
        self._open = False
        for key in [key for key, kept in self._kept.items() if not kept.loans]:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        release(self._kept.pop(key).network)
