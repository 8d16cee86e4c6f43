"""Signals at any moment, and several runs to one name."""

from __future__ import annotations

import re
import shutil
import signal
import time

from tests.trials.draw import nth, source
from tests.trials.faults.process import (
    Ended,
    Found,
    Place,
    examined,
    hidden,
    jobs,
    usual_seconds,
    wrong_results,
)


def signals(number: int, seed: int, place: Place) -> Found:
    """SIGKILL, SIGTERM and SIGINT at any moment; after a SIGKILL, and now and then, the same again undisturbed."""
    draw = source(seed, "signals", number)
    name, sent = nth(
        [(name, sent) for name in jobs(place.material) for sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)],
        number,
        seed,
    )
    job, seconds = jobs(place.material)[name], usual_seconds(place, name)
    after = draw.uniform(0.02, 1.1) * seconds
    place.remember()
    process = place.start(job.command, job.line)
    ended = place.end(process, lambda: process.process.send_signal(sent), after)
    title = f"{job.name}: {sent.name} after {after:.2f} of {seconds:.2f} s"
    statuses = {signal.SIGKILL: (-9,), signal.SIGTERM: (130, 143), signal.SIGINT: (130,)}[sent]
    if before_ours(ended):
        ended = Ended(-sent, "", ended.seconds)
    verdict, why = examined(
        place, job, ended, statuses=statuses, ignored=hidden if sent == signal.SIGKILL else lambda name: False
    )
    if verdict in ("clear", "accepted") and (sent == signal.SIGKILL or number % 4 == 0):
        if job.command == "convert":
            shutil.rmtree(place.folder / "out", ignore_errors=True)
        shutil.rmtree(place.folder / "out", ignore_errors=True)
        again = place.run(job.command, job.line)
        made, _ = place.left()
        old = [name for name in made if hidden(name)]
        if again.status:
            verdict, why, ended = "wrong status", f"run again it ended with {again.status}", again
        elif wrong_results(place, job):
            verdict, why = "partial files", "run again: " + wrong_results(place, job)
        elif old and (place.folder / old[0]).stat().st_size:
            verdict, why = "partial files", f"left even after another run: {old[0]}"
    return title, verdict, why, ended.said


def before_ours(ended: Ended) -> bool:
    """Whether a signal came while Python itself still started, where no code of ours can answer, or while our first
    lines alone were there, which end the process without a word."""
    if ended.status == 130 and not ended.said.strip():
        return True
    # An editable installation is found by a module of its own name.
    said = (
        re.sub(r"__editable__\w*mlx_video\w*", "", ended.said)
        .replace("mlx_video/__init__.py", "")
        .replace("mlx_video.", "")
        .replace("-m mlx_video", "")
    )
    return "KeyboardInterrupt" in said and "mlx_video" not in said


def names(number: int, seed: int, place: Place) -> Found:
    """Two or three runs to one name at once: each ends well or with a sentence, and one result is there, whole."""
    draw = source(seed, "names", number)
    job = jobs(place.material)[
        nth(("convert", "encode", "clip", "clip, frames, sound", "upscale", "picture"), number, seed)
    ]
    count = draw.choice((2, 2, 3))
    place.remember()
    running = []
    for _ in range(count):
        running.append(place.start(job.command, job.line))
        time.sleep(draw.uniform(0, 0.3))
    ended = [place.end(process) for process in running]
    for one in ended:
        verdict, why = examined(place, job, one, names=("out",))
        if verdict not in ("clear", "accepted"):
            return f"{count} times {job.name}", verdict, why, one.said
    if all(one.status for one in ended):
        return f"{count} times {job.name}", "silent", "none of them made anything", ended[0].said
    return f"{count} times {job.name}", "accepted", "", ""
