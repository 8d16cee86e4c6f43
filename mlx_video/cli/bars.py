"""What a user sees of a run on standard error: a moving line for each phase on a terminal, one plain line elsewhere.

Knows the reports of a run; knows nothing of what runs.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from mlx_video.cli.left import Left
from mlx_video.types import Phase, Progress, amount

TICK = 0.5
"""Seconds after which the clock is drawn anew, whether or not anything was reported."""
FULL, EMPTY = "#", "."
"""Of a bar; every terminal has them."""
NARROWEST, WIDEST = 8, 40
"""Columns of a bar; where there is room for less, there is none."""
WIDE = 60
"""Columns from which on what is left of the whole run is shown, too."""


def clock(seconds: float) -> str:
    """A time as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


UNTOLD = (Phase.LOOK_UP, Phase.READ, Phase.SAVE, Phase.CHECKUP)
"""Phases that are over too soon for a line of their own, or whose end other lines tell."""


class Line(NamedTuple):
    """How far a phase is, for one moment; `peak` is known at its end."""

    phase: str
    done: int
    total: int
    seconds: float
    peak: int | None = None
    run_left: float | None = None
    """Seconds of the whole run, where they are known."""

    def drawn(self, columns: int) -> str:
        """The line in at most `columns`: what matters least is left out first."""
        parts = [f"{self.phase:>9}", f"{self.done}/{self.total}", clock(self.seconds)]
        if self.done:
            left = f"{clock(self.seconds / self.done * (self.total - self.done))} left"
            of_all = "" if self.run_left is None else f" (run {clock(self.run_left)})"
            wanted = (left + of_all, left) if columns >= WIDE else (left,)
            parts += next(([one] for one in wanted if len("  ".join([*parts, one])) <= columns), [])
        width = min(columns - len("  ".join(parts)) - 2, WIDEST)
        if width >= NARROWEST:
            full = width * self.done // max(self.total, 1)
            parts.insert(1, FULL * full + EMPTY * (width - full))
        return "  ".join(parts)[:columns]

    @property
    def ended(self) -> str:
        """The line that stays: how much, how long, and the peak memory."""
        peak = "" if self.peak is None else f", peak {amount(self.peak)}"
        return f"{self.phase:>9}  {self.done}/{self.total} in {clock(self.seconds)}{peak}"


class Bars:
    """Shows every phase of a run with its clock and, at its end, its peak memory.

    On a terminal the line moves, between phases too, while networks are loaded; elsewhere each phase is one line when
    it ends. Reports may come from any thread.
    """

    def __init__(self, quiet: bool = False):
        """`quiet` draws and says nothing."""
        self.quiet = quiet
        self.moving = sys.stderr.isatty() and not quiet
        self.began = time.monotonic()
        self._line: Line | None = None
        self._since = self.began
        self._left = Left()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __call__(self, progress: Progress) -> None:
        """Takes one report of a run."""
        if self.quiet:
            return
        with self._lock:
            if self._line is None or self._line.phase != progress.phase:
                self._end()
                self._since = time.monotonic()
            phase, done, total, peak = progress
            seconds = time.monotonic() - self._since
            self._line = Line(phase, done, total, seconds, peak, self._left.tell(progress, seconds))
            if peak is not None:
                self._end()
            self._draw()
            if self.moving and self._ticker is None and not self._over.is_set():
                self._ticker = threading.Thread(target=self._tick, name="clock", daemon=True)
                self._ticker.start()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What a plan expects of each phase."""
        with self._lock:
            self._left.expect(seconds)

    def say(self, message: str) -> None:
        """One line for the user between the others."""
        if not self.quiet:
            with self._lock:
                self._write(f"{message}\n")

    def close(self) -> None:
        """Ends the clock, and the line that is shown, if any: what did not come to its end is wiped away."""
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            self._end()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.began

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if not self.moving:
            return
        columns = max(shutil.get_terminal_size().columns - 1, 20)
        now = time.monotonic() - self._since
        text = f"{'':>9}  {clock(now)}" if self._line is None else self._line._replace(seconds=now).drawn(columns)
        self._write(text)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: the run goes on
            sys.stderr.write(("\r\x1b[K" if self.moving else "") + text)
            sys.stderr.flush()

    def _end(self) -> None:
        line = self._line
        told = line is not None and line.done >= line.total and line.phase not in UNTOLD
        self._write(f"{line.ended}\n" if line is not None and told else "")
        self._line, self._since = None, time.monotonic()
