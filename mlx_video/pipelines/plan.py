"""Decides before a run how it will keep within its memory, and says what it will take; refuses what cannot fit.

Each phase is taken as fast as it fits: a network whole in memory, else read from disk part by part; a picture decoded
whole, else in tiles. Predictions are `pipelines.footprint`'s. Opens no file and changes no setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mlx_video import platform
from mlx_video.pipelines.footprint import Footprint, Phase
from mlx_video.pipelines.settings import Settings
from mlx_video.pipelines.streaming import Ways
from mlx_video.types import TIME_SCALE, UserError
from mlx_video.weights.quantize import BITS, Quantization

GIB = platform.GIB
DISK = 2e9
"""Bytes a second that are read from disk, taken low: Macs' own read at 3 to 7 GB/s."""
CLASSES = (
    (20, "seconds"), (90, "about a minute"), (240, "a few minutes"), (900, "about ten minutes"),
    (2400, "about half an hour"), (5400, "about an hour"), (14_400, "a few hours"), (86_400, "most of a day"),
)  # fmt: skip
"""Seconds up to which a run is of a class."""


class Memory(NamedTuple):
    """What a user says of memory."""

    low: bool | None = None
    """True reads networks from disk part by part whatever there is, False never does; None: where they do not fit."""
    limit: int | None = None
    """Bytes that a run may take; None: what the machine has to give."""

    @classmethod
    def of(cls, low: bool | None, limit: float | None) -> Memory:
        """limit: in GiB. Raises UserError where it is no amount."""
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise UserError(f"--memory-limit {limit:g} is out of range; it must be more than 0 GiB.")
        return cls(low, None if limit is None else round(limit * GIB))

    @property
    def budget(self) -> int:
        """Bytes that a run may take."""
        return platform.memory_budget() if self.limit is None else self.limit


@dataclass(frozen=True)
class Plan:
    """What a run will take and how it keeps to it."""

    phases: tuple[Phase, ...]
    ways: Ways
    limit: int
    """Bytes that the run may take."""
    choices: tuple[str, ...]
    """What was chosen for lack of memory, a sentence each."""

    @property
    def peak(self) -> int:
        """Most bytes at once in any phase."""
        return max(phase.peak for phase in self.phases)

    @property
    def seconds(self) -> float:
        """How long the run takes, very roughly: by the chip's published rate, or the disk's where that is slower."""
        return sum(max(phase.flops / platform.flops_per_second(), phase.read / DISK) for phase in self.phases)

    @property
    def time(self) -> str:
        """The class of `seconds`, in words."""
        return next((words for most, words in CLASSES if self.seconds <= most), "more than a day")

    def __str__(self) -> str:
        """A table by phase, and what follows from it."""
        lines = [f"{'phase':<10} {'weights':>10} {'work':>10} {'peak':>10}"]
        lines += [f"{p.name:<10} {size(p.weights):>10} {size(p.work):>10} {size(p.peak):>10}" for p in self.phases]
        lines += self.choices
        lines.append(f"At most {size(self.peak)} of {size(self.limit)}, {self.time} (predicted, not measured).")
        return "\n".join(lines)


def make_plan(footprint: Footprint, settings: Settings, memory: Memory) -> Plan:
    """The plan of a run.

    Raises UserError, with the smallest change that would do, where the run cannot fit; where the user wants networks
    whole in memory it is planned all the same.
    """
    limit = memory.budget
    ways = _choose(footprint, settings, memory.low, limit)
    phases = footprint.phases(settings, ways)
    plan = Plan(phases, ways, limit, tuple(_explain(footprint, settings, ways, limit, memory.low)))
    if plan.peak > limit and memory.low is not False:
        raise UserError(_refusal(footprint, settings, plan, memory.low))
    return plan


def ways_by_weights(footprint: Footprint, memory: Memory) -> Ways:
    """How networks are held where nothing is known of the sizes to come: part by part if weights take most there is."""
    most = memory.budget * 3 // 4
    transformer = footprint.weights("transformer").whole > most if memory.low is None else memory.low
    text = (
        footprint.encoder is not None and footprint.encoder.weights.whole > most if memory.low is None else memory.low
    )
    return Ways(text, transformer, not transformer, memory.budget)


def _choose(footprint: Footprint, settings: Settings, low_memory: bool | None, limit: int) -> Ways:
    decode = max(limit - footprint.weights("video_decoder").whole, 1)
    whole = Ways(decode_bytes=decode)
    if low_memory is not None:
        return Ways(low_memory, low_memory, not low_memory, decode)
    text = replace(whole, stream_text=not _fits(footprint, settings, whole, limit, ("text",)))
    kept = (text, replace(text, keep_text=False), replace(text, keep_text=False, stream_transformer=True))
    names = ("stage", "upsample")
    return next((ways for ways in kept if _fits(footprint, settings, ways, limit, names)), kept[-1])


