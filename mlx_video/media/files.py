"""Inputs that are there, outputs that appear whole or not at all, and the checks to make before hours of work.

A file or folder is written beside its place under another name and then renamed; whatever ends the writing early takes
the unfinished part away. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_video.types import UserError


def check_input(path: str | Path, what: str) -> Path:
    """The path of a file to read, with `~` spelt out; `what` is "a picture file" and the like, for the message.

    Raises UserError where there is no file, or an empty one.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give {what}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); give {what}.")
    return path


def check_place(path: str | Path, suffixes: Collection[str], *, needed: int = 0) -> Path:
    """The path, once it is sure that a file can be written there.

    suffixes: the endings that the file may have, with their dots; needed: bytes that should be free.
    Raises UserError where the ending is another, the place is a folder, or its folder is absent, unwritable or full.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'!r}; it can be written as {', '.join(suffixes)}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    _check_folder(path, needed)
    return path


def check_new_folder(path: str | Path, *, needed: int = 0) -> Path:
    """The path, once it is sure that a new folder can be made there; an empty one may be there already.

    Raises UserError where something is in the way, or the parent folder is absent, unwritable or full.
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already and is not an empty folder; give another name or remove it.")
    _check_folder(path, needed)
    return path


def _check_folder(path: Path, needed: int) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; create it first (mkdir -p {folder}).")
    try:
        # Permission bits do not tell of read-only disks and the like; a file made and dropped does.
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written to: {error.strerror or error}.") from error
    if free < needed:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free; {path.name} may need {needed / 1e9:.1f} GB.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; becomes `path` when the block ends well and is removed when it does not.

    Raises UserError where the disk is full.
    """
    temporary = _beside(path)
    try:
        with _full_disk_named(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a new folder: it is there, empty, when the block begins."""
    temporary = _beside(path)
    try:
        with _full_disk_named(path):
            temporary.mkdir()
            yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    # The suffix stays, for writers that read the format from it; the dot hides the unfinished file.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"The disk that holds {path.parent} is full; {path.name} was not written.") from error
