"""Decides before a run how it will keep within its memory, and says what it will take; refuses what cannot fit.

The text encoder, which is used once, is read layer by layer: that costs nothing. Everything else is taken as fast as it
fits: the transformer whole in memory, else read from disk block by block; pictures decoded whole, else in tiles.
Predictions are `planning.footprint`'s. Opens no file and changes no setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mlx_video import kinds, platform
from mlx_video.lending.visits import Ways
from mlx_video.planning.footprint import Footprint, Phase
from mlx_video.planning.settings import Settings
from mlx_video.types import SPACE_SCALE, TIME_SCALE, UserError, amount
from mlx_video.weights.quantize import BITS, Quantization

GIB = platform.GIB
SEAMS = (
    "Near where they meet pixels differ a little from those of whole pictures: the decoder sees farther than 64 pixels."
)
"""Of 512 x 512 in tiles of 256 (the demo's decoder): PSNR 50 dB, at most 52 levels of 255."""
MOST_GIB = 1 << 20
"""That a limit may say; no machine has so much."""
DISK = 2e9
"""Bytes a second that are read from disk, taken low: Macs' own read at 3 to 7 GB/s."""
CLASSES = (
    (20, "seconds"), (90, "about a minute"), (240, "a few minutes"), (900, "about ten minutes"),
    (2400, "about half an hour"), (5400, "about an hour"), (14_400, "a few hours"), (86_400, "most of a day"),
)  # fmt: skip
"""Seconds up to which a run is of a class."""
STAGES = ("stage", "upsample")
"""How the names of the phases begin in which the transformer has its weights."""
ENCODER_BITS = 4
SMALLER_ENCODER = "a text encoder in 4 bit (such as --text-encoder-repo mlx-community/gemma-3-12b-it-4bit)"
LEAST_SIDE = 2 * SPACE_SCALE
"""Pixels; some decoders take no less."""
SILENT = 0.5
"""How much of a clip is left without its sound, beside one that has fewer frames or pixels."""


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
        return cls(low, None if limit is None else round(limit * GIB))

    @property
    def budget(self) -> int:
        """Bytes that a run may take: a limit that is set is the whole process's, else MLX's arrays are meant."""
        return platform.memory_budget() if self.limit is None else self.limit

    @property
    def process(self) -> int:
        """Bytes of `budget` that are Python's, its libraries' and the video encoder's."""
        return 0 if self.limit is None else platform.PROCESS_BYTES

    @property
    def arrays(self) -> int | None:
        """What arrays and freed buffers may take together; None where no limit is set."""
        return None if self.limit is None else max(self.limit - self.process, 1)


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
        """How long the run takes, very roughly."""
        return sum(map(_seconds, self.phases))

    @property
    def time(self) -> str:
        """The class of `seconds`, in words."""
        return _in_words(self.seconds)

    def __str__(self) -> str:
        """A table by phase, and what follows from it."""
        lines = [f"{'phase':<10} {'weights':>10} {'work':>10} {'peak':>10}   time"]
        lines += [
            f"{p.name:<10} {amount(p.weights):>10} {amount(p.work):>10} {amount(p.peak):>10}   {_in_words(_seconds(p))}"
            for p in self.phases
        ]
        lines += self.choices
        if self.ways.limit is not None:
            own = amount(platform.PROCESS_BYTES)
            lines.append(f"Of the work {own} are Python's, its libraries' and the encoder's.")
        lines.append(f"At most {amount(self.peak)} of {amount(self.limit)}, {self.time} (predicted, not measured).")
        return "\n".join(lines)


def _seconds(phase: Phase) -> float:
    # By the chip's published rate, or the disk's where that is slower.
    return max(phase.flops / platform.flops_per_second(), phase.read / DISK)


def _in_words(seconds: float) -> str:
    return next((words for most, words in CLASSES if seconds <= most), "more than a day")


def make_plan(footprint: Footprint, settings: Settings, memory: Memory) -> Plan:
    """The plan of a run.

    Raises UserError, with the smallest change that would do, where the run cannot fit; where the user wants networks
    whole in memory it is planned all the same.
    """
    limit, footprint = memory.budget, footprint.beside(memory.process)
    ways = replace(_choose(footprint, settings, memory.low, limit), limit=memory.arrays)
    plan = Plan(footprint.phases(settings, ways), ways, limit, ())
    if plan.peak > limit and memory.low is not False:
        raise UserError(_refusal(footprint, settings, plan, memory.low))
    return replace(plan, choices=tuple(_explain(footprint, settings, plan, memory.low)))


def plan_texts(footprint: Footprint, texts: Sequence[str], memory: Memory) -> Ways:
    """How texts alone are encoded; raises UserError where that cannot fit."""
    footprint, ways = footprint.beside(memory.process), Ways(stream_text=memory.low is not False, limit=memory.arrays)
    phase = footprint.text(texts, ways)
    if phase.peak > memory.budget and memory.low is not False:
        smaller = footprint.with_encoder(ENCODER_BITS).text(texts, ways).peak
        advice = f"; {SMALLER_ENCODER} would fit." if smaller <= memory.budget else " (--memory-limit allows more)."
        raise UserError(f"Encoding takes {amount(phase.peak)}, and {amount(memory.budget)} are allowed{advice}")
    return ways


def plan_pictures(
    footprint: Footprint, grid: tuple[int, int, int], tiling: str, memory: Memory, refined: bool = False
) -> Ways:
    """How a film of latent `grid` is upscaled: in what tiles, and, where it is refined, with what transformer.

    Raises UserError where decoding it cannot fit. The transformer stays whole if its weights leave a quarter.
    """
    limit, footprint = memory.budget, footprint.beside(memory.process)
    whole = memory.low is not True
    if refined and memory.low is None:
        whole = footprint.weights("transformer").whole <= limit * 3 // 4
    ways = Ways(memory.low is not False, not whole, whole, _left(footprint, limit), memory.arrays)
    phase = footprint.decode(grid, tiling, ways, stream=True)
    if phase.peak > limit:
        advice = "--tiling auto takes less" if tiling != "auto" else "--memory-limit allows more"
        raise UserError(f"Decoding the result takes {amount(phase.peak)}, and {amount(limit)} are allowed ({advice}).")
    return ways


def plan_decoding(footprint: Footprint, grid: tuple[int, int, int], tiling: str, stream: bool, memory: Memory) -> Ways:
    """How latents of `grid` are decoded; raises UserError where that cannot fit."""
    footprint = footprint.beside(memory.process)
    left = max(memory.budget - footprint.process - footprint.weights("video_decoder").whole, 1)
    ways = Ways(decode_bytes=left, limit=memory.arrays)
    phase = footprint.decode(grid, tiling, ways, stream)
    if phase.peak > memory.budget:
        advice = "tiling='auto' takes less" if tiling != "auto" else "memory_limit= allows more"
        raise UserError(f"Decoding takes {amount(phase.peak)}, and {amount(memory.budget)} are allowed ({advice}).")
    return ways


def _left(footprint: Footprint, limit: int) -> int:
    # For the work of the video autoencoder.
    return max(
        limit - footprint.process - max(footprint.weights(name).whole for name in ("video_encoder", "video_decoder")), 1
    )


def _choose(footprint: Footprint, settings: Settings, low_memory: bool | None, limit: int) -> Ways:
    whole = Ways(decode_bytes=max(limit - footprint.process - footprint.weights("video_decoder").whole, 1))
    if low_memory is not None:
        return replace(whole, stream_text=low_memory, stream_transformer=low_memory, keep_text=not low_memory)
    kept = (whole, replace(whole, keep_text=False), replace(whole, keep_text=False, stream_transformer=True))
    return next((ways for ways in kept if _most(footprint, settings, ways, STAGES) <= limit), kept[-1])


def _most(footprint: Footprint, settings: Settings, ways: Ways, names: tuple[str, ...] = ("",)) -> int:
    """The highest peak of the phases whose names begin so."""
    return max((p.peak for p in footprint.phases(settings, ways) if p.name.startswith(names)), default=0)


def _explain(footprint: Footprint, settings: Settings, plan: Plan, low_memory: bool | None) -> Iterator[str]:
    ways, allowed = plan.ways, f"and {amount(plan.limit)} are allowed"
    if ways.stream_transformer:
        whole = _most(footprint, settings, replace(ways, stream_transformer=False), STAGES)
        why = (
            f"{allowed}.{_quantized(footprint, settings, plan)}" if low_memory is None else "and --low-memory is given."
        )
        yield (
            f"The transformer is read from disk block by block in every step: whole it would take {amount(whole)}, "
            + why
        )
    elif not ways.keep_text and footprint.keeps_text:
        kept = _most(footprint, settings, replace(ways, keep_text=True), STAGES)
        yield f"The texts' keys and values are made in every step: kept, they would make it {amount(kept)}, {allowed}."
    tiling = settings.request.tiling
    tiled = footprint.tiled(settings, ways)
    if tiled and tiling != "auto":
        yield f"--tiling {tiling} decodes the video in overlapping tiles. {SEAMS}"
    if tiled and tiling == "auto":
        untiled = _most(footprint, _asking(settings, tiling="none"), ways, ("decode",))
        why = f"whole pictures would take {amount(untiled)}, {allowed}"
        yield f"The video is decoded in overlapping tiles: {why}. {SEAMS}"
    if plan.peak > plan.limit:
        yield f"This run takes {amount(plan.peak)}, {allowed}; with --no-low-memory it is tried all the same."


def _quantized(footprint: Footprint, settings: Settings, plan: Plan) -> str:
    """The most bits with which the transformer would stay in memory, as a hint; empty where there are none."""
    for bits in sorted(BITS, reverse=True):
        smaller = footprint.quantized(Quantization.of(bits))
        whole = replace(plan.ways, stream_transformer=False)
        if smaller and _most(smaller, settings, whole, STAGES) <= plan.limit:
            return f" Faster: --quantize {bits}, which stays in memory."
    return ""


# ---------------------------------------------------------------------------------------------------- refusing

Fits = Callable[[Settings], bool]


def _refusal(footprint: Footprint, settings: Settings, plan: Plan, low_memory: bool | None) -> str:
    worst = max(plan.phases, key=lambda phase: phase.peak)
    needs = f"This run takes {amount(worst.peak)} (phase: {worst.name}), and {amount(plan.limit)} are allowed"

    def fits(asked: Settings, of: Footprint = footprint) -> bool:
        return _most(of, asked, _choose(of, asked, low_memory, plan.limit)) <= plan.limit

    if fits(settings, footprint.with_encoder(ENCODER_BITS)):
        return f"{needs}; {SMALLER_ENCODER} would fit."
    change = _smallest(settings, fits)
    if change is None:
        names, settings = _without(settings)
        smaller = _smallest(settings, fits)
        change = smaller and smaller._replace(flags=", ".join([*names, smaller.flags]))
    if change is not None:
        return f"{needs}; {change.flags} would fit."
    least = _asking(settings, num_frames=1, height=LEAST_SIDE, width=LEAST_SIDE)
    floor = _most(footprint, least, _choose(footprint, least, low_memory, plan.limit))
    return f"{needs}; the smallest clip takes {amount(floor)} (--memory-limit allows more)."


def _smallest(settings: Settings, fits: Fits) -> _Change | None:
    """Of the changes that make a run fit, the one that keeps most of the clip."""
    found = [
        *(_Change(flags, 1.0) for flags, changed in _costly(settings) if fits(changed)),
        _silent(settings, fits),
        _fewer_frames(settings, fits),
        *(_smaller_picture(settings, fits, fewer) for fewer in (1, 2, 4, 8)),
    ]
    return max((change for change in found if change), key=lambda change: change.kept, default=None)


def _asking(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, request=replace(settings.request, **changes))


class _Change(NamedTuple):
    """A change that makes a run fit, and the share of the clip that it keeps."""

    flags: str
    kept: float


def _costly(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """What was asked for at the cost of memory, and the settings without it."""
    for flags, changed in (
        ("--tiling auto", _asking(settings, tiling="auto")),
        ("no --enhance-prompt", _asking(settings, enhance_prompt=False)),
        ("no --guidance-batch", replace(settings, batched=False)),
    ):
        if changed != settings:
            yield flags, changed


def _without(settings: Settings) -> tuple[list[str], Settings]:
    """The settings without anything that costs memory, and what was left out."""
    names = []
    while found := next(_costly(settings), None):
        names.append(found[0])
        settings = found[1]
    return names, settings


def _silent(settings: Settings, fits: Fits) -> _Change | None:
    if settings.request.audio_file is not None or settings.modalities == ("video",):
        return None
    without = replace(_asking(settings, audio=False), modalities=("video",))
    return _Change("--no-audio", SILENT) if fits(without) else None


def _fewer_frames(settings: Settings, fits: Fits) -> _Change | None:
    frames = settings.request.num_frames
    most = _last(range(1, frames, TIME_SCALE), lambda count: fits(_asking(settings, num_frames=count)))
    return _Change(f"--num-frames {most}", most / frames) if most else None


def _smaller_picture(settings: Settings, fits: Fits, fewer: int) -> _Change | None:
    """fewer: of so many frames, one is left."""
    request, unit = settings.request, settings.recipe.size_unit
    height, width, before = request.height, request.width, request.num_frames
    frames = before // fewer // TIME_SCALE * TIME_SCALE + 1 if fewer > 1 else before

    def smaller(longer: int) -> dict[str, int]:
        sides = (max(LEAST_SIDE, round(side * longer / max(height, width) / unit) * unit) for side in (height, width))
        return {**dict(zip(("height", "width"), sides, strict=True)), "num_frames": frames}

    most = _last(range(LEAST_SIDE, max(height, width), unit), lambda side: fits(_asking(settings, **smaller(side))))
    if not most:
        return None
    new = smaller(most)
    flags = f"--height {new['height']} --width {new['width']}" + (f" --num-frames {frames}" if fewer > 1 else "")
    return _Change(flags, new["height"] * new["width"] * frames / (height * width * before))


def _last(values: range, fits: Callable[[int], bool]) -> int | None:
    """The last of `values` that fits, where all before it do too; None where not even the first does."""
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle)
    return None if low < 0 else values[low]
