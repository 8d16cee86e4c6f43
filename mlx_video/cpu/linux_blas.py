"""Gives MLX on a Linux CPU a fast matrix product: scipy's OpenBLAS in place of the reference BLAS of MLX's own wheel.

MLX's Linux wheel calls Netlib's BLAS (3 to 8 GFLOP/s a core, against 130 to 260 for OpenBLAS). `enable` opens the
OpenBLAS that scipy's wheel carries and writes its `cblas_*gemm` into the slots through which libmlx.so, and nothing
else, calls those functions (its global offset table). The library is opened privately, so that no other library binds
to it, which preloading it would not give.

It is never needed for a right answer: whatever is not as expected leaves MLX as it was. MLX_VIDEO_BLAS=off switches it
off; MLX_VIDEO_BLAS=on asks for it in a program of somebody else's. Knows the ELF format of 64-bit Linux and nothing of
networks.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import mmap
import os
import platform
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

log = logging.getLogger(__name__)

SWITCH = "MLX_VIDEO_BLAS"
FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
"""What libmlx.so calls; scipy's build prefixes its names with `scipy_` and takes 32-bit integers, as Netlib's does."""
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")

_RELOCATIONS = {"x86_64": (7, 6), "aarch64": (1026, 1025)}
"""Machine -> types of the relocations that hold a function's address (JUMP_SLOT, GLOB_DAT)."""
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23


class _Unexpected(Exception):
    """Something is not as this module needs it; MLX stays as it is."""


class _Mapping(NamedTuple):
    start: int
    end: int
    permissions: str
    offset: int
    path: str


def wanted() -> bool:
    """Whether this process has asked for it; the commands do, since their process is theirs."""
    return os.environ.get(SWITCH, "").lower() in ("on", "1", "yes")


def enable() -> bool:
    """Routes MLX's matrix products to scipy's OpenBLAS; True where they now go there.

    Does nothing, and says so in the log, away from 64-bit Linux, without scipy's wheel, or where MLX_VIDEO_BLAS is
    "off". Respects OPENBLAS_NUM_THREADS and OMP_NUM_THREADS; else uses the processors that this process may use.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        log.debug("%s is off: MLX keeps its own BLAS", SWITCH)
        return False
    try:
        slots = _slots()
        blas = _openblas()
        replaced = {slots[name]: _pointer(blas, f"scipy_{name}") for name in FUNCTIONS if name in slots}
        if not replaced:
            raise _Unexpected("libmlx.so calls no cblas_*gemm")
        before = {slot: ctypes.c_size_t.from_address(slot).value for slot in replaced}
        _write(replaced)
    except (_Unexpected, OSError, struct.error, ValueError, OverflowError) as error:
        log.info("MLX keeps its own, slower BLAS: %s", error)
        return False
    if not _multiplies():
        _write(before)
        log.warning("MLX keeps its own, slower BLAS: scipy's gave a wrong product")
        return False
    if not any(name in os.environ for name in THREAD_VARIABLES):
        blas.scipy_openblas_set_num_threads(processors())
    log.debug("MLX's matrix products go to scipy's OpenBLAS with %d threads", blas.scipy_openblas_get_num_threads())
    return True


def processors() -> int:
    """How many processors this process may keep busy: its affinity, or its container's share where that is less."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return max(1, min(count, int(quota) // int(period))) if quota.isdigit() else count


def _openblas() -> ctypes.CDLL:
    scipy = importlib.util.find_spec("scipy")
    if scipy is None or scipy.origin is None:
        raise _Unexpected("scipy is not installed")
    folder = Path(scipy.origin).parent.parent / "scipy.libs"
    files = sorted(folder.glob("libscipy_openblas-*.so"))
    if len(files) != 1:
        raise _Unexpected(f"{len(files)} OpenBLAS in {folder}, wanted one")
    return ctypes.CDLL(str(files[0]), mode=os.RTLD_LOCAL | os.RTLD_NOW)


