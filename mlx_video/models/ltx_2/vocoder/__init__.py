"""The vocoder: from the audio VAE's log-mel spectrogram to sound.

LTX-2 has one generator (24 kHz); LTX-2.3 adds bandwidth extension to its own (16 to 48 kHz). Always float32: in
16 bit the errors of a hundred convolutions in a row add up (spectra 40 to 90 % further off, says the reference). Knows
no file; the checkpoint's names are rules below.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_video.models.ltx_2.config import VocoderConfig
from mlx_video.models.ltx_2.vocoder.bandwidth import MelSTFT, resample
from mlx_video.models.ltx_2.vocoder.generator import Generator

__all__ = ["Vocoder"]


class Vocoder(nn.Module):
    """Log-mel (B, 2, T, 64) -> waveform (B, 2, S) in [-1, 1], at `sample_rate` samples a second.

    S is T times the generator's upsampling and, with bandwidth extension, times the ratio of the rates.
    Source: ltx_core vocoder.Vocoder, vocoder.VocoderWithBWE.
    """

    prefixes = {"vocoder.": ""}
    renames = (
        # LTX-2 has its one generator at the top, where LTX-2.3 has "vocoder.vocoder.": only one prefix is taken away.
        (r"^(conv_pre|conv_post|ups|resblocks)\.", r"vocoder.\1."),
        (r"\.act\.(alpha|beta)$", r".\1"),
        (r"\.upsample\.filter$", ".up_filter"),
        (r"\.downsample\.lowpass\.filter$", ".down_filter"),
        (r"^mel_stft\.stft_fn\.", "mel_stft."),
    )
    ignored = (r"^mel_stft\.inverse_basis$",)

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.sample_rate = config.sample_rate
        self.vocoder = Generator(config.generator)
        self.ratio, self.hop = 1, 1
        if config.bandwidth is not None:
            self.sample_rate = config.bandwidth.output_rate
            self.ratio = config.bandwidth.output_rate // config.bandwidth.input_rate
            self.hop = config.bandwidth.hop
            self.bwe_generator = Generator(config.bandwidth.generator)
            self.mel_stft = MelSTFT(config.bandwidth)

    def __call__(self, mel: mx.array) -> mx.array:
        """Makes the sound of mel (B, 2, T, 64); float32, whatever the precision of mel and weights."""
        self.update(tree_map(lambda weight: weight.astype(mx.float32), self.parameters()))
        waveform = self.vocoder(mel.astype(mx.float32))
        return self._extend(waveform) if "bwe_generator" in self else waveform

    def _extend(self, waveform: mx.array) -> mx.array:
        batch, channels, samples = waveform.shape
        flat = mx.pad(waveform.reshape(batch * channels, samples), ((0, 0), (0, -samples % self.hop)))
        mel = self.mel_stft(flat)
        missing = self.bwe_generator(mel.reshape(batch, channels, *mel.shape[1:]))
        known = resample(flat, self.ratio).reshape(batch, channels, -1)
        return mx.clip(missing + known, -1, 1)[..., : samples * self.ratio]
