"""`--progress json`: what a command tells on standard error, as one line of JSON for each event and nothing else.

Three kinds: {"event": "progress", "phase", "done", "total", "seconds", "left"?, "peak"?} with seconds since the phase
began, those that the run will still take where that is known, and bytes at a phase's end; {"event": "message",
"message"}; and at the very end {"event": "end", "status", "outputs", "seconds", "error"?} with the exit status and what
was written. Knows the reports of a run; knows nothing of what runs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from mlx_video.cli.left import Left
from mlx_video.types import Progress


def asked_for(words: Sequence[str]) -> bool:
    """Whether a command line asks for events, however wrong the rest of it may be."""
    return ("--progress", "json") in itertools.pairwise(words) or "--progress=json" in words


class Events:
    """Takes the place of standard error while a command runs, and of its bars; reports may come from any thread."""

    def __init__(self) -> None:
        """Begins with the command."""
        self.began = self._since = time.monotonic()
        self.outputs: list[str] = []
        """Files and folders that were written."""
        self.status = 0
        self._stream: TextIO = sys.stderr
        self._last: Progress | None = None
        self._said = ""
        self._left = Left()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------------------ as bars

    def __call__(self, progress: Progress) -> None:
        """Takes one report of a run; what was told already is not told again."""
        with self._lock:
            now = time.monotonic()
            if self._last is None or self._last.phase != progress.phase or progress.done < self._last.done:
                self._since = now
            elif self._last == progress:
                return
            self._last = progress
            seconds, (phase, done, total, peak) = now - self._since, progress
            event: dict[str, Any] = {"event": "progress", "phase": str(phase), "done": done, "total": total}
            event["seconds"] = round(seconds, 3)
            left = self._left.tell(progress, seconds)
            event |= {} if left is None else {"left": round(left, 1)}
            self._write(event | ({} if peak is None else {"peak": peak}))

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What a plan expects of each phase."""
        self._left.expect(seconds)

    def say(self, message: str) -> None:
        """One sentence for the user."""
        with self._lock:
            self._said = message
            self._write({"event": "message", "message": message})

    def close(self) -> None:
        """The run is over; the command may still say something."""

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self.began

    def _write(self, event: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: the run goes on
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    # ------------------------------------------------------------------------------------------------ as the command

    def __enter__(self) -> Events:
        """From here on every line that anybody writes to standard error is a message."""
        self._stream, sys.stderr = sys.stderr, _Lines(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Tells how it ended. A fault is told, and has become a status; an exit stays one."""
        sys.stderr.flush()
        sys.stderr = self._stream
        error = None
        if isinstance(fault, SystemExit):
            self.status = fault.code if isinstance(fault.code, int) else int(fault.code is not None)
        elif fault is not None:
            self.status = 1
            self.say("".join(traceback.format_exception(fault)).rstrip())
            error = traceback.format_exception_only(fault)[-1].strip()
        if self.status:
            error = error or self._said
        end = {"event": "end", "status": self.status, "outputs": [] if self.status else self.outputs}
        self._write({**end, "seconds": round(self.seconds, 3), **({"error": error} if self.status else {})})
        return not isinstance(fault, SystemExit)


class _Lines(io.TextIOBase):
    """Standard error as others know it; what they write becomes messages, line by line."""

    def __init__(self, events: Events):
        self.events = events
        self._begun = ""
        self._lock = threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self.events.say(line)
        return len(text)

    def flush(self) -> None:
        """Tells the line that is begun."""
        with self._lock:
            line, self._begun = self._begun, ""
        if line.strip():
            self.events.say(line)


def current() -> Events | None:
    """The events of the command that runs; None where it draws bars."""
    return sys.stderr.events if isinstance(sys.stderr, _Lines) else None
