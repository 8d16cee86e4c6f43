"""Runs trials in this process, one after the other, and judges them; the other end of `farm`.

Everything that a command says is caught at its file descriptors, so that what libraries in C say counts too.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

from tests.trials import readout
from tests.trials.case import Case, Run, Verdict, judge
from tests.trials.material import Material, environment

MEMORY = 2 << 30
"""Bytes that a trial may take beyond where the process stood."""
HASHED = 1 << 20
"""Bytes up to which a file that must not change is compared by its content, not by its size and time alone."""
Maker = Callable[[int, int, Material, Path], Case]
"""(number, seed, material, folder of its own) -> the case."""


def serve(connection: Connection, scratch: Path, seed: int) -> None:
    """Takes (group, number) from the connection and sends back a Verdict, until it gets None."""
    os.environ.clear()
    os.environ.update(environment(scratch))
    from tests.trials.groups import GROUPS

    material = Material(scratch / "material").prepare()
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        group, number = asked
        connection.send(attempt(GROUPS[group], group, number, seed, material, scratch, connection.send))


def attempt(
    make: Maker, group: str, number: int, seed: int, material: Material, scratch: Path,
    tell: Callable[[str], None] = lambda title: None,
) -> Verdict:  # fmt: skip
    """Makes the case of that number, runs it in a folder of its own, and judges; `tell` gets its title beforehand."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{group}-"))
    before = Path.cwd()
    try:
        os.chdir(folder)
        case = make(number, seed, material, folder)
        tell(case.title)
        run = run_case(case, material, folder)
        verdict, why = judge(case, run)
        if run.grown > MEMORY:
            verdict, why = "memory", f"{run.grown / 2**30:.1f} GiB above where it began"
        return Verdict(case.title, group, number, verdict, why, run.said[-3000:], run.seconds)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def run_case(case: Case, material: Material, folder: Path) -> Run:
    """Runs the command and compares what lies in the folder before and after."""
    kept = states(folder) | states(material.root)
    base = start_of_peak()
    begun = time.monotonic()
    with caught() as said:
        status = call(case.command, case.line)
    run = Run(status, said[0], seconds=time.monotonic() - begun, grown=peak() - base)
    now = states(folder) | states(material.root)
    run.made = tuple(str(path.relative_to(folder)) for path in now if path not in kept and path.is_relative_to(folder))
    run.changed = tuple(path.name for path, state in kept.items() if now.get(path) != state and not path.is_dir())
    if status == 0 and case.expect != "refused":
        run.faults = faults_of(case, run, material, folder)
    return run


def faults_of(case: Case, run: Run, material: Material, folder: Path) -> list[str]:
    """What is wrong with what an accepted command made."""
    faults = []
    for name in case.outputs:
        found = readout.look(folder / name)
        if isinstance(found, str):
            faults.append(f"{name}: {found}")
        elif case.expect == "right" and found.flat:
            faults.append(f"{name}: of one colour")
        elif case.expect == "same" and case.twin is not None:
            twin = twin_of(case, name, material)
            if twin != found.digest:
                faults.append(f"{name} is another than without the change")
    if case.check is not None and not faults:
        faults += filter(None, [case.check(run, folder)])
    return faults


def twin_of(case: Case, name: str, material: Material) -> str:
    """What the undisturbed command makes; made once for each line and kept beside the material."""
    assert case.twin is not None
    key = hashlib.blake2b(json.dumps([case.command, case.twin]).encode(), digest_size=8).hexdigest()
    note = material.root.parent / "twins" / f"{key}.json"
    if not note.exists():
        folder = Path(tempfile.mkdtemp(dir=material.root.parent, prefix="twin-"))
        before = Path.cwd()
        os.chdir(folder)
        try:
            with caught() as said:
                status = call(case.command, case.twin)
            if status != 0:
                raise RuntimeError(f"{case.command} {case.twin} ended with {status}: {said}")
            looks = {output: readout.look(folder / output) for output in case.outputs}
            note.parent.mkdir(exist_ok=True)
            note.write_text(json.dumps({k: v if isinstance(v, str) else v.digest for k, v in looks.items()}))
        finally:
            os.chdir(before)
            shutil.rmtree(folder, ignore_errors=True)
    return json.loads(note.read_text())[name]


def call(command: str, line: tuple[str, ...]) -> int | None:
    """The exit status of a command's `main`; None, with the traceback said, where an exception left it."""
    try:
        status = importlib.import_module(f"mlx_video.{command}").main(list(line))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        return None
    return status


@contextmanager
def caught() -> Iterator[list[str]]:
    """Both streams go to a file; yields a list that gets what was said when the block ends."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush(), sys.stderr.flush()
        old = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        streams = sys.stdout, sys.stderr
        # Where a test runner has put its own in their place.
        sys.stdout, sys.stderr = (_on(number) for number in (1, 2))
        try:
            yield said
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    traceback.print_exc()
            sys.stdout, sys.stderr = streams
            os.dup2(old[0], 1), os.dup2(old[1], 2)
            os.close(old[0]), os.close(old[1])
            file.seek(0)
            said.append(file.read().decode("utf-8", "backslashreplace"))


def _on(number: int) -> TextIO:
    return open(number, "w", errors="backslashreplace", closefd=False)


def states(folder: Path) -> dict[Path, object]:
    """What would tell that a file is not as it was, of all files below a folder; links are not followed."""
    found: dict[Path, object] = {}
    for place, folders, files in os.walk(folder):
        for name in files + [name for name in folders if os.path.islink(os.path.join(place, name))]:
            path = Path(place, name)
            state = path.lstat()
            plain = path.is_file() and not path.is_symlink() and state.st_size <= HASHED
            found[path] = hashlib.blake2b(path.read_bytes()).digest() if plain else (state.st_size, state.st_mtime_ns)
    return found


def start_of_peak() -> int:
    """Forgets the peak so far where the system can, and gives the bytes that are held now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most bytes that this process has held since `start_of_peak`; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
