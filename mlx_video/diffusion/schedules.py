"""Which noise levels a run visits: tuples of sigmas from most noise to none, as Python floats.

Knows no sampler and no network. Values are the reference's float32 numbers, first sigma 0.9999998 and all: the
networks see `1000 * sigma`, and a sampler divides by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlx_video.types import UserError

_f32 = np.float32


def _table(*sigmas: float) -> tuple[float, ...]:
    return tuple(np.array(sigmas, _f32).tolist())


DISTILLED = _table(1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
"""The 8 steps that distilled checkpoints were trained for (reference: DISTILLED_SIGMAS)."""
REFINE = _table(0.909375, 0.725, 0.421875, 0.0)
"""The 3 steps of a second stage, which starts from 9 % signal (reference: STAGE_2_DISTILLED_SIGMAS)."""

_BASE_TOKENS, _MAX_TOKENS = 1024, 4096
"""Latent sizes at which the shift equals `base_shift` and `max_shift`; linear in between and beyond."""


def shifted_sigmas(
    steps: int,
    tokens: int = _MAX_TOKENS,
    *,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    terminal: float | None = 0.1,
) -> tuple[float, ...]:
    """LTX-2's schedule: `steps` + 1 sigmas, shifted towards noise by latent size, the last non-zero one at `terminal`.

    `tokens` is F * H * W of the clip, or 4096 whatever its size, as the reference's one- and two-stage pipelines have
    it. `terminal` None leaves the sigmas unstretched. Float32 in the reference's order of operations (LTX2Scheduler):
    beyond some 35,000 tokens its 1 - sigma runs out of digits and the first sigma falls below 1; so does ours.
    """
    _check(steps)
    slope = (max_shift - base_shift) / (_MAX_TOKENS - _BASE_TOKENS)
    sigmas = _shift(_descend(steps)[:-1], tokens * slope + (base_shift - _BASE_TOKENS * slope))
    rest = _f32(1) - sigmas
    # A single sigma of exactly 1 cannot be stretched (the reference divides 0 by 0): it stays 1.
    if terminal is not None and rest[-1] > 0:
        sigmas = _f32(1) - rest / (rest[-1] / _f32(1.0 - terminal))
    return (*sigmas.tolist(), 0.0)


def linear_quadratic_sigmas(steps: int, tokens: int = _MAX_TOKENS, *, threshold: float = 0.025) -> tuple[float, ...]:
    """Half the steps linear from 1 to 1 - `threshold`, the others quadratic to 0. `tokens` has no effect.

    Source: the reference's LinearQuadraticScheduler (Movie Gen, section 3.4.2).
    """
    _check(steps)
    if steps == 1:
        return (1.0, 0.0)
    linear = steps // 2
    slope = threshold / linear
    bend = (1.0 - slope * steps) / (steps - linear) ** 2
    signal = (slope * i + bend * max(i - linear, 0) ** 2 for i in range(steps))
    return (*(float(_f32(1.0 - s)) for s in signal), 0.0)


def _check(steps: int) -> None:
    if steps < 1:
        raise UserError(f"{steps} steps were asked for; a schedule needs at least 1.")


def _descend(steps: int) -> np.ndarray:
    """`steps` + 1 float32 numbers from 1 to 0, bit for bit torch.linspace: counted from the nearer end, fused."""
    index = np.arange(steps + 1)
    step = float(_f32(-1) / _f32(steps))
    return np.where(index < (steps + 1) // 2, 1 + step * index, -step * (steps - index)).astype(_f32)


def _shift(times: np.ndarray, shift: float) -> np.ndarray:
    """e^shift / (e^shift + 1/t - 1) in float32; torch divides a number by a tensor as number times reciprocal."""
    weight = _f32(math.exp(shift))
    return _f32(1) / (weight + (_f32(1) / times - _f32(1))) * weight


def part_of(sigmas: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """A table in fewer steps, for quick looks: `steps` + 1 of its sigmas, evenly by their place, first and last kept.

    Four of eight steps are every second sigma; where a place falls between two, the later (less noise) is taken.
    Raises UserError for more steps than the table has, and for none.
    """
    most = len(sigmas) - 1
    if not 1 <= steps <= most:
        raise UserError(f"{steps} steps were asked for; this schedule has {most}, of which 1 to {most} can be taken.")
    return tuple(sigmas[(2 * i * most + steps) // (2 * steps)] for i in range(steps + 1))


def _fixed(sigmas: tuple[float, ...]) -> Callable[..., tuple[float, ...]]:
    """A table behind the signature of the computed schedules; fewer `steps` than it has are part of it."""

    def schedule(steps: int | None = None, tokens: int = _MAX_TOKENS) -> tuple[float, ...]:
        return sigmas if steps is None else part_of(sigmas, steps)

    return schedule


SCHEDULES: dict[str, Callable[..., tuple[float, ...]]] = {
    "distilled": _fixed(DISTILLED),
    "refine": _fixed(REFINE),
    "shifted": shifted_sigmas,
    "linear-quadratic": linear_quadratic_sigmas,
}
"""By name: schedule(steps, tokens) -> sigmas. The first two are tables and take None for `steps`."""
