"""A finished generation: final latents, and frames and sound that are decoded when asked for.

Frames stream: iterating decodes anew each time and holds no more than the decoder's window. Knows how to save; knows
nothing of how the latents were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlx_video.request.spelling import in_keywords
from mlx_video.types import Progress, Tree, UserError, VideoShape

if TYPE_CHECKING:
    import numpy as np

Report = Callable[[Progress], None]
Sound = tuple["np.ndarray", int]


class Clip:
    """What `LTXPipeline.generate` gives.

    shape: frames, height, width, fps. latents: {"video": (B, 128, F, H, W), "audio": (B, 8, T, 16)}, normalised, the
    audio only where there is sound. metadata: plain values, the request with every default filled in.
    """

    def __init__(
        self,
        shape: VideoShape,
        latents: Tree,
        decode_frames: Callable[[Report], Iterator[np.ndarray]],
        decode_sound: Callable[[Report], Sound] | None,
        metadata: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
    ):
        """`decode_frames` gives (H, W, 3) uint8 frames; `decode_sound` a (2, S) waveform and its rate, or None.

        inputs: files that the clip was made of, by their flags; `save` never writes over them.
        """
        self.shape, self.latents, self.metadata = shape, dict(latents), dict(metadata)
        self._decode_frames, self._decode_sound = decode_frames, decode_sound
        self._sound: Sound | None = None
        self._inputs = dict(inputs or {})

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.shape.fps

    @property
    def sound(self) -> Sound | None:
        """Waveform (2, S) float32 and its sample rate, decoded once; None for a silent clip."""
        return self._decoded_sound(lambda progress: None)

    @property
    def silent(self) -> bool:
        """Whether there is no sound."""
        return self._decode_sound is None

    def _decoded_sound(self, report: Report) -> Sound | None:
        if self._sound is None and self._decode_sound is not None:
            self._sound = self._decode_sound(report)
        return self._sound

    @property
    def waveform(self) -> np.ndarray | None:
        """The sound's samples (2, S) in [-1, 1], or None."""
        return self.sound[0] if self.sound else None

    @property
    def sample_rate(self) -> int | None:
        """Samples per second of `waveform`, or None."""
        return self.sound[1] if self.sound else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in order, each (height, width, 3) uint8 RGB; decoded anew for each iteration."""
        return self._decode_frames(lambda progress: None)

    def __repr__(self) -> str:
        """The same as `str`, for notebooks and debuggers."""
        return f"<Clip {self}>"

    def __reduce__(self) -> NoReturn:
        """A clip holds on to the networks' files, which another process may not have."""
        raise TypeError("A Clip cannot be pickled or copied: save it as a file, or keep clip.latents and metadata.")

    def __str__(self) -> str:
        """Size, length and sound in a few words."""
        s = self.shape
        sound = "with sound" if self._decode_sound else "silent"
        return f"{s.width}x{s.height}, {s.frames} frames at {s.fps:g} fps ({s.seconds:.2f} s), {sound}"

    @in_keywords()
    def save(
        self,
        path: str | Path,
        *,
        audio_path: str | Path | None = None,
        frames: bool = False,
        on_step: Report | None = None,
    ) -> None:
        """Writes the video (the WAV, the frames as PNGs in a folder named after the video), each whole or not at all.

        Raises UserError where something cannot be written; what was there before then still is.
        """
        from mlx_video import platform

        with platform.computing():  # runs of other threads come before or after, not between the frames
            self._save(path, audio_path, frames, on_step or (lambda progress: None))

    def _save(self, path: str | Path, audio_path: str | Path | None, frames: bool, report: Report) -> None:
        from mlx_video.media import audio as audio_files
        from mlx_video.media import video as video_files

        silent = self._decode_sound is None
        path = check_outputs(
            path, audio=audio_path, frames=frames, shape=self.shape, silent=silent, inputs=self._inputs
        )
        sound = self._decoded_sound(report)
        with ExitStack() as stack:
            images: Iterator[np.ndarray] = self._decode_frames(report)
            if frames:
                images = stack.enter_context(video_files.frame_folder(path.with_suffix("")))(images)
            video_files.write_video(path, images, self.shape.fps, audio=sound, metadata=self.metadata)
        if audio_path is not None and sound is not None:
            waveform, rate = sound  # as long as the pictures, as it is in the video
            audio_files.write_wav(audio_path, audio_files.fit(waveform, round(self.shape.seconds * rate)), rate)


def check_outputs(
    path: str | Path,
    *,
    audio: str | Path | None,
    frames: bool,
    shape: VideoShape,
    silent: bool,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """The path, with `~` spelt out; raises UserError, before anything heavy, where an output could not be written.

    That is also where there is too little room for a clip of `shape`, or an output is one of the `inputs`.
    """
    from mlx_video.media import audio as audio_files
    from mlx_video.media import image as image_files
    from mlx_video.media import video as video_files
    from mlx_video.media.files import check_apart, check_new_folder, check_room

    if audio is not None and silent:
        raise UserError(f"--output-audio {audio} has nothing to hold: the clip is made without sound.")
    path = video_files.check_output(path, sound=not silent)
    size = (shape.frames, shape.height, shape.width)
    needed = {path: video_files.bytes_needed(*size, 0.0 if silent else shape.seconds)}
    if audio is not None:
        needed[audio_files.check_output(audio)] = audio_files.bytes_needed(shape.seconds)
    if frames:
        needed[check_new_folder(path.with_suffix(""))] = image_files.bytes_needed(*size)
    check_apart(list(needed), inputs or {})
    check_room(needed)
    return path
