"""The one place of decisions that depend on the machine: device, precision, memory limits, work per evaluation.

Everything is asked of MLX when called; importing this file does nothing. Knows chips and operating systems, and no
network. Published figures quoted here were measured by other ports of LTX-2 on the Macs named, not by us. `python -m
bench.chips` prints what is decided for each chip.
"""

from __future__ import annotations

import functools
import logging
import mmap
import os
import platform as system
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_video.cpu import linux_blas
from mlx_video.reading import path_of
from mlx_video.request import kinds
from mlx_video.types import DTYPES, Listener, Progress, UserError

log = logging.getLogger(__name__)

GIB = 1 << 30
CACHE_LIMIT = 2 * GIB
"""Most bytes that MLX may keep of freed buffers. On the CPU backend the default is 32 MiB, so that each large temporary
is mapped afresh: a VAE decode took 1.33 times as long. On Metal nothing bounds it by default: a cap of 2 GB changed no
bit of the output, was up to 5 % faster and saved 4 to 11 GB (M5 Max, 9 to 121 frames)."""
PROCESS_BYTES = 192 << 20
"""Of a process besides MLX's arrays and freed buffers: Python and its libraries (57 MiB when a run begins, 105 at its
end, mapped files included), frames on their way, and what malloc keeps. The highest of the process (VmHWM) less
MLX's arrays and buffers was 110 MiB at 256 x 256 and 172 at 512 x 512, both with 33 frames and sound (Linux, demo)."""
CACHE_SHARE = 8
"""Of a machine's memory, or of a run's limit, freed buffers may keep one such part."""
SECONDS_PER_EVALUATION = 0.5
"""Aim for one `mx.eval` on a Mac. macOS kills work that keeps the display's GPU busy ("Impacting Interactivity",
ml-explore/mlx#3267); the bound is not documented, so this stays well below the seconds at which it was seen. The cost
of evaluating is about a millisecond."""

CACHE_VARIABLE = "MLX_VIDEO_CACHE"
"""Names the cache folder; "off" turns it off."""
TF32_SWITCH = "MLX_ENABLE_TF32"
"""MLX reads it once, at the first product that it concerns (mlx/utils.h). Unless it is 0, an M5 and CUDA multiply
float32 with 10 bits of each factor (ml-explore/mlx#3897, #3860): 2^-10.4 wrong, which is not float32. Products in 16
bit do not ask for it."""
LEAST_MLX = (0, 32, 2)
"""Before: quantized products 8 to 31 % slower on an M1 Max (ml-explore/mlx#4241), conv3d 2 to 5 times (#3785)."""
LAST_WITHOUT_BFLOAT16 = 14
"""M1 and M2 have no bfloat16 arithmetic (Metal emulates it): a render took 701 s in float32, 698 s in bfloat16 and
563 s in float16 (M1 Max), and prompts are read 1.34 times as fast in float16 (M2 Max). Float16 was also closer to
float32 (1.7e-2 against 6.4e-2)."""
FIRST_WITH_MATRIX_UNITS = 17
"""M5, from macOS 26.2 on (mlx/backend/metal/device.cpp): four times the products. Only MLX built for macOS 26 has the
kernels for them. Chips for phones (letter p) got the units a generation later."""
MATRIX_UNITS_MACOS = (26, 2)

_TERAFLOPS = {
    13: {"g": 2.6, "s": 10.4, "d": 20.8},  # M1, M1 Pro and Max, M1 Ultra
    14: {"g": 3.6, "s": 13.6, "d": 27.2},
    15: {"g": 3.5, "s": 14.2, "d": 28.4},
    16: {"g": 4.3, "s": 18.4, "d": 36.8},
    17: {"g": 12.0, "s": 50.0, "d": 100.0},  # matrix units in each core: about four times as fast in 16 bit
}
"""Peak rate in 10^12 FLOP/s by generation (`applegpu_g13...` = M1) and size (g = base and Pro, s = Max, d = Ultra, as
MLX reads the letter; the smaller chip where a letter stands for two): the usual figures for float32, rounded down. Of
the generations with matrix units for 16 bit; float32 is as fast there as in the generation before."""
_PHONE_TERAFLOPS = 1.8
"""Of a phone's chip, as some small Macs have."""
_ATTAINED = 0.5
"""Share of the peak to count on: 5.2 of 10.4 was measured for feed-forward matrices on an M1 Max."""


