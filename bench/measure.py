"""Times things fairly: in alternating rounds, by medians, with the peak of MLX's memory beside them.

On the CPU backend it counts CPU seconds, because a neighbour on the machine stretches the wall clock and hardly the
CPU's; on a GPU it counts wall seconds. Knows nothing of what it times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx

from mlx_video import platform

MIB = 1 << 20


class Timing(NamedTuple):
    """Median seconds of some rounds, and the most MLX held in any of them, in bytes."""

    seconds: float
    peak: int


def clock() -> Callable[[], float]:
    """The clock that suits the device."""
    return time.process_time if platform.is_cpu() else time.perf_counter


def alternate(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Runs every case once per round, in turn, after a round that does not count; each returns what to evaluate."""
    now = clock()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    peaks = dict.fromkeys(cases, 0)
    for number in range(rounds + 1):
        for name, run in cases.items():
            platform.peak_memory()
            start = now()
            mx.eval(run())
            if number:
                seconds[name].append(now() - start)
            peaks[name] = max(peaks[name], platform.peak_memory())
    return {name: Timing(statistics.median(seconds[name]), peaks[name]) for name in cases}


def multiply(flops: float, size: int = 2048) -> tuple[Callable[[], object], float]:
    """Plain matrix products of about `flops` operations in the device's precision, and how to scale their time."""
    dtype = platform.compute_dtype()
    left = mx.random.normal((size, size)).astype(dtype)
    right = (mx.random.normal((size, size)) / size**0.5).astype(dtype)
    mx.eval(left, right)
    once = 2.0 * size**3
    times = max(1, round(flops / once))

    def run() -> mx.array:
        result = left
        for _ in range(times):
            result = result @ right
        return result

    return run, flops / (times * once)


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be; the first is aligned left, the others right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([title, text[0], "-" * len(text[0]), *text[1:], ""])
