"""What a user may ask of a generation, as plain values, and every check of it that needs no file and no network.

Knows the recipes' data and the geometry; knows nothing of checkpoints. Values that the user left out are None; the
recipe (then the checkpoint's generation) supplies them later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from mlx_video.request import options
from mlx_video.request.options import Option, flag, option, options_of
from mlx_video.types import (
    SPACE_SCALE,
    TILINGS,
    TIME_SCALE,
    VIDEO_DECODERS,
    AudioIn,
    ImageAt,
    Lora,
    UserError,
    VideoShape,
    frames_of,
)
from mlx_video.types.recipes import Recipe

MAX_SIDE = 8192
"""Pixels; four times the extent that the position tables were trained for."""
MAX_FRAMES = 4097
"""About 170 s at 24 fps; far beyond the 20 s that the position tables were trained for."""
MAX_FPS = 240.0
MAX_TOKENS = 1024
"""Of an enhanced prompt: as many as the text encoder reads."""
MAX_START = 1e6
"""Seconds into a sound file: eleven days."""
MAX_LORA = 10.0
SCALE = (0, 100)
"""Of a guidance."""
_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
CALLING = ("noise", "keep", "on_step", "on_preview", "on_picture", "on_kept", "on_message")
"""Keywords of `LTXPipeline.generate` that say how it runs, not what it makes."""

_SIDE = "multiple of 32; best of 64, which all pipelines but dev work in (default {default}; 256 for the demo)"
_IMAGE = (
    "the clip shows this picture at FRAME (0 = first, the default; last; negative counts from the end), held at "
    "STRENGTH (1), after an H.264 round trip at CRF (the checkpoint's own); repeatable: first and last work"
)


def _guided(words: str, help: str, **rules: Any) -> Any:
    return option(None, words, help, used=lambda recipe: recipe.guided, **rules)


def _strength(stage: int) -> Any:
    help = f"of the distilled LoRA in stage {stage} ({{recipes}})"
    name, limits = f"lora_strength_stage_{stage}", (-MAX_LORA, MAX_LORA)
    return option(None, "X", help, limits=limits, used=lambda recipe: name in recipe.lora_options)


@dataclass(frozen=True)
class Request:
    """All that a user may ask of one clip. Field names are the flags' names with underscores."""

    prompt: str = option("", "-p TEXT", "the same, as a flag; several make a clip each", several=True)
    embedding: str | None = option(None, "FILE", "a prompt that mlx_video.encode has written, in place of --prompt")
    pipeline: str = option("distilled", "NAME", "one of those above (default {default})")
    height: int = option(512, "-H PX", _SIDE, group="clip")
    width: int = option(512, "-W PX", _SIDE)
    num_frames: int = option(33, "--frames -n N", "1 + 8k; others are rounded to the nearest (default {default})")
    strict_frames: bool = option(False, "", "refuse a number of frames that is not 1 + 8k")
    steps: int | None = option(
        None, "N", "denoising steps; fewer are a quick look ({recipes})", used=lambda recipe: recipe.counted
    )
    fps: float = option(
        24.0, "X", "frames per second, such as 24, 29.97 or 30000/1001 (default {default})", limits=(1, MAX_FPS)
    )
    seed: int = option(42, "-s N", "same seed, same clip (default {default})")
    audio: bool | None = option(None, "-a", "make sound with the video (default: yes, unless the checkpoint has none)")
    placeholder: bool = option(
        False, "", "noise in place of every network: no weights, and in seconds a file of the right size and length"
    )
    image: tuple[ImageAt, ...] = option(
        (), "-i FILE FRAME STRENGTH CRF", _IMAGE,
        Option(None, "N", "FRAME of a single --image", name="image_frame_idx", hint=int | Literal["last"]),
        Option(None, "X", "STRENGTH of a single --image", name="image_strength", hint=float),
        group="pictures and sound to start from",
    )  # fmt: skip
    audio_file: AudioIn | None = option(
        None, "FILE", "sound, or a video's track, that the clip follows and is given",
        Option(
            None, "S", "where in --audio-file to begin, in seconds (default 0)", name="audio_start_time", hint=float
        ),
    )  # fmt: skip
    auto_duration: str | None = option(
        None, "MIN:MAX", "let the prompt decide how long the clip is, within so many seconds, such as 2:8, in place of "
        "--num-frames (LTX-2.5)",
    )  # fmt: skip
    num_generated_keyframes: int = option(
        0, "--generated-keyframes N", "frames that are made beside the clip to steer it, evenly between its ends: more "
        "can happen in it, for N latent frames' more work in the first stage (LTX-2.5; default {default})",
        limits=(0, MAX_FRAMES - 2),
    )  # fmt: skip
    temporal_upsample_rounds: int = option(
        0, "N", "how often the dfr pipeline doubles the frames, and those a second, and makes them anew: 0, 1 or 2 "
        "(default {default})", limits=(0, 2),
    )  # fmt: skip
    reference_version: str | None = option(
        None, "", "whose rules count where versions of the reference differ: 1.2 (the default, matched number by "
        "number) or 1.4 (as others describe it, unchecked: LTX-2.5's second stages)", choices=("1.2", "1.4"),
    )  # fmt: skip
    enhance_prompt: bool = option(
        False, "", "let Gemma write the prompt out (seeing the first picture)", group="prompt enhancement"
    )
    max_tokens: int | None = option(
        None, "N", "longest enhanced prompt (default 512)", limits=(1, MAX_TOKENS), needs="enhance_prompt"
    )
    temperature: float | None = option(
        None, "X", "0 always picks the likeliest word (default 0.7)", limits=(0, 5), rule="from 0 (greedy) to 5",
        needs="enhance_prompt",
    )  # fmt: skip
    prompt_writer: str | None = option(
        None, "FOLDER|REPO", "the instruction-tuned Gemma 3 that writes (default: the text encoder, if it can)",
        needs="enhance_prompt",
    )  # fmt: skip
    lora: tuple[Lora, ...] = option(
        (), "FILE|FOLDER|REPO STRENGTH", "add a LoRA, at strength 1 unless given; repeatable",
        Option(None, "FILE|FOLDER|REPO", "the same as --lora, with --lora-strength", name="lora_path"),
        Option(
            None, "X", "strength of --lora-path (default 1); without it, of the distilled LoRA in dev-two-stage",
            name="lora_strength", hint=float,
        ),
        group="LoRA",
    )  # fmt: skip
    distilled_lora: str | None = option(
        None, "FILE|FOLDER|REPO", "the LoRA of the two-stage pipelines, where it does not lie beside the checkpoint"
    )
    lora_strength_stage_1: float | None = _strength(1)
    lora_strength_stage_2: float | None = _strength(2)
    negative_prompt: str | None = _guided(
        "TEXT", "what to steer away from (default: a list of flaws)", group="guidance"
    )
    cfg_scale: float | None = _guided("--cfg X", "how strongly the prompt steers the video ({recipes})", limits=SCALE)
    audio_cfg_scale: float | None = _guided("X", "how strongly the prompt steers the sound ({recipes})", limits=SCALE)
    cfg_rescale: float | None = _guided(
        "X", "0 to 1: how far guidance is scaled back to its natural strength ({recipes})", limits=(0, 1)
    )
    stg_scale: float | None = _guided("X", "spatio-temporal guidance ({recipes})", limits=SCALE)
    modality_scale: float | None = _guided(
        "X", "how strongly sound and picture steer each other ({recipes})", limits=SCALE
    )
    stg_blocks: tuple[int, ...] | None = _guided(
        "N", "blocks that spatio-temporal guidance perturbs (default 29 of 48 in LTX-2, 28 of 48 in later ones)"
    )
    apg: bool | None = _guided("", "adaptive projected guidance in place of plain CFG (default: no)")
    skip_step: int | None = _guided(
        "N", "steps in a row that repeat the last prediction, after each that is computed: faster, coarser ({recipes})",
        limits=(0, 20),
    )  # fmt: skip
    guidance_batch: bool | None = _guided(
        "", "run the passes of a guided step as one batch: same numbers, more memory (default: no)"
    )
    tiling: str = option(
        "auto", "", "decode in tiles to save memory (default {default})", group="output", choices=TILINGS
    )
    video_decoder: str | None = option(
        None, "", "what makes pictures of latents: conv (the default), or diffusion, which takes longer (LTX-2.5)",
        choices=VIDEO_DECODERS,
    )  # fmt: skip
    stream: bool = option(False, "", "decode in short spans, so that frames leave as they are made")
    skip_vae: bool = option(
        False, "", "a quick look: show the latents through a linear map in place of the decoders: coarse, silent"
    )

    @property
    def shape(self) -> VideoShape:
        """The clip in pixels."""
        return VideoShape(self.num_frames, self.height, self.width, self.fps)

    def rounded(self) -> tuple[Request, tuple[str, ...]]:
        """The request with the nearest number of frames that a clip can have, and what to tell the user of it.

        Halfway between two the larger is taken. With `strict_frames`, and beyond the bounds, nothing is changed.
        """
        near = (self.num_frames - 1 + TIME_SCALE // 2) // TIME_SCALE * TIME_SCALE + 1
        if near == self.num_frames or self.strict_frames or not 1 <= self.num_frames <= MAX_FRAMES:
            return self, ()
        told = f"--num-frames {self.num_frames} is made {near}: a clip has 1 + 8k frames (--strict-frames refuses)."
        return replace(self, num_frames=near), (told,)

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear: a sound of its own takes decoding."""
        return self.audio is False or (self.skip_vae and self.audio_file is None)

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Between which lengths the prompt decides; None where the number of frames is given."""
        found = None if self.auto_duration is None else re.fullmatch(rf"({_NUMBER}):({_NUMBER})", self.auto_duration)
        return None if found is None else (float(found[1]), float(found[2]))

    @property
    def lengths(self) -> tuple[int, int]:
        """Frames that the clip has at least and at most."""
        if self.seconds is None:
            frames = self.rounded()[0].num_frames
            return frames, frames
        least, most = (frames_of(seconds, self.fps, self.seconds) for seconds in self.seconds)
        return least, most

    def check(self, recipes: Mapping[str, Recipe]) -> Recipe:
        """Checks every value against the chosen recipe and returns that recipe; raises UserError at the first fault."""
        options.check(self)
        if self.pipeline not in recipes:
            raise UserError(f"There is no pipeline {self.pipeline!r}; there are {', '.join(recipes)}.")
        recipe = recipes[self.pipeline]
        self._check_text()
        _check_multiple("--height", self.height)
        _check_multiple("--width", self.width)
        _check_frames(self.num_frames, self.strict_frames)
        self._check_recipe(recipe, recipes)
        self._check_rounds(recipe, recipes)
        self._check_duration()
        self._check_images()
        self._check_keyframes()
        self._check_sound()
        self._check_loras()
        self._check_decoder()
        return recipe.going_on(self.temporal_upsample_rounds)

    def _check_decoder(self) -> None:
        if self.skip_vae:
            without = {"--tiling": self.tiling != "auto", "--stream": self.stream, "--placeholder": self.placeholder,
                       "--video-decoder": self.video_decoder is not None}  # fmt: skip
            for name, given in without.items():
                if given:
                    raise UserError(f"{name} has no effect with --skip-vae, which decodes nothing; leave one out.")
        if self.video_decoder != "diffusion":
            return
        if self.tiling not in ("auto", "none"):
            raise UserError(
                f"--tiling {self.tiling} is of the convolutional decoder; with --video-decoder diffusion it is auto or "
                f"none."
            )
        if self.stream:
            raise UserError(
                "--stream has no effect with --video-decoder diffusion, whose frames leave as they are made anyway."
            )

    def _check_text(self) -> None:
        if self.embedding is None and not self.prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        if self.embedding is not None and (self.prompt or self.negative_prompt is not None):
            raise UserError(
                f"--embedding {self.embedding} holds its prompts already; leave --prompt and --negative-prompt out."
            )
        if self.enhance_prompt and self.embedding is not None:
            raise UserError("--enhance-prompt has no effect with --embedding, whose prompt is encoded already.")

    def _check_recipe(self, recipe: Recipe, recipes: Mapping[str, Recipe]) -> None:
        for one in options_of(Request):
            if one.used and getattr(self, one.name) is not None and not one.used(recipe):
                users = ", ".join(other.name for other in recipes.values() if one.used(other))
                raise UserError(f"{one.flag} has no effect in the {recipe.name} pipeline; it is used by {users}.")
        if self.steps is not None and not 1 <= self.steps <= recipe.most_steps:
            raise UserError(
                f"--steps {self.steps} is out of range; in the {recipe.name} pipeline it must be from 1 to "
                f"{recipe.most_steps}."
            )
        blocks = self.stg_blocks or ()
        if self.stg_blocks == () or len(set(blocks)) < len(blocks):
            listed = " ".join(map(str, blocks)) or "()"
            raise UserError(f"--stg-blocks {listed} must name at least one block, and each block once.")

    def _check_rounds(self, recipe: Recipe, recipes: Mapping[str, Recipe]) -> None:
        """What keyframes and doubled frames ask for."""
        rounds, least = self.temporal_upsample_rounds, recipe.least_frames
        if rounds > len(recipe.rounds):
            users = ", ".join(other.name for other in recipes.values() if other.rounds)
            raise UserError(
                f"--temporal-upsample-rounds has no effect in the {recipe.name} pipeline; it is used by {users}."
            )
        if self.fps * 2**rounds > MAX_FPS:
            raise UserError(
                f"--fps {self.fps:g} is doubled {rounds} times with --temporal-upsample-rounds {rounds}; it must be "
                f"{MAX_FPS / 2**rounds:g} at most."
            )
        if self.lengths[0] < least:
            raise UserError(
                f"--num-frames {self.lengths[0]} is too few for the {recipe.name} pipeline; the least is {least}."
            )
        if recipe.keyframes and self.num_generated_keyframes:
            raise UserError(
                f"--num-generated-keyframes {self.num_generated_keyframes} has no effect in the {recipe.name} "
                f"pipeline, which places keyframes itself; leave it out."
            )

    def _check_duration(self) -> None:
        if self.auto_duration is None:
            return
        said, seconds = f"--auto-duration {self.auto_duration}", self.seconds
        if seconds is None:
            raise UserError(f"{said} should be two numbers of seconds, the least and the most, such as 2:8.")
        if not 1 / self.fps <= seconds[0] <= seconds[1]:
            raise UserError(f"{said} should begin with the shorter length, a frame at least, such as 2:8.")
        if seconds[1] * self.fps > MAX_FRAMES:
            raise UserError(
                f"{said} goes beyond {MAX_FRAMES} frames; at {self.fps:g} frames a second the most is "
                f"{math.floor(MAX_FRAMES / self.fps)} seconds."
            )
        fixed = {"--num-frames": self.num_frames != Request.num_frames, "--audio-file": self.audio_file is not None,
                 "--placeholder": self.placeholder}  # fmt: skip
        for other, given in fixed.items():
            if given:
                raise UserError(f"--auto-duration and {other} exclude each other; leave one of them out.")

    def _check_images(self) -> None:
        taken: dict[int, str] = {}
        for image in self.image:
            index = image.index(self.lengths[0])
            if index in taken:
                raise UserError(f"--image {image.path} and --image {taken[index]} both ask for frame {index}.")
            taken[index] = image.path
            if image.crf is not None and not 0 <= image.crf <= 51:
                raise UserError(f"--image {image.path} has CRF {image.crf}; it must be from 0 (off) to 51.")
            if not 0.0 <= image.strength <= 1.0:
                raise UserError(f"--image {image.path} has strength {image.strength:g}; it must be from 0 to 1.")

    def _check_keyframes(self) -> None:
        most = self.lengths[0] - 2
        if self.num_generated_keyframes > max(most, 0):
            raise UserError(
                f"--num-generated-keyframes {self.num_generated_keyframes} is too many for a clip of {most + 2} "
                f"frames; it must be from 0 to {max(most, 0)}."
            )

    def _check_sound(self) -> None:
        if self.audio is False:
            for name in ("audio_cfg_scale", "modality_scale"):
                if getattr(self, name) is not None:
                    raise UserError(f"{flag(name)} has no effect without sound; leave it out or drop --no-audio.")
        if self.audio_file is None:
            return
        if self.audio is False:
            raise UserError(
                "--audio-file and --no-audio exclude each other: with a sound file the clip is given that sound."
            )
        if self.audio_cfg_scale is not None:
            raise UserError("--audio-cfg-scale has no effect with --audio-file: a sound that is given is not steered.")
        if not 0 <= self.audio_file.start <= MAX_START:
            raise UserError(
                f"--audio-start-time {self.audio_file.start:g} is out of range; it must be from 0 to {MAX_START:,.0f} "
                f"seconds."
            )

    def _check_loras(self) -> None:
        for lora in self.lora:
            if not -MAX_LORA <= lora.strength <= MAX_LORA:
                raise UserError(
                    f"--lora {lora.path} has strength {lora.strength:g}, which is out of range; it must be from "
                    f"{-MAX_LORA:g} to {MAX_LORA:g}."
                )


class RequestOptions(TypedDict, total=False):
    """The keywords of `LTXPipeline.generate`: the fields of a Request, in all the forms that are taken."""

    prompt: str
    pipeline: str
    height: int
    width: int
    num_frames: int
    strict_frames: bool
    steps: int | None
    fps: float
    seed: int
    audio: bool | None
    placeholder: bool
    embedding: str | Path | None
    image: str | Path | ImageAt | Sequence[Any]
    audio_file: str | Path | AudioIn | tuple[str | Path, float] | None
    auto_duration: str | None
    num_generated_keyframes: int
    temporal_upsample_rounds: int
    reference_version: str | None
    enhance_prompt: bool
    max_tokens: int | None
    temperature: float | None
    prompt_writer: str | Path | None
    lora: str | Path | Lora | Sequence[Any]
    distilled_lora: str | Path | None
    lora_strength_stage_1: float | None
    lora_strength_stage_2: float | None
    negative_prompt: str | None
    cfg_scale: float | None
    audio_cfg_scale: float | None
    cfg_rescale: float | None
    stg_scale: float | None
    modality_scale: float | None
    stg_blocks: Sequence[int] | None
    apg: bool | None
    skip_step: int | None
    guidance_batch: bool | None
    tiling: str
    video_decoder: str | None
    stream: bool
    skip_vae: bool


def request_of(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Request:
    """A Request from the keywords of `generate`; raises UserError for a keyword that is not known.

    defaults: values that the model needs otherwise than others. Wrong kinds are told by `Request.check`.
    """
    names = (*RequestOptions.__annotations__, *CALLING)
    return Request(**{**defaults, **options.taken("generate", Request, given, names)})


def _check_multiple(name: str, value: int) -> None:
    unit = SPACE_SCALE
    if unit <= value <= MAX_SIDE and value % unit == 0:
        return
    below = min(max(value // unit * unit, unit), MAX_SIDE)
    above = min(below + unit, MAX_SIDE) if value > unit else below
    near = f"{below}" if above == below or value >= MAX_SIDE else f"{below} or {above}"
    raise UserError(
        f"{name} {value} does not work: it must be a multiple of {unit} from {unit} to {MAX_SIDE}; nearest: {near}."
    )


def _check_frames(value: int, strict: bool) -> None:
    if 1 <= value <= MAX_FRAMES and (not strict or (value - 1) % TIME_SCALE == 0):
        return
    below = min(max((value - 1) // TIME_SCALE * TIME_SCALE + 1, 1), MAX_FRAMES)
    near = f"{below}" if value < 1 or value > MAX_FRAMES else f"{below} or {below + TIME_SCALE}"
    raise UserError(
        f"--num-frames {value} does not work: it must be 1 + 8k (9, 17, 25, 33, ...), {MAX_FRAMES} at most; "
        f"nearest: {near}."
    )
