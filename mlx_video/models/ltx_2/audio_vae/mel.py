"""The encoder's front end: a waveform at any rate to the log-mel spectrogram that the audio VAE was trained on.

Plain numpy, on the host: resampling to 16 kHz, a centred short-time Fourier transform, Slaney's mel scale, a logarithm.
It follows torchaudio, whose functions the reference calls, to 1e-5. Knows no network and no file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mlx_video.models.ltx_2.config import AudioVAEConfig
from mlx_video.types import UserError

MEL_FLOOR = 1e-5
SINC_WIDTH, ROLLOFF = 6, 0.99
"""Zero crossings of the resampling filter to either side, and where it cuts, as a share of the lower Nyquist rate."""
SAMPLES_AT_ONCE, FRAMES_AT_ONCE = 1 << 14, 1 << 10
"""A long file is resampled and transformed in parts that need a few MB."""
LINEAR_TO_HZ, LINEAR_MELS, LOG_STEP = 1000.0, 15.0, math.log(6.4) / 27
"""Slaney's mel scale is linear up to 1000 Hz = 15 mel and logarithmic above, 27 mel for a factor of 6.4."""
HZ_PER_MEL = LINEAR_TO_HZ / LINEAR_MELS


def log_mel(waveform: np.ndarray, sample_rate: int, config: AudioVAEConfig) -> np.ndarray:
    """The natural logarithm of mel magnitudes of waveform (channels, S): (channels, frames, bins), float32.

    frames is S at the config's rate / its hop + 1. Raises UserError where the sound is too short for one window.
    Source: ltx_core ops.AudioProcessor.waveform_to_mel.
    """
    waveform = resample(np.asarray(waveform, np.float32), sample_rate, config.sample_rate)
    half = config.fft // 2
    if waveform.shape[-1] <= half:
        raise UserError(
            f"The sound is {waveform.shape[-1] / config.sample_rate:.3f} s long; "
            f"it must be longer than {half / config.sample_rate:.3f} s."
        )
    padded = np.pad(waveform, ((0, 0), (half, half)), mode="reflect")
    frames = sliding_window_view(padded, config.fft, axis=-1)[:, :: config.hop]
    window, filters = hann_window(config.fft), mel_filters(config.fft, config.mel_bins, config.sample_rate)
    result = np.empty((*frames.shape[:2], config.mel_bins), np.float32)
    for start in range(0, frames.shape[1], FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        magnitudes = np.abs(np.fft.rfft(frames[:, part] * window)).astype(np.float32)
        result[:, part] = np.log(np.maximum(magnitudes @ filters, np.float32(MEL_FLOOR)))
    return result


def resample(waveform: np.ndarray, source: int, target: int) -> np.ndarray:
    """Brings waveform (channels, S), float32, from `source` to `target` samples a second.

    A Hann-windowed sinc, one set of weights for each of the phases that the two rates have. The weights are computed in
    float32 step by step as the reference does it: for rates with no common factor its rounding is a part of the result.
    Source: torchaudio.functional.resample with its defaults.
    """
    if source == target:
        return waveform
    common = math.gcd(source, target)
    source, target = source // common, target // common
    cutoff = min(source, target) * ROLLOFF
    width = math.ceil(SINC_WIDTH * source / cutoff)
    length = waveform.shape[-1]
    count = min(math.ceil(np.float32(target * length / source)), (length // source + 1) * target)
    padded = np.pad(waveform, ((0, 0), (width, width + source)))
    taps = np.arange(-width, width + 2)
    phases = np.arange(target)
    # Of the reference's weights for a phase, those that reach: for the others the window is zero.
    first = phases * source // target
    weights = _sinc_weights(first[:, None] + taps, phases, source, target, cutoff)
    windows = sliding_window_view(padded, len(taps), axis=-1)
    result = np.empty((len(waveform), count), np.float32)
    for start in range(0, count, SAMPLES_AT_ONCE):
        part = np.arange(start, min(start + SAMPLES_AT_ONCE, count))
        block, phase = np.divmod(part, target)
        result[:, part] = np.einsum("cst,st->cs", windows[:, block * source + first[phase]], weights[phase])
    return result


def _sinc_weights(tap: np.ndarray, phase: np.ndarray, source: int, target: int, cutoff: float) -> np.ndarray:
    """What the samples numbered `tap` (phases, taps) from a block's first count for in each `phase` (phases,)."""
    when = (-phase).astype(np.float32)[:, None] / np.float32(target) + tap.astype(np.float32) / np.float32(source)
    when = np.clip(when * np.float32(cutoff), -SINC_WIDTH, SINC_WIDTH)
    window = np.square(np.cos(when * np.float32(math.pi) / np.float32(SINC_WIDTH) / np.float32(2)))
    angle = when * np.float32(math.pi)
    sinc = np.divide(np.sin(angle), angle, out=np.ones_like(angle), where=angle != 0)
    kernel: np.ndarray = sinc * (window * np.float32(cutoff / source))
    return kernel


def hann_window(size: int) -> np.ndarray:
    """A periodic Hann window of `size` samples, float32, rounded as torch.hann_window rounds it."""
    angle = np.arange(size, dtype=np.float32) * np.float32(2 * math.pi / size)
    window: np.ndarray = np.float32(0.5) - np.float32(0.5) * np.cos(angle)
    return window


def mel_filters(fft: int, bins: int, sample_rate: int) -> np.ndarray:
    """Triangular filters of equal area on Slaney's mel scale, from 0 Hz to half the rate: (fft / 2 + 1, bins), float32.

    Source: torchaudio.functional.melscale_fbanks with mel_scale and norm "slaney".
    """
    top = sample_rate / 2
    top_mel = LINEAR_MELS + math.log(top / LINEAR_TO_HZ) / LOG_STEP if top >= LINEAR_TO_HZ else top / HZ_PER_MEL
    mels = _even_steps(top_mel, bins + 2)
    logarithmic = np.float32(LINEAR_TO_HZ) * np.exp(np.float32(LOG_STEP) * (mels - np.float32(LINEAR_MELS)))
    edges = np.where(mels < LINEAR_MELS, mels * np.float32(HZ_PER_MEL), logarithmic)
    frequencies = _even_steps(sample_rate // 2, fft // 2 + 1)[:, None]
    widths = np.diff(edges)
    rising = (frequencies - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - frequencies) / widths[1:]
    bank: np.ndarray = np.maximum(0, np.minimum(rising, falling)) * (np.float32(2) / (edges[2:] - edges[:-2]))
    return bank


def _even_steps(end: float, count: int) -> np.ndarray:
    """From 0 to `end` as torch.linspace has it in float32: the second half counts down from the end; rounded once."""
    last, i = np.float32(end), np.arange(count)
    step = np.float64(last / np.float32(count - 1))
    return np.where(i < count // 2, step * i, last - step * (count - 1 - i)).astype(np.float32)
