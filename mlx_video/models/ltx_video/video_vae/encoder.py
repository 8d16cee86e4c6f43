"""The convolutional encoder: pixels to normalised latents, a whole clip at once or piece by piece with the same result.

It is causal: what has been encoded never changes with what follows. It does not tile (see LTX-2's tiles.py) and reads
no files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.blocks import activate, scale
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import patchify
from mlx_video.models.ltx_2.video_vae.statistics import RENAMES, STATISTICS_PREFIX, LatentStatistics
from mlx_video.models.ltx_2.video_vae.tiling import Tiling
from mlx_video.models.ltx_video.config import VideoVAEConfig
from mlx_video.models.ltx_video.video_vae.blocks import encoder_blocks
from mlx_video.types import UserError

log = logging.getLogger(__name__)
LOG_VARIANCE = -30.0, 20.0
"""Between which it is taken (diffusers' DiagonalGaussianDistribution)."""


class Posterior(NamedTuple):
    """What a clip's raw latents are drawn from, (B, F, H, W, C) and (B, F, H, W, 1): one variance for all channels."""

    mean: mx.array
    log_variance: mx.array

    def draw(self, noise: mx.array) -> mx.array:
        """Raw latents; noise: as the mean, standard normal."""
        return self.mean + mx.exp(mx.clip(self.log_variance, *LOG_VARIANCE) * 0.5) * noise.astype(self.mean.dtype)


class VideoEncoder(nn.Module):
    """Pixels to latents. Source: Lightricks' causal_video_autoencoder.Encoder, diffusers' LTXVideoEncoder3d."""

    prefixes = {"vae.encoder.": "", STATISTICS_PREFIX: "statistics."}
    renames = (*RENAMES, (r"\.conv\.(weight|bias)$", r".\1"))
    ignored = (r"^statistics\.(?!(mean|std)$)",)
    takes_pieces = True
    """A clip may come in pieces: nothing normalises over all frames."""

    def __init__(self, config: VideoVAEConfig):
        """The encoder that `config` describes; raises UserError where it names blocks that are not supported."""
        super().__init__()
        options = {"padding": "zeros", "causal": True}
        self.config = config
        self.scale = scale(config.encoder_blocks, config.patch_size)
        self.statistics = LatentStatistics(config)
        self.conv_in = Convolution(config.in_channels * config.patch_size**2, config.encoder_base_channels, **options)
        self.down_blocks, channels = encoder_blocks(config)
        # One channel more than the mean: the logarithm of a variance that all share.
        self.conv_out = Convolution(channels, config.latent_channels + 1, **options)

    def encode_frames(
        self, pixels: mx.array | np.ndarray | Iterable[np.ndarray], tiling: Tiling, count: int
    ) -> mx.array:
        """See LTX-2's `tiles.encode_frames`."""
        from mlx_video.models.ltx_2.video_vae.tiles import encode_frames

        return encode_frames(self, pixels, tiling, count)

    def __call__(self, pixels: mx.array, noise: mx.array | None = None) -> mx.array:
        """Pixels (B, 8F - 7, 32H, 32W, 3) in [-1, 1] -> normalised latent (B, F, H, W, C): the mean.

        noise: standard normal, as the latent; then it is a draw, as the reference's conditions are. Frames beyond the
        last 1 + 8k are left out, with a warning. Raises UserError for sides that 32 does not divide.
        """
        frames = pixels.shape[1]
        surplus = (frames - 1) % self.scale.time
        if surplus:
            log.warning("%d frames are not 1 + %d k: the last %d are left out", frames, self.scale.time, surplus)
        found = self.posterior(pixels[:, : frames - surplus], Stream())
        return self.statistics.normalize(found.mean if noise is None else found.draw(noise))

    def check(self, height: int, width: int) -> None:
        """Raises UserError for sides that cannot be encoded: not a multiple of 32 pixels."""
        for side, step in ((height, self.scale.height), (width, self.scale.width)):
            if side % step or side < step:
                below = max(side // step, 1) * step
                raise UserError(
                    f"The encoder takes sides that are multiples of {step} pixels, not {side}; nearest are {below} and "
                    f"{below + step}."
                )

    def in_pieces(self) -> Stream:
        """What `encode` keeps of one clip from call to call."""
        stream = Stream()
        stream.last = False
        return stream

    def encode(self, pixels: mx.array, stream: Stream) -> mx.array:
        """The next frames of a clip -> its next latents (B, F, H, W, C): 1 + 8k frames at first, then 8k at a time."""
        latent = self.statistics.normalize(self.posterior(pixels, stream).mean)
        stream.evaluate(latent)
        return latent

    def posterior(self, pixels: mx.array, stream: Stream) -> Posterior:
        """As `encode`, before anything is drawn or normalised."""
        self.check(*pixels.shape[2:4])
        x = self.conv_in(patchify(pixels.astype(self.conv_in.weight.dtype), self.config.patch_size), stream)
        stream.evaluate(x)
        for block in self.down_blocks:
            x = block(x, stream)
            stream.evaluate(x)
        moments = self.conv_out(activate(x), stream)
        stream.evaluate(moments)
        return Posterior(*mx.split(moments, [self.config.latent_channels], axis=-1))
