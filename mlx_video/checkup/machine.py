"""What there is: versions, the chip, memory, disks, and what multiplies matrices. Measures nothing."""

from __future__ import annotations

import os
import platform as system
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from mlx_video import __version__, platform
from mlx_video.checkpoints.hub.fetch import free_space
from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.cpu import linux_blas
from mlx_video.types import amount

PACKAGES = ("mlx", "mlx-metal", "numpy", "transformers", "mlx-vlm", "huggingface_hub", "av", "Pillow")
"""Whose versions are told, where they are installed."""
LEAST_FREE = 4 << 30
"""Bytes of memory below which even a small clip of a real model is read from disk, or pushes others out."""
DISK_WRONG, DISK_LOOK = 1 << 30, 10 << 30
"""Bytes free below which clips fail to be written, and below which they soon will."""
PAGES = ("free", "inactive", "speculative", "purgeable")
"""Of a Mac's kinds of memory, those that a program gets without others being paged out."""


def installed() -> dict[str, str]:
    """Package -> version."""
    found = {"mlx_video": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions(found: Mapping[str, str]) -> Finding:
    """Of `installed` packages, of Python and of the system."""
    macos = system.mac_ver()[0]
    kernel = f"macOS {macos}" if macos else f"{system.system()} {_plain(system.release())}"
    python = system.python_version()
    said = ", ".join([*(f"{name} {version}" for name, version in found.items()), f"Python {python}", kernel])
    figures = {**found, "python": python, "system": kernel, "processor": system.machine()}
    if "mlx" not in found:
        return Finding(
            "versions", Verdict.WRONG, f"{said}; MLX is not installed as a package: pip install mlx", figures
        )
    if platform.is_old(found["mlx"]):
        least = ".".join(map(str, platform.LEAST_MLX))
        advice = f"MLX {found['mlx']} is older than {least}: pip install -U mlx"
        return Finding("versions", Verdict.LOOK, f"{said}; {advice}", figures)
    return Finding("versions", Verdict.OK, said, figures)


def _plain(release: str) -> str:
    """A kernel's version without what its builder has called it."""
    found = re.match(r"[\d.]+", release)
    return found[0] if found else release


def chip() -> Finding:
    """What computes, in what, and what keeps it from being as fast as it could be."""
    device, *_ = platform.describe()
    if platform.is_cpu():
        device = f"{_processor()}, {linux_blas.processors()} processors in use"
    types = {"transformer": platform.compute_dtype(), "autoencoders": platform.autoencoder_dtype()}
    computed = {what: str(dtype).rpartition(".")[2] for what, dtype in types.items()}
    words = ", ".join(f"{what} in {dtype}" for what, dtype in computed.items())
    wanting = [] if platform.is_cpu() else platform.shortcomings()
    said = "; ".join([f"{device}, {words}", *wanting])
    return Finding("chip", Verdict.LOOK if wanting else Verdict.OK, said, {"device": device, **computed})


def _processor() -> str:
    if sys.platform == "darwin":
        return _said_by("sysctl", "-n", "machdep.cpu.brand_string").strip() or system.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else system.machine()


def memory(free: int | None, total: int, budget: int) -> Finding:
    """Bytes free (None: not known) and in all, and what a run may take."""
    known = f"{amount(free)} free of {amount(total)}" if free is not None else f"{amount(total)}, free is not known"
    wired = " (what the GPU may wire)" if platform.is_metal() else ""
    said, verdict = f"{known}; a run may take {amount(budget)}{wired}", Verdict.OK
    if free is not None and free < LEAST_FREE:
        verdict, said = Verdict.LOOK, f"{said}; others hold most of it: close what is not needed, or give --low-memory"
    return Finding("memory", verdict, said, {"free_bytes": free, "total_bytes": total, "budget_bytes": budget})


def free_memory() -> int | None:
    """Bytes that a program can have without others being paged out; None where the system does not tell."""
    if sys.platform == "darwin":
        return _free_on_mac(_said_by("vm_stat"))
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return min(int(found[1]) << 10, platform.memory_limit()) if found else None


def _free_on_mac(told: str) -> int | None:
    """From what vm_stat prints."""
    size = re.search(r"page size of (\d+) bytes", told)
    pages = [int(found[1]) for kind in PAGES if (found := re.search(rf"^Pages {kind}:\s+(\d+)\.", told, re.MULTILINE))]
    return int(size[1]) * sum(pages) if size and pages else None


def _said_by(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def disks() -> Finding:
    """Room where clips go and where models are fetched to."""
    cache, there = free_space()
    here = shutil.disk_usage(os.getcwd()).free
    said = f"{amount(here, disk=True)} free in the working folder, {amount(there, disk=True)} where models go"
    verdict = Verdict.OK
    if here < DISK_LOOK:
        verdict = Verdict.WRONG if here < DISK_WRONG else Verdict.LOOK
        said += "; clips need room in the working folder: make some"
    elif there < DISK_WRONG:
        verdict, said = Verdict.LOOK, f"{said} ({cache}); none can be fetched: make room, or set HF_HOME"
    return Finding("disk", verdict, said, {"working_bytes": here, "models_bytes": there})


def products() -> Finding:
    """What multiplies matrices."""
    if platform.is_metal():
        return Finding("backend", Verdict.OK, "Metal", {"backend": "Metal"})
    if not platform.is_cpu():
        return Finding("backend", Verdict.OK, "CUDA", {"backend": "CUDA"})
    if sys.platform == "darwin":
        return Finding(
            "backend", Verdict.LOOK, "the CPU with Accelerate; this MLX has no Metal", {"backend": "Accelerate"}
        )
    fast = linux_blas.wanted() and linux_blas.enable()
    forms = "with" if platform.cpu_forms() else "without"
    if fast:
        said = f"the CPU with OpenBLAS, {forms} this package's forms for CPUs"
        return Finding("backend", Verdict.OK, said, {"backend": "OpenBLAS"})
    said = "the CPU with the slow BLAS of MLX's wheel: install scipy, and do not set MLX_VIDEO_BLAS=off"
    return Finding("backend", Verdict.LOOK, said, {"backend": "Netlib"})
