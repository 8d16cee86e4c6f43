"""Blocks one after the other, evaluated so often that no graph grows without bound. Knows no block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn


class Visits(Protocol):
    """What goes through the blocks."""

    streams: Any
    """Where it stands: arrays."""

    def through(self, index: int, block: Any, /) -> Iterator[float]:
        """Takes it through block `index`, in pieces; yields each piece's operations when it is done."""


def go_through(blocks: Iterable[nn.Module], visits: Visits, limit: float) -> None:
    """Takes `visits` through all blocks; what they have left is evaluated after every `limit` operations."""
    pending = 0.0
    for index, block in enumerate(blocks):
        for cost in visits.through(index, block):
            pending += cost
            if pending > limit:
                mx.eval(visits.streams)
                pending = 0.0
