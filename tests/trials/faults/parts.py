"""Parts that fail on purpose in the process, and surroundings that a command should live with."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.trials.draw import nth, source
from tests.trials.faults.process import (
    START,
    Ended,
    Found,
    Job,
    Place,
    examined,
    jobs,
)

ERRORS = ("EIO", "ENOSPC", "EROFS", "EACCES", "EFBIG", "EDQUOT", "EXDEV", "EPERM")

INJECTED = (
    "renaming", "renaming", "encoding", "encoding", "encoding", "opening", "not-finite", "not-finite", "not-finite",
    "clock", "gone", "closed", "no home",
    "home is a file", "ascii", "writing-weights", "stdout full", "reader gone", "no user",
)  # fmt: skip


def injected(number: int, seed: int, place: Place) -> Found:
    """Parts that fail on purpose in the process, and surroundings that a command should live with."""
    draw = source(seed, "injected", number)
    kind = nth(INJECTED, number, seed)
    films = ("clip", "clip, frames, sound", "upscale")
    writers = {
        "writing-weights": ("convert", "encode"),
        "encoding": films,
        "opening": films,
        "not-finite": (*films, "dev", "picture", "encode"),
    }
    name = draw.choice(writers.get(kind, ("clip", "upscale", "picture", "convert", "encode")))
    job, env, fault, statuses = jobs(place.material, str(place.folder) + "/")[name], {}, kind, (1, 2)
    job = Job(job.name, job.command, job.line, tuple(output.removeprefix(f"{place.folder}/") for output in job.outputs))
    names: tuple[str, ...] = ("out", "disk", "encod", "finite", "NaN", "numbers")
    if kind in ("renaming", "opening"):
        fault = f"{kind}:{draw.choice(ERRORS)}"
    elif kind == "encoding":
        fault = f"{kind}:{draw.randrange(8)}:{draw.choice((*ERRORS, 'encoder', 'encoder'))}"
    elif kind == "not-finite":
        fault, statuses = f"{kind}:{draw.randrange(40)}", (1, 2)
    elif kind == "closed":
        fault = f"{kind}:{draw.choice(('1', '2', '1,2', '0'))}"
    elif kind in ("no home", "home is a file", "ascii", "no user", "stdout full", "reader gone"):
        fault = ""
        env = {
            "no home": {"HOME": "/nonexistent", "XDG_CACHE_HOME": "", "HF_HOME": "/nonexistent/hf"},
            "home is a file": {"HOME": "/etc/passwd"},
            "ascii": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LANG": "C"},
            "no user": {"USER": "", "LOGNAME": "", "HOME": ""},
        }.get(kind, {})  # fmt: skip
    healthy = kind in (
        "clock",
        "closed",
        "no home",
        "home is a file",
        "ascii",
        "no user",
        "stdout full",
        "reader gone",
    )
    place.remember()
    if kind in ("stdout full", "reader gone"):
        ended = _streams(place, job, kind)
    else:
        ended = place.run(job.command, job.line, fault, env)
    verdict, why = examined(place, job, ended, statuses=(0,) if healthy else statuses, names=(*names, "working folder"))
    if kind == "not-finite" and verdict == "partial files" and "another" in why:
        verdict, why = "silent", why
    return f"{job.name}: {fault or kind}", verdict, why, ended.said


def _streams(place: Place, job: Job, kind: str) -> Ended:
    """The command with streams into a full device, or a pipe that nobody reads from any more."""
    begun = time.monotonic()
    words = [sys.executable, "-m", f"mlx_video.{job.command}", *job.line]
    with open("/dev/full" if kind == "stdout full" else os.devnull, "wb") as full:
        process = subprocess.Popen(
            words, cwd=place.folder, env=place.env, stdin=subprocess.DEVNULL,
            stdout=full if kind == "stdout full" else subprocess.PIPE,
            stderr=subprocess.PIPE if kind == "reader gone" else full,
        )  # fmt: skip
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    try:
        process.wait(place.limit + START)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return Ended(process.returncode, "", time.monotonic() - begun, "hang")
    return Ended(process.returncode, "", time.monotonic() - begun)
