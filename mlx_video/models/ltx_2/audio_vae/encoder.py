"""The audio VAE's encoder: a log-mel spectrogram to normalised latents. Knows nothing of waveforms or files."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.audio_vae import blocks
from mlx_video.models.ltx_2.audio_vae.mel import log_mel
from mlx_video.models.ltx_2.config import AudioVAEConfig


class AudioEncoder(nn.Module):
    """Log-mel (B, 2, frames, 64) -> latent (B, 8, T, 16), normalised; T is frames / 4, rounded up.

    Source: ltx_core audio_vae.AudioEncoder.
    """

    prefixes = {"audio_vae.encoder.": "", "audio_vae.per_channel_statistics.": "per_channel_statistics."}
    renames, ignored = blocks.RENAMES, blocks.IGNORED

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.latent_mean = mx.zeros((config.latent_channels * config.latent_bins,))
        self.latent_std = mx.ones((config.latent_channels * config.latent_bins,))
        self.conv_in = blocks.CausalConv2d(config.in_channels, config.channels)
        before = [config.channels, *widths[:-1]]
        self.down = [blocks.Level(*pair, config.res_blocks) for pair in zip(before, widths, strict=True)]
        for level, width in zip(self.down[:-1], widths[:-1], strict=True):
            level.downsample = blocks.Downsample(width)
        self.mid = [blocks.ResidualBlock(widths[-1], widths[-1]) for _ in range(2)]
        # Means, then logarithms of variances, which nothing reads.
        self.conv_out = blocks.CausalConv2d(widths[-1], 2 * config.latent_channels)

    def hear(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """Log-mel (2, frames, 64) of a sound (2, S) at any rate."""
        return log_mel(waveform, rate, self.config)

    def __call__(self, mel: mx.array) -> mx.array:
        """Encodes mel (B, 2, frames, 64); computes in the precision of the weights."""
        x = self.conv_in(mel.astype(self.conv_in.weight.dtype).transpose(0, 2, 3, 1))
        for level in self.down:
            x = level(x)
            x = level.downsample(x) if "downsample" in level else x
            mx.eval(x)
        x = self.conv_out(blocks.activate(blocks.run(self.mid, x))).transpose(0, 3, 1, 2)
        means = x[:, : x.shape[1] // 2]
        _, channels, _, bins = means.shape
        # The statistics belong to a token's values, channel-major.
        std, mean = (s.reshape(channels, 1, bins) for s in (self.latent_std, self.latent_mean))
        return (means - mean) / std
