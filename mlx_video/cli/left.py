"""How long the whole run will still take: what the plan expects of each phase, corrected by what was measured of it.

A plan knows how long phases are beside each other, and hardly in seconds. So nothing is said before a good part of the
run has been measured, and a phase's first unit, which compiles and reads weights, says nothing of the others. Knows no
plan and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlx_video.types import Progress

ENOUGH = 0.1
"""Of what a plan expects, the part that must have been measured before the rest is told."""


class Left:
    """The seconds left of a run, from its reports."""

    def __init__(self) -> None:
        """A run of which nothing is expected yet."""
        self._expected: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        """Of phases that are over."""
        self._phase: str | None = None
        self._first = 0.0
        """Seconds into the phase when its first unit was done."""
        self._seconds = 0.0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Takes what a plan expects of each phase, by its name."""
        self._expected, self._spent, self._phase = dict(seconds), {}, None

    def tell(self, progress: Progress, seconds: float) -> float | None:
        """Takes one report, `seconds` after its phase began; what is left of the run, None where that is not known."""
        phase, done, total, _ = progress
        if phase != self._phase:
            if self._phase is not None:
                self._spent[self._phase] = self._spent.get(self._phase, 0.0) + self._seconds
            self._phase, self._first = phase, 0.0
        self._seconds = seconds
        if done <= 1:
            self._first = seconds
        return self._left(done, total)

    def _left(self, done: int, total: int) -> float | None:
        everything = sum(self._expected.values())
        if not everything or self._phase not in self._expected or not 1 < done <= total:
            return None
        own = (self._seconds - self._first) / (done - 1) * (total - done)
        # By the phase that the plan expects most of, so far: others are soon over, or were done before and are kept.
        parts = [(self._expected.get(phase, 0.0), seconds) for phase, seconds in self._spent.items()]
        expected, spent = max([*parts, (self._expected[self._phase] * done / total, self._seconds)])
        if expected < ENOUGH * everything:
            return None
        over = {*self._spent, self._phase}
        later = sum(seconds for phase, seconds in self._expected.items() if phase not in over)
        return own + later * spent / expected
