"""Latents and how they are shown, in a folder or a single file and back. Knows files; decodes nothing."""

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
from mlx_video.media.files import check_apart, check_input, check_new_folder, check_place, replacing
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
from mlx_video.weights.write import Pending, checksum, settle, write

FORMS: dict[Modality, tuple[int | str, ...]] = {
    "video": (1, VIDEO_CHANNELS, "F", "H", "W"),
    "audio": (1, AUDIO_CHANNELS, "T", AUDIO_BINS),
}
"""Of latents."""
LATENTS, SETTINGS = "latents.safetensors", "settings.json"
SUFFIX, SETTINGS_KEY = ".safetensors", "settings"
"""Of a single file, and where its header has its settings."""
REQUEST = "request.json"
"""Of a folder that a run is kept in, which has the clip once that is finished."""
FORMAT = "mlx_video result 1"
"""Of a stored one's settings."""


class Stored(NamedTuple):
    """What a folder or a file holds of a clip."""

    latents: Tree
    look: Look
    metadata: Mapping[str, Any]
    given: Sound | None
    """The sound, where the user gave it."""
    inputs: Mapping[str, str]
    """Files that it was made of, by their flags."""

    def write(self, where: str | Path) -> None:
        """To a new folder, or a file that ends in .safetensors, whole or not at all; UserError where it cannot be."""
        path = path_of(where, advice="give the name of a folder, or of a .safetensors file")
        size = sum(array.nbytes for array in self._arrays().values())
        if path.suffix.lower() == SUFFIX:
            check_file(path, needed=size)
            check_apart([path], self.inputs)
            # Whoever is handed the file has no use for where its maker's files lay.
            self._put_arrays(path, {SETTINGS_KEY: json.dumps(self._replace(inputs={})._settings())})
            return
        with replacing(check_new_folder(path, needed=size), folder=True) as place:
            self.put(place)

    def put(self, folder: Path) -> None:
        """Into a folder that is there, the settings last: with them it is whole. Raises as `write` does."""
        self._put_arrays(folder / LATENTS, {})
        with replacing(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(self._settings(), indent=1), encoding="utf-8")
            settle(temporary)

    def _arrays(self) -> dict[str, mx.array]:
        arrays: dict[str, mx.array] = {name: array.astype(mx.float32) for name, array in self.latents.items()}
        return arrays if self.given is None else {**arrays, "waveform": mx.array(self.given[0])}

    def _settings(self) -> dict[str, Any]:
        look = asdict(self.look) | {"shape": self.look.shape._asdict(), "rate": self.look.rate and str(self.look.rate)}
        settings: dict[str, Any] = {
            "format": FORMAT, "look": look, "metadata": dict(self.metadata), "inputs": dict(self.inputs)
        }  # fmt: skip
        return settings if self.given is None else {**settings, "sample_rate": self.given[1]}

    def _put_arrays(self, path: Path, metadata: Mapping[str, str]) -> None:
        arrays = self._arrays()
        pending = {name: Pending(array, mx.float32) for name, array in arrays.items()}
        with replacing(path) as temporary:
            write(temporary, pending, {"format": FORMAT, "sum": checksum(arrays), **metadata}, lambda count: None)
            settle(temporary)

    @classmethod
    def read(cls, where: str | Path) -> Stored:
        """Of a folder or a file. Raises UserError where it holds no such thing, or a damaged one."""
        place = path_of(where, advice="give the folder of a stored clip, or its .safetensors file")
        single = place.is_file() or (place.suffix.lower() == SUFFIX and not place.exists())
        tensors = Tensors([check_input(place, "a stored clip")]) if single else None
        settings = _settings_of(place, tensors)
        try:
            said = settings["look"]
            rate = said["rate"] and Fraction(said["rate"])
            look = Look(**{**said, "shape": VideoShape(**said["shape"]), "rate": rate})
            tensors = tensors or Tensors([place / LATENTS])
            arrays = tensors.load()
            if tensors.metadata.get("sum") not in (None, checksum(arrays)):
                raise UserError(f"{tensors.paths[0]} is damaged: its numbers are not those that were written.")
            sound = arrays.pop("waveform", None)
            given = None if sound is None else (np.array(sound), int(settings["sample_rate"]))
            latents = latents_of(arrays, look.shape.fps, longer=True)
            look.check(latents)
            return cls(latents, look, dict(settings["metadata"]), given, dict(settings["inputs"]))
        except (KeyError, TypeError, ValueError) as error:
            name = "what it says" if single else SETTINGS
            raise UserError(f"{place} is a damaged clip: {name} is not as stored ({error}).") from error


def _settings_of(place: Path, tensors: Tensors | None) -> dict[str, Any]:
    """tensors: of a single file, which says its settings itself."""
    if tensors is None:
        if (place / REQUEST).is_file() and not (place / SETTINGS).exists():
            raise UserError(f"{place} keeps a run that is not finished; the same command with --keep goes on from it.")
        settings: Any = read_json(check_input(place / SETTINGS, "a stored clip"))
    else:
        settings = tensors.metadata.get(SETTINGS_KEY)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise UserError(f"{place} is not a stored clip; Clip.store writes one.")
    return settings


def said_by(place: Path) -> dict[str, Any] | None:
    """What a stored clip says of how it was made, and of how it is shown; None where `place` holds none."""
    try:
        if place.is_dir():
            settings = _settings_of(place, None) if (place / SETTINGS).is_file() else None
        else:
            settings = _settings_of(place, Tensors([place])) if place.suffix.lower() == SUFFIX else None
    except UserError:
        return None
    metadata = None if settings is None else settings.get("metadata")
    return dict(metadata) if isinstance(metadata, dict) else None


def check_file(path: Path, *, needed: int = 0) -> Path:
    """The path, once it is sure that a clip can be stored there as a file; never in place of another kind of file.

    Raises UserError as `check_place` does.
    """
    check_place(path, (SUFFIX,), needed=needed)
    if path.exists() and said_by(path) is None:
        raise UserError(f"{path} is there already and is no stored clip; give another name or remove it.")
    return path


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
