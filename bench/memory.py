"""Predicted peaks beside measured ones, phase by phase: whole runs of the demo, small and middle-sized checkpoints.

The measured peak is what MLX held at most, weights included, since the phase began. Knows no network.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import MIB, table
from mlx_video import LTXPipeline, platform
from mlx_video.request import Request
from mlx_video.types import AudioIn, ImageAt, Lora, Progress

FLOOR = 64 * MIB
"""Phases in which less was measured are left out: no machine runs short of that."""
PROMPT = "a red ball rolls over the sand of a wide beach while gulls cry and slow music plays"


@dataclass(frozen=True)
class Case:
    """One run: the checkpoint, how it is opened, and what is asked."""

    name: str
    model: str
    """"demo", or "small" or "middle" with a generation: "small 2.3"."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    opened: Mapping[str, Any] = field(default_factory=dict)


def _size(width: int, height: int, frames: int, **asked: Any) -> dict[str, Any]:
    return {"height": height, "width": width, "num_frames": frames, **asked}


GUIDED = {"steps": 2}
CASES = (
    Case("distilled", "demo", _size(256, 256, 33)),
    Case("longer", "demo", _size(256, 256, 97)),
    Case("distilled", "small 2", _size(256, 256, 33)),
    Case("distilled", "small 2.3", _size(512, 320, 17)),
    Case("with a sound", "small 2.3", _size(192, 192, 41, audio_file=True)),
    Case("silent", "small 2.3", _size(384, 256, 33, audio=False)),
    Case("from an embedding", "small 2.3", _size(192, 192, 25, embedding=True)),
    Case("distilled", "middle 2", _size(128, 128, 17)),
    Case("guided", "middle 2", _size(128, 128, 9, pipeline="dev-two-stage", **GUIDED)),
    Case("low memory", "middle 2", _size(128, 128, 17), {"low_memory": True}),
    Case("distilled", "middle 2.3", _size(192, 128, 17)),
    Case("longer", "middle 2.3", _size(128, 128, 65)),
    Case("larger, with image", "middle 2.3", _size(320, 256, 9, image=True)),
    Case("guided, batch", "middle 2.3", _size(128, 128, 17, pipeline="dev", guidance_batch=True, **GUIDED)),
    Case("quantize 8", "middle 2.3", _size(64, 64, 17), {"quantize": 8}),
    Case("user's LoRA", "middle 2.3", _size(64, 64, 17, lora=True)),
    Case("LoRA, low memory", "middle 2.3", _size(128, 128, 17, lora=True), {"low_memory": True}),
)  # fmt: skip


PROCESSES = ("demo distilled", "middle 2 low memory")
"""Runs that are made in processes of their own, too, to see what the system sees."""


class Found(NamedTuple):
    """Bytes of one phase."""

    phase: str
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        """Predicted by measured."""
        return self.predicted / self.measured


def compare(folder: Path, case: Case) -> list[Found]:
    """Plans a case and runs it, in the order of the phases. `folder` has its checkpoint, its picture and its sound."""
    asked, where = dict(case.asked), _checkpoint(folder, case.model)
    if asked.pop("image", False):
        asked["image"] = (ImageAt(str(folder / "picture.png")),)
    if asked.pop("embedding", False):
        asked["embedding"] = str(folder / "prompt.safetensors")
        with LTXPipeline.from_pretrained(where) as pipe:
            pipe.encode(PROMPT, asked["embedding"])
    if asked.pop("audio_file", False):
        asked["audio_file"] = AudioIn(str(folder / "sound.wav"))
    if asked.pop("lora", False):
        asked["lora"] = (Lora(str(next(Path(where).glob("*lora*.safetensors"))), 0.5),)
    request = Request(prompt="" if "embedding" in asked else PROMPT, **asked)
    peaks: dict[str, int] = {}

    def watch(progress: Progress) -> None:
        if progress.peak is not None:
            peaks[progress.phase] = max(peaks.get(progress.phase, 0), progress.peak)

    with LTXPipeline.from_pretrained(where, **case.opened) as pipe:
        plan = pipe.plan(request)
        clip = pipe.run(request, on_step=watch)
        clip._decoded_sound(watch)
        platform.peak_memory()
        peaks["decode"] = max(platform.peak_memory() for _ in clip)
    return [Found(phase.name, phase.peak, peaks[phase.name]) for phase in plan.phases]


def most(found: list[Found]) -> Found:
    """The highest peaks of a run, under the name of the phase in which the measured one was."""
    return Found(
        max(found, key=lambda one: one.measured).phase,
        max(one.predicted for one in found),
        max(one.measured for one in found),
    )


def _checkpoint(folder: Path, model: str) -> str:
    """Made once in `folder`."""
    if model == "demo":
        return model
    from bench import middle
    from tests.support import small

    kind, generation = model.split()
    path = folder / f"{kind}-{generation}"
    if not path.exists():
        (middle.make(path, generation) if kind == "middle" else small.make(path, generation, ("distilled", "dev")))
    return str(path)


def report(folder: Path) -> str:
    """Both tables; checkpoints are made in `folder`."""
    from tests.support.cases import write_inputs

    os.environ["MLX_VIDEO_CACHE"] = "off"  # prompts are encoded anew
    write_inputs(folder)
    lines = []
    for case in CASES:
        found = compare(folder, case)
        whole = most(found)._replace(phase="most of all")
        for one in (*(one for one in found if one.measured >= FLOOR), whole):
            numbers = [f"{one.predicted / MIB:.0f}", f"{one.measured / MIB:.0f}", f"{one.ratio:.2f}"]
            lines.append([f"{case.model} {case.name}", one.phase, *numbers])
    head = ["case", "phase", "predicted MiB", "measured MiB", "ratio"]
    title = f"Peaks of MLX's memory by phase, of {FLOOR // MIB} MiB and more"
    rows = [[case, *map(str, (round(n / MIB) for n in alone(folder, case)))] for case in PROCESSES]
    processes = table("A process of its own", ["case", "MLX's peak MiB", "whole process MiB"], rows)
    return table(title, head, lines) + "\n" + processes


def alone(folder: Path, name: str) -> list[int]:
    """MLX's peak and the process's of one case, in bytes, run in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", str(folder), name]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def process_peak() -> int:
    """Most bytes that the system gave this process. Linux's getrusage counts the parent's before exec, too."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    (chosen,) = [case for case in CASES if f"{case.model} {case.name}" == sys.argv[2]]
    peak = most(compare(Path(sys.argv[1]), chosen)).measured
    print(json.dumps([peak, process_peak()]))
