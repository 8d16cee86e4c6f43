"""Inputs that are there, outputs that appear whole or not at all, and the checks to make before hours of work.

A file or folder is written beside its place under another name and then renamed; whatever ends the writing early takes
the unfinished part away, and what a killed process left is taken away by the next that writes there. Knows nothing of
what is written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_video.reading import path_of
from mlx_video.types import RunError, UserError, amount

YOUNG = 10.0
"""Seconds: an unfinished file that is still empty may belong to a process that has just made it."""
UNTOUCHED = 86_400.0
"""Seconds after which an unfinished file is nobody's, where the disk knows no locks."""


def check_input(path: str | Path, what: str) -> Path:
    """The path of a file to read, with `~` spelt out; `what` is "a picture file" and the like, for the message.

    Raises UserError where there is no file, or an empty one.
    """
    path = path_of(path, advice=f"give {what}")
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is no plain file" if path.exists() else "does not exist"
        raise UserError(f"{path} {kind}; give {what}.")
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.") from error
    if size == 0:
        raise UserError(f"{path} is empty (0 bytes); give {what}.")
    return path


def check_place(path: str | Path, suffixes: Collection[str], *, needed: int = 0) -> Path:
    """The path, once it is sure that a file can be written there.

    suffixes: the endings that the file may have, with their dots; needed: bytes that should be free. What killed
    processes left unfinished of that very file is removed.
    Raises UserError where the ending is another, the place is a folder, or its folder is absent, unwritable or full.
    """
    path = path_of(path, advice="give the name of a file")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'!r}; it can be written as {', '.join(suffixes)}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no plain file; give the name of a file.")
    _check_folder(path)
    check_room({path: needed})
    return path


def check_new_folder(path: str | Path, *, needed: int = 0) -> Path:
    """The path, once it is sure that a new folder can be made there; an empty one may be there already.

    Raises UserError where something is in the way, or the parent folder is absent, unwritable or full.
    """
    path = path_of(path, advice="give the name of a folder")
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise UserError(f"The folder {path} cannot be read: {_reason(error)}.") from error
    if taken or os.path.ismount(path):
        raise UserError(f"{path} is there already and is not an empty folder; give another name or remove it.")
    _check_folder(path)
    check_room({path: needed})
    return path


def check_room(needed: Mapping[Path, int]) -> None:
    """Raises UserError where a disk has less room than all that is to be written on it: bytes by output path."""
    disks: dict[int, dict[Path, int]] = {}
    for path, size in needed.items():
        disks.setdefault(path.parent.stat().st_dev, {})[path] = size
    for sizes in disks.values():
        total, folder = sum(sizes.values()), next(iter(sizes)).parent
        try:
            usage = shutil.disk_usage(folder)
        except OSError as error:
            raise UserError(f"The folder {folder} cannot be written to: {_reason(error)}.") from error
        # Some network disks do not tell: all their figures are 0.
        if usage.total and usage.free < total:
            names = " and ".join(path.name for path in sizes)
            free, wanted = amount(usage.free, disk=True), amount(total, disk=True)
            raise UserError(f"{folder} has {free} free; {names} may need {wanted}.")


def check_apart(outputs: Collection[Path], inputs: Mapping[str, str | Path]) -> None:
    """Raises UserError where an output is one of the inputs, however either is spelt or linked.

    inputs: paths by what the user calls them ("--image a.png"); those that are not there are no concern of this.
    """
    for output in outputs:
        for name, path in inputs.items():
            with suppress(OSError, ValueError, RuntimeError):
                if output.samefile(Path(path).expanduser()):
                    raise UserError(f"{output} is the input itself ({name}); give another name for the output.")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; create it first (mkdir -p {folder}).")
    try:
        # Permission bits do not tell of read-only disks and the like; a file made and dropped does.
        with tempfile.TemporaryFile(dir=folder):
            pass
        _remove_left(path)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written to: {_reason(error)}.") from error


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; becomes `path` when the block ends well and is removed when it does not.

    folder: a new folder, which is there, empty, when the block begins. Raises UserError where the disk is full, the
    folder gone or the like, and RunError where the disk is broken.
    """
    temporary = _beside(path)
    try:
        with _failure_named(path, temporary), _marked(temporary, folder):
            yield temporary
            _take_place(temporary, path)
    finally:
        _remove(temporary)


def _remove(left: Path) -> None:
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _take_place(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not path.exists():
            raise
        raise UserError(f"{path} was made by another run meanwhile; it is left as it is, give another name.") from error


_TOKEN = 4
_NAME_BYTES = 200
"""Of a name that its unfinished file begins with, so that this one is no longer than a name may be."""


def _beside(path: Path) -> Path:
    begin, end = _around_token(path)
    return path.with_name(f"{begin}{secrets.token_hex(_TOKEN)}{end}")


def _around_token(path: Path) -> tuple[str, str]:
    # The suffix stays, for writers that read the format from it; the dot hides the unfinished file.
    stem = os.fsencode(path.stem)[:_NAME_BYTES].decode("utf-8", "ignore")
    return f".{stem}.", f".part{path.suffix[:16]}"


@contextmanager
def _marked(temporary: Path, folder: bool) -> Iterator[None]:
    """Makes an unfinished file or folder, and holds a lock on it that ends with the process however that ends."""
    if folder:
        temporary.mkdir()
    else:
        temporary.touch(exist_ok=False)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks know no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_left(path: Path) -> None:
    """Removes what processes that were killed left unfinished of `path`, and nothing that is still being written."""
    begin, end = map(re.escape, _around_token(path))
    pattern = re.compile(f"{begin}[0-9a-f]{{{2 * _TOKEN}}}{end}")
    for entry in list(os.scandir(path.parent)):
        with suppress(OSError):
            left = path.parent / entry.name
            if pattern.fullmatch(entry.name) and not entry.is_symlink() and _is_left(left):
                _remove(left)


def _is_left(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        state = os.fstat(handle)
        age = time.time() - state.st_mtime
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return age > UNTOUCHED
        empty = not any(path.iterdir()) if path.is_dir() else state.st_size == 0
        return not empty or age > YOUNG
    finally:
        os.close(handle)


_CAUSES = {
    errno.ENOSPC: "the disk that holds {folder} is full",
    errno.EDQUOT: "the disk that holds {folder} is full (your share of it)",
    errno.EFBIG: "it is larger than a file may be there (ulimit -f, or the disk's own limit)",
    errno.EROFS: "the disk that holds {folder} can no longer be written to",
    errno.ENOENT: "{folder} is not there any more",
    errno.ENOTDIR: "{folder} is no folder any more",
    errno.EISDIR: "a folder of that name was made meanwhile",
    errno.EMFILE: "too many files are open (ulimit -n allows more)",
    errno.EIO: "the disk that holds {folder} failed (input/output error)",
}


@contextmanager
def _failure_named(path: Path, temporary: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not _is_about(error, path, temporary):
            raise
        raise failure(error, path) from error


def _is_about(error: OSError, path: Path, temporary: Path) -> bool:
    if not error.filename or not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    named = Path(os.fsdecode(error.filename))
    return named in (path, temporary) or temporary in named.parents


def failure(error: OSError, path: Path) -> UserError | RunError:
    """What to raise where writing `path` failed: nothing was written, and why."""
    cause = _CAUSES.get(error.errno or 0, _reason(error))
    text = f"{path} was not written: {cause.format(folder=path.parent)}."
    return RunError(text) if error.errno == errno.EIO else UserError(text)
