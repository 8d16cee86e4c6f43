"""From final latents to frames and sound. Borrows the decoders; knows no recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.pipelines.clip import Clip, Sound
from mlx_video.pipelines.conditions import files_of
from mlx_video.pipelines.finite import Origin
from mlx_video.types import Progress, Tree

if TYPE_CHECKING:
    from mlx_video.pipelines.conditions import Media
    from mlx_video.pipelines.loader import Loader
    from mlx_video.pipelines.settings import Settings


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

    count: ends after so many of them; None gives all.
    """
    from mlx_video.models.ltx_2.video_vae import decode_frames, plan_tiles

    frames, rows, columns = latent.shape[2:]
    total = count or (frames - 1) * 8 + 1
    done = 0
    origin = Origin.of(loader, "video_decoder")
    platform.peak_memory()
    with loader.borrow("video_decoder") as decoder:
        plan = plan_tiles(tiling, (frames, rows, columns), memory_limit=loader.ways.tile_bytes, stream=stream)
        for chunk in decode_frames(decoder, latent.transpose(0, 2, 3, 4, 1).astype(loader.dtype), plan):
            origin.check("decoding the video", chunk)
            for frame in np.array(to_uint8(chunk)):
                done += 1
                report(Progress("decode", done, total, platform.peak_memory() if done == total else None))
                yield frame
                if done == total:
                    return


def decode_audio(loader: Loader, latent: mx.array) -> tuple[np.ndarray, int]:
    """Waveform (2, S) float32 in [-1, 1] and its rate, of a normalised latent (1, 8, T, 16)."""
    with loader.borrow("audio_decoder") as decoder:
        mel = decoder(latent.astype(loader.dtype)).astype(mx.float32)
        Origin.of(loader, "audio_decoder").check("decoding the sound", mel)
    with loader.borrow("vocoder") as vocoder:
        waveform = vocoder(mel)[0]
        Origin.of(loader, "vocoder").check("making the waveform", waveform)
        return np.array(waveform, np.float32), vocoder.sample_rate


def clip_of(settings: Settings, loader: Loader, latents: Tree, media: Media) -> Clip:
    """The clip of a run's final latents; nothing is decoded yet. media: for the sound that the user gave."""
    request = settings.request
    video, audio = latents["video"], latents.get("audio")

    def frames(report: Callable[[Progress], None]) -> Iterator[Any]:
        return decode_video(loader, video, request.tiling, request.stream, report)

    sound: Callable[[], Sound] | None = None
    if media.sound is not None:
        sound = partial(_same, media.sound)
    elif audio is not None:
        sound = partial(decode_audio, loader, audio)
    return Clip(request.shape, latents, frames, sound, settings.metadata, files_of(request))


def _same(sound: Sound) -> Sound:
    return sound