def is_cpu() -> bool:
    """Whether MLX computes on the CPU backend by default."""
    return mx.default_device() == mx.cpu


def cpu_forms() -> bool:
    """Whether networks compute in the forms of `cpu.forms`; MLX_VIDEO_CPU_FORMS=off has a CPU compute as a Mac does."""
    return is_cpu() and os.environ.get("MLX_VIDEO_CPU_FORMS", "on") != "off"


def is_metal() -> bool:
    """Whether MLX computes on an Apple GPU by default."""
    return not is_cpu() and mx.metal.is_available()


def dtype_of(dtype: Any, name: str = "dtype") -> mx.Dtype | None:
    """From a name or an MLX type; raises UserError for one that networks do not compute in.

    name: what the caller calls it.
    """
    known: dict[str, mx.Dtype] = {key: getattr(mx, key) for key in DTYPES}
    if dtype is None or (isinstance(dtype, mx.Dtype) and dtype in known.values()):
        return dtype
    if isinstance(dtype, str) and dtype in known:
        return known[dtype]
    what = kinds.shown(dtype) or (f"={dtype}" if isinstance(dtype, mx.Dtype) else f", {kinds.named(type(dtype))},")
    raise UserError(f"{name}{what} is not known; there are {', '.join(DTYPES)}.")


def compute_dtype(*, wide_range: bool = False) -> mx.Dtype:
    """The precision that networks compute in unless the user says otherwise.

    wide_range: for a network whose activations leave float16's range (Gemma 3), which then gets bfloat16.

    float32 on the CPU backend, where a bfloat16 product is 16 times slower. On a GPU bfloat16, the reference's own,
    except where LAST_WITHOUT_BFLOAT16 says.
    """
    if is_cpu():
        return mx.float32
    chip = _chip()
    return mx.float16 if chip and chip.generation <= LAST_WITHOUT_BFLOAT16 and not wide_range else mx.bfloat16


def autoencoder_dtype(asked: mx.Dtype | None = None) -> mx.Dtype:
    """The precision of autoencoders and upsamplers unless the user says otherwise. asked: what the user wants the
    transformer to compute in; float32 there means float32 for all, 16 bit means nothing here.

    float32 on every Mac. In float16 a decoder leaves the type's range (the demo's reaches 83,398 in one convolution;
    65,504 is the end), and frames turn black. Convolutions go to Metal's Winograd form, which keeps what it has
    transformed in the arrays' own type: in bfloat16 one is 1.3 to 5.8 % wrong, against 0.3 % of a plain one
    (ml-explore/mlx#4242), and single pixels are 37 of 255 off. Up to the M4 float32 is multiplied about as fast as 16
    bit (Metal.jl#829), and a decode takes 15 % longer. The M5 has matrix units for 16 bit alone, and decoding was 8 to
    32 % of a run there: slower, but right. CUDA has no such form, and takes bfloat16 as the reference does.
    """
    wanted = asked is not None and asked == mx.float32
    return mx.float32 if wanted or is_cpu() or is_metal() or _chip() else mx.bfloat16


def flops_per_evaluation(dtype: mx.Dtype | None = None) -> float:
    """How many floating-point operations to put into one `mx.eval` at most; a loop over blocks evaluates before more.

    dtype: what is computed in, 16 bit if left out. On a Mac: what the chip does in SECONDS_PER_EVALUATION, estimated
    low. Elsewhere nothing kills long work, and the bound (some seconds) only lets Ctrl-C through.
    """
    if is_cpu():
        return 1e12
    return flops_per_second(dtype) * SECONDS_PER_EVALUATION if _chip() else 1e14


