"""Latents that a caller hands over, such as a preview's: what makes them those of one clip. Knows no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.lending.finite import all_finite
from mlx_video.request.generating import MAX_FPS
from mlx_video.types import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_LATENTS_PER_SECOND,
    MODALITIES,
    TIME_SCALE,
    VIDEO_CHANNELS,
    Tree,
    UserError,
)

LETTERS = {"video": "BCFHW", "audio": "BCTD"}
"""Of the axes, for messages."""


def check(latents: Mapping[str, Any], fps: float) -> Tree:
    """`latents` as float32 arrays of MLX's; raises UserError where they are not those of one clip.

    latents: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16), as `Clip.latents` and `on_preview`
    give them: normalised, of MLX or NumPy.
    """
    if not isinstance(fps, int | float) or not 1.0 <= fps <= MAX_FPS:
        raise UserError(f"fps {fps!r} is out of range; it must be from 1 to {MAX_FPS:g}.")
    if not isinstance(latents, Mapping) or not {"video"} <= set(latents) <= set(MODALITIES):
        named = sorted(map(str, latents)) if isinstance(latents, Mapping) else type(latents).__name__
        raise UserError(f"Latents are a mapping with 'video' and, where there is sound, 'audio'; got {named}.")
    found: Tree = {}
    forms = {"video": (1, VIDEO_CHANNELS, 0, 0, 0), "audio": (1, AUDIO_CHANNELS, 0, AUDIO_BINS)}
    for modality in MODALITIES:
        if modality in latents:
            found[modality] = _latent(modality, latents[modality], forms[modality])
    if "audio" in found:
        seconds = ((found["video"].shape[2] - 1) * TIME_SCALE + 1) / fps
        wanted, have = round(AUDIO_LATENTS_PER_SECOND * seconds), found["audio"].shape[2]
        if have != wanted:
            raise UserError(
                f"The audio latent has {have} frames; {seconds:.2f} s of video at {fps:g} fps take {wanted}."
            )
    return found


def _latent(name: str, value: Any, form: tuple[int, ...]) -> mx.array:
    # A 0 in `form` stands for any number.
    try:
        array = (value if isinstance(value, mx.array) else mx.array(np.asarray(value, np.float32))).astype(mx.float32)
    except (TypeError, ValueError):
        raise UserError(f"The {name} latent is no array of numbers but {type(value).__name__}.") from None
    if array.ndim != len(form) or any(have != want for have, want in zip(array.shape, form, strict=True) if want):
        wanted = ", ".join(str(want) if want else letter for want, letter in zip(form, LETTERS[name], strict=True))
        raise UserError(f"The {name} latent has shape {array.shape}; it must be ({wanted}).")
    if not all_finite(array).item():
        raise UserError(f"The {name} latent holds numbers that are not finite.")
    return array
