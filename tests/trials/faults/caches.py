"""A prompt cache that is damaged or cannot be written."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.trials import spoil
from tests.trials.draw import nth, source
from tests.trials.faults.disks import small_disk
from tests.trials.faults.process import (
    Found,
    Place,
    examined,
    jobs,
)
from tests.trials.groups.files import changed, drawn_tensor, poisoned
from tests.trials.material import Material, put_together, take_apart


@cache
def _cache_of(scratch: Path) -> Path:
    """A cache with the prompt's context in it."""
    folder = scratch / "cache"
    work = scratch / "cache-run"
    work.mkdir()
    job = jobs(Material(scratch / "material"))["clip"]
    Place(scratch, work, 600.0).run(job.command, job.line, env={"MLX_VIDEO_CACHE": str(folder)})
    return folder


CACHES = (
    "cut", "cut", "flips", "flips", "header flips", "NaN", "inf", "renamed", "lost", "metadata", "metadata", "empty",
    "fifo", "directory", "link loop",
    "random", "shape", "other's", "folder is a file", "folder is missing", "full disk", "full disk", "read-only disk",
    "device", "sparse", "swap",
    "deep", "zeros", "strangers", "folder loops", "narrow",
)  # fmt: skip


def damaged(file: Path, kind: str, draw: random.Random) -> None:
    """Damages a file of the cache."""
    data = file.read_bytes()
    tree, body = take_apart(file)
    name, entry, mine = drawn_tensor(file, draw, 0)
    file.unlink()
    special: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(file), "directory": file.mkdir, "link loop": lambda: file.symlink_to(file.name),
        "device": lambda: file.symlink_to("/dev/zero"),
        "sparse": lambda: (file.write_bytes(data), os.truncate(file, 20 << 30)),
    }  # fmt: skip
    if kind in special:
        special[kind]()
        return
    original = file.with_name("original.safetensors")
    original.write_bytes(data)
    if kind == "flips":
        at = draw.randrange(len(data) - len(body), len(data))
        data = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
    elif kind in ("NaN", "inf"):
        data = changed(original, name, {}, poisoned(entry, mine, kind, draw))
    elif kind in ("renamed", "lost", "shape", "narrow"):
        shape = entry["shape"]
        new = {
            "renamed": {},
            "lost": None,
            "shape": {"shape": shape[::-1]},
            "narrow": {"shape": [*shape[:-1], shape[-1] // 2]},
        }[kind]
        data = changed(original, name, new, mine[: len(mine) // 2] if kind == "narrow" else mine, name + "x")
    elif kind == "metadata":
        key = draw.choice(list(tree["__metadata__"]))
        tree["__metadata__"][key] = draw.choice(("", "text", "[" * 9000, "null", "{}"))
        data = put_together(tree, body)
    elif kind == "swap":
        names = [key for key in tree if key != "__metadata__"]
        tree[names[0]], tree[names[1]] = tree[names[1]], tree[names[0]]
        data = put_together(tree, body)
    else:
        data = {
            "cut": data[: draw.randrange(len(data))], "header flips": data[:8] + spoil.byte_flips(data[8:200], draw,
            3) + data[200:], "empty": b"",
            "random": draw.randbytes(5000), "deep": put_together("[" * 100_000, b""), "zeros": bytes(len(data)),
        }.get(kind, data)  # fmt: skip
    original.unlink()
    file.write_bytes(data)


def damaged_cache(number: int, seed: int, place: Place) -> Found:
    """A prompt cache that is damaged, or cannot be written: the clip is the same in any case."""
    draw = source(seed, "cache", number)
    kind = nth(CACHES, number, seed)
    mine = place.folder / "cache"
    job = jobs(place.material)["clip"]
    with small_disk(place, "8k" if kind == "full disk" else "32m") as there:
        where: Path = mine
        if kind in ("full disk", "read-only disk"):
            if there is None:
                return kind, "skipped", "no file system can be mounted here", ""
            where = there / "cache"
            where.mkdir()
        elif kind == "folder is a file":
            mine.write_text("no folder")
        elif kind == "folder loops":
            mine.symlink_to("cache")
        elif kind != "folder is missing":
            shutil.copytree(_cache_of(place.scratch), mine)
        files = sorted(mine.glob("*.safetensors")) if kind not in ("folder loops",) else []
        if kind == "strangers":
            for n in range(50):
                (mine / f"{n}.safetensors").mkdir()
        elif kind == "other's":
            shutil.copy(place.material.embedding, files[0])
        else:
            for file in files:
                damaged(file, kind, draw)
        if kind == "read-only disk":
            subprocess.run(["mount", "-o", "remount,ro", str(there)], capture_output=True)
        place.remember()
        ended = place.run(job.command, job.line, env={"MLX_VIDEO_CACHE": str(where)})
        verdict, why = examined(
            place, job, ended, statuses=(0,), ignored=lambda name: name.startswith(("cache", "disk"))
        )
        # What the cache holds may change: that is what it is for.
        verdict, why = ("accepted", "") if verdict == "lost input" else (verdict, why)
    return kind, verdict, why, ended.said
