"""The audio VAE's decoder: normalised latents to a log-mel spectrogram. Knows nothing of waveforms or files."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.audio_vae import blocks
from mlx_video.models.ltx_2.config import AudioVAEConfig


class AudioDecoder(nn.Module):
    """Latent (B, 8, T, 16), normalised, as the pipelines hand it on -> log-mel (B, 2, 4 * T - 3, 64).

    Source: ltx_core audio_vae.AudioDecoder.
    """

    prefixes = {"audio_vae.decoder.": "", "audio_vae.per_channel_statistics.": "per_channel_statistics."}
    renames, ignored = blocks.RENAMES, blocks.IGNORED

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.latent_mean = mx.zeros((config.latent_channels * config.latent_bins,))
        self.latent_std = mx.ones((config.latent_channels * config.latent_bins,))
        self.conv_in = blocks.CausalConv2d(config.latent_channels, widths[-1])
        self.mid = [blocks.ResidualBlock(widths[-1], widths[-1]) for _ in range(2)]
        # Listed from the finest level, run from the coarsest.
        before = [*widths[1:], widths[-1]]
        self.up = [blocks.Level(*pair, config.res_blocks + 1) for pair in zip(before, widths, strict=True)]
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = blocks.Upsample(width)
        self.conv_out = blocks.CausalConv2d(widths[0], config.out_channels)

    def __call__(self, latent: mx.array) -> mx.array:
        """Decodes latent (B, 8, T, 16); computes in the precision of the weights."""
        _, channels, _, bins = latent.shape
        # The statistics belong to a token's values, channel-major.
        std, mean = (s.reshape(channels, 1, bins) for s in (self.latent_std, self.latent_mean))
        x = (latent * std + mean).astype(self.conv_in.weight.dtype).transpose(0, 2, 3, 1)
        x = blocks.run(self.mid, self.conv_in(x))
        mx.eval(x)  # together, the convolutions of two resolutions would hold their copies at once
        for level in reversed(self.up):
            x = level(x)
            mx.eval(x)
            x = level.upsample(x) if "upsample" in level else x
            mx.eval(x)
        x = blocks.by_tiles(lambda y: self.conv_out(blocks.activate(y)), x, self.conv_out.past)
        return x.transpose(0, 3, 1, 2)
