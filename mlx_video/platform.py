"""The one place of decisions that depend on the machine: device, precision, memory limits, work per evaluation.

Everything is asked of MLX when called; importing this file does nothing. Knows chips and operating systems, and no
network. Published figures quoted here were measured by other ports of LTX-2 on the Macs named, not by us.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mlx.core as mx

from mlx_video import linux_blas
from mlx_video.types import UserError

log = logging.getLogger(__name__)

GIB = 1 << 30
CACHE_LIMIT = 2 * GIB
"""Most bytes that MLX may keep of freed buffers. On the CPU backend the default is 32 MiB, so that each large temporary
is mapped afresh: a VAE decode took 1.33 times as long. On Metal nothing bounds it by default: a cap of 2 GB changed no
bit of the output, was up to 5 % faster and saved 4 to 11 GB (M5 Max, 9 to 121 frames)."""
PROCESS_BYTES = 320 << 20
"""Of a process besides MLX's arrays and freed buffers."""
CACHE_SHARE = 8
"""Of a machine's memory, or of a run's limit, freed buffers may keep one such part."""
SECONDS_PER_EVALUATION = 0.5
"""Aim for one `mx.eval` on a Mac. macOS kills work that keeps the display's GPU busy ("Impacting Interactivity",
ml-explore/mlx#3267); the bound is not documented, so this stays well below the seconds at which it was seen. The cost
of evaluating is about a millisecond."""

_TERAFLOPS = {
    13: {"g": 2.6, "s": 10.4, "d": 20.8},  # M1, M1 Pro and Max, M1 Ultra
    14: {"g": 3.6, "s": 13.6, "d": 27.2},
    15: {"g": 3.5, "s": 14.2, "d": 28.4},
    16: {"g": 4.3, "s": 18.4, "d": 36.8},
    17: {"g": 12.0, "s": 50.0, "d": 100.0},  # matrix units in each core: about four times as fast in 16 bit
}
"""Peak rate in 10^12 FLOP/s by generation (`applegpu_g13...` = M1) and size (g = base and Pro, s = Max, d = Ultra, as
MLX reads the letter; the smaller chip where a letter stands for two): the usual figures for float32, rounded down."""
_ATTAINED = 0.5
"""Share of the peak to count on: 5.2 of 10.4 was measured for feed-forward matrices on an M1 Max."""


def is_cpu() -> bool:
    """Whether MLX computes on the CPU backend by default."""
    return mx.default_device() == mx.cpu


def is_metal() -> bool:
    """Whether MLX computes on an Apple GPU by default."""
    return not is_cpu() and mx.metal.is_available()


def compute_dtype(*, wide_range: bool = False) -> mx.Dtype:
    """The precision that networks compute in unless the user says otherwise.

    wide_range: for a network whose activations leave float16's range (Gemma 3), which then gets bfloat16.

    float32 on the CPU backend, where a bfloat16 product is 16 times slower. On a GPU bfloat16, the reference's own,
    except on the M1 family: it has no bfloat16 arithmetic, and a render took 701 s in float32, 698 s in bfloat16 and
    563 s in float16 (M1 Max); float16 was also closer to float32 (1.7e-2 against 6.4e-2).
    """
    if is_cpu():
        return mx.float32
    family = _apple_gpu()
    return mx.float16 if family and family[0] <= 13 and not wide_range else mx.bfloat16


def flops_per_evaluation() -> float:
    """How many floating-point operations to put into one `mx.eval` at most; a loop over blocks evaluates before more.

    On a Mac: what the chip does in SECONDS_PER_EVALUATION, estimated low. Elsewhere nothing kills long work, and the
    bound (some seconds) only lets Ctrl-C through.
    """
    if is_cpu():
        return 1e12
    return flops_per_second() * SECONDS_PER_EVALUATION if _apple_gpu() else 1e14


def flops_per_second() -> float:
    """How many floating-point operations a second to count on: of a known chip half its peak, else a plain guess."""
    if is_cpu():
        return 1e11
    family = _apple_gpu()
    if family is None:
        return 1e14
    generation, size = family
    rates = _TERAFLOPS[min(max(generation, min(_TERAFLOPS)), max(_TERAFLOPS))]
    return rates.get(size, rates["g"]) * 1e12 * _ATTAINED


