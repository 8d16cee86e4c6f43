"""Pipelines as data: a recipe is a tuple of stages, and a stage says by names what `diffusion` resolves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from mlx_video.types import SPACE_SCALE, TIME_SCALE, Modality, VideoShape


class Window(NamedTuple):
    """A stage takes a long video through in chunks, each of which begins with what the one before has finished.

    In latent frames; such a stage is steered by its texts alone and makes no sound.
    """

    chunk: int
    """At a time, at most."""
    held: int
    """That a chunk has of the one before, at least, kept as they are: no seam has to be hidden."""

    def spans(self, frames: int) -> list[tuple[int, int]]:
        """[start, stop) of each chunk of `frames` latent frames: of one size, and all overlap."""
        if frames <= self.chunk:
            return [(0, frames)]
        count = -(-(frames - self.held) // (self.chunk - self.held))
        size = -(-(frames + (count - 1) * self.held) // count)
        starts = [i * (frames - size) // (count - 1) for i in range(count)]
        return [(start, start + size) for start in starts]


@dataclass(frozen=True)
class Stage:
    """One denoising of a recipe, described by names that `diffusion` resolves."""

    scale: float
    """Of the requested height and width."""
    schedule: str
    sampler: str = "euler"
    guided: bool = False
    start: Literal["noise", "given"] | float = "noise"
    """From noise alone; or from the latents of the stage before (of whoever asks, in the first), as noisy as the
    schedule's first level or, for fewer steps, the level named here."""
    upsample: tuple[str, ...] = ()
    """Kinds of upsamplers that the video goes through before: "spatial x2", "spatial x1.5", "temporal x2"."""
    loras: Mapping[str, float] = field(default_factory=dict)
    """Strengths of LoRAs in this stage, by name: the "user"'s own, all together (1 if left out), and "distilled"."""
    frozen: tuple[Modality, ...] = ()
    """Modalities that stay as they are given."""
    window: Window | None = None
    phase: str | None = None
    """What reports and draws call it, if not by its number."""
    shift_by_size: bool = False
    """The schedule is shifted by this stage's own token count rather than by 4,096."""
    share: float | None = None
    """Of the steps that a user asks for, those that this stage takes; None where it takes its whole schedule always."""
    keyframes: bool = False
    """Keyframes are made beside the video at the ends of its segments: see `diffusion.segments`."""
    tiles: int = 0
    """Parts in time that the video is made in, which meet at keyframes of the stage before and have new ones between
    them; 0: none."""
    rate: int = 1
    """Frames that it has for each one of the request."""
    eta: float | None = None
    """Share of the noise that an ancestral sampler makes anew in each step; None: the sampler's own."""
    silent: bool = False
    """It makes no sound; the one before it stays."""

    def of(self, clip: VideoShape) -> VideoShape:
        """`clip` as this stage has it."""
        return clip.scaled(self.scale, self.rate)


@dataclass(frozen=True)
class Recipe:
    """A pipeline as data: its stages, which stage's sound is shipped, and its own defaults."""

    name: str
    summary: str
    variant: Literal["distilled", "dev"]
    stages: tuple[Stage, ...]
    audio_from: int
    """Index of the stage whose sound is shipped."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Default of each option that the recipe uses, by flag name; generations fill the rest."""
    most_steps: int = 1000
    """That a user may ask for."""
    lora_advice: str | None = None
    """What to say where the distilled LoRA is missing; None: what pipelines say."""
    rounds: tuple[Stage, ...] = ()
    """Further stages, of which a user may ask for the first ones."""

    def going_on(self, rounds: int) -> Recipe:
        """The same with so many of its `rounds`."""
        return replace(self, stages=(*self.stages, *self.rounds[:rounds]), rounds=()) if rounds else self

    @property
    def keyframes(self) -> bool:
        """Whether the clip is made in segments, with keyframes beside it."""
        return any(stage.keyframes for stage in self.stages)

    @property
    def least_frames(self) -> int:
        """That a user may ask for: a segment has at least one latent frame after the clip's first."""
        return TIME_SCALE + 1 if self.keyframes else 1

    @property
    def guided(self) -> bool:
        """Whether any stage runs guidance."""
        return any(stage.guided for stage in self.stages)

    @property
    def distilled_lora(self) -> bool:
        """Whether any stage needs the distilled LoRA."""
        return any("distilled" in stage.loras for stage in self.stages)

    @property
    def upsamplers(self) -> tuple[str, ...]:
        """The kinds of upsamplers that its stages use."""
        return tuple(dict.fromkeys(kind for stage in self.stages for kind in stage.upsample))

    @property
    def counted(self) -> bool:
        """Whether any stage takes a number of steps that the user may choose."""
        return any(stage.share is not None for stage in self.stages)

    @property
    def size_unit(self) -> int:
        """Height and width are denoised in multiples of this many pixels; what is beyond the clip is cut off."""
        return round(SPACE_SCALE / min(stage.scale for stage in self.stages))

    @property
    def lora_options(self) -> tuple[str, ...]:
        """The options that set the distilled LoRA's strength in one of the stages, in their order."""
        own = enumerate(self.stages[:2], 1)  # rounds are as the second stage is
        return tuple(f"lora_strength_stage_{i}" for i, stage in own if "distilled" in stage.loras)