def _pointer(library: ctypes.CDLL, name: str) -> int:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise _Unexpected(f"scipy's OpenBLAS has no {name}") from error
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _slots() -> dict[str, int]:
    """Address of the slot through which libmlx.so calls each of FUNCTIONS."""
    types = _RELOCATIONS.get(platform.machine())
    if sys.platform != "linux" or sys.maxsize <= 2**32 or types is None:
        raise _Unexpected(f"nothing is known of {sys.platform} on {platform.machine()}")
    found = [m for m in _mappings() if m.path.endswith("/libmlx.so")]
    heads = [m for m in found if m.offset == 0]
    if len(heads) != 1:
        raise _Unexpected(f"libmlx.so is mapped {len(heads)} times, wanted once")
    with open(heads[0].path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        offsets = _relocations(image, types)
    slots = {name: heads[0].start + offset for name, offset in offsets.items()}
    for name, slot in slots.items():
        if slot % 8 or not any(m.start <= slot < m.end and "r" in m.permissions for m in found):
            raise _Unexpected(f"the slot of {name} lies outside libmlx.so")
    return slots


def _relocations(image: mmap.mmap, types: tuple[int, ...]) -> dict[str, int]:
    """Reads an ELF file's dynamic section: name -> offset of its slot from where the file is loaded."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise _Unexpected("libmlx.so is not a 64-bit little-endian ELF file")
    table, size, count = struct.unpack_from("<32xQ14xHH", image)
    segments = [struct.unpack_from("<IIQQQQ", image, table + i * size) for i in range(count)]

    def position(address: int) -> int:
        for kind, _, offset, start, _, length in segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return int(offset + address - start)
        raise _Unexpected("libmlx.so has a table outside its segments")

    dynamic = next(iter(s for s in segments if s[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        raise _Unexpected("libmlx.so has no dynamic section")
    entries = dict(struct.iter_unpack("<QQ", image[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    if _DT_SYMTAB not in entries or _DT_STRTAB not in entries:
        raise _Unexpected("libmlx.so has no symbols")
    symbols, strings = position(entries[_DT_SYMTAB]), position(entries[_DT_STRTAB])
    slots = {}
    for start, length in ((_DT_JMPREL, _DT_PLTRELSZ), (_DT_RELA, _DT_RELASZ)):
        if start not in entries or length not in entries:
            continue
        first = position(entries[start])
        for offset, info, _ in struct.iter_unpack("<QQq", image[first : first + entries[length] // 24 * 24]):
            if info & 0xFFFFFFFF in types:
                name = strings + struct.unpack_from("<I", image, symbols + (info >> 32) * 24)[0]
                text = image[name : image.find(b"\0", name)].decode("ascii", "replace")
                if text in FUNCTIONS:
                    slots[text] = offset
    return slots


def _mappings() -> list[_Mapping]:
    result = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, offset, _, _, *path = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        result.append(_Mapping(start, end, permissions, int(offset, 16), path[0] if path else ""))
    return result


def _write(values: dict[int, int]) -> None:
    """Writes pointers at addresses; a page that was read-only is again afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    size = mmap.PAGESIZE
    for slot, value in values.items():
        page = slot // size * size
        writable = any(m.start <= slot < m.end and "w" in m.permissions for m in _mappings())
        if not writable and libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "mprotect: " + os.strerror(ctypes.get_errno()))
        ctypes.c_size_t.from_address(slot).value = value
        if not writable:
            libc.mprotect(page, size, mmap.PROT_READ)


def _multiplies() -> bool:
    """Whether MLX still multiplies: small whole numbers, which every order of summation gives exactly."""
    left = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    right = mx.arange(18, dtype=mx.float32).reshape(6, 3)
    wanted = (left[:, :, None] * right[None]).sum(1)
    return bool(mx.array_equal(mx.matmul(left, right, stream=mx.cpu), wanted, stream=mx.cpu))
