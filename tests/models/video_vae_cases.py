"""The cases of the video autoencoder's recorded fixture: the tests read them, tests/parity/record_video_vae.py too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parents[1] / "fixtures" / "video_vae.npz"
GENERATIONS = ("2", "2.3")
STEP = {"decode": 211, "tiled_decode": 401, "encode": 1, "tiled_encode": 7}
"""Every so many-th value of a result is kept; primes, so that no axis is sampled at one place only."""

DECODE = {"plain": (2, 2, 3), "image": (1, 3, 2)}
"""Latent grids (F, H, W)."""
ENCODE = {"plain": (9, 32, 64), "image": (1, 64, 32)}
"""Pixel sizes (frames, height, width)."""
SPANS = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
TILED_DECODE: dict[str, tuple[tuple[int, int, int], SPANS]] = {
    "all": ((4, 3, 4), ((16, 8), (64, 32), (96, 32))),
    "time": ((6, 2, 2), ((24, 0), (0, 0), (0, 0))),
    "space": ((2, 4, 5), ((0, 0), (64, 0), (96, 64))),
}
"""Latent grid and (size, overlap) of tiles along time, rows and columns; a size of 0 leaves the axis whole."""
TILED_ENCODE: dict[str, tuple[tuple[int, int, int], SPANS]] = {
    "all": ((33, 32, 128), ((24, 16), (96, 64), (96, 64))),
    "time": ((41, 32, 32), ((32, 16), (0, 0), (0, 0))),
}
GEOMETRY: list[tuple[tuple[int, int, int], SPANS]] = [
    ((1, 1, 1), ((16, 0), (64, 0), (64, 0))),
    ((3, 2, 9), ((16, 8), (64, 32), (96, 64))),
    ((16, 24, 48), ((80, 24), (512, 64), (768, 64))),
    ((31, 17, 30), ((32, 8), (160, 64), (256, 64))),
    ((17, 22, 5), ((40, 32), (128, 96), (64, 32))),
    ((11, 7, 8), ((80, 24), (64, 0), (256, 64))),
]
SIZES = [(512, 768), (768, 512), (1088, 1920), (704, 1216), (2176, 3840), (64, 1024), (768, 768), (320, 960)]
"""Heights and widths for which the reference's own tiles are recorded."""


def latent(grid: tuple[int, int, int], seed: int = 5) -> np.ndarray:
    """A normal latent (1, F, H, W, 128)."""
    return np.random.default_rng([seed, *grid]).standard_normal((1, *grid, 128)).astype(np.float32)


def pixels(size: tuple[int, int, int], seed: int = 6) -> np.ndarray:
    """A picture that moves and has detail, (1, frames, height, width, 3), within [-1, 1]."""
    draw = np.random.default_rng([seed, *size])
    t, y, x = (np.arange(n, dtype=np.float64) for n in size)
    waves = np.sin(t[:, None, None, None] / 5 + y[:, None, None] / 9 + x[:, None] / 13 + np.arange(3))
    return np.clip(0.7 * waves + 0.2 * draw.standard_normal((*size, 3)), -1, 1).astype(np.float32)[None]
