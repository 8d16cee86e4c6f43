"""Eight takes of the demo in one command beside eight commands: CPU seconds, and what each reads of networks.

At the demo's own size arithmetic, which no sharing makes less, is most of it; at a small one what every command does
anew is. Each command is a process of its own, and prompts are kept between them, as users have it. Wall seconds on a GPU.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import MIB, table
from mlx_video import platform
from tests.support.reads import Reads, counted

PROMPT = "a red circle rises"
SIZES = ((256, 33), (64, 9))
"""Pixels of a side, and frames."""


def report(takes: int = 8) -> str:
    """Two tables: time, and reads per clip."""
    return "\n".join([*(_times(takes, side, frames) for side, frames in SIZES), _reads(takes)])


def _times(takes: int, side: int, frames: int) -> str:
    size = [f"--{name}={value}" for name, value in (("height", side), ("width", side), ("num-frames", frames))]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        apart = sum(
            _run([*size, "--seed", str(seed), "-o", f"{folder}/{seed}.mp4"], place / "one") for seed in range(takes)
        )
        together = _run([*size, "--seed", "0", "--takes", str(takes), "-o", f"{folder}/take.mp4"], place / "all")
    lines = [
        [f"{takes} commands", f"{apart:.2f}", f"{apart / takes:.2f}", "1.00"],
        [f"one with --takes {takes}", f"{together:.2f}", f"{together / takes:.2f}", f"{together / apart:.2f}"],
    ]
    return table(f"The demo, {side} x {side}, {frames} frames, with sound", ["", "s", "s a clip", "ratio"], lines)


def _run(line: Sequence[str], cache: Path) -> float:
    """Seconds of one command: the CPU's, or on a GPU the wall's."""
    command = [sys.executable, "-m", "mlx_video.generate", PROMPT, "--model-repo", "demo", "--quiet", *line]
    before, began = _spent(), time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "MLX_VIDEO_CACHE": str(cache)})
    return _spent() - before if platform.is_cpu() else time.perf_counter() - began


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reads(takes: int) -> str:
    from mlx_video import LTXPipeline

    requests = [{"prompt": PROMPT, "seed": seed} for seed in range(takes)]
    with tempfile.TemporaryDirectory() as folder, LTXPipeline.from_pretrained("demo") as pipe:
        with counted() as apart:
            for one in requests:
                pipe.generate(**one).save(f"{folder}/one.mp4")
        with counted() as together:
            for clip in pipe.generate_many(requests):
                clip.save(f"{folder}/many.mp4")
    lines = [[name, _each(apart, name, takes), _each(together, name, takes)] for name in apart.times]
    each = [f"{sum(reads.bytes.values()) / takes / MIB:.2f}" for reads in (apart, together)]
    lines.append(["MiB", *each])
    return table("Networks read, and bytes, for each clip", ["network", "one by one", "together"], lines)


def _each(reads: Reads, name: str, takes: int) -> str:
    return f"{reads.times[name] / takes:.2f}"
