"""How much memory MLX takes for a piece of work, the same in every run.

Three things make its own counters chance: arrays that others have dropped and that go only later, its cache, and, on
the CPU, that it takes memory far ahead of its work unless it is over its limit.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


class Memory:
    """Since the measuring began, in bytes."""

    def __init__(self) -> None:
        self.began = mx.get_active_memory()

    @property
    def peak(self) -> int:
        return mx.get_peak_memory() - self.began

    @property
    def held(self) -> int:
        return mx.get_active_memory() - self.began


@contextmanager
def measured() -> Iterator[Memory]:
    """What the block takes beyond what is there when it begins."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    limit = mx.set_memory_limit(1)  # beyond its limit MLX waits for what it has begun
    try:
        mx.reset_peak_memory()
        yield Memory()
    finally:
        mx.set_memory_limit(limit)
