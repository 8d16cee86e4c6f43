"""Counts how often networks are given weights, and how many bytes that reads. Knows the loader's doors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlx_video.lending import loader


class Reads(NamedTuple):
    """By a network's name: how often, and bytes on disk all together."""

    times: Counter[str]
    bytes: Counter[str]


@contextmanager
def counted() -> Iterator[Reads]:
    """Within it everything that a loader lends is counted."""
    reads = Reads(Counter(), Counter())

    def count(give: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **how: Any) -> Any:
            part = next((one for one in given if hasattr(one, "component")), None)
            name = "text encoder" if part is None else part.component.label
            reads.times[name] += 1
            tensors = given[0].tensors if part is None else part.tensors
            reads.bytes[name] += tensors.nbytes(("",) if part is None else part.prefixes)
            return give(*given, **how)

        return counting

    doors = {name: getattr(loader, name) for name in ("give_weights", "stream_weights", "read_text_encoder")}
    for name, door in doors.items():
        setattr(loader, name, count(door))
    try:
        yield reads
    finally:
        for name, door in doors.items():
            setattr(loader, name, door)
