"""The pipelines as data. If two pipelines seem to differ by an `if`, a `Stage` lacks a field.

Knows nothing but the nouns; imports nothing heavy, because `--help` shows its defaults.
Source of the values: the reference's LTX_2_PARAMS, LTX_2_3_PARAMS, LTX_2_3_HQ_PARAMS and its pipeline classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_video.types.recipes import Recipe, Stage, Window

_LARGER: Mapping[str, Any] = {"schedule": "refine", "start": "given", "upsample": ("spatial x2",)}
"""What the second stages have in common."""
_ROUND: Mapping[str, Any] = {
    "schedule": "distilled", "start": 0.975, "sampler": "ancestral_euler", "eta": 0.5, "upsample": ("temporal x2",),
    "loras": {"distilled": 1.0}, "keyframes": True, "silent": True,
}  # fmt: skip
"""What doubles the frames and makes them anew."""
_GUIDED: Mapping[str, Any] = {
    "cfg_scale": 3.0,
    "audio_cfg_scale": 7.0,
    "cfg_rescale": 0.7,
    "audio_cfg_rescale": 0.7,
    "stg_scale": 1.0,
    "modality_scale": 3.0,
    "apg": False,
    "skip_step": 0,
    "guidance_batch": False,
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="distilled",
            summary="fastest: 8 fixed steps at half size, 2x, 3 steps at full size; no guidance",
            variant="distilled",
            stages=(Stage(0.5, "distilled", share=1.0), Stage(1.0, **_LARGER, share=3 / 8)),
            audio_from=1,
            defaults={"steps": 8},
            most_steps=8,
        ),
        Recipe(
            name="dev",
            summary="guided denoising at full size in one stage",
            variant="dev",
            stages=(Stage(1.0, "shifted", guided=True, share=1.0),),
            audio_from=0,
            defaults=_GUIDED,
        ),
        Recipe(
            name="dev-two-stage",
            summary="guided at half size, 2x, 3 steps with the distilled LoRA",
            variant="dev",
            stages=(Stage(0.5, "shifted", guided=True, share=1.0), Stage(1.0, **_LARGER, loras={"distilled": 1.0})),
            audio_from=0,
            defaults={**_GUIDED, "lora_strength_stage_2": 1.0},
        ),
        Recipe(
            name="dev-two-stage-hq",
            summary="second-order sampler and the distilled LoRA in both stages; best quality",
            variant="dev",
            stages=(
                Stage(0.5, "shifted", "res_2s", guided=True, loras={"distilled": 0.25}, shift_by_size=True, share=1.0),
                Stage(1.0, **_LARGER, sampler="res_2s", loras={"distilled": 0.5}),
            ),
            audio_from=0,
            defaults={
                **_GUIDED,
                "steps": 15,
                "cfg_rescale": 0.45,
                "audio_cfg_rescale": 1.0,
                "stg_scale": 0.0,
                "lora_strength_stage_1": 0.25,
                "lora_strength_stage_2": 0.5,
            },
        ),
        Recipe(
            name="dfr",
            summary="distilled steps with keyframes made beside the video, then twice or 4 times the frames (LTX-2.5)",
            variant="dev",
            stages=(
                Stage(0.5, "distilled", loras={"distilled": 1.0}, keyframes=True),
                Stage(1.0, **_LARGER, loras={"distilled": 1.0}, keyframes=True),
            ),
            audio_from=0,
            defaults={"lora_strength_stage_1": 1.0, "lora_strength_stage_2": 1.0},
            rounds=(Stage(1.0, **_ROUND, tiles=2, rate=2), Stage(1.0, **_ROUND, tiles=4, rate=4)),
        ),
    )
}

_DISTILLED = RECIPES["distilled"]
RECIPES_25: dict[str, Recipe] = {
    "distilled": replace(
        _DISTILLED, stages=(replace(_DISTILLED.stages[0], sampler="ancestral_euler"), *_DISTILLED.stages[1:])
    ),
}
"""Those that are others for LTX-2.5. Reference: DistilledPipeline, whose first stage is ancestral from 2.5 on."""


def _second(name: str, **changes: Any) -> Recipe:
    first, second = {**RECIPES, **RECIPES_25}[name].stages
    return replace(RECIPES[name], stages=(first, replace(second, **changes)))


LATER_25: dict[str, dict[str, Recipe]] = {
    "1.4": {
        "distilled": _second("distilled", sampler="ancestral_euler"),
        "dev-two-stage": _second("dev-two-stage", frozen=("audio",)),
    }
}
"""What later versions of the reference are said to do with LTX-2.5; their source was not to be had."""

_REFINE = Stage(1.0, "refine", start="given", window=Window(chunk=17, held=3), phase="refine")
"""As a second stage does it, for the video alone: 17 latent frames are 129 frames, about what training had."""
REFINING: dict[str, Recipe] = {
    "distilled": Recipe("refine", "a few steps over what is there", "distilled", (_REFINE,), audio_from=0),
    "dev": Recipe(
        name="refine",
        summary="a few steps over what is there, with the distilled LoRA",
        variant="dev",
        stages=(replace(_REFINE, loras={"distilled": 1.0}),),
        audio_from=0,
        lora_advice="with a dev checkpoint --refine needs its .safetensors file there.",
    ),
}
"""By the checkpoint's variant: the schedule is for distilled weights, which the LoRA makes of the others."""

NEGATIVE_PROMPT = (
    "blurry, out of focus, low resolution, compression artifacts, flicker, jitter, ghosting, smeared motion, "
    "frozen frame, warped faces, extra fingers, deformed hands, melting objects, wrong perspective, overexposed, "
    "washed-out colors, watermark, captions, logos, on-screen text, muffled or distorted sound, clipping, hum, "
    "robotic voice, speech out of sync with the lips"
)
"""Written for this project; what a guided run steers away from unless `--negative-prompt` says otherwise."""