def memory_limit() -> int:
    """Bytes of memory that a run can count on at most: the machine's, the GPU's own, or the container's if less."""
    if not is_cpu():
        info = mx.device_info()
        size = info.get("memory_size") or info.get("total_memory")
        if size:
            return int(size)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits()])


def memory_budget() -> int:
    """Bytes of `memory_limit` that a run's arrays may take; the rest is for Python, the system and others.

    On Metal what the GPU may wire (two thirds of a Mac's memory up to 32 GB, three quarters above); elsewhere four
    fifths.
    """
    if is_metal():
        return int(mx.device_info()["max_recommended_working_set_size"])
    return memory_limit() * 4 // 5


def peak_memory() -> int:
    """Most bytes that MLX held at once since the last call (or the start); counting begins anew."""
    peak = mx.get_peak_memory()
    mx.reset_peak_memory()
    return peak


_one_at_a_time = threading.RLock()


@contextmanager
def computing(limit: int | None = None) -> Iterator[None]:
    """MLX for the caller alone, whatever the thread; who comes second waits. Its holder may enter it again.

    limit: bytes that arrays and freed buffers together should keep to; None: as `prepare` has set it.

    MLX's own streams belong to a thread, and what one has not computed yet no other can. Inside, work goes to streams
    that any thread may use, one at a time: a clip made in one thread is decoded in another.
    """
    within = nullcontext() if limit is None else _keeping_within(limit)
    with _one_at_a_time, within, mx.stream(shared_stream(mx.cpu)), mx.stream(shared_stream(mx.default_device().type)):
        yield


@contextmanager
def _keeping_within(limit: int) -> Iterator[None]:
    cached = mx.set_cache_limit(min(CACHE_LIMIT, limit // CACHE_SHARE))
    allowed = mx.set_memory_limit(limit)  # from here on MLX gives freed buffers back before it takes more
    try:
        yield
    finally:
        mx.set_memory_limit(allowed)
        mx.set_cache_limit(cached)


@functools.cache
def shared_stream(device: mx.DeviceType, purpose: str = "computing") -> mx.Stream:
    """The process's stream on a device for a purpose; to be used inside of `computing` only."""
    return mx.new_thread_unsafe_stream(device)


@functools.cache
def prepare() -> None:
    """Sets MLX up for this machine. The commands and `LTXPipeline` call it first; later calls do nothing.

    The cache is capped (CACHE_LIMIT, an eighth of a small machine's memory). On Metal the working set is wired, so that
    macOS does not page weights out between steps. On a Linux CPU matrix products go to a fast BLAS where that is
    wanted: the commands want it; somebody else's program keeps its MLX as it is, unless MLX_VIDEO_BLAS=on says so.
    """
    mx.set_cache_limit(min(CACHE_LIMIT, memory_limit() // CACHE_SHARE))
    if is_metal():
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    if is_cpu():
        _check_temporary_folder()
        if linux_blas.wanted():
            linux_blas.enable()
    log.debug("%s: compute in %s, %.1f GiB of memory", mx.default_device(), compute_dtype(), memory_limit() / GIB)


def _check_temporary_folder() -> None:
    # On a CPU MLX compiles kernels there, when a run is well under way.
    for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        folder = os.environ.get(name)
        if folder is not None:
            if not os.path.isdir(folder):
                raise UserError(f"{name} names {folder!r}, which is no folder; create it, or leave {name} unset.")
            return


ROWS_TO_DEQUANTIZE = 16
"""From this many rows on, a CPU dequantizes a weight before a product. For 384 rows and a weight of 4096 x 4096 MLX's
quantized product takes 4.0 s, dequantizing and a plain product 0.3 s (8 bit) to 0.5 s (4 bit)."""


def dequantizes(rows: int) -> bool:
    """Whether a quantized weight is made whole before it is multiplied by so many rows."""
    return rows >= ROWS_TO_DEQUANTIZE and is_cpu()


def _apple_gpu() -> tuple[int, str] | None:
    """Generation and size letter of an Apple GPU: applegpu_g13s -> (13, "s")."""
    found = re.fullmatch(r"applegpu_g(\d+)(\w?)", str(mx.device_info().get("architecture", "")))
    return (int(found[1]), found[2]) if found else None


def _container_limits() -> list[int]:
    found = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found
