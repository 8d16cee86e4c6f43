"""Draws that depend on the seed, the group and the number alone, so that every trial can be made again by itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def source(seed: int, group: str, number: int) -> random.Random:
    """The randomness of one trial."""
    return random.Random(f"{seed}/{group}/{number}")


def nth(items: Sequence[T], number: int, seed: int) -> T:
    """Item `number` of the items in a drawn order; they are gone through before any comes again, in another order."""
    turn, place = divmod(number, len(items))
    order = list(range(len(items)))
    random.Random(f"{seed}/{turn}").shuffle(order)
    return items[order[place]]
