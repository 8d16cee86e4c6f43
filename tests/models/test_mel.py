"""The mel front end: torchaudio's recorded numbers, known signals, lengths, refusals, and librosa's own filters.

`fixtures/mel.npz` holds what torchaudio, which the reference calls, computes for `noise`; `tests/parity/test_audio.py`
records it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_video.models.ltx_2.audio_vae import log_mel, mel
from mlx_video.models.ltx_2.config import AudioVAEConfig
from mlx_video.types import UserError
from tests.support import real_keys

CONFIG = AudioVAEConfig.read(real_keys.config("2"))
RECORDED = Path(__file__).parents[1] / "fixtures" / "mel.npz"
RATES = (8000, 11_025, 22_050, 24_000, 37_800, 44_056, 44_100, 48_000, 96_000)


def noise(rate: int) -> np.ndarray:
    """Two channels of 0.03 s, or 0.2 s at 16 kHz, and a few samples."""
    samples = 3207 if rate == 16_000 else rate * 3 // 100 + 5
    return np.random.default_rng(rate).standard_normal((2, samples)).astype(np.float32)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs))


def tone(hertz: float, rate: int, seconds: float = 0.25) -> np.ndarray:
    wave = np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_resampling_is_torchaudios(rate):
    # 44,056 Hz has 2,000 phases and its weights lose digits in float32, which torchaudio's do in the same places.
    assert error(mel.resample(noise(rate), rate, 16_000), np.load(RECORDED)[f"resample/{rate}"]) < 1e-6


def test_log_mel_is_torchaudios():
    assert error(log_mel(noise(16_000), 16_000, CONFIG), np.load(RECORDED)["log_mel"]) < 2e-6


def test_filters_are_librosas():
    librosa = pytest.importorskip("librosa")
    ours = mel.mel_filters(CONFIG.fft, CONFIG.mel_bins, CONFIG.sample_rate).T
    theirs = librosa.filters.mel(sr=CONFIG.sample_rate, n_fft=CONFIG.fft, n_mels=CONFIG.mel_bins)
    assert np.abs(ours - theirs).max() / theirs.max() < 1e-5


def test_log_mel_against_its_definition():
    wave = np.random.default_rng(0).standard_normal((2, 3001)).astype(np.float32)
    result = log_mel(wave, 16_000, CONFIG)
    assert result.shape == (2, 3001 // 160 + 1, 64)
    assert result.dtype == np.float32
    padded = np.pad(wave.astype(np.float64), ((0, 0), (512, 512)), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    filters = mel.mel_filters(CONFIG.fft, CONFIG.mel_bins, CONFIG.sample_rate)
    for frame in (0, 1, 9, 18):
        magnitudes = np.abs(np.fft.rfft(padded[:, frame * 160 : frame * 160 + 1024] * window))
        expected = np.log(np.maximum(magnitudes @ filters, 1e-5))
        assert np.abs(result[:, frame] - expected).max() < 2e-5


def test_silence_is_the_floor():
    assert np.allclose(log_mel(np.zeros((2, 4000)), 16_000, CONFIG), np.log(1e-5))


def test_a_tone_is_loudest_in_its_own_bin():
    result = log_mel(tone(1000, 44_100), 44_100, CONFIG)
    filters = mel.mel_filters(CONFIG.fft, CONFIG.mel_bins, CONFIG.sample_rate)
    assert result[0, 5:-5].mean(0).argmax() == filters[64].argmax()  # 1000 Hz is the 64th of 513 frequencies
    assert np.allclose((result[0] - result[1])[5:-5, 20], np.log(2), atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 11_025, 15_999, 24_000, 32_000, 44_056, 44_100, 48_000, 192_000])
def test_resampling_keeps_a_tone_and_the_length_in_seconds(rate):
    resampled = mel.resample(tone(700, rate), rate, 16_000)
    assert resampled.dtype == np.float32
    assert resampled.shape == (2, -(-round(rate * 0.25) * 16_000 // rate))
    length = min(resampled.shape[1], 4000)
    middle = slice(100, length - 100)
    assert np.abs(resampled[:, :length] - tone(700, 16_000)[:, :length])[:, middle].max() < 5e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    assert np.abs(mel.resample(tone(12_000, 48_000), 48_000, 16_000))[:, 100:-100].max() < 2e-3


def test_a_long_sound_is_taken_in_parts(monkeypatch):
    wave = np.random.default_rng(1).standard_normal((2, 1700)).astype(np.float32)
    whole, spectrum = mel.resample(wave, 44_100, 16_000), log_mel(wave, 24_000, CONFIG)
    monkeypatch.setattr(mel, "SAMPLES_AT_ONCE", 7)
    monkeypatch.setattr(mel, "FRAMES_AT_ONCE", 2)
    assert np.allclose(mel.resample(wave, 44_100, 16_000), whole, atol=1e-6)
    assert np.allclose(log_mel(wave, 24_000, CONFIG), spectrum, atol=1e-5)


def test_the_same_rate_is_left_alone():
    wave = tone(440, 16_000)
    assert mel.resample(wave, 16_000, 16_000) is wave


@pytest.mark.parametrize(("samples", "rate"), [(512, 16_000), (0, 16_000), (1000, 48_000)])
def test_a_sound_shorter_than_a_window_is_refused(samples, rate):
    with pytest.raises(UserError, match=r"longer than 0\.032 s"):
        log_mel(np.zeros((2, samples), np.float32), rate, CONFIG)
