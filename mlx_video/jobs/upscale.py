"""Makes a picture or a video larger, or its motion finer: encode, upsample the latents, refine if asked, decode.

Whatever the source's size and length: it is padded to what the networks take (its edges and its last frame repeated)
and the result is cut back. Frames pass a few at a time; what stays in memory of a long clip is its latents, a 48th of
the result's bytes in float32. Knows sources, networks and the order of the steps; knows no flags.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.checkpoints.provenance import model_of
from mlx_video.diffusion.noise import NamedNoise
from mlx_video.jobs import decode
from mlx_video.jobs.refine import refine, sigmas_of
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import parameter_bytes
from mlx_video.media import image, video
from mlx_video.media.files import check_apart, check_input
from mlx_video.media.image import is_picture, read_image, save_image
from mlx_video.media.video import Film, read_video, write_video
from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.reading import path_of
from mlx_video.request import Upscaling
from mlx_video.request.spelling import in_keywords
from mlx_video.types import SPACE_SCALE, TIME_SCALE, Context, Progress, UserError

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint
    from mlx_video.lending.loader import Loader

Report = Callable[[Progress], None]
MAX_SIDE = 8192
"""Pixels of the result: what H.264 encoders take."""
STILL_FPS = Fraction(24)
"""What the transformer is told of a picture's rate."""


# ------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Still:
    """A picture, as a film of one frame."""

    path: Path
    pixels: np.ndarray
    fps: Fraction = STILL_FPS
    count: int = 1
    sound: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    def frames(self) -> Iterator[np.ndarray]:
        """The picture, (H, W, 3) uint8."""
        yield self.pixels


Source = Film | Still


def read_source(asked: Upscaling) -> Source:
    """The picture or video to upscale, read through; raises UserError where it cannot be, or is too large."""
    path = check_input(asked.input, "a picture or a video")
    source: Source = Still(path, read_image(path)) if is_picture(path) else read_video(path)
    if asked.fps_scale > 1 and isinstance(source, Still):
        raise UserError(f"--fps-scale {asked.fps_scale} has no effect on a picture, and {path} is one.")
    for side in (source.height, source.width):
        if side * asked.scale > MAX_SIDE:
            raise UserError(
                f"{path} is {source.width}x{source.height}; {asked.scale:g} times that is more than {MAX_SIDE} pixels "
                f"a side, which is the most. Its longer side may have {int(MAX_SIDE / asked.scale)}."
            )
    video.frame_rate(source.fps * asked.fps_scale)
    return source


def check_output(source: str | Path, output: str | Path, *, needed: int = 0) -> Path:
    """The path to write to, once it is sure that the result, of `needed` bytes, can be written there.

    Raises UserError where it would replace the source, or is of the other kind, or cannot hold the source's sound.
    """
    path, output = check_input(source, "a picture or a video"), path_of(output, advice="give the name of a file")
    check_apart([output], {f"--input {source}": path})
    picture = is_picture(path)
    suffixes, others = (image.SUFFIXES, video.SUFFIXES) if picture else (video.SUFFIXES, image.SUFFIXES)
    if output.suffix.lower() in others:
        kind = "picture" if picture else "video"
        raise UserError(f"{path} is a {kind}, so {output} must be one, too: {', '.join(suffixes)}.")
    if picture:
        return image.check_output(output, needed=needed)
    return video.check_output(output, needed=needed, audio_from=path)


def bytes_needed(asked: Upscaling, source: Source) -> int:
    """At most what the result takes on disk; a sound that is copied is no larger than the source's file."""
    height, width = (_scaled(side, asked.scale, source) for side in (source.height, source.width))
    if isinstance(source, Still):
        return image.bytes_needed(1, height, width)
    count = asked.fps_scale * (source.count - 1) + 1
    return video.bytes_needed(count, height, width) + (source.path.stat().st_size if source.sound else 0)


# ------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Refiner:
    """What refining needs besides the latents."""

    contexts: Mapping[str, Context]
    borrow: Callable[[], Any]
    """Gives the transformer, ready for the refining schedule, as a context manager."""
    noise: NamedNoise
    origin: Origin
    """Of the transformer's numbers."""


def upscale(asked: Upscaling, source: Source, loader: Loader, refiner: Refiner | None, report: Report) -> Upscaled:
    """The source upscaled, up to its latents; frames are decoded when asked for."""
    latent = encode(asked, source, loader, report)
    for kind in asked.upsamplers:
        latent = upsample(latent, kind, loader, report)
    video_latent = latent.transpose(0, 4, 1, 2, 3).astype(mx.float32)
    mx.eval(video_latent)
    if refiner is not None:
        fps = float(source.fps * asked.fps_scale)
        with refiner.borrow() as transformer:
            video_latent = refine(
                video_latent, fps, transformer, refiner.contexts, sigmas_of(asked.steps), refiner.noise, report,
                refiner.origin,
            )  # fmt: skip
    return Upscaled(asked, source, video_latent, loader)


