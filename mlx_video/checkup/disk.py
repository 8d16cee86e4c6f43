"""How fast weights are read from the disk, which matters where a network is read in every step.

A file is written beside where models lie, the system is asked to forget it, and it is read as weights are: in order.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.types import amount

SIZE = 256 << 20
"""Bytes of the file."""
PIECE = 8 << 20
SECONDS = 6.0
"""After which no more is written, or read."""
SLOW = 0.5e9
"""Bytes a second; Macs' own disks read 3 to 7 GB/s, and a plan counts on two."""
NO_CACHE = 48
"""F_NOCACHE of macOS's fcntl.h: what is read or written then is not kept."""


def place(folder: Path) -> Path:
    """The folder itself, or of those above it the nearest that there is."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def examine(folder: Path, size: int = SIZE) -> Finding:
    """Reads a new file of `size` bytes on the disk of `folder`, which is gone afterwards. Raises OSError."""
    folder = place(folder)
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < 4 * size:
        return Finding(
            "reading", Verdict.LOOK, f"not measured: {amount(free, disk=True)} are free", {"free_bytes": free}
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()
        written = _write(number, size)
        passed = _forget(number)
        rate = _read(number)
    how = "past the system's cache" if passed else "perhaps from the system's cache"
    said = f"{rate / 1e9:.1f} GB/s where models go ({amount(written)}, {how})"
    figures = {"bytes_per_second": rate, "past_cache": passed}
    if rate < SLOW:
        said += "; networks that are read in every step would be slow: keep models on a faster disk"
        return Finding("reading", Verdict.LOOK, said, figures)
    return Finding("reading", Verdict.OK, said, figures)


def _write(number: int, size: int) -> int:
    piece, written, until = os.urandom(PIECE), 0, time.monotonic() + SECONDS
    if sys.platform == "darwin":
        _uncached(number)
    while written < size and time.monotonic() < until:
        written += os.write(number, piece[: size - written])
    os.fsync(number)
    return written


def _uncached(number: int) -> bool:
    import fcntl

    try:
        fcntl.fcntl(number, NO_CACHE, 1)
    except OSError:
        return False
    return True


def _forget(number: int) -> bool:
    """Asks the system to read the file from the disk; whether it can be asked."""
    if sys.platform == "darwin":
        return _uncached(number)
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        return False
    try:
        advise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    return True


def _read(number: int) -> float:
    """Bytes a second."""
    os.lseek(number, 0, os.SEEK_SET)
    buffer, done, start = bytearray(PIECE), 0, time.perf_counter()
    while count := os.readv(number, [buffer]):
        done += count
        if time.perf_counter() - start > SECONDS:
            break
    return done / max(time.perf_counter() - start, 1e-9)
