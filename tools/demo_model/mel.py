"""The log-mel picture that the audio VAE works on: 64 Slaney bands, 16 kHz, 10 ms.

Formulas: Slaney's Auditory Toolbox (linear below 1 kHz, logarithmic above, area-normalised triangles), the settings of
the LTX-2 audio VAE (window 1024, magnitude, natural logarithm of at least 1e-5).
"""

from __future__ import annotations

import math

import torch

RATE, HOP, WINDOW, BANDS = 16000, 160, 1024, 64


def _to_mel(hertz: float) -> float:
    return hertz * 0.015 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def filters() -> torch.Tensor:
    """(WINDOW / 2 + 1, BANDS)"""
    mels = torch.linspace(_to_mel(0), _to_mel(RATE / 2), BANDS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels / 0.015, 1000 * torch.exp(math.log(6.4) / 27 * (mels - 15)))
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()


_FILTERS = filters()


def log_mel(wave: torch.Tensor) -> torch.Tensor:
    """(N, samples) at 16 kHz -> (N, 1 + samples // 160, 64)"""
    spectrum = torch.stft(
        wave, WINDOW, HOP, WINDOW, torch.hann_window(WINDOW), center=True, pad_mode="reflect", return_complex=True
    ).abs()
    return torch.log((spectrum.transpose(1, 2) @ _FILTERS.to(wave.device)).clamp(min=1e-5))
