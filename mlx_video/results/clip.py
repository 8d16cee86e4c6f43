"""What a job makes: latents, what they were made of, and how they are shown; decoded, saved and stored when asked.

Frames stream: iterating decodes anew each time and holds no more than the decoder's window. Knows files; knows nothing
of how the latents were made, and decodes through whatever it is handed.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from mlx_video import platform
from mlx_video.media import audio as audio_files
from mlx_video.media import image as image_files
from mlx_video.media import video as video_files
from mlx_video.media.sheet import Sheet
from mlx_video.request.spelling import in_keywords
from mlx_video.results import faults
from mlx_video.results.look import Look, Sound
from mlx_video.results.outputs import check_outputs
from mlx_video.results.stored import Stored
from mlx_video.types import Listener, Phase, Progress, Tree, UserError, VideoShape

SHOWN = 1 << 26
"""Bytes of pixels (21 s of 256 x 256) up to which a notebook is shown the clip itself, decoded for it."""


def _silently(progress: Progress) -> None:
    """Takes a report and tells nobody."""


def _last_saved(images: Iterator[np.ndarray], count: int, report: Listener) -> Generator[np.ndarray, None, None]:
    """Hands frames on, and reports before the last of `count` that all that is left is to save them."""
    for number, image in enumerate(images, 1):
        if number == count:
            report(Progress(Phase.SAVE, 0, 1))
        yield image


class Decoder(Protocol):
    """Makes pictures and sound of latents."""

    def frames(self, latent: Any, look: Look, report: Listener) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 of a video latent (1, 128, F, H, W), as many as are shown."""

    def sound(self, latent: Any, report: Listener) -> Sound:
        """Waveform (2, S) float32 and its rate, of an audio latent (1, 8, T, 16)."""


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
        suspected: Sequence[str] = (),
    ):
        """decoder: None where there is no checkpoint to decode with. given: the sound, where the user gave it.

        inputs: files that the clip was made of, by their flags; `save` never writes over them. suspected: what is
        wrong with the latents, a sentence each.
        """
        self.latents, self.look, self.metadata = dict(latents), look, dict(metadata)
        self._decoder, self._given, self._inputs = decoder, given, dict(inputs or {})
        self._sound, self._suspected = given, tuple(suspected)
        self._seen: tuple[str, ...] = ()

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
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it, a sentence each: with the latents at once, with pictures and sound once it is saved.

        One colour, black, frozen, saturated; no sound, clipped sound: see `results.faults`. A film or a picture that
        was upscaled is as its source was, and nothing is looked for.
        """
        return (*self._suspected, *self._seen)

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
        sheet: str | Path | None = None,
        on_step: Listener = _silently,
    ) -> None:
        """Writes the video (the WAV, the frames as PNGs in a folder named after the video), each whole or not at all.

        metadata: whether its settings are written into them. sheet: where a contact sheet goes: frames at even times,
        the prompt beneath. What is wrong with what was written is in `faults` then. Raises UserError where something
        cannot be written; what was there before then still is.
        """
        with platform.computing():  # runs of other threads come before or after, not between the frames
            self._save(path, audio_path, frames, sheet, self.metadata if metadata else {}, on_step)

    def _save(
        self,
        path: str | Path,
        audio_path: str | Path | None,
        frames: bool,
        sheet: str | Path | None,
        settings: Mapping[str, Any],
        report: Listener,
    ) -> None:
        path = check_outputs(
            path, self.look, audio=audio_path, frames=frames, pictures=[sheet] if sheet else [], inputs=self._inputs
        )
        sound = self._decoded_sound(report)
        watched, laid = faults.Watched(), Sheet(len(self), float(self.fps), str(settings.get("prompt", "")))
        with ExitStack() as stack:
            images: Iterator[np.ndarray] = stack.enter_context(closing(self.frames(report)))
            if self.look.source is None:
                images = watched.watch(images)
            if sheet is not None:
                images = laid.watch(images)
            images = stack.enter_context(closing(_last_saved(images, len(self), report)))
            if self.look.still:
                image_files.save_image(path, next(images), settings)
                report(Progress(Phase.SAVE, 1, 1, platform.peak_memory()))
                return
            if frames:
                images = stack.enter_context(video_files.frame_folder(path.with_suffix("")))(images)
            source = self.look.source if self.look.sound == "source" else None
            video_files.write_video(path, images, self.fps, audio=sound, audio_from=source, metadata=settings)
        if sheet is not None:
            image_files.save_image(sheet, laid.whole(), settings)
        heard = faults.of_sound(sound[0]) if sound is not None and self.look.sound == "latents" else ()
        self._seen = (*watched.faults, *heard)
        if audio_path is not None and sound is not None:
            waveform, rate = sound  # as long as the pictures, as it is in the video
            samples = audio_files.fit(waveform, round(self.shape.seconds * rate))
            audio_files.write_wav(audio_path, samples, rate, settings)
        report(Progress(Phase.SAVE, 1, 1, platform.peak_memory()))

    @property
    def stored(self) -> Stored:
        """All that there is to keep of it."""
        return Stored(self.latents, self.look, self.metadata, self._given, self._inputs)

    @in_keywords()
    def store(self, where: str | Path, *, metadata: bool = True) -> None:
        """Writes the latents and how they are shown to a new folder, or to a file named .safetensors.

        Whole or not at all, for `LTXPipeline.open`. A file holds no place of the files that the clip was made of.
        metadata: whether its settings are in it. Raises UserError as `save` does.
        """
        (self.stored if metadata else self.stored._replace(metadata={})).write(where)

    @classmethod
    def open(cls, where: str | Path) -> Clip:
        """What `store` wrote, without a model: to be looked at, and decoded once `LTXPipeline.open` opened it.

        Raises UserError where the folder or the file holds no such thing, or a damaged one.
        """
        found = Stored.read(where)
        return cls(found.latents, found.look, found.metadata, given=found.given, inputs=found.inputs)
