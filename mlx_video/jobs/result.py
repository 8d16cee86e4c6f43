"""What a job makes: latents, what they were made of, and how they are shown; decoded, saved and stored when asked.

Frames stream: iterating decodes anew each time and holds no more than the decoder's window. Knows files; knows nothing
of how the latents were made, and decodes through whatever it is handed.
"""

from __future__ import annotations

import base64
import html
import json
import operator
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.lending.finite import all_finite
from mlx_video.media import audio as audio_files
from mlx_video.media import image as image_files
from mlx_video.media import video as video_files
from mlx_video.media.files import check_apart, check_input, check_new_folder, check_room, replacing
from mlx_video.reading import path_of, read_json
from mlx_video.request import kinds
from mlx_video.request.generating import MAX_FPS
from mlx_video.request.spelling import in_keywords
from mlx_video.types import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_LATENTS_PER_SECOND,
    MODALITIES,
    SPACE_SCALE,
    TILINGS,
    TIME_SCALE,
    VIDEO_CHANNELS,
    VIDEO_DECODERS,
    Listener,
    Modality,
    Progress,
    Tree,
    UserError,
    VideoShape,
)
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, write

Heard = Literal["latents", "given", "source"] | None
Sound = tuple[np.ndarray, int]
FORMS: dict[Modality, tuple[int | str, ...]] = {
    "video": (1, VIDEO_CHANNELS, "F", "H", "W"),
    "audio": (1, AUDIO_CHANNELS, "T", AUDIO_BINS),
}
"""Of latents."""
LATENTS, SETTINGS = "latents.safetensors", "settings.json"
FORMAT = "mlx_video result 1"
"""Of a stored one's settings."""
SHOWN = 1 << 26
"""Bytes of pixels (21 s of 256 x 256) up to which a notebook is shown the clip itself, decoded for it."""


def _silently(progress: Progress) -> None:
    """Takes a report and tells nobody."""


