"""From final latents to frames and sound. Borrows the decoders; knows no recipe."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.provenance import model_of
from mlx_video.diffusion.noise import DECODING, seeded
from mlx_video.jobs.demand import Networks, decoding
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader, parameter_bytes
from mlx_video.lending.visits import Ways
from mlx_video.media.video import ENCODED_BYTES
from mlx_video.planning.plan import make_plan
from mlx_video.results.clip import Clip
from mlx_video.results.look import Look, Sound
from mlx_video.types import SPACE_SCALE, Listener, Noise, Phase, Progress, UserError, Watch

if TYPE_CHECKING:
    from mlx_video.runner import Runner


def to_uint8(frames: mx.array) -> mx.array:
    """Pixels in [-1, 1] to 8 bit; truncated, not rounded, as the reference does."""
    unit = (frames.astype(mx.float32) + 1.0) / 2.0
    return (mx.clip(unit, 0.0, 1.0) * 255.0).astype(mx.uint8)


class Decoders:
    """Decodes with a checkpoint's own decoders, borrowed for as long as frames are asked for."""

    def __init__(self, loader: Loader, noise: Noise | None = None):
        """loader: lends them, in its ways; noise: what a diffusion decoder begins with (None: a look's seed says)."""
        self._loader, self._noise = loader, noise

    def frames(self, latent: mx.array, look: Look, report: Listener) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 of a normalised latent (1, 128, F, H, W), as they are made.

        Each may be taken in a thread of its own.
        """
        frames = self._decoded(latent, look, report)
        try:
            while True:
                with platform.computing(self._loader.ways.limit):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame
        finally:
            frames.close()

    def _decoded(self, latent: mx.array, look: Look, report: Listener) -> Generator[np.ndarray, None, None]:
        loader, done, total = self._loader, 0, look.shape.frames
        component = "diffusion_decoder" if look.decoder == "diffusion" else "video_decoder"
        origin = Origin.of(loader, component)
        platform.peak_memory()
        report(Progress(Phase.DECODE, 0, total))
        with loader.borrow(component) as decoder:
            outside = ENCODED_BYTES * latent.shape[3] * latent.shape[4] * SPACE_SCALE**2
            room = loader.ways.beside(parameter_bytes(decoder), outside)
            for chunk in self._chunks(decoder, latent, look, room):
                origin.check("decoding the video", chunk)
                for frame in np.array(to_uint8(chunk)):
                    done += 1
                    report(Progress(Phase.DECODE, done, total, platform.peak_memory() if done == total else None))
                    yield frame
                    if done == total:
                        return

    def _chunks(self, decoder: nn.Module, latent: mx.array, look: Look, room: int) -> Iterator[mx.array]:
        """Pixels (frames, height, width, 3) in [-1, 1]; room: bytes that the work may take."""
        loader, costs = self._loader, self._loader.checkpoint.family.costs()
        grid, size = (latent.shape[2], latent.shape[3], latent.shape[4]), loader.vae_dtype.size
        latent = latent.transpose(0, 2, 3, 4, 1).astype(loader.vae_dtype)
        if look.decoder == "diffusion":
            settings = loader.checkpoint.part("diffusion_decoder").settings
            noise = (self._noise or seeded(look.seed))(DECODING, costs.diffuse_noise(settings, grid))
            return decoder.decode_frames(latent, noise, costs.diffuse_pieces(settings, look.tiling, grid, room, size))
        plan = costs.tiles(loader.checkpoint.config, look.tiling, grid, room, stream=look.stream, size=size)
        return decoder.decode_frames(latent, plan)

    def sound(self, latent: mx.array, report: Listener) -> Sound:
        """Waveform (2, S) float32 in [-1, 1] and its rate, of a normalised latent (1, 8, T, 16)."""
        loader = self._loader
        with platform.computing(loader.ways.limit):
            steps = platform.Steps(Phase.WAVEFORM, 2, report)
            with loader.borrow("audio_decoder") as decoder:
                mel = decoder(latent.astype(loader.vae_dtype)).astype(mx.float32)
                Origin.of(loader, "audio_decoder").check("decoding the sound", mel)
            steps.tell(1)
            with loader.borrow("vocoder") as vocoder:
                waveform = vocoder(mel)[0]
                Origin.of(loader, "vocoder").check("making the waveform", waveform)
                samples, rate = np.array(waveform, np.float32), vocoder.sample_rate
            steps.tell(2)
            return samples, rate


class Decode:
    """Latents that are there already, such as a stored clip's or a preview's, are given what decodes them."""

    ways: Ways

    def __init__(self, clip: Clip):
        """clip: without a decoder."""
        self._clip = clip

    def check(self, watch: Watch) -> None:
        """A clip's latents are checked when it is made."""

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Raises UserError where the checkpoint is of another generation, or decoding cannot fit."""
        loader = self._loader = runner.loader(runner.any_checkpoint(outlines.take))
        said, own = self._clip.metadata, model_of(loader.checkpoint)
        versions = [known.get("model_version", "not stated") for known in (said, own)]
        if "model" in said and versions[0] != versions[1]:
            raise UserError(
                f"This clip was made by {said['model']} (version {versions[0]}), and {own['model']} (version "
                f"{versions[1]}) decodes others; open it with its own model."
            )
        heard = ("audio_decoder", "vocoder") if self._clip.look.sound == "latents" else ()
        look, (frames, rows, columns) = self._clip.look, self._clip.latents["video"].shape[2:]
        for component in ("diffusion_decoder" if look.decoder == "diffusion" else "video_decoder", *heard):
            loader.check(component)
        demand = decoding(Networks(loader), (frames, rows, columns), look.tiling, look.stream, look.decoder)
        loader.ways = self.ways = make_plan(demand, runner.memory).ways
        return ()

    def run(self, watch: Watch) -> Clip:
        """The clip; nothing of it is decoded yet."""
        self._clip.metadata = self._clip.metadata or dict(model_of(self._loader.checkpoint))
        return self._clip.decoded_by(Decoders(self._loader))
