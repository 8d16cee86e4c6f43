"""What is recorded from the reference for LTX-Video's networks (`fixtures/ltx_video.npz`), and what goes in.

`python -m tests.parity.test_ltx_video` records it; the tests here compare without torch.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_video.transformer import Pass, corners
from tests.support import small_ltx_video as small

RECORDED = Path(__file__).parents[2] / "fixtures" / "ltx_video.npz"
LIMIT, TEXT_LIMIT = 2e-5, 5e-5
GRID, FPS = (3, 2, 2), 25.0
POSITIONS = corners(GRID, FPS, causal=True)
PER_TOKEN = np.array([[0.0] * 4 + [0.3] * 2 + [0.85] * 6], np.float32)
TRANSFORMER: dict[str, tuple[Pass, float | np.ndarray]] = {
    "plain": (Pass(), 0.85),
    "noise": (Pass(), 1.0),
    "negative": (Pass("negative"), 0.85),
    "per_token": (Pass(), PER_TOKEN),
    "attention_values": (Pass(perturbed=frozenset({1})), 0.85),
    "attention_skip": (Pass("positive", frozenset({0, 2}), "attention_skip"), 0.85),
    "transformer_block": (Pass("positive", frozenset({1}), "transformer_block"), 0.85),
}
LATENT_GRID = (2, 2, 3)
DECODE: dict[str, tuple[str, float | None]] = {
    "0.9.0": ("0.9.0", None), "0.9.1": ("0.9.1", 0.05), "0.9.5": ("0.9.5", 0.05), "0.9.5 at once": ("0.9.5", 0.5),
}  # fmt: skip
"""Case -> version and timestep."""
STEP = 211
"""Every so many-th value of a decoded clip is kept; a prime, so that no axis is sampled at one place only."""
PROMPTS = {"short": [5, 17, 1], "end": [1], "long": [int(i) for i in np.random.default_rng(5).integers(0, 160, 170)]}
"""Ids; the long one reaches distances that share a bucket."""


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal by name."""
    return small.np.random.default_rng([3, *name.encode()]).standard_normal(shape).astype(np.float32)


def noise(name: str, shape: tuple[int, ...]) -> mx.array:
    """The same for a network."""
    return mx.array(drawn(name, shape))


LATENT = drawn("latent", (1, *LATENT_GRID, 8))
PIXELS = np.clip(drawn("pixels", (1, 9, 64, 64, 3)) / 2, -1, 1)
TOKENS = drawn("tokens", (1, 12, 8))
TEXTS = {name: drawn(name, (1, length, 6)) for name, length in (("positive", 5), ("negative", 3))}


def error(ours: object, theirs: np.ndarray) -> float:
    """The largest difference, of the largest value."""
    found, wanted = np.array(ours, np.float64), np.array(theirs, np.float64)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
