"""A command in a process of its own, and what has to hold after it was disturbed: results whole or not there, inputs as
they were, a sentence and no traceback, nothing left behind.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.trials import readout
from tests.trials.case import Case, Run, closing_of_traceback, judge
from tests.trials.farm import resident
from tests.trials.material import PROMPT, Material, clip, enlarge, environment
from tests.trials.worker import MEMORY, states

ROOT = Path(__file__).parents[3]

GLANCE = 0.02

START = 30.0
"""Seconds that a process may need besides, to come up on a busy machine."""

Found = tuple[str, str, str, str]
"""(title, verdict, why, said) of one trial."""


@dataclass(frozen=True)
class Job:
    """A command that is disturbed: its line, and what it makes."""

    name: str
    command: str
    line: tuple[str, ...]
    outputs: tuple[str, ...]


def jobs(material: Material, place: str = "") -> dict[str, Job]:
    """Everything that is disturbed; results go to the folder `place` (with its slash), or the working folder."""
    model, out = str(material.model), place + "out"
    found = (
        Job("clip", "generate", clip(model, out=out + ".mp4"), (out + ".mp4",)),
        Job("clip, frames, sound", "generate", clip(model, "--save-frames", "--output-audio", out + ".wav",
        out=out + ".mp4"),
            (out + ".mp4", out + ".wav", *(f"{out}/frame_{n:05}.png" for n in range(9)))),
        Job("dev", "generate", clip(model, "--pipeline", "dev", "--steps", "2", out=out + ".mp4"), (out + ".mp4",)),
        Job("upscale", "upscale", enlarge(model, material.film, out=out + ".mp4"), (out + ".mp4",)),
        Job("picture", "upscale", enlarge(model, material.picture, out=out + ".png"), (out + ".png",)),
        Job("convert", "convert", ("--source", model, "-o", out), (out,)),
        Job("encode", "encode", ("--prompt", PROMPT, "--model-repo", model, "-o", out + ".safetensors"),
        (out + ".safetensors",)),
    )  # fmt: skip
    return {job.name: job for job in found}


@dataclass
class Ended:
    """How a process ended, and whether it had to be ended."""

    status: int
    said: str
    seconds: float
    verdict: str = ""
    at: float = field(default_factory=time.monotonic)


def hear_interrupts() -> None:
    """In a child: SIGINT does what it does by default, though a shell's background job begins with it switched off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Started:
    """A process and what it says, which a thread takes down: a limit on files must not cut its words short."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.begun = process, time.monotonic()
        self._said: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._said += self.process.stdout

    def said(self) -> str:
        """All of it, once the process has ended."""
        self._reader.join(5.0)
        return b"".join(self._said).decode("utf-8", "backslashreplace")


class Place:
    """A folder for one trial, its material, and what was in it when it began."""

    def __init__(self, scratch: Path, folder: Path, limit: float):
        self.scratch, self.folder, self.limit = scratch, folder, limit
        self.material = Material(scratch / "material")
        self.env = environment(scratch) | {"PYTHONPATH": str(ROOT)}

    def remember(self) -> None:
        """Takes down what is there before the command runs."""
        self.before = states(self.folder)
        self.material_before = states(self.material.root)

    def start(self, command: str, line: Sequence[str], fault: str = "", env: Mapping[str, str] = {}) -> Started:
        """Starts a command, with something failing in it if said so."""
        words = ["tests.trials.child", fault, command] if fault else [f"mlx_video.{command}"]
        process = subprocess.Popen(
            [sys.executable, "-m", *words, *line], cwd=self.folder, env=self.env | env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=hear_interrupts,
        )  # fmt: skip
        return Started(process)

    def end(self, started: Started, disturb: Callable[[], None] | None = None, after: float = 0.0) -> Ended:
        """Waits for the end; `disturb` is called once, `after` seconds from the start."""
        verdict, process = "", started.process
        while process.poll() is None:
            time.sleep(GLANCE)
            seconds = time.monotonic() - started.begun
            if disturb is not None and seconds >= after:
                disturb()
                disturb = None
            if resident(process.pid) > MEMORY:
                verdict = "memory"
            elif seconds > self.limit + START:
                verdict = "hang"
            if verdict:
                process.kill()
                process.wait()
        return Ended(process.returncode, started.said(), time.monotonic() - started.begun, verdict)

    def run(self, command: str, line: Sequence[str], fault: str = "", env: Mapping[str, str] = {}) -> Ended:
        """Starts a command and waits."""
        return self.end(self.start(command, line, fault, env))

    def left(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(files that were not there, files that are not as they were)."""
        now = states(self.folder)
        made = tuple(str(path.relative_to(self.folder)) for path in now if path not in self.before)
        changed_ = [path.name for path, state in self.before.items() if now.get(path) != state]
        material = states(self.material.root)
        changed_ += [path.name for path, state in self.material_before.items() if material.get(path) != state]
        return made, tuple(changed_)


