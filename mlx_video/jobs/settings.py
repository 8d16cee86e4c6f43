"""Fills in what a request leaves open, from the recipe and then the checkpoint's generation, and checks them together.

Everything here costs a header at most. Knows no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.diffusion.schedules import SCHEDULES
from mlx_video.diffusion.segments import LENGTHS, Segments, Tile
from mlx_video.media.video import frame_rate
from mlx_video.request import Request
from mlx_video.types import SPACE_SCALE, Guidance, Modality, UserError, VideoShape
from mlx_video.types.recipes import Recipe, Stage

BASE_TOKENS = 4096
"""What schedules are shifted by in stages that do not go by their own size."""
APG_ETA = 0.0
"""Share of the parallel part that adaptive projected guidance keeps (arXiv 2410.02416, which recommends none)."""


@dataclass(frozen=True)
class Settings:
    """A request with nothing left open."""

    request: Request
    recipe: Recipe
    steps: int | None
    """Of the computed schedules; None where the recipe has fixed ones."""
    guidance: dict[Modality, Guidance]
    """Empty where no stage is guided."""
    negative_prompt: str | None
    batched: bool
    lora_strengths: tuple[float, ...]
    """Of the distilled LoRA, stage by stage; 0 where a stage does without."""
    image_crf: int
    modalities: tuple[Modality, ...]
    notes: tuple[str, ...] = ()
    """What the user should know of how the request is met, a sentence each."""
    original_prompt: str | None = None
    """What the user wrote, where the request's prompt is what Gemma made of it."""

    @property
    def shape(self) -> VideoShape:
        """The clip as stages denoise it: each side of the request rounded up to what every stage can have, and the
        frames to whole segments."""
        return _made(self.request, self.recipe)

    @property
    def shown(self) -> VideoShape:
        """The result as it is shown."""
        return self.recipe.stages[-1].of(self.request.shape)

    @property
    def decoded(self) -> VideoShape:
        """The result as it is decoded: in the size that is made, but as long as it is shown."""
        return self.recipe.stages[-1].of(self.shape)._replace(frames=self.shown.frames)

    def rate(self, stage: Stage) -> Fraction | None:
        """Exact frames a second of a stage that has more of them than were asked for; None: as the number says."""
        return frame_rate(self.request.fps) * stage.rate if stage.rate > 1 else None

    def tiles(self, stage: Stage) -> list[Tile]:
        """Those that a stage with keyframes is made in; empty for others."""
        segments = Segments.of(self.shape.frames, stage.rate)
        return list(segments.tiles(stage.tiles)) if stage.tiles else [segments.whole()] if stage.keyframes else []

    def sigmas(self, stage: Stage, tokens: int) -> tuple[float, ...]:
        """The noise levels of one of the recipe's stages, for a clip of so many latent tokens at its size.

        A stage that takes a share of the steps takes at least one.
        """
        steps = None
        if stage.share is not None and self.steps is not None:
            steps = max(1, math.floor(self.steps * stage.share + 0.5))
        sigmas = SCHEDULES[stage.schedule](steps, tokens if stage.shift_by_size else BASE_TOKENS)
        if isinstance(stage.start, float):
            sigmas = (stage.start, *(sigma for sigma in sigmas if sigma < stage.start))
        return sigmas

    @property
    def components(self) -> tuple[str, ...]:
        """The networks that the run will borrow, the text encoder apart."""
        sound, skipped = self.request.audio_file is not None, self.request.skip_vae
        made = "audio" in self.modalities and not sound and not skipped
        wanted = {
            "connectors": self.request.embedding is None,
            "video_encoder": bool(self.request.image),
            "audio_encoder": sound,
            "duration_head": self.request.seconds is not None,
            "transformer": True,
            "latent_statistics": bool(self.recipe.upsamplers),
            "video_decoder": self.request.video_decoder != "diffusion" and not skipped,
            "diffusion_decoder": self.request.video_decoder == "diffusion",
            "audio_decoder": made,
            "vocoder": made,
        }
        return tuple(name for name, used in wanted.items() if used)

    def build_options(self, component: str) -> dict[str, Any]:
        """How the run wants a network built: a silent one leaves the transformer's sound where it is."""
        return {"audio": "audio" in self.modalities} if component == "transformer" else {}

    @property
    def prompts(self) -> dict[str, str]:
        """The texts to encode, by name."""
        return {
            name: t
            for name, t in (("positive", self.request.prompt), ("negative", self.negative_prompt))
            if t is not None
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """Plain values for the file's metadata: what was asked and what was filled in."""
        # A zero may have been asked for; a switch that is off, or nothing of something, goes without saying.
        given = ((key, value) for key, value in asdict(self.request).items() if value is not None and value != ())
        asked = {key: value for key, value in given if value or value != getattr(Request, key)}
        filled: dict[str, Any] = {
            "steps": self.steps,
            "negative_prompt": self.negative_prompt,
            "original_prompt": self.original_prompt,
        }
        for modality, guidance in self.guidance.items():
            filled[f"{modality}_guidance"] = asdict(guidance)
        if any(self.lora_strengths):
            filled["lora_strengths"] = self.lora_strengths
        return {**asked, **{key: value for key, value in filled.items() if value is not None}}


def resolve(request: Request, recipe: Recipe, checkpoint: Checkpoint) -> Settings:
    """The settings of a run; raises UserError where request, recipe and checkpoint do not go together."""
    _check_variant(recipe, checkpoint)
    request, notes = _sounding(request, checkpoint)
    modalities: tuple[Modality, ...] = ("video", "audio") if request.audio else ("video",)
    defaults = {**checkpoint.generation.defaults, **recipe.defaults}
    guidance = _guidance(request, defaults, checkpoint, modalities) if recipe.guided else {}
    if recipe.keyframes and not checkpoint.facts.keyframes:
        raise UserError(
            f"The {recipe.name} pipeline needs a checkpoint that was trained with keyframes (LTX-2.5); "
            f"{checkpoint.source.name} was not."
        )
    asked = (request.lora_strength_stage_1, request.lora_strength_stage_2)
    strengths = tuple(
        _first(asked[min(number, 1)], stage.loras["distilled"]) if "distilled" in stage.loras else 0.0
        for number, stage in enumerate(recipe.stages)
    )
    if recipe.variant == "distilled" and checkpoint.distilled_by_lora:
        strengths = (1.0,) * len(recipe.stages)
    if any(strengths):
        checkpoint.need(
            "distilled LoRA", checkpoint.distilled_lora, recipe.lora_advice or
            f"the {recipe.name} pipeline needs its .safetensors file beside the checkpoint (or --pipeline dev).",
        )  # fmt: skip
    for kind in recipe.upsamplers:
        checkpoint.need(
            f"{kind} upsampler", checkpoint.upsamplers.get(kind),
            f"the {recipe.name} pipeline needs its .safetensors file beside the checkpoint.",
        )  # fmt: skip
    negative = request.negative_prompt if request.negative_prompt is not None else checkpoint.family.negative_prompt
    if request.num_generated_keyframes and not checkpoint.facts.keyframes:
        raise UserError(
            f"--num-generated-keyframes {request.num_generated_keyframes} needs a checkpoint that was trained with "
            f"keyframes (LTX-2.5); {checkpoint.source.name} was not."
        )
    if request.seconds is not None and "duration_head" not in checkpoint.parts:
        file, _ = checkpoint.generation.files.get("duration_head", ("", 0))
        raise UserError(
            f"--auto-duration needs LTX-2.5's duration head, and {checkpoint.source.name} has none; "
            + (f"put {file} beside it, or say --num-frames." if file else "say --num-frames.")
        )
    steered = _steered_by_negative(request, guidance)
    _check_decoder(_made(request, recipe), request, checkpoint)
    settings = Settings(
        request=request,
        recipe=recipe,
        steps=_first(request.steps, defaults["steps"]) if recipe.counted else None,
        guidance=guidance,
        negative_prompt=negative if steered else None,
        batched=_first(request.guidance_batch, defaults.get("guidance_batch", False)),
        lora_strengths=strengths,
        image_crf=defaults["image_crf"],
        modalities=modalities,
        notes=notes,
    )
    return noted(settings)


def noted(settings: Settings) -> Settings:
    """The same, with a note where more is made than is asked for and the clip is cut out of it."""
    asked, made, recipe = settings.request, settings.shape, settings.recipe
    told = list(settings.notes)
    if (made.height, made.width) != (asked.height, asked.width):
        told.append(
            f"{asked.width}x{asked.height} is made as {made.width}x{made.height} and cut back: the {recipe.name} "
            f"pipeline works in multiples of {recipe.size_unit}."
        )
    if made.frames != asked.num_frames:
        told.append(
            f"{asked.num_frames} frames are made as {made.frames} and cut back: the {recipe.name} pipeline works in "
            f"segments of {' or '.join(map(str, LENGTHS))} frames after the first."
        )
    return replace(settings, notes=tuple(told))


def _made(request: Request, recipe: Recipe) -> VideoShape:
    asked, unit = request.shape, recipe.size_unit
    frames = Segments.of(asked.frames).frames if recipe.keyframes else asked.frames
    return asked._replace(frames=frames, height=-(-asked.height // unit) * unit, width=-(-asked.width // unit) * unit)


def _sounding(request: Request, checkpoint: Checkpoint) -> tuple[Request, tuple[str, ...]]:
    """The request with its sound decided, and what to tell of it."""
    if checkpoint.audio:
        return replace(request, audio=request.audio is not False), ()
    if request.audio_file is not None:
        raise UserError(f"{checkpoint.source} was converted without sound and cannot follow any; drop --audio-file.")
    if request.audio:
        raise UserError(f"{checkpoint.source} was converted without sound; add --no-audio.")
    if request.audio is not False and checkpoint.faults:
        # Rather than a clip without its sound: that may be in the file that cannot be read.
        raise checkpoint.faults[0]
    told = () if request.audio is False else (f"{checkpoint.source} has no sound, so the clip is silent.",)
    return replace(request, audio=False), told


def _steered_by_negative(request: Request, guidance: Mapping[Modality, Guidance]) -> bool:
    """Whether the negative prompt has an effect; UserError where one is given and has none."""
    steered = any(one.cfg_scale != 1.0 for one in guidance.values())
    if request.negative_prompt is not None and not steered:
        scales = "--cfg-scale is 1" if "audio" not in guidance else "--cfg-scale and --audio-cfg-scale are 1"
        raise UserError(f"--negative-prompt has no effect where {scales}, which is off.")
    return steered


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_variant(recipe: Recipe, checkpoint: Checkpoint) -> None:
    if checkpoint.variant is not None and checkpoint.variant != recipe.variant:
        others = "distilled" if checkpoint.variant == "distilled" else "dev, dev-two-stage or dev-two-stage-hq"
        raise UserError(
            f"{checkpoint.source.name} is a {checkpoint.variant} checkpoint, but the {recipe.name} pipeline needs a "
            f"{recipe.variant} one; use --pipeline {others}, or another --model-repo."
        )


def _check_decoder(shape: VideoShape, request: Request, checkpoint: Checkpoint) -> None:
    has = {"conv": "video_decoder" in checkpoint.parts, "diffusion": "diffusion_decoder" in checkpoint.parts}
    if request.video_decoder == "diffusion":
        if not has["diffusion"]:
            if checkpoint.faults:
                raise checkpoint.faults[0]
            raise UserError(
                f"--video-decoder diffusion needs LTX-2.5's diffusion video VAE; {checkpoint.source.name} has none "
                f"beside it. Put its .safetensors file there, or use --video-decoder conv."
            )
        return
    if has["diffusion"] and not has["conv"]:
        if checkpoint.faults:
            raise checkpoint.faults[0]
        raise UserError(
            f"{checkpoint.source.name} has no convolutional video decoder beside it; use --video-decoder diffusion."
        )
    # A decoder that pads by reflection has nothing to reflect in a single latent row or column.
    reflects = checkpoint.facts.reflects_decoding
    for name, side in (("height", shape.height), ("width", shape.width)):
        if reflects and side < 2 * SPACE_SCALE:
            raise UserError(f"--{name} {side} is too small for this checkpoint; the least is {2 * SPACE_SCALE}.")


def _guidance(
    request: Request, defaults: dict[str, Any], checkpoint: Checkpoint, modalities: tuple[Modality, ...]
) -> dict[Modality, Guidance]:
    layers = checkpoint.facts.blocks
    blocks = _first(request.stg_blocks, (min(int(defaults["stg_block"] * layers), layers - 1),))
    for block in blocks:
        if not 0 <= block < layers:
            raise UserError(f"--stg-blocks {block} is out of range; this checkpoint has blocks 0 to {layers - 1}.")
    shared: dict[str, Any] = {
        "stg_scale": _first(request.stg_scale, defaults["stg_scale"]),
        "stg_blocks": tuple(blocks),
        "modality_scale": _first(request.modality_scale, defaults["modality_scale"]),
        "skip_step": _first(request.skip_step, defaults["skip_step"]),
        "apg_eta": APG_ETA if _first(request.apg, defaults["apg"]) else 1.0,
    }
    scales = {
        "video": (
            _first(request.cfg_scale, defaults["cfg_scale"]),
            _first(request.cfg_rescale, defaults["cfg_rescale"]),
        ),
        "audio": (
            _first(request.audio_cfg_scale, defaults["audio_cfg_scale"]),
            _first(request.cfg_rescale, defaults["audio_cfg_rescale"]),
        ),
    }
    return {m: Guidance(cfg_scale=scales[m][0], rescale=scales[m][1], **shared) for m in modalities}
