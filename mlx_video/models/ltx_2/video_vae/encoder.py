"""The convolutional encoder: pixels to normalised latents, a whole clip at once or piece by piece with the same result.

It is causal: what has been encoded never changes with what follows. It does not tile (see tiles.py) and reads no files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.blocks import activate, encoder_blocks, scale, spans_time
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import patchify
from mlx_video.models.ltx_2.video_vae.statistics import RENAMES, STATISTICS_PREFIX, LatentStatistics
from mlx_video.models.ltx_2.video_vae.tiling import Tiling
from mlx_video.types import UserError

log = logging.getLogger(__name__)


class VideoEncoder(nn.Module):
    """Pixels to latents (reference: `VideoEncoder`)."""

    prefixes = {"vae.encoder.": "", STATISTICS_PREFIX: "statistics."}
    renames = (*RENAMES, (r"\.conv\.(weight|bias)$", r".\1"))
    ignored = (r"^statistics\.(?!(mean|std)$)",)

    def __init__(self, config: VideoVAEConfig):
        """The encoder that `config` describes; raises UserError where it names blocks that are not supported."""
        super().__init__()
        options = {"padding": config.encoder_padding, "causal": True}
        self.config = config
        self.scale = scale(config.encoder_blocks, config.patch_size)
        self.statistics = LatentStatistics(config)
        self.conv_in = Convolution(config.in_channels * config.patch_size**2, config.latent_channels, **options)
        self.down_blocks, channels = encoder_blocks(config)
        # One channel more than the mean: the logarithm of a variance that all share, which nobody reads.
        self.conv_out = Convolution(channels, config.latent_channels + 1, **options)

    @property
    def takes_pieces(self) -> bool:
        """Whether a clip may come in pieces; not where the config names blocks that normalise over all frames."""
        return not spans_time(self.down_blocks)

    def encode_frames(
        self, pixels: mx.array | np.ndarray | Iterable[np.ndarray], tiling: Tiling, count: int
    ) -> mx.array:
        """See `tiles.encode_frames`."""
        from mlx_video.models.ltx_2.video_vae.tiles import encode_frames

        return encode_frames(self, pixels, tiling, count)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Pixels (B, 8F - 7, 32H, 32W, 3) in [-1, 1] -> normalised latent (B, F, H, W, C).

        Frames beyond the last 1 + 8k are left out, with a warning. Raises UserError for sides that 32 does not divide.
        """
        frames = pixels.shape[1]
        surplus = (frames - 1) % self.scale.time
        if surplus:
            log.warning("%d frames are not 1 + %d k: the last %d are left out", frames, self.scale.time, surplus)
        return self.encode(pixels[:, : frames - surplus], Stream())

    def check(self, height: int, width: int) -> None:
        """Raises UserError for sides that cannot be encoded: not a multiple of 32 pixels, or too small."""
        # Reflection needs two latents a side.
        least = 2 if self.config.encoder_padding == "reflect" else 1
        for side, step in ((height, self.scale.height), (width, self.scale.width)):
            if side % step or side < least * step:
                below = max(side // step, least) * step
                raise UserError(
                    f"The encoder takes sides that are multiples of {step} pixels from {least * step} on, not {side}; "
                    f"nearest are {below} and {below + step}."
                )

    def in_pieces(self) -> Stream:
        """What `encode` keeps of one clip from call to call. Raises ValueError where a clip cannot come in pieces."""
        if not self.takes_pieces:
            raise ValueError("this encoder normalises over all frames (res_x_y) and cannot take a clip in pieces")
        stream = Stream()
        stream.last = False
        return stream

    def encode(self, pixels: mx.array, stream: Stream) -> mx.array:
        """The next frames of a clip -> its next latents (B, F, H, W, C): 1 + 8k frames at first, then 8k at a time."""
        self.check(*pixels.shape[2:4])
        x = self.conv_in(patchify(pixels.astype(self.conv_in.weight.dtype), self.config.patch_size), stream)
        stream.evaluate(x)
        for block in self.down_blocks:
            x = block(x, stream)
            stream.evaluate(x)
        means = self.conv_out(activate(x), stream)[..., : self.config.latent_channels]
        latent = self.statistics.normalize(means)
        stream.evaluate(latent)
        return latent
