"""The mean and spread of each latent channel over the training data, by which latents are normalised.

The encoder and decoder each hold them; the upsampler's caller needs nothing else of the autoencoder and loads them
alone. Knows no convolutions.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.config import DiffusionDecoderConfig, VideoVAEConfig

STATISTICS_PREFIX = "vae.per_channel_statistics."
RENAMES = ((r"(^|\.)mean-of-means$", r"\1mean"), (r"(^|\.)std-of-means$", r"\1std"))
"""The two tensors that are used; files carry further ones in the same place."""


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each latent channel (reference: `PerChannelStatistics`)."""

    prefixes = {STATISTICS_PREFIX: ""}
    renames = RENAMES
    ignored = (r"^(?!(mean|std)$)",)

    def __init__(self, config: VideoVAEConfig | DiffusionDecoderConfig):
        super().__init__()
        self.mean = mx.zeros((config.latent_channels,))
        self.std = mx.ones((config.latent_channels,))

    def normalize(self, latent: mx.array) -> mx.array:
        """(..., C) as the encoder's last convolution gives it -> as the transformer sees it."""
        return (latent - self.mean.astype(latent.dtype)) / self.std.astype(latent.dtype)

    def denormalize(self, latent: mx.array) -> mx.array:
        """(..., C) as the transformer leaves it -> as the decoder's first convolution and the upsampler take it."""
        return latent * self.std.astype(latent.dtype) + self.mean.astype(latent.dtype)