def _fits(footprint: Footprint, settings: Settings, ways: Ways, limit: int, names: tuple[str, ...] = ("",)) -> bool:
    """Whether the phases whose names begin so fit."""
    return all(p.peak <= limit for p in footprint.phases(settings, ways) if p.name.startswith(names))


def _explain(
    footprint: Footprint, settings: Settings, ways: Ways, limit: int, low_memory: bool | None
) -> Iterator[str]:
    whole = {p.name: p.peak for p in footprint.phases(settings, Ways(decode_bytes=ways.decode_bytes))}
    stages = max((peak for name, peak in whole.items() if name.startswith("stage")), default=0)
    over = f"of {size(limit)}" if low_memory is None else "(--low-memory)"
    if ways.stream_text and "text" in whole:
        yield f"The text encoder is read layer by layer: whole it would take {size(whole['text'])} {over}."
    if ways.stream_transformer:
        hint = _quantized(footprint, settings, ways, limit) if low_memory is None else ""
        yield (
            f"The transformer is read from disk block by block in every step: whole it would take {size(stages)} "
            f"{over}.{hint}"
        )
    elif not ways.keep_text and footprint.keeps_text:
        yield f"The texts' keys and values are computed in every step: kept, they would make {size(stages)} {over}."
    if low_memory is False and max(whole.values()) > limit:
        yield f"This run takes {size(max(whole.values()))} of {size(limit)}, as --no-low-memory asks."


def _quantized(footprint: Footprint, settings: Settings, ways: Ways, limit: int) -> str:
    """The most bits with which the transformer would stay in memory, as a hint; empty where there are none."""
    for bits in sorted(BITS, reverse=True):
        smaller = footprint.quantized(Quantization.of(bits))
        if smaller and _fits(smaller, settings, replace(ways, stream_transformer=False), limit, ("stage", "upsample")):
            return f" Faster: --quantize {bits}, which stays in memory."
    return ""


# ---------------------------------------------------------------------------------------------------- refusing

Fits = Callable[[Settings], bool]


def _refusal(footprint: Footprint, settings: Settings, plan: Plan, low_memory: bool | None) -> str:
    worst = max(plan.phases, key=lambda phase: phase.peak)
    needs = f"This run takes {size(worst.peak)} at its {worst.name}, and {size(plan.limit)} are allowed"

    def fits(asked: Settings) -> bool:
        return _fits(footprint, asked, _choose(footprint, asked, low_memory, plan.limit), plan.limit)

    changes = [change for find in (_other_flag, _fewer_frames, _smaller_picture) if (change := find(settings, fits))]
    if changes:
        return f"{needs}; {max(changes, key=lambda change: change.kept).flags} would fit."
    least = _asking(settings, num_frames=1, height=settings.recipe.size_unit, width=settings.recipe.size_unit)
    floor = max(phase.peak for phase in footprint.phases(least, replace(plan.ways, decode_bytes=1)))
    return f"{needs}; the smallest clip takes {size(floor)} (--memory-limit allows more)."


def _asking(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, request=replace(settings.request, **changes))


class _Change(NamedTuple):
    """A change that makes a run fit, and the share of the clip that it keeps."""

    flags: str
    kept: float


def _other_flag(settings: Settings, fits: Fits) -> _Change | None:
    for flags, changed in (
        ("--tiling auto", _asking(settings, tiling="auto")),
        ("no --enhance-prompt", _asking(settings, enhance_prompt=False)),
        ("no --guidance-batch", replace(settings, batched=False)),
    ):
        if changed != settings and fits(changed):
            return _Change(flags, 1.0)
    return None


def _fewer_frames(settings: Settings, fits: Fits) -> _Change | None:
    frames = settings.request.num_frames
    most = _last(range(1, frames, TIME_SCALE), lambda count: fits(_asking(settings, num_frames=count)))
    return _Change(f"--num-frames {most}", most / frames) if most else None


def _smaller_picture(settings: Settings, fits: Fits) -> _Change | None:
    unit, (height, width) = settings.recipe.size_unit, (settings.request.height, settings.request.width)

    def sides(longer: int) -> dict[str, int]:
        share = longer / max(height, width)
        return {
            "height": max(unit, round(height * share / unit) * unit),
            "width": max(unit, round(width * share / unit) * unit),
        }

    most = _last(range(unit, max(height, width), unit), lambda longer: fits(_asking(settings, **sides(longer))))
    if not most:
        return None
    new = sides(most)
    return _Change(f"--height {new['height']} --width {new['width']}", new["height"] * new["width"] / (height * width))


def _last(values: range, fits: Callable[[int], bool]) -> int | None:
    """The last of `values` that fits, where all before it do too; None where not even the first does."""
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle)
    return None if low < 0 else values[low]


def size(count: int) -> str:
    """A number of bytes for the user."""
    if count < GIB // 10:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / GIB:.2f} GiB" if count < 10 * GIB else f"{count / GIB:.1f} GiB"