def flops_per_second(dtype: mx.Dtype | None = None) -> float:
    """How many floating-point operations a second to count on: of a known chip half its peak, else a plain guess.

    dtype: what is computed in, 16 bit if left out.
    """
    if is_cpu():
        return 1e11
    chip = _chip()
    if chip is None:
        return 1e14
    if chip.size == "p":
        return _PHONE_TERAFLOPS * 1e12 * _ATTAINED
    generation = min(max(chip.generation, min(_TERAFLOPS)), max(_TERAFLOPS))
    if dtype is not None and dtype == mx.float32:
        generation = min(generation, FIRST_WITH_MATRIX_UNITS - 1)
    rates = _TERAFLOPS[generation]
    return rates.get(chip.size, rates["g"]) * 1e12 * _ATTAINED


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


def cache_limit() -> int:
    """Bytes that MLX may keep of freed buffers on this machine."""
    return min(CACHE_LIMIT, memory_limit() // CACHE_SHARE)


def peak_memory() -> int:
    """Most bytes that MLX held at once since the last call (or the start); counting begins anew."""
    peak = mx.get_peak_memory()
    mx.reset_peak_memory()
    return peak


def cache_folder(kind: str) -> Path | None:
    """Where what can be made anew is kept from run to run: "contexts", "previews".

    None where MLX_VIDEO_CACHE is "off", or where there is no such place. A folder that it names has contexts in it, and
    folders of the other kinds. Raises UserError where it names none.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named == "off":
        return None
    if named:
        try:
            place = path_of(named, CACHE_VARIABLE)
        except UserError as fault:
            if not isinstance(fault.__cause__, OSError):
                raise
            log.warning("%s are not kept: %s", {"contexts": "Prompts"}.get(kind, kind.capitalize()), fault)
            return None
        return place if kind == "contexts" else place / kind
    try:
        home = Path.home() / "Library/Caches" if sys.platform == "darwin" else Path.home() / ".cache"
    except RuntimeError:  # nobody's
        return None
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "mlx_video" / kind


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

    float32 is float32 (TF32_SWITCH), unless the environment says otherwise; what makes this Mac slower than it need be
    is told once, as a warning in the log. The cache is capped (CACHE_LIMIT, an eighth of a small machine's memory). On
    Metal the working set is wired, so that macOS does not page weights out between steps. On a Linux CPU matrix
    products go to a fast BLAS where that is wanted: the commands want it; somebody else's program keeps its MLX as it
    is, unless MLX_VIDEO_BLAS=on says so.
    """
    os.environ.setdefault(TF32_SWITCH, "0")
    for sentence in shortcomings():
        log.warning("%s", sentence)
    mx.set_cache_limit(cache_limit())
    if is_metal():
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    if is_cpu():
        _check_temporary_folder()
        if linux_blas.wanted():
            linux_blas.enable()
    log.debug("%s", "; ".join(describe()))


def _check_temporary_folder() -> None:
    # On a CPU MLX compiles kernels there, when a run is well under way.
    for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        folder = os.environ.get(name)
        if folder is not None:
            if not os.path.isdir(folder):
                raise UserError(f"{name} names {folder!r}, which is no folder; create it, or leave {name} unset.")
            return


# ------------------------------------------------------------------------------------------------ what is there


class Chip(NamedTuple):
    """An Apple GPU as MLX names it: applegpu_g13s is of generation 13 and size "s"."""

    generation: int
    size: str

    @classmethod
    def of(cls, architecture: str) -> Chip | None:
        """None for what is no Apple GPU; a virtual Mac's (air64_v27, as hosted ones have) passes for the smallest."""
        if architecture.startswith("air64"):
            return cls(min(_TERAFLOPS), "g")
        found = re.fullmatch(r"applegpu_g(\d+)(\w?)", architecture)
        return cls(int(found[1]), found[2]) if found else None

    @property
    def matrix_units(self) -> bool:
        """Whether it multiplies 16-bit matrices in units of their own."""
        return self.generation >= FIRST_WITH_MATRIX_UNITS + (self.size == "p")


def _chip() -> Chip | None:
    return Chip.of(str(mx.device_info().get("architecture", "")))


def describe() -> list[str]:
    """This machine in a few phrases: its GPU, what is computed in, memory, and what MLX there is for it."""
    info = {} if is_cpu() else mx.device_info()
    names = [str(info[key]) for key in ("device_name", "architecture") if info.get(key)]
    types = {"transformer": compute_dtype(), "autoencoders": autoencoder_dtype()}
    kinds = [f"{what} in {str(dtype).removeprefix('mlx.core.')}" for what, dtype in types.items()]
    found = [
        ", ".join(names) or str(mx.default_device()),
        ", ".join(kinds),
        f"{memory_limit() / GIB:.0f} GiB of memory",
    ]
    chip = _chip() if not is_cpu() else None
    kernels = {True: " with kernels for matrix units", False: " without kernels for matrix units", None: ""}
    has = has_matrix_kernels() if chip and chip.matrix_units else None
    macos = [f"macOS {system.mac_ver()[0]}"] if system.mac_ver()[0] else []
    return [*found, *macos, f"MLX {_mlx_version()}{kernels[has]}"]


def shortcomings() -> list[str]:
    """What makes this Mac slower than it need be, a sentence each; none on other machines."""
    chip = None if is_cpu() else _chip()
    if chip is None:
        return []
    kernels = has_matrix_kernels() if chip.matrix_units else None
    return find_shortcomings(chip, system.mac_ver()[0], _mlx_version(), kernels)


def find_shortcomings(chip: Chip, macos: str, mlx: str, kernels: bool | None) -> list[str]:
    """`shortcomings` of a Mac with this chip, macOS and MLX; an empty version is one that is not known.

    kernels: whether MLX brings those for matrix units; None where that is not known.
    """
    found = []
    if is_old(mlx):
        least = ".".join(map(str, LEAST_MLX))
        found.append(f"MLX {mlx} is older than {least}, which is faster on this Mac: pip install -U mlx.")
    if not chip.matrix_units:
        return found
    needed = ".".join(map(str, MATRIX_UNITS_MACOS))
    if macos and _version(macos) < MATRIX_UNITS_MACOS:
        found.append(
            f"This Mac has matrix units, which MLX uses from macOS {needed} on, and this is macOS {macos}: a run takes "
            f"up to four times as long until macOS is updated and mlx-metal is installed anew."
        )
    elif kernels is False:
        found.append(
            "This Mac has matrix units, and the MLX that is installed has no kernels for them (only its build for "
            "macOS 26 does): a run takes up to four times as long. pip install --force-reinstall --no-deps mlx-metal."
        )
    return found


def has_matrix_kernels() -> bool | None:
    """Whether the MLX that is installed has kernels for matrix units; None where neither its wheel nor its library of
    kernels tells.
    """
    try:
        wheel = metadata.distribution("mlx-metal").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        wheel = ""
    if built := re.search(r"^Tag: .*-macosx_(\d+)_\d+_arm64", wheel, re.MULTILINE):
        return int(built[1]) >= MATRIX_UNITS_MACOS[0]
    return _names_matrix_kernels(Path(str(mx.__file__)).parent / "lib" / "mlx.metallib")


def _names_matrix_kernels(library: Path) -> bool | None:
    # A library without the plain kernels is of a build that compiles them when they are used.
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"steel_gemm_fused_nax_") >= 0:
                return True
            return False if content.find(b"steel_gemm_fused_nt_") >= 0 else None
    except (OSError, ValueError):
        return None


def is_old(mlx: str) -> bool:
    """Whether this version of MLX is slower than later ones; an empty one is not known."""
    return bool(mlx) and _version(mlx) < LEAST_MLX


def _mlx_version() -> str:
    return str(getattr(mx, "__version__", ""))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


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


class Steps:
    """Reports a phase from 0 to its total, and at its end what memory it took at its peak."""

    def __init__(self, phase: str, total: int, report: Listener):
        """Begins it."""
        self.phase, self.total, self.done, self._report = phase, total, 0, report
        peak_memory()
        report(Progress(phase, 0, total))

    def tell(self, done: int, *, end: bool = True) -> None:
        """So much is done. end: False where the phase goes on although all is counted."""
        self.done = done
        if done < self.total or end:
            self._report(Progress(self.phase, done, self.total, peak_memory() if done == self.total else None))
