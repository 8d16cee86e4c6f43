"""Processes that run trials, each watched from outside: one that hangs, takes too much or dies costs a new process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from pathlib import Path

from tests.trials.case import Verdict
from tests.trials.worker import MEMORY, serve

START = 300.0
"""Seconds for a process to come up; the first on a machine also compiles MLX's kernels."""
LIFE = 200
"""Trials after which a process is replaced, so that what each leaves behind does not add up."""
GLANCE = 0.03


class Worker:
    """One process that runs trials; it is started when first asked, and again after it had to be ended."""

    def __init__(self, scratch: Path, seed: int, limit: float):
        """limit: seconds that a trial may take."""
        self.scratch, self.seed, self.limit = scratch, seed, limit
        self.process = None
        self.done = 0

    def attempt(self, group: str, number: int) -> Verdict:
        """Runs one trial in the process; what the process cannot tell itself is told from outside."""
        self.start()
        base, begun = resident(self.process.pid), time.monotonic()
        self.connection.send((group, number))
        self.done += 1
        self.title = f"{group} {number}"
        while not self._answered():
            seconds = time.monotonic() - begun
            if not self.process.is_alive() and not self._answered():
                return self._ended(group, number, "crash", f"the process ended with {self.process.exitcode}", seconds)
            if resident(self.process.pid) - base > MEMORY:
                return self._ended(group, number, "memory", "more than 2 GiB above where it began", seconds)
            if seconds > self.limit:
                return self._ended(group, number, "hang", f"no end after {self.limit:.0f} s", seconds)
        assert self.answer is not None
        return self.answer

    def _answered(self) -> bool:
        """Waits a moment; whether the verdict is there. The trial's title comes first."""
        self.answer: Verdict | None = None
        try:
            if self.connection.poll(GLANCE):
                found = self.connection.recv()
                if isinstance(found, Verdict):
                    self.answer = found
                else:
                    self.title = found
        except (EOFError, ConnectionResetError):
            self.process.join(10)
        return self.answer is not None

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = None

    def start(self) -> None:
        """Brings the process up, or a new one where the old has tried enough."""
        if self.process is not None and self.done < LIFE:
            return
        self.close()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.scratch, self.seed), daemon=True)
        self.process.start()
        theirs.close()
        self.done = 0
        if not self.connection.poll(START) or self.connection.recv() != "ready":
            raise RuntimeError("a process that runs trials did not come up")

    def _ended(self, group: str, number: int, verdict: str, why: str, seconds: float) -> Verdict:
        self.close()
        return Verdict(self.title, group, number, verdict, why, seconds=seconds)


def resident(pid: int) -> int:
    """Bytes that a process holds; 0 where it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    if Path("/proc/self").exists():
        return 0
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return int(shown or 0) * 1024
