"""From final latents to frames and sound. Borrows the decoders; knows no recipe."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.checkpoints.provenance import described
from mlx_video.jobs.clip import Clip, Sound
from mlx_video.jobs.inputs import files_of
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import parameter_bytes
from mlx_video.media.video import ENCODED_BYTES
from mlx_video.types import SPACE_SCALE, TIME_SCALE, Progress, Tree, VideoShape

if TYPE_CHECKING:
    from mlx_video.jobs.inputs import Media
    from mlx_video.lending.loader import Loader
    from mlx_video.planning.settings import Settings


def to_uint8(frames: mx.array) -> mx.array:
    """Pixels in [-1, 1] to 8 bit; truncated, not rounded, as the reference does."""
    unit = (frames.astype(mx.float32) + 1.0) / 2.0
    return (mx.clip(unit, 0.0, 1.0) * 255.0).astype(mx.uint8)


def decode_video(
    loader: Loader,
    latent: mx.array,
    tiling: str,
    stream: bool,
    report: Callable[[Progress], None],
    count: int | None = None,
) -> Iterator[np.ndarray]:
    """Frames (height, width, 3) uint8 of a normalised latent (1, 128, F, H, W), as they are made.

    count: ends after so many of them; None gives all. Each frame may be taken in a thread of its own.
    """
    frames = _decoded(loader, latent, tiling, stream, report, count)
    try:
        while True:
            with platform.computing(loader.ways.limit):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame
    finally:
        frames.close()


def _decoded(
    loader: Loader, latent: mx.array, tiling: str, stream: bool, report: Callable[[Progress], None], count: int | None
) -> Generator[np.ndarray, None, None]:
    from mlx_video.models.ltx_2.video_vae import decode_frames

    frames, rows, columns = latent.shape[2:]
    total = count or (frames - 1) * 8 + 1
    done = 0
    origin = Origin.of(loader, "video_decoder")
    platform.peak_memory()
    with loader.borrow("video_decoder") as decoder:
        room = loader.ways.beside(parameter_bytes(decoder), ENCODED_BYTES * rows * columns * SPACE_SCALE**2)
        config, size = loader.checkpoint.config, loader.vae_dtype.size
        plan = loader.checkpoint.family.costs().tiles(
            config, tiling, (frames, rows, columns), room, stream=stream, size=size
        )
        for chunk in decode_frames(decoder, latent.transpose(0, 2, 3, 4, 1).astype(loader.vae_dtype), plan):
            origin.check("decoding the video", chunk)
            for frame in np.array(to_uint8(chunk)):
                done += 1
                report(Progress("decode", done, total, platform.peak_memory() if done == total else None))
                yield frame
                if done == total:
                    return


def decode_audio(
    loader: Loader, latent: mx.array, report: Callable[[Progress], None] = lambda progress: None
) -> tuple[np.ndarray, int]:
    """Waveform (2, S) float32 in [-1, 1] and its rate, of a normalised latent (1, 8, T, 16)."""
    with platform.computing(loader.ways.limit):
        return _waveform(loader, latent, report)


def _waveform(loader: Loader, latent: mx.array, report: Callable[[Progress], None]) -> tuple[np.ndarray, int]:
    platform.peak_memory()
    report(Progress("waveform", 0, 2))
    with loader.borrow("audio_decoder") as decoder:
        mel = decoder(latent.astype(loader.vae_dtype)).astype(mx.float32)
        Origin.of(loader, "audio_decoder").check("decoding the sound", mel)
    report(Progress("waveform", 1, 2))
    with loader.borrow("vocoder") as vocoder:
        waveform = vocoder(mel)[0]
        Origin.of(loader, "vocoder").check("making the waveform", waveform)
        samples, rate = np.array(waveform, np.float32), vocoder.sample_rate
    report(Progress("waveform", 2, 2, platform.peak_memory()))
    return samples, rate


def clip_of_latents(
    loader: Loader, latents: Tree, fps: float, tiling: str, stream: bool, metadata: Mapping[str, Any]
) -> Clip:
    """The clip of latents as `latents.check` gives them; nothing is decoded yet."""
    frames, rows, columns = latents["video"].shape[2:]
    shape = VideoShape((frames - 1) * TIME_SCALE + 1, rows * SPACE_SCALE, columns * SPACE_SCALE, fps)

    def decoded(report: Callable[[Progress], None]) -> Iterator[Any]:
        return decode_video(loader, latents["video"], tiling, stream, report)

    sound = partial(decode_audio, loader, latents["audio"]) if "audio" in latents else None
    return Clip(shape, latents, decoded, sound, metadata)


def clip_of(settings: Settings, loader: Loader, latents: Tree, media: Media) -> Clip:
    """The clip of a run's final latents; nothing is decoded yet. media: for the sound that the user gave."""
    request = settings.request
    video, audio = latents["video"], latents.get("audio")
    top, left = settings.shape.margins(request.height, request.width)

    def frames(report: Callable[[Progress], None]) -> Iterator[Any]:
        for frame in decode_video(loader, video, request.tiling, request.stream, report):
            yield frame[top : top + request.height, left : left + request.width]

    sound: Callable[[Callable[[Progress], None]], Sound] | None = None
    if media.sound is not None:
        sound = partial(_same, media.sound)
    elif audio is not None:
        sound = partial(decode_audio, loader, audio)
    return Clip(request.shape, latents, frames, sound, described(settings, loader.checkpoint), files_of(request))


def _same(sound: Sound, report: Callable[[Progress], None]) -> Sound:
    return sound
