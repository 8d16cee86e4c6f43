"""Faults around real processes: signals, full and vanishing disks, limits, damaged caches, failing parts, runs at once.

Knows which commands to disturb, how, and what has to hold afterwards: results whole or not there, inputs as they were,
a sentence and no traceback, nothing left behind.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.trials import readout, spoil
from tests.trials.case import Case, Run, Verdict, closing, closing_of_traceback, judge
from tests.trials.draw import nth, source
from tests.trials.farm import resident
from tests.trials.groups.tensors import changed, drawn_tensor, poisoned
from tests.trials.material import PROMPT, Material, clip, enlarge, environment, put_together, take_apart
from tests.trials.worker import MEMORY, states

ROOT = Path(__file__).parents[2]
SHARES = {"signals": 110, "download": 18, "disk": 50, "limits": 32, "cache": 34, "injected": 44, "names": 12}
GLANCE = 0.02


def shares(total: int) -> dict[str, int]:
    """How many trials each kind gets of `total`; at least one each."""
    whole = sum(SHARES.values())
    return {name: max(1, round(total * share / whole)) for name, share in SHARES.items()}


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

    def start(
        self, command: str, line: Sequence[str], fault: str = "", env: Mapping[str, str] = {}
    ) -> subprocess.Popen:
        """Starts a command, with something failing in it if said so; what it says goes to a file."""
        words = ["tests.trials.child", fault, command] if fault else [f"mlx_video.{command}"]
        said = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `end`
        process = subprocess.Popen(
            [sys.executable, "-m", *words, *line],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        process.said = said  # type: ignore[attr-defined]
        process.begun = time.monotonic()  # type: ignore[attr-defined]
        return process

    def end(self, process: subprocess.Popen, disturb: Callable[[], None] | None = None, after: float = 0.0) -> Ended:
        """Waits for the end; `disturb` is called once, `after` seconds from the start."""
        verdict, begun = "", process.begun  # type: ignore[attr-defined]
        while process.poll() is None:
            time.sleep(GLANCE)
            seconds = time.monotonic() - begun
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
        process.said.seek(0)  # type: ignore[attr-defined]
        said = process.said.read().decode("utf-8", "backslashreplace")  # type: ignore[attr-defined]
        process.said.close()  # type: ignore[attr-defined]
        return Ended(process.returncode, said, time.monotonic() - begun, verdict)

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


START = 30.0
"""Seconds that a process may need besides, to come up on a busy machine."""
Found = tuple[str, str, str, str]
"""(title, verdict, why, said) of one trial."""


def attempt(group: str, number: int, seed: int, scratch: Path, limit: float) -> Verdict:
    """Makes one fault of a kind and judges what came of it."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{group}-"))
    begun = time.monotonic()
    try:
        title, verdict, why, said = KINDS[group](number, seed, Place(scratch, folder, limit))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(title, group, number, verdict, why, said[-3000:], time.monotonic() - begun)


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
    if ended.status not in statuses:
        return "wrong status", f"exit status {ended.status}"
    if changed_:
        return "lost input", ", ".join(changed_)
    if ended.status < 0:
        return "clear", ""
    return judge(case, Run(2 if ended.status in (2, 130, 143) else ended.status, ended.said))


def wrong_results(place: Place, job: Job, same: bool = True) -> str:
    """What is wrong with results that lie under their names, or nothing."""
    for output in job.outputs:
        path = place.folder / output
        if not path.exists():
            continue
        found = readout.look(path)
        if isinstance(found, str):
            return f"{output} {found}"
        if same and found.digest != undisturbed(place, job.name)[output.removeprefix("disk/")]:
            return f"{output} is another than without the fault"
    return ""


@cache
def _undisturbed(scratch: Path, name: str) -> tuple[dict[str, str], float]:
    folder = scratch / f"undisturbed-{name.replace(' ', '-')}"
    folder.mkdir()
    place = Place(scratch, folder, 600.0)
    job = jobs(place.material)[name]
    ended = place.run(job.command, job.line)
    looks = {output: readout.look(folder / output) for output in job.outputs}
    wrong = [look for look in looks.values() if isinstance(look, str)]
    if ended.status or wrong:
        raise RuntimeError(f"{name} fails undisturbed: {wrong} {ended.said}")
    return {output: look.digest for output, look in looks.items() if not isinstance(look, str)}, ended.seconds


def undisturbed(place: Place, name: str) -> dict[str, str]:
    """Digests of a job's results without any fault."""
    return _undisturbed(place.scratch, name)[0]


def usual_seconds(place: Place, name: str) -> float:
    """How long a job takes without any fault."""
    return _undisturbed(place.scratch, name)[1]