def encode(asked: Upscaling, source: Source, loader: Loader, report: Report) -> mx.array:
    """Normalised latent (1, F, H, W, 128) of the source, padded to 1 + 8k frames and whole latents."""
    from mlx_video.models.ltx_2.video_vae import encode_frames

    height, width = padded_size(asked, source, VideoVAEConfig.read(loader.checkpoint.config))
    count = -(-(source.count - 1) // TIME_SCALE) * TIME_SCALE + 1
    grid = ((count - 1) // TIME_SCALE + 1, height // SPACE_SCALE, width // SPACE_SCALE)
    platform.peak_memory()
    report(Progress("encode", 0, count))

    def pixels() -> Iterator[np.ndarray]:
        around = ((0, height - source.height), (0, width - source.width), (0, 0))
        for done, frame in enumerate(source.frames(), 1):
            if frame.shape[:2] != (source.height, source.width):
                raise UserError(
                    f"{source.path} begins with frames of {source.width}x{source.height}, but frame {done - 1} is "
                    f"{frame.shape[1]}x{frame.shape[0]}; a video has to keep its size."
                )
            last = np.pad(frame, around, mode="edge") / np.float32(127.5) - np.float32(1)
            report(Progress("encode", min(done, count - 1), count))
            yield last
        yield from itertools.repeat(last, count - done)

    encoder: Any
    with loader.borrow("video_encoder") as encoder:
        config, room = loader.checkpoint.config, loader.ways.beside(parameter_bytes(encoder))
        plan = loader.checkpoint.family.costs().tiles(
            config, asked.tiling, grid, room, stream=True, size=loader.vae_dtype.size, encoding=True
        )
        latent = encode_frames(encoder, pixels(), plan, count)
        Origin.of(loader, "video_encoder").check("encoding the pictures", latent)
    report(Progress("encode", count, count, platform.peak_memory()))
    return latent


def padded_size(asked: Upscaling, source: Source, config: VideoVAEConfig) -> tuple[int, int]:
    """Height and width that the source is encoded at: whole latents, and two of them where fewer cannot be decoded."""
    least = 1
    if config.encoder_padding == "reflect" or (config.decoder_padding == "reflect" and asked.scale == 1):
        least = 2
    height, width = (max(least, -(-side // SPACE_SCALE)) * SPACE_SCALE for side in (source.height, source.width))
    return height, width


def latent_grid(asked: Upscaling, source: Source, checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Latent frames, rows and columns of the result, at most."""
    sides = padded_size(asked, source, VideoVAEConfig.read(checkpoint.config))
    frames = -(-(source.count - 1) // TIME_SCALE) * asked.fps_scale + 1
    height, width = (-(-int(side * asked.scale) // SPACE_SCALE) for side in sides)
    return frames, height, width


def upsample(latent: mx.array, kind: str, loader: Loader, report: Report) -> mx.array:
    """A normalised latent (1, F, H, W, 128), upsampled; the network sees it un-normalised.

    Reference: `upsample_video`.
    """
    phase = "upscale" if kind.startswith("spatial") else "fps"
    platform.peak_memory()

    def told(done: int, total: int) -> None:
        report(Progress(phase, done, total, platform.peak_memory() if done == total else None))

    statistics: Any
    network: Any
    with loader.borrow("latent_statistics") as statistics, loader.borrow_upsampler(kind) as network:
        raw = network.long(statistics.denormalize(latent.astype(loader.vae_dtype)), report=told)
        result = statistics.normalize(raw)
        Origin.of(loader, "latent_statistics", kind).check("upsampling", result)
    return result


# ------------------------------------------------------------------------------------------- results


def _scaled(side: int, scale: float, source: Source) -> int:
    # Half a pixel is left out, and of a video the last of an odd number, since 4:2:0 has even sizes alone.
    pixels = int(side * scale)
    return pixels if isinstance(source, Still) else max(2, pixels // 2 * 2)


class Upscaled:
    """What `LTXPipeline.upscale` gives: latents, and frames that are decoded when asked for.

    latents: {"video": (1, 128, F, H, W)}, normalised, of the padded source. fps: frames a second, exact. metadata:
    plain values.
    """

    def __init__(self, asked: Upscaling, source: Source, latent: mx.array, loader: Loader):
        """Use `LTXPipeline.upscale`."""
        self.latents = {"video": latent}
        self.metadata = {**asked.metadata, **model_of(loader.checkpoint)}
        self.height, self.width = (_scaled(side, asked.scale, source) for side in (source.height, source.width))
        self.num_frames = asked.fps_scale * (source.count - 1) + 1
        self.fps = source.fps * asked.fps_scale
        self.source = source
        self._tiling, self._loader = asked.tiling, loader

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in order, each (height, width, 3) uint8 RGB; decoded anew for each iteration."""
        return self.frames(lambda progress: None)

    def frames(self, report: Report) -> Generator[np.ndarray, None, None]:
        """The same; `report` is told of each."""
        latent = self.latents["video"]
        frames = decode.decode_video(self._loader, latent, self._tiling, True, report, self.num_frames)
        for frame in frames:
            yield frame[: self.height, : self.width]

    def __str__(self) -> str:
        """Size, length and sound in a few words."""
        if isinstance(self.source, Still):
            return f"{self.width}x{self.height}"
        sound = "with its sound" if self.source.sound else "silent"
        return f"{self.width}x{self.height}, {self.num_frames} frames at {float(self.fps):g} fps, {sound}"

    @in_keywords()
    def save(self, path: str | Path, *, on_step: Report | None = None) -> None:
        """Writes the picture, or the video with the source's sound as it is, whole or not at all.

        Raises UserError as `check_output` does, where something cannot be written; what was there then still is.
        """
        path = check_output(self.source.path, path)
        frames = self.frames(on_step or (lambda progress: None))
        with platform.computing(), closing(frames):
            if isinstance(self.source, Still):
                save_image(path, next(frames))
            else:
                sound = self.source.path if self.source.sound else None
                write_video(path, frames, self.fps, audio_from=sound, metadata=self.metadata)
