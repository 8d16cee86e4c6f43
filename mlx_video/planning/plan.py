"""Decides before a run how it will keep within its memory, and says what it will take; refuses what cannot fit.

A job says what it needs, phase by phase, in each of the `Ways` that it could go; the fastest in which all fit is taken.
The text encoder, which is used once, is read layer by layer: that costs nothing. Opens no file, changes no setting and
knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mlx_video import platform
from mlx_video.lending.visits import Ways
from mlx_video.request import kinds
from mlx_video.types import UserError, amount

DOUBT = 0.2
"""Of a phase's work, how far its prediction may be off: blocks that stay on purpose leave so much more free."""
MOST_GIB = 1 << 20
"""That a limit may say; no machine has so much."""
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
        kinds.check("memory_limit", limit, float | None)
        if limit is not None and not 0 < limit <= MOST_GIB:
            raise UserError(
                f"--memory-limit {limit:g} is out of range; it must be more than 0 and at most {MOST_GIB:,} GiB."
            )
        return cls(low, None if limit is None else round(limit * platform.GIB))

    @property
    def budget(self) -> int:
        """Bytes that a run may take: a limit that is set is the whole process's, else MLX's arrays are meant."""
        return platform.memory_budget() if self.limit is None else self.limit

    @property
    def spare(self) -> int:
        """Bytes that blocks which stay on purpose leave to MLX for freed buffers; under a limit it gives those back."""
        return platform.cache_limit() if self.limit is None else 0

    @property
    def ways(self) -> Iterator[Ways]:
        """How a run may go, the fastest first."""
        arrays = None if self.limit is None else max(self.limit - platform.PROCESS_BYTES, 1)
        streamed = self.low is True
        whole = Ways(self.low is not False, streamed, keep_text=not streamed, room=arrays or self.budget, limit=arrays)
        yield whole
        if self.low is None:
            yield replace(whole, step_aside=True)
            yield replace(whole, keep_text=False)
            yield replace(whole, keep_text=False, step_aside=True)
            yield replace(whole, keep_text=False, stream_transformer=True)


class Need(NamedTuple):
    """What one phase takes: bytes of weights and of everything else at its peak, operations, and bytes read."""

    name: str
    weights: int
    work: int
    flops: float = 0.0
    read: int = 0
    dtype: Any = None
    """What its operations are in; 16 bit if left out."""
    outside: int = 0
    """Bytes that the process holds besides MLX's arrays, in this phase alone."""
    told: str = ""
    """What the user should know of how it is done; `{without}` stands for what it would take otherwise."""
    without: int = 0
    """Bytes of everything else, done otherwise."""
    part: int = 0
    """Bytes that each block takes which stays of a transformer that is read block by block; 0: none can stay here."""
    parts: int = 0
    """How many blocks it has."""

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        return self.weights + self.work

    @property
    def seconds(self) -> float:
        """How long it takes, very roughly: by the chip's published rate, or the disk's where that is slower."""
        return max(self.flops / platform.flops_per_second(self.dtype), self.read / DISK)

    def counted(self, memory: Memory) -> Need:
        """With the process's own bytes, where the limit is for them, too."""
        own = 0 if memory.limit is None else platform.PROCESS_BYTES + self.outside
        return self._replace(work=self.work + own, without=self.without + own)


class Change(NamedTuple):
    """What could be asked instead: in the user's words, the share of what is wanted that it keeps, and its needs."""

    words: str
    kept: float
    needs: Callable[[Ways], Sequence[Need]]


@dataclass(frozen=True)
class Demand:
    """What a job tells of itself."""

    needs: Callable[[Ways], Sequence[Need]]
    """Phase by phase, in the names and the order of its reports."""
    what: str = "This run"
    """The subject of a refusal."""
    faster: Callable[[], Iterable[Change]] = tuple
    """What could keep the transformer in memory, the best first."""
    smaller: Callable[[], Iterable[Sequence[Change]]] = tuple
    """What could be asked instead: in each sequence the more is kept, and taken, the later."""
    least: Change | None = None
    """The least that can be asked."""
    strict: bool = False
    """Refused where it does not fit, whatever the user says of reading networks whole: there is none to stream."""


@dataclass(frozen=True)
class Plan:
    """What a run will take and how it keeps to it."""

    phases: tuple[Need, ...]
    ways: Ways
    limit: int
    """Bytes that the run may take."""
    choices: tuple[str, ...] = ()
    """What was chosen for lack of memory, a sentence each."""

    @property
    def peak(self) -> int:
        """Most bytes at once in any phase."""
        return max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether the run keeps to its limit."""
        return self.peak <= self.limit

    @property
    def seconds(self) -> float:
        """How long the run takes, very roughly."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def expected(self) -> dict[str, float]:
        """Seconds of each phase, by the name in a run's reports, very roughly."""
        found: dict[str, float] = {}
        for phase in self.phases:
            found[phase.name] = found.get(phase.name, 0.0) + phase.seconds
        return found

    @property
    def time(self) -> str:
        """The class of `seconds`, in words."""
        return _in_words(self.seconds)

    def __str__(self) -> str:
        """A table by phase, and what follows from it."""
        lines = [f"{'phase':<10} {'weights':>10} {'work':>10} {'peak':>10}   time"]
        for phase in self.phases:
            sizes = " ".join(f"{amount(size):>10}" for size in (phase.weights, phase.work, phase.peak))
            lines.append(f"{phase.name:<10} {sizes}   {_in_words(phase.seconds)}")
        lines += self.choices
        if self.ways.limit is not None:
            own = amount(platform.PROCESS_BYTES)
            lines.append(f"Of the work {own} are Python's, its libraries' and the encoder's.")
        lines.append(f"At most {amount(self.peak)} of {amount(self.limit)}, {self.time} (predicted, not measured).")
        return "\n".join(lines)