# ------------------------------------------------------------------------------------------------ kinds


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
    ended = place.end(process, lambda: process.send_signal(sent), after)
    title = f"{job.name}: {sent.name} after {after:.2f} of {seconds:.2f} s"
    statuses = {signal.SIGKILL: (-9,), signal.SIGTERM: (130, 143, -15), signal.SIGINT: (130, -2)}[sent]
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


def hidden(name: str) -> bool:
    """Whether a file is an unfinished one."""
    return name.startswith(".") and ".part" in name


def before_ours(ended: Ended) -> bool:
    """Whether a signal came while Python itself still started, where no code of ours can answer."""
    return "KeyboardInterrupt" in ended.said and "mlx_video" not in ended.said.replace("mlx_video.", "").replace(
        "-m mlx_video", ""
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
    return (
        f"{job.name}: RLIMIT_{kind} {most:,}",
        *examined(place, job, ended, names=names, statuses=(0, 1, 2)),
        ended.said,
    )


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


def cache_(number: int, seed: int, place: Place) -> Found:
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
        "gone",
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
    verdict, why = examined(place, job, ended, statuses=(0,) if healthy else statuses, names=names)
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


@contextmanager
def hub(material: Material, pause: float, cut: int | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server that holds the model as a/model: (address, a call that lets it be quick and whole from then on).

    pause: seconds between pieces of a file; cut: bytes after which every connection breaks.
    """
    from tests import played_hub

    state = {"pause": pause, "cut": cut}

    class Slow(played_hub._Handler):
        def send(self, name, file):
            raw, sent = self.wfile, 0

            class Slowly:
                def write(self, piece):
                    nonlocal sent
                    time.sleep(state["pause"] or 0)
                    sent += len(piece)
                    if state["cut"] is not None and sent > state["cut"]:
                        raise ConnectionResetError
                    return raw.write(piece)

                def __getattr__(self, name):
                    return getattr(raw, name)

            self.wfile = Slowly()
            try:
                super().send(name, file)
            finally:
                self.wfile = raw

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    names = [str(path.relative_to(material.model)) for path in material.model.rglob("*") if path.is_file()]
    server.hub = played_hub.Hub({"a/model": played_hub.repo_of(material.model, *names)})  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lambda: state.update(pause=0, cut=None)
    finally:
        server.shutdown()
        server.server_close()


def download(number: int, seed: int, place: Place) -> Found:
    """A download that is slow, breaks, is killed, or runs twice at once; then the same from a hub in good order."""
    draw = source(seed, "download", number)
    kind = nth(
        ("SIGKILL", "SIGTERM", "SIGINT", "breaks", "gone", "twice", "small disk", "SIGKILL", "breaks"), number, seed
    )
    job = jobs(place.material)["clip"]
    words = list(job.line)
    words[words.index(str(place.material.model))] = "a/model"
    pause, cut = draw.uniform(0.002, 0.02), draw.randrange(1000, 10_000_000) if kind == "breaks" else None
    with hub(place.material, pause, cut) as (address, mend), small_disk(place, "6m") as there:
        home = there / "hf" if kind == "small disk" and there else place.folder / "hf"
        env = {
            "HF_ENDPOINT": address if kind != "gone" else "http://127.0.0.1:9",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        place.remember()
        process = place.start("generate", words, env=env)
        other = place.start("generate", words, env=env) if kind == "twice" else None
        sent = getattr(signal, kind, None)
        ended = place.end(
            process,
            (lambda: process.send_signal(sent)) if sent else None,
            usual_seconds(place, "clip") * 0.5 + draw.uniform(0, 3),
        )
        statuses = {"SIGKILL": (-9,), "SIGTERM": (130, 143, -15), "SIGINT": (130, -2)}.get(kind, (2,))
        verdict, why = examined(place, job, ended, statuses=statuses, names=("a/model", "hub", "network", "disk",
        "free", "interrupted"), same=True,
                                ignored=lambda name: name.startswith(("hf",
                                "disk")) or (kind == "SIGKILL" and hidden(name)))  # fmt: skip
        if other is not None:
            place.end(other)
        if verdict in ("clear", "accepted") and kind != "small disk":
            mend()
            again = place.run("generate", words, env=env | {"HF_ENDPOINT": address})
            if again.status:
                verdict, why, ended = (
                    "wrong status",
                    f"from a good hub it then ended with {again.status}: {closing(again.said)[-1:]}",
                    again,
                )
            elif wrong_results(place, job):
                verdict, why = "silent", "from a good hub: " + wrong_results(place, job)
    return f"{kind} {'' if cut is None else cut}", verdict, why, ended.said


KINDS: dict[str, Callable[[int, int, Place], Found]] = {
    "signals": signals, "download": download, "disk": disk, "limits": limits, "cache": cache_, "injected": injected,
    "names": names,
}  # fmt: skip