def examined(
    place: Place, job: Job, ended: Ended, *, statuses: Sequence[int] = (0, 2), names: tuple[str, ...] = (),
    same: bool = True,
    ignored: Callable[[str], bool] = lambda name: False,
) -> tuple[str, str]:  # fmt: skip
    """(verdict, why) of a disturbed run.

    statuses: those it may end with; names: what a refusal has to name one of; same: whether results have to be those of
    an undisturbed run; ignored: of files that may be left.
    """
    if ended.verdict:
        return ended.verdict, ""
    made, changed_ = place.left()
    tops = {output.split("/")[0] for output in job.outputs if place.folder.joinpath(output).exists()}
    whole = wrong_results(place, job, same)
    if whole:
        return "partial files", whole
    results = tuple(output for output in job.outputs if (place.folder / output).exists())
    stray = [
        name for name in made if not ignored(name) and name not in results
        and not any((place.folder / output).is_dir() and name.startswith(output + "/") for output in tops)
    ]  # fmt: skip
    case = Case("", "", job.command, job.line, names, "valid", outputs=tuple(job.outputs), fault=1 in statuses)
    if "Traceback (most recent call last)" in ended.said:
        return "traceback", closing_of_traceback(ended.said)
    if stray:
        return "partial files", f"left: {', '.join(stray)}"
    if ended.status == 0:
        missing = [output for output in job.outputs if not (place.folder / output).exists()]
        return ("silent", f"exit status 0 without {missing[0]}") if missing else ("accepted", "")
    if ended.status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE):
        return "crash", f"ended by signal {-ended.status}"
    # A shell calls both the same: a process that ends itself by a signal, and one that gives 128 and its number.
    status = 128 - ended.status if ended.status in (-signal.SIGINT, -signal.SIGTERM) else ended.status
    if status not in statuses:
        return "wrong status", f"exit status {ended.status}"
    if changed_:
        return "lost input", ", ".join(changed_)
    if ended.status < 0:
        return "clear", ""
    return judge(case, Run(2 if status in (130, 143) else status, ended.said))


def wrong_results(place: Place, job: Job, same: bool = True) -> str:
    """What is wrong with results that lie under their names, or nothing."""
    for output in job.outputs:
        path = place.folder / output
        if not path.exists():
            continue
        found = readout.look(path)
        if isinstance(found, str):
            return f"{output} {found}"
        if same and not readout.alike(found, undisturbed(place, job.name)[output.removeprefix("disk/")]):
            return f"{output} is another than without the fault"
    return ""


@cache
def _undisturbed(scratch: Path, name: str) -> tuple[dict[str, readout.Look], float]:
    folder = scratch / f"undisturbed-{name.replace(' ', '-')}"
    folder.mkdir()
    place = Place(scratch, folder, 600.0)
    job = jobs(place.material)[name]
    place.run(job.command, job.line)  # compiles what is not compiled yet
    shutil.rmtree(folder / "out", ignore_errors=True)
    ended = place.run(job.command, job.line)
    looks = {output: readout.look(folder / output) for output in job.outputs}
    wrong = [look for look in looks.values() if isinstance(look, str)]
    if ended.status or wrong:
        raise RuntimeError(f"{name} fails undisturbed: {wrong} {ended.said}")
    return {output: look for output, look in looks.items() if not isinstance(look, str)}, ended.seconds


def undisturbed(place: Place, name: str) -> dict[str, readout.Look]:
    """A job's results without any fault."""
    return _undisturbed(place.scratch, name)[0]


def usual_seconds(place: Place, name: str) -> float:
    """How long a job takes without any fault."""
    return _undisturbed(place.scratch, name)[1]


def hidden(name: str) -> bool:
    """Whether a file is an unfinished one."""
    return name.startswith(".") and ".part" in name
