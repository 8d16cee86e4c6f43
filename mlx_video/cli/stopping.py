"""Ctrl-C in a run that keeps what it has: once ends it after the step in hand, twice at once.

A step may take minutes within which Python does not come to hear of signals; so a thread of its own does. Knows phases
by name and signals; knows nothing of what runs.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from mlx_video.types import Listener, Progress

Say = Callable[[str], None]


class Stopping:
    """Whether a run is to end, and whether it is within a step. See `stopping`."""

    def __init__(self, folder: str | None, phases: Collection[str], report: Listener, say: Say):
        """folder: what keeps the run, None for nothing; phases: those of steps; report: is told of all progress."""
        self._folder, self._phases, self._report, self._say = folder, phases, report, say
        self._asked = self._inside = False

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What a plan expects of each phase, for who shows what is left."""
        getattr(self._report, "expect", lambda seconds: None)(seconds)

    def __call__(self, progress: Progress) -> None:
        """Takes one report of the run; raises KeyboardInterrupt where it is to end and is within no step any more."""
        self._report(progress)
        self._inside = progress.phase in self._phases and progress.done < progress.total
        if self._asked and not self._inside:
            raise KeyboardInterrupt(self._told(f"after {progress.phase}"))

    def kept(self, progress: Progress) -> None:
        """A step is kept; raises KeyboardInterrupt where the run is to end after it."""
        if self._asked:
            raise KeyboardInterrupt(self._told(f"after {progress.phase}, {progress.done} of {progress.total}"))

    def _told(self, after: str = "") -> str:
        said = f"interrupted {after}".rstrip()
        return f"{said}; what is done is kept in {self._folder}, and the same command goes on from there."

    def _hear(self, *_: Any) -> None:
        if not self._inside:
            raise KeyboardInterrupt(self._told())
        self._asked = True

    def _listen(self, ear: socket.socket) -> None:
        """Until the other end is closed; each byte is the number of a signal."""
        heard = False
        while numbers := ear.recv(16):
            for _ in range(numbers.count(signal.SIGINT)):
                if heard:
                    self._say(self._told())
                    os._exit(130)
                if self._inside:
                    heard = self._asked = True
                    self._say("Ending after this step; Ctrl-C once more ends at once.")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it Ctrl-C is heard so; in a thread other than the first, or where it is switched off, it is not."""
        if self._folder is None:
            yield
            return
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread() and _heard_of(signal.SIGINT):
                self._take_over(stack)
            try:
                yield
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(*(stop.args or [self._told()])) from None

    def _take_over(self, stack: ExitStack) -> None:
        ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        thread = threading.Thread(target=self._listen, args=(ear,), name="signals", daemon=True)
        thread.start()
        stack.callback(ear.close)
        stack.callback(thread.join)
        stack.callback(mouth.close)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False))
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._hear))


def _heard_of(number: int) -> bool:
    return signal.getsignal(number) not in (signal.SIG_IGN, None)
