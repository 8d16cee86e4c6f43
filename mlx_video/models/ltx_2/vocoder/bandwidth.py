"""Bandwidth extension of LTX-2.3: a waveform at a low rate gains the octaves that the vocoder did not make.

Its own log-mel spectrogram is taken (a causal STFT), a second generator makes what is missing at the high rate, and
that is added to the waveform resampled. Knows nothing of the network that made the waveform.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.audio_vae.mel import MEL_FLOOR, ROLLOFF, SINC_WIDTH
from mlx_video.models.ltx_2.config import BandwidthConfig


class MelSTFT(nn.Module):
    """Waveforms (N, S) -> log-mel spectrograms (N, S / hop, bins), by the checkpoint's own bases.

    A frame sees no later sample than its own. Source: ltx_core vocoder.MelSTFT.
    """

    checkpoint_axes = {"forward_basis": (0, 2, 1)}

    def __init__(self, config: BandwidthConfig):
        """`forward_basis`: windowed cosines, then sines; `mel_basis`: (bins, frequencies)."""
        super().__init__()
        self.hop = config.hop
        frequencies = config.fft // 2 + 1
        self.forward_basis = mx.zeros((2 * frequencies, config.fft, 1))
        self.mel_basis = mx.zeros((config.mel_bins, frequencies))

    def __call__(self, waveform: mx.array) -> mx.array:
        """Takes the natural logarithm of the mel magnitudes of waveform (N, S); S is a multiple of the hop."""
        size = self.forward_basis.shape[1]
        padded = mx.pad(waveform, ((0, 0), (max(0, size - self.hop), 0)))
        spectrum = mx.conv1d(padded[..., None], self.forward_basis, stride=self.hop)
        real, imaginary = mx.split(spectrum, 2, axis=-1)
        magnitude = mx.sqrt(mx.square(real) + mx.square(imaginary))
        return mx.log(mx.maximum(magnitude @ self.mel_basis.T, MEL_FLOOR))


def resample(waveform: mx.array, ratio: int) -> mx.array:
    """Raises the rate of waveform (N, S) `ratio`-fold: (N, S * ratio).

    A Hann-windowed sinc in polyphase form; the first and the last sample go on beyond the ends.
    Source: ltx_core vocoder.UpSample1d with window_type "hann".
    """
    kernel = mx.array(_sinc_phases(ratio))
    width = kernel.shape[1] // 2
    first, last = (mx.broadcast_to(end, (len(waveform), width)) for end in (waveform[:, :1], waveform[:, -1:]))
    extended = mx.concatenate([first, waveform, last], axis=1)
    return mx.conv1d(extended[..., None], kernel).reshape(waveform.shape[0], -1)


def _sinc_phases(ratio: int) -> np.ndarray:
    """(ratio, taps, 1): what each of the `ratio` samples made of one takes of its neighbours."""
    width = math.ceil(SINC_WIDTH / ROLLOFF)
    offsets = np.arange(-width, width + 1)[None] - np.arange(ratio)[:, None] / ratio
    crossings = offsets * ROLLOFF
    window = np.cos(np.clip(crossings / SINC_WIDTH, -1, 1) * math.pi / 2) ** 2
    kernel: np.ndarray = (np.sinc(crossings) * window * ROLLOFF).astype(np.float32)[..., None]
    return kernel
