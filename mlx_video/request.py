"""What a user may ask of a generation, as plain values, and every check of it that needs no file and no network.

Knows the recipes' data and the geometry; knows nothing of checkpoints. Values that the user left out are None; the
recipe (then the checkpoint's generation) supplies them later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlx_video import kinds
from mlx_video.types import (
    RECIPE_OPTIONS,
    SPACE_SCALE,
    STAGE_LORA_OPTIONS,
    TILINGS,
    TIME_SCALE,
    AudioIn,
    ImageAt,
    Lora,
    Recipe,
    UserError,
    VideoShape,
)

MAX_SIDE = 8192
"""Pixels; four times the extent that the position tables were trained for."""
MAX_FRAMES = 4097
"""About 170 s at 24 fps; far beyond the 20 s that the position tables were trained for."""
MAX_FPS = 240.0
MAX_TOKENS = 1024
"""Of an enhanced prompt: as many as the text encoder reads."""
MAX_START = 1e6
"""Seconds into a sound file: eleven days."""


@dataclass(frozen=True)
class Request:
    """All that a user may ask of one clip. Field names are the flags' names with underscores."""

    prompt: str = ""
    pipeline: str = "distilled"
    height: int = 512
    width: int = 512
    num_frames: int = 33
    fps: float = 24.0
    seed: int = 42
    strict_frames: bool = False
    """A number of frames that is not 1 + 8k is refused; else the nearest that is one is made."""
    audio: bool | None = None
    """None: with sound, unless the checkpoint has none."""
    placeholder: bool = False
    """Noise in place of every network: a file of the right size, rate and length in seconds."""
    tiling: str = "auto"
    stream: bool = False
    image: tuple[ImageAt, ...] = ()
    audio_file: AudioIn | None = None
    embedding: str | None = None
    enhance_prompt: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    lora: tuple[Lora, ...] = ()
    distilled_lora: str | None = None
    """The LoRA of the pipelines that need one, where it does not lie beside the checkpoint."""
    steps: int | None = None
    negative_prompt: str | None = None
    cfg_scale: float | None = None
    audio_cfg_scale: float | None = None
    cfg_rescale: float | None = None
    stg_scale: float | None = None
    stg_blocks: tuple[int, ...] | None = None
    modality_scale: float | None = None
    apg: bool | None = None
    guidance_batch: bool | None = None
    lora_strength_stage_1: float | None = None
    lora_strength_stage_2: float | None = None

    @property
    def shape(self) -> VideoShape:
        """The clip in pixels."""
        return VideoShape(self.num_frames, self.height, self.width, self.fps)

    def rounded(self) -> tuple[Request, tuple[str, ...]]:
        """The request with the nearest number of frames that a clip can have, and what to tell the user of it.

        Halfway between two the larger is taken. With `strict_frames`, and beyond the bounds, nothing is changed.
        """
        near = _nearest_frames(self.num_frames)
        if near == self.num_frames or self.strict_frames or not 1 <= self.num_frames <= MAX_FRAMES:
            return self, ()
        told = f"--num-frames {self.num_frames} is made {near}: a clip has 1 + 8k frames (--strict-frames refuses)."
        return replace(self, num_frames=near), (told,)

    def check(self, recipes: Mapping[str, Recipe]) -> Recipe:
        """Checks every value against the chosen recipe and returns that recipe; raises UserError at the first fault."""
        kinds.check_fields(self)
        if self.pipeline not in recipes:
            raise UserError(f"There is no pipeline {self.pipeline!r}; there are {', '.join(recipes)}.")
        recipe = recipes[self.pipeline]
        self._check_text()
        self._check_enhancement()
        for name, value in (("height", self.height), ("width", self.width)):
            _check_multiple(f"--{name}", value)
        _check_frames(self.num_frames, self.strict_frames)
        if not (math.isfinite(self.fps) and 1.0 <= self.fps <= MAX_FPS):
            raise UserError(f"--fps {self.fps:g} is out of range; it must be from 1 to {MAX_FPS:g}.")
        if self.tiling not in TILINGS:
            raise UserError(f"--tiling {self.tiling!r} is not known; there are {', '.join(TILINGS)}.")
        self._check_options(recipe, recipes)
        self._check_numbers(recipe)
        self._check_inputs()
        return recipe

    def _check_text(self) -> None:
        if self.embedding is None and not self.prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        if self.embedding is not None and (self.prompt or self.negative_prompt is not None):
            raise UserError(
                f"--embedding {self.embedding} holds its prompts already; leave --prompt and --negative-prompt out."
            )

    def _check_enhancement(self) -> None:
        if self.enhance_prompt and self.embedding is not None:
            raise UserError("--enhance-prompt has no effect with --embedding, whose prompt is encoded already.")
        for name in ("max_tokens", "temperature"):
            if getattr(self, name) is not None and not self.enhance_prompt:
                raise UserError(f"{_flag(name)} has no effect without --enhance-prompt.")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MAX_TOKENS:
            raise UserError(f"--max-tokens {self.max_tokens} is out of range; it must be from 1 to {MAX_TOKENS}.")
        if self.temperature is not None and not 0.0 <= self.temperature <= 5.0:
            raise UserError(f"--temperature {self.temperature:g} is out of range; it must be from 0 (greedy) to 5.")

    def _check_options(self, recipe: Recipe, recipes: Mapping[str, Recipe]) -> None:
        for name in RECIPE_OPTIONS:
            if getattr(self, name) is not None and name not in recipe.options:
                users = ", ".join(other.name for other in recipes.values() if name in other.options)
                raise UserError(f"{_flag(name)} has no effect in the {recipe.name} pipeline; it is used by {users}.")
        if self.audio is False:
            for name in ("audio_cfg_scale", "modality_scale"):
                if getattr(self, name) is not None:
                    raise UserError(f"{_flag(name)} has no effect without sound; leave it out or drop --no-audio.")

    def _check_numbers(self, recipe: Recipe) -> None:
        if self.steps is not None and not 1 <= self.steps <= recipe.most_steps:
            raise UserError(
                f"--steps {self.steps} is out of range; in the {recipe.name} pipeline it must be from 1 to "
                f"{recipe.most_steps}."
            )
        blocks = self.stg_blocks or ()
        if self.stg_blocks == () or len(set(blocks)) < len(blocks):
            listed = " ".join(map(str, blocks)) or "()"
            raise UserError(f"--stg-blocks {listed} must name at least one block, and each block once.")
        for name in ("cfg_scale", "audio_cfg_scale", "stg_scale", "modality_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0.0 <= value <= 100.0):
                raise UserError(f"{_flag(name)} {value:g} is out of range; it must be from 0 to 100.")
        if self.cfg_rescale is not None and not 0.0 <= self.cfg_rescale <= 1.0:
            raise UserError(f"--cfg-rescale {self.cfg_rescale:g} is out of range; it must be from 0 to 1.")
        strengths = [("--lora " + lora.path, lora.strength) for lora in self.lora]
        strengths += [
            (_flag(name), getattr(self, name)) for name in STAGE_LORA_OPTIONS if getattr(self, name) is not None
        ]
        for name, value in strengths:
            if not (math.isfinite(value) and -10.0 <= value <= 10.0):
                raise UserError(f"{name} has strength {value:g}, which is out of range; it must be from -10 to 10.")

    def _check_inputs(self) -> None:
        taken: dict[int, str] = {}
        for image in self.image:
            index = image.index(self.rounded()[0].num_frames)
            if index in taken:
                raise UserError(f"--image {image.path} and --image {taken[index]} both ask for frame {index}.")
            taken[index] = image.path
            if image.crf is not None and not 0 <= image.crf <= 51:
                raise UserError(f"--image {image.path} has CRF {image.crf}; it must be from 0 (off) to 51.")
            if not 0.0 <= image.strength <= 1.0:
                raise UserError(f"--image {image.path} has strength {image.strength:g}; it must be from 0 to 1.")
        if self.audio_file is not None and self.audio is False:
            raise UserError(
                "--audio-file and --no-audio exclude each other: with a sound file the clip is given that sound."
            )
        if self.audio_file is not None and self.audio_cfg_scale is not None:
            raise UserError("--audio-cfg-scale has no effect with --audio-file: a sound that is given is not steered.")
        if self.audio_file is not None and not 0 <= self.audio_file.start <= MAX_START:
            raise UserError(
                f"--audio-start-time {self.audio_file.start:g} is out of range; it must be from 0 to {MAX_START:,.0f} "
                f"seconds."
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_multiple(flag: str, value: int, unit: int = SPACE_SCALE) -> None:
    if unit <= value <= MAX_SIDE and value % unit == 0:
        return
    below = min(max(value // unit * unit, unit), MAX_SIDE // unit * unit)
    above = min(below + unit, MAX_SIDE // unit * unit) if value > unit else below
    near = f"{below}" if above == below or value >= MAX_SIDE else f"{below} or {above}"
    raise UserError(
        f"{flag} {value} does not work: it must be a multiple of {unit} from {unit} to {MAX_SIDE}; nearest: {near}."
    )


def _nearest_frames(value: int) -> int:
    return (value - 1 + TIME_SCALE // 2) // TIME_SCALE * TIME_SCALE + 1


def _check_frames(value: int, strict: bool) -> None:
    if 1 <= value <= MAX_FRAMES and (not strict or (value - 1) % TIME_SCALE == 0):
        return
    below = min(max((value - 1) // TIME_SCALE * TIME_SCALE + 1, 1), MAX_FRAMES)
    near = f"{below}" if value < 1 or value > MAX_FRAMES else f"{below} or {below + TIME_SCALE}"
    raise UserError(
        f"--num-frames {value} does not work: it must be 1 + 8k (9, 17, 25, 33, ...), {MAX_FRAMES} at most; "
        f"nearest: {near}."
    )
