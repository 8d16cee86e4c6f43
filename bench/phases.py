"""A whole run on a small checkpoint, phase by phase: where seconds and memory go around the networks' arithmetic."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.measure import MIB, clock, table
from mlx_video.types import Progress


class Phase(NamedTuple):
    """One phase of a run: seconds, and the most MLX held, in bytes (None where the phase did not say)."""

    seconds: float
    peak: int | None


class Watch:
    """Takes a run's reports and keeps the time between them, by phase."""

    def __init__(self) -> None:
        """Starts counting now; what comes before the first report is `start`."""
        self.phases: dict[str, Phase] = {}
        self._clock = clock()
        self._last = self._clock()

    def __call__(self, progress: Progress) -> None:
        """One report: the time since the last one belongs to this phase."""
        self.add(progress.phase, progress.peak)

    def add(self, name: str, peak: int | None = None) -> None:
        """Counts the time since the last report for `name`."""
        now = self._clock()
        before = self.phases.get(name, Phase(0.0, None))
        peaks = [p for p in (before.peak, peak) if p is not None]
        self.phases[name] = Phase(before.seconds + now - self._last, max(peaks, default=None))
        self._last = now


def report(where: str, title: str, text_encoder: str | None = None, **request: object) -> str:
    """Runs one request on the checkpoint `where` and gives its table."""
    from mlx_video import LTXPipeline

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, LTXPipeline.from_pretrained(where, text_encoder=text_encoder) as pipe:
        watch.add("start")
        clip = pipe.generate(prompt="a small test, with waves", on_step=watch, **request)
        watch.add("latents")
        clip.save(Path(folder) / "out.mp4", on_step=watch)
        watch.add("save")
    lines = [
        [name, f"{phase.seconds:.2f}", "" if phase.peak is None else f"{phase.peak / MIB:.0f}"]
        for name, phase in watch.phases.items()
    ]
    lines.append(["all", f"{sum(phase.seconds for phase in watch.phases.values()):.2f}", ""])
    unit = 1 if sys.platform == "darwin" else 1024
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
    return table(title, ["phase", "seconds", "peak MiB"], lines) + f"whole process at most {whole:.0f} MiB\n"