def _in_words(seconds: float) -> str:
    return next((words for most, words in CLASSES if seconds <= most), "more than a day")


def make_plan(demand: Demand, memory: Memory) -> Plan:
    """The plan of a job.

    Raises UserError, with the smallest change that would do, where the run cannot fit; where the user wants networks
    whole in memory it is planned all the same.
    """
    plan = _keep(demand.needs, _choose(demand.needs, memory), memory)
    if not plan.fits and (memory.low is not False or demand.strict):
        raise UserError(_refusal(demand, plan, memory))
    return replace(plan, choices=tuple(_explain(demand, plan, memory)))


def _choose(needs: Callable[[Ways], Sequence[Need]], memory: Memory) -> Plan:
    """The fastest way that fits, else the one that takes least."""
    for ways in memory.ways:
        plan = _plan(needs, ways, memory)
        if plan.fits:
            break
    return plan


def _keep(needs: Callable[[Ways], Sequence[Need]], plan: Plan, memory: Memory) -> Plan:
    """A plan that reads the transformer block by block, with as many blocks in memory as every phase has room for.

    A block takes the same bytes for each that stays, so one phase after the other says how many.
    """
    room = [
        (int((plan.limit - memory.spare - phase.peak - DOUBT * phase.work) // phase.part), phase.parts)
        for phase in plan.phases
        if phase.part
    ]
    kept = min((count for both in room for count in both), default=0)
    if memory.low is not None or kept <= 0:
        return plan
    return _plan(needs, replace(plan.ways, kept=kept), memory)


def _plan(needs: Callable[[Ways], Sequence[Need]], ways: Ways, memory: Memory) -> Plan:
    return Plan(tuple(need.counted(memory) for need in needs(ways)), ways, memory.budget)


def _explain(demand: Demand, plan: Plan, memory: Memory) -> Iterator[str]:
    ways, allowed = plan.ways, f"and {amount(plan.limit)} are allowed"
    if ways.stream_transformer:
        yield _explain_reading(demand, plan, memory, allowed)
    if ways.step_aside:
        beside = amount(_plan(demand.needs, replace(ways, step_aside=False), memory).peak)
        yield (
            f"The transformer is let go while latents are upsampled, and then read anew: beside it that would take "
            f"{beside}, {allowed}."
        )
    if not ways.keep_text and not ways.stream_transformer:
        kept = amount(_plan(demand.needs, replace(ways, keep_text=True), memory).peak)
        yield f"The texts' keys and values are made in every step: kept, they would make it {kept}, {allowed}."
    for phase in plan.phases:
        if phase.told:
            yield phase.told.format(without=f"{amount(phase.weights + phase.without)}, {allowed}")
    if not plan.fits:
        yield f"This run takes {amount(plan.peak)}, {allowed}; with --no-low-memory it is tried all the same."


def _explain_reading(demand: Demand, plan: Plan, memory: Memory, allowed: str) -> str:
    kept, parts = plan.ways.kept, max(phase.parts for phase in plan.phases)
    how = "The transformer is read from disk block by block in every step"
    if kept:
        how = (
            f"{kept} of the transformer's {parts} blocks stay in memory; {parts - kept} are read from disk, block by "
            f"block, in every step"
        )
    why = "and --low-memory is given."
    if memory.low is None:
        faster = (change.words for change in demand.faster() if _stays(_choose(change.needs, memory)))
        why = f"{allowed}.{next(faster, '')}"
    whole = replace(plan.ways, stream_transformer=False)
    return f"{how}: whole it would take {amount(_plan(demand.needs, whole, memory).peak)}, {why}"


def _stays(plan: Plan) -> bool:
    return plan.fits and not plan.ways.stream_transformer


# ---------------------------------------------------------------------------------------------------- refusing


def _refusal(demand: Demand, plan: Plan, memory: Memory) -> str:
    worst = max(plan.phases, key=lambda phase: phase.peak)
    phase = f" (phase: {worst.name})" if len(plan.phases) > 1 else ""
    needs = f"{demand.what} takes {amount(worst.peak)}{phase}, and {amount(plan.limit)} are allowed"
    found = [change for ladder in demand.smaller() if (change := _last(ladder, memory))]
    if found:
        return f"{needs}; {max(found, key=lambda change: change.kept).words} would fit."
    floor = f"; {least.words} takes {amount(_choose(least.needs, memory).peak)}" if (least := demand.least) else ""
    return f"{needs}{floor} (--memory-limit allows more)."


def _last(ladder: Sequence[Change], memory: Memory) -> Change | None:
    """The last change that fits, where all before it do too; None where not even the first does."""
    low, high = -1, len(ladder)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _choose(ladder[middle].needs, memory).fits else (low, middle)
    return ladder[low] if low >= 0 else None
