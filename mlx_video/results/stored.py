"""Latents and how they are shown, in a folder and back. Knows files; decodes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.lending.finite import all_finite
from mlx_video.media.files import check_input, check_new_folder, replacing
from mlx_video.reading import path_of, read_json
from mlx_video.request.generating import MAX_FPS
from mlx_video.results.look import Look, Sound
from mlx_video.types import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_LATENTS_PER_SECOND,
    MODALITIES,
    TIME_SCALE,
    VIDEO_CHANNELS,
    Modality,
    Tree,
    UserError,
    VideoShape,
)
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, write

FORMS: dict[Modality, tuple[int | str, ...]] = {
    "video": (1, VIDEO_CHANNELS, "F", "H", "W"),
    "audio": (1, AUDIO_CHANNELS, "T", AUDIO_BINS),
}
"""Of latents."""
LATENTS, SETTINGS = "latents.safetensors", "settings.json"
FORMAT = "mlx_video result 1"
"""Of a stored one's settings."""


class Stored(NamedTuple):
    """What a folder holds of a clip."""

    latents: Tree
    look: Look
    metadata: Mapping[str, Any]
    given: Sound | None
    """The sound, where the user gave it."""
    inputs: Mapping[str, str]
    """Files that it was made of, by their flags."""

    def write(self, folder: str | Path) -> None:
        """To a new folder, whole or not at all; raises UserError where it cannot be written."""
        arrays: dict[str, mx.array] = {name: array.astype(mx.float32) for name, array in self.latents.items()}
        look = asdict(self.look) | {"shape": self.look.shape._asdict(), "rate": self.look.rate and str(self.look.rate)}
        settings: dict[str, Any] = {
            "format": FORMAT, "look": look, "metadata": dict(self.metadata), "inputs": dict(self.inputs)
        }  # fmt: skip
        if self.given is not None:
            arrays["waveform"], settings["sample_rate"] = mx.array(self.given[0]), self.given[1]
        size = sum(array.nbytes for array in arrays.values())
        with replacing(check_new_folder(folder, needed=size), folder=True) as place:
            pending = {name: Pending(array, mx.float32) for name, array in arrays.items()}
            write(place / LATENTS, pending, {"format": FORMAT}, lambda count: None)
            (place / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Stored:
        """Raises UserError where the folder holds no such thing, or a damaged one."""
        place = path_of(folder, advice="give the folder of a stored clip")
        try:
            settings = read_json(check_input(place / SETTINGS, "a stored clip"))
            if settings.get("format") != FORMAT:
                raise UserError(f"{place} is not a stored clip; Clip.store writes one.")
            said = settings["look"]
            rate = said["rate"] and Fraction(said["rate"])
            look = Look(**{**said, "shape": VideoShape(**said["shape"]), "rate": rate})
            arrays = Tensors([place / LATENTS]).load()
            sound = arrays.pop("waveform", None)
            given = None if sound is None else (np.array(sound), int(settings["sample_rate"]))
            latents = latents_of(arrays, look.shape.fps, longer=True)
            look.check(latents)
            return cls(latents, look, dict(settings["metadata"]), given, dict(settings["inputs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{place} is a damaged clip: {SETTINGS} is not as stored ({error}).") from error


def latents_of(latents: Mapping[str, Any], fps: float, *, longer: bool = False) -> Tree:
    """`latents` as float32 arrays of MLX's; raises UserError where they are not those of one clip.

    latents: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16), as `Clip.latents` and `on_preview`
    give them: normalised, of MLX or NumPy. longer: the sound may go on beyond the video, as where the video was cut.
    """
    if not isinstance(fps, int | float) or not 1.0 <= fps <= MAX_FPS:
        raise UserError(f"fps {fps!r} is out of range; it must be from 1 to {MAX_FPS:g}.")
    if not isinstance(latents, Mapping) or not {"video"} <= set(latents) <= set(MODALITIES):
        named = sorted(map(str, latents)) if isinstance(latents, Mapping) else type(latents).__name__
        raise UserError(f"Latents are a mapping with 'video' and, where there is sound, 'audio'; got {named}.")
    found: Tree = {m: _latent(m, latents[m], FORMS[m]) for m in MODALITIES if m in latents}
    if "audio" in found:
        seconds = ((found["video"].shape[2] - 1) * TIME_SCALE + 1) / fps
        wanted, have = round(AUDIO_LATENTS_PER_SECOND * seconds), found["audio"].shape[2]
        if have < wanted or (have > wanted and not longer):
            raise UserError(
                f"The audio latent has {have} frames; {seconds:.2f} s of video at {fps:g} fps take {wanted}."
            )
    return found


def _latent(name: str, value: Any, form: tuple[int | str, ...]) -> mx.array:
    # A letter in `form` stands for any number.
    try:
        array = (value if isinstance(value, mx.array) else mx.array(np.asarray(value, np.float32))).astype(mx.float32)
    except (TypeError, ValueError):
        raise UserError(f"The {name} latent is no array of numbers but {type(value).__name__}.") from None
    if array.ndim != len(form) or any(
        have != want for have, want in zip(array.shape, form, strict=True) if isinstance(want, int)
    ):
        raise UserError(f"The {name} latent has shape {array.shape}; it must be ({', '.join(map(str, form))}).")
    if not all_finite(array).item():
        raise UserError(f"The {name} latent holds numbers that are not finite.")
    return array