class Decoder(Protocol):
    """Makes pictures and sound of latents."""

    def frames(self, latent: Any, look: Look, report: Listener) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 of a video latent (1, 128, F, H, W), as many as are shown."""

    def sound(self, latent: Any, report: Listener) -> Sound:
        """Waveform (2, S) float32 and its rate, of an audio latent (1, 8, T, 16)."""


@dataclass(frozen=True)
class Look:
    """How latents are decoded and shown, in plain values."""

    shape: VideoShape
    """What is shown, cut out of what is decoded."""
    top: int = 0
    left: int = 0
    """Rows and columns that are cut off."""
    rate: Fraction | None = None
    """Frames a second where they are known as a fraction."""
    tiling: str = "auto"
    stream: bool = False
    decoder: str = "conv"
    seed: int = 0
    """Of the noise that a diffusion decoder makes pictures of."""
    sound: Heard = None
    """Decoded, as the user gave it, as it is in the source, or none."""
    source: str | None = None
    """The picture or film that this was made of."""
    still: bool = False
    """A picture."""

    @classmethod
    def cut(cls, shown: VideoShape, made: VideoShape, latents: Tree, given: Sound | None, **how: Any) -> Look:
        """Of `shown`, cut out of the middle of what is `made`; given: the sound, where the user gave it."""
        top, left = made.margins(shown.height, shown.width)
        sound: Heard = "given" if given is not None else "latents" if "audio" in latents else None
        return cls(shown, top, left, sound=sound, **how)

    def check(self, latents: Tree) -> None:
        """Raises ValueError where this cannot be shown of `latents`."""
        for name, hint in kinds.hints_of(Look).items():
            if not kinds.fits(getattr(self, name), hint):
                raise ValueError(f"{name} {getattr(self, name)!r}")
        frames, rows, columns = latents["video"].shape[2:]
        have = ((frames - 1) * TIME_SCALE + 1, rows * SPACE_SCALE, columns * SPACE_SCALE)
        most = (self.shape.frames, self.top + self.shape.height, self.left + self.shape.width)
        if min(self.top, self.left) < 0 or min(self.shape[:3]) < 1 or any(map(operator.gt, most, have)):
            raise ValueError(f"shape {list(self.shape)}")
        if self.tiling not in TILINGS:
            raise ValueError(f"tiling {self.tiling!r}")
        if self.decoder not in VIDEO_DECODERS:
            raise ValueError(f"decoder {self.decoder!r}")
        if self.sound == "latents" and "audio" not in latents:
            raise ValueError("sound")

    @property
    def fps(self) -> float | Fraction:
        """Frames a second."""
        return self.shape.fps if self.rate is None else self.rate

    def __str__(self) -> str:
        """Size, length and sound in a few words."""
        s = self.shape
        if self.still:
            return f"{s.width}x{s.height}"
        sound = {None: "silent", "source": "with its sound"}.get(self.sound, "with sound")
        length = "" if self.source else f" ({s.seconds:.2f} s)"
        return f"{s.width}x{s.height}, {s.frames} frames at {s.fps:g} fps{length}, {sound}"


class Clip:
    """What `LTXPipeline` makes: a video with or without sound, or a picture.

    latents: {"video": (1, 128, F, H, W), "audio": (1, 8, T, 16)}, normalised, the audio only where there is sound.
    look: its size, rate and how it is decoded. metadata: plain values, the request with every default filled in.
    """

    def __init__(
        self,
        latents: Tree,
        look: Look,
        metadata: Mapping[str, Any],
        decoder: Decoder | None = None,
        *,
        given: Sound | None = None,
        inputs: Mapping[str, str] | None = None,
    ):
        """decoder: None where there is no checkpoint to decode with. given: the sound, where the user gave it.

        inputs: files that the clip was made of, by their flags; `save` never writes over them.
        """
        self.latents, self.look, self.metadata = dict(latents), look, dict(metadata)
        self._decoder, self._given, self._inputs = decoder, given, dict(inputs or {})
        self._sound = given

    @property
    def shape(self) -> VideoShape:
        """Frames, height, width and frames a second."""
        return self.look.shape

    @property
    def fps(self) -> float | Fraction:
        """Frames per second."""
        return self.look.fps

    @property
    def sound(self) -> Sound | None:
        """Waveform (2, S) float32 and its sample rate, decoded once; None for a silent clip."""
        return self._decoded_sound(_silently)

    @property
    def silent(self) -> bool:
        """Whether there is no sound."""
        return self.look.sound is None

    def _decoded_sound(self, report: Listener) -> Sound | None:
        if self._sound is None and self.look.sound == "latents":
            self._sound = self._decoding.sound(self.latents["audio"], report)
        return self._sound

    @property
    def _decoding(self) -> Decoder:
        if self._decoder is None:
            model = self.metadata.get("model", "the model that it was made with")
            raise UserError(f"This clip was opened without its model ({model}); open it with LTXPipeline.open.")
        return self._decoder

    def decoded_by(self, decoder: Decoder) -> Clip:
        """The same clip, which has a decoder now."""
        self._decoder = decoder
        return self

    @property
    def waveform(self) -> np.ndarray | None:
        """The sound's samples (2, S) in [-1, 1], or None."""
        return self.sound[0] if self.sound else None

    @property
    def sample_rate(self) -> int | None:
        """Samples per second of `waveform`, or None."""
        return self.sound[1] if self.sound else None

    def __len__(self) -> int:
        """How many frames there are."""
        return self.shape.frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in order, each (height, width, 3) uint8 RGB; decoded anew for each iteration."""
        return self.frames(_silently)

    def frames(self, report: Listener) -> Generator[np.ndarray, None, None]:
        """The same; `report` is told of each."""
        look = self.look
        rows, columns = (slice(look.top, look.top + look.shape.height), slice(look.left, look.left + look.shape.width))
        for frame in self._decoding.frames(self.latents["video"], look, report):
            yield frame[rows, columns]

    def __repr__(self) -> str:
        """The same as `str`, for notebooks and debuggers."""
        return f"<Clip {self}>"

    def __str__(self) -> str:
        """Size, length and sound in a few words."""
        return str(self.look)

    def __reduce__(self) -> NoReturn:
        """A clip holds on to the networks' files, which another process may not have."""
        raise TypeError("A Clip cannot be pickled or copied: save it as a file, or store it in a folder.")

    def _repr_html_(self) -> str:
        """For a notebook: the clip itself, decoded, or in words where that would be much."""
        s = self.shape
        if self._decoder is None or s.frames * s.height * s.width * 3 > SHOWN:
            return f"<code>{html.escape(repr(self))}</code>"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("clip.png" if self.look.still else "clip.mp4")
            self.save(path)
            data = base64.b64encode(path.read_bytes()).decode()
        if self.look.still:
            return f'<img src="data:image/png;base64,{data}">'
        return f'<video controls loop src="data:video/mp4;base64,{data}"></video>'

    @in_keywords()
    def save(
        self,
        path: str | Path,
        *,
        audio_path: str | Path | None = None,
        frames: bool = False,
        metadata: bool = True,
        on_step: Listener = _silently,
    ) -> None:
        """Writes the video (the WAV, the frames as PNGs in a folder named after the video), each whole or not at all.

        metadata: whether its settings are written into them. Raises UserError where something cannot be written; what
        was there before then still is.
        """
        with platform.computing():  # runs of other threads come before or after, not between the frames
            self._save(path, audio_path, frames, self.metadata if metadata else {}, on_step)

    def _save(
        self,
        path: str | Path,
        audio_path: str | Path | None,
        frames: bool,
        settings: Mapping[str, Any],
        report: Listener,
    ) -> None:
        path = check_outputs(path, self.look, audio=audio_path, frames=frames, inputs=self._inputs)
        sound = self._decoded_sound(report)
        with ExitStack() as stack:
            images: Iterator[np.ndarray] = stack.enter_context(closing(self.frames(report)))
            if self.look.still:
                image_files.save_image(path, next(images), settings)
                return
            if frames:
                images = stack.enter_context(video_files.frame_folder(path.with_suffix("")))(images)
            source = self.look.source if self.look.sound == "source" else None
            video_files.write_video(path, images, self.fps, audio=sound, audio_from=source, metadata=settings)
        if audio_path is not None and sound is not None:
            waveform, rate = sound  # as long as the pictures, as it is in the video
            samples = audio_files.fit(waveform, round(self.shape.seconds * rate))
            audio_files.write_wav(audio_path, samples, rate, settings)

    @in_keywords()
    def store(self, folder: str | Path) -> None:
        """Writes the latents and how they are shown to a new folder, whole or not at all, for `LTXPipeline.open`.

        Raises UserError as `save` does.
        """
        arrays: dict[str, mx.array] = {name: array.astype(mx.float32) for name, array in self.latents.items()}
        look = asdict(self.look) | {"shape": self.shape._asdict(), "rate": self.look.rate and str(self.look.rate)}
        settings: dict[str, Any] = {"format": FORMAT, "look": look, "metadata": self.metadata, "inputs": self._inputs}
        if self._given is not None:
            arrays["waveform"], settings["sample_rate"] = mx.array(self._given[0]), self._given[1]
        size = sum(array.nbytes for array in arrays.values())
        with replacing(check_new_folder(folder, needed=size), folder=True) as place:
            pending = {name: Pending(array, mx.float32) for name, array in arrays.items()}
            write(place / LATENTS, pending, {"format": FORMAT}, lambda count: None)
            (place / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def open(cls, folder: str | Path) -> Clip:
        """What `store` wrote, without a model: to be looked at, and decoded once `LTXPipeline.open` opened it.

        Raises UserError where the folder holds no such thing, or a damaged one.
        """
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
            return cls(latents, look, dict(settings["metadata"]), given=given, inputs=dict(settings["inputs"]))
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


def check_outputs(
    path: str | Path,
    look: Look,
    *,
    audio: str | Path | None = None,
    frames: bool = False,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """The path, with `~` spelt out; raises UserError, before anything heavy, where an output could not be written.

    That is also where it is of another kind than the source, there is too little room for it, or it is one of the
    `inputs`.
    """
    if audio is not None and look.sound is None:
        raise UserError(f"--output-audio {audio} has nothing to hold: the clip is made without sound.")
    path = path_of(path, advice="give the name of a file")
    own, other = (image_files, video_files) if look.still else (video_files, image_files)
    if look.source is not None and path.suffix.lower() in other.SUFFIXES:
        kind = "picture" if look.still else "video"
        raise UserError(f"{look.source} is a {kind}, so {path} must be one, too: {', '.join(own.SUFFIXES)}.")
    shape, needed = look.shape, {}
    size = (shape.frames, shape.height, shape.width)
    if look.still:
        needed[image_files.check_output(path)] = image_files.bytes_needed(*size)
    else:
        copied = look.source if look.sound == "source" else None
        heard = look.sound in ("latents", "given")
        path = video_files.check_output(path, sound=heard, audio_from=copied)
        needed[path] = video_files.bytes_needed(*size, shape.seconds if heard else 0.0)
        needed[path] += Path(copied).stat().st_size if copied else 0
    if audio is not None:
        needed[audio_files.check_output(audio)] = audio_files.bytes_needed(shape.seconds)
    if frames:
        needed[check_new_folder(path.with_suffix(""))] = image_files.bytes_needed(*size)
    check_apart(list(needed), inputs or {})
    check_room(needed)
    return path
