"""Disks that are full, become read-only or vanish, and the limits that a system sets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.trials.draw import nth, source
from tests.trials.faults.process import (
    Found,
    Place,
    examined,
    jobs,
    usual_seconds,
)


@contextmanager
def small_disk(place: Place, size: str) -> Iterator[Path | None]:
    """A file system of that size at disk/; None where this user may not mount one."""
    disk = place.folder / "disk"
    disk.mkdir()
    made = sys.platform == "linux" and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
    ).returncode  # fmt: skip
    try:
        yield disk if made else None
    finally:
        if made:
            subprocess.run(["umount", "-l", str(disk)], capture_output=True)


DISKS = ("4k", "64k", "100k", "300k", "1m", "read-only", "gone", "file instead", "read-only", "removed")


def disk(number: int, seed: int, place: Place) -> Found:
    """Results go to a disk that is too small, becomes read-only, or whose folder vanishes while they are made."""
    draw = source(seed, "disk", number)
    name, kind = nth([(name, kind) for name in jobs(place.material) for kind in DISKS], number, seed)
    job = jobs(place.material, "disk/")[name]
    after = draw.uniform(0.3, 1.0) * usual_seconds(place, name)
    title = f"{job.name}: {kind}"
    with small_disk(place, kind if kind[0].isdigit() else "64m") as there:
        if there is None:
            return title, "skipped", "no file system can be mounted here", ""
        place.remember()
        process = place.start(job.command, job.line)
        moved = place.folder / "moved"
        disturb: dict[str, Callable[[], object]] = {
            "read-only": lambda: subprocess.run(["mount", "-o", "remount,ro", str(there)], capture_output=True),
            "gone": lambda: subprocess.run(["umount", "-l", str(there)], capture_output=True),
            "removed": lambda: [_remove(item) for item in there.iterdir()],
            "file instead": lambda: (subprocess.run(["umount", "-l", str(there)], capture_output=True),
            there.rename(moved), there.touch()),
        }  # fmt: skip
        act = disturb.get(kind)
        ended = place.end(process, (lambda: act() and None) if act else None, after)
        if kind == "file instead" and there.is_file():
            there.unlink()
        names = ("disk", "out", "full", "room", "free")
        # A file of ours that is taken away under our hands is not ours to account for, and neither is its rest.
        verdict, why = examined(place, job, ended, names=names, statuses=(0, 1, 2), ignored=lambda name: name == "disk")
        if kind in disturb and ended.status == 0 and job.outputs[0] in ended.said:
            verdict, why = "accepted", "the disk went when all was done"
    return f"{title} after {after:.2f} s" if kind in disturb else title, verdict, why, ended.said


def _remove(item: Path) -> None:
    shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)


def limits(number: int, seed: int, place: Place) -> Found:
    """Limits on memory, on a file's size and on open files."""
    draw = source(seed, "limits", number)
    name, kind = nth(
        [(name, kind) for name in jobs(place.material) for kind in ("AS", "FSIZE", "FSIZE", "NOFILE")], number, seed
    )
    job = jobs(place.material)[name]
    most = {
        "AS": draw.randrange(1 << 30, 4 << 30),
        "FSIZE": int(2 ** draw.uniform(2, 18)),
        "NOFILE": draw.randrange(8, 60),
    }[kind]
    place.remember()
    ended = place.run(job.command, job.line, f"limit:{kind}:{most}")
    names = ("out", "memory", "files", "large", "limit")
    verdict, why = examined(place, job, ended, names=names, statuses=(0, 1, 2))
    if verdict == "traceback" and kind == "AS" and "SystemError" in ended.said:
        verdict, why = "accepted", "native code without memory, which says so in no other way"
    return f"{job.name}: RLIMIT_{kind} {most:,}", verdict, why, ended.said
