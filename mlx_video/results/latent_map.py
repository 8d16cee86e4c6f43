"""Small pictures straight from latents: a linear map from latent channels to pixels, fitted by least squares.

Each latent cell stands for 32 x 32 pixels of 8 frames; the map makes 8 x 8 pixels of each of those frames, from the
cell's own channels alone. Knows arrays; knows no network and no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mlx_video.types import SPACE_SCALE, TIME_SCALE

SIDE = 8
"""Pixels a side that a latent cell becomes. It costs next to nothing in exactness: 1, 4, 8 and 16 reached an R2 of
0.58, 0.61, 0.60 and 0.60 on four of the demo's clips, fitted to the same films."""
REDUCED = SPACE_SCALE // SIDE
"""Pixels of the clip for each of the map's, a side."""
RIDGE = 0.3
"""What is added to each channel's mean square. Films that are made up are not clips: with 0.01 the demo's own came out
at an R2 of 0.64, with 0.3 at 0.83 (24 films of 17 frames)."""
HELD_OUT = 4
"""Of so many films one is kept from the fit, to say how good it is."""
VALUES = TIME_SCALE * SIDE * SIDE * 3
"""That the map makes of a cell."""

Film = tuple[np.ndarray, np.ndarray]
"""A normalised latent (C, F, H, W), and the pixels (8F - 7, 32H, 32W, 3) in [-1, 1] that a decoder makes of it."""


class LatentMap(NamedTuple):
    """Latents to pixels, as far as that is linear."""

    weights: np.ndarray
    """(C + 1, 8 * SIDE * SIDE * 3) float32; the last row is added."""
    r2: float
    """Share of the variance of decoded pixels that it explains, on films that it was not fitted to."""

    def pictures(self, latent: np.ndarray) -> np.ndarray:
        """A normalised latent (C, F, H, W) -> a picture for each latent frame: (F, SIDE H, SIDE W, 3) uint8.

        Each shows the last of the frames that its latent stands for.
        """
        return _whole(_apply(latent, self.weights[:, VALUES - VALUES // TIME_SCALE :]))[:, 0]

    def frames(self, latent: np.ndarray) -> Iterator[np.ndarray]:
        """A normalised latent (C, F, H, W) -> its 8F - 7 frames, each (SIDE H, SIDE W, 3) uint8."""
        for number in range(latent.shape[1]):
            made = _whole(_apply(latent[:, number : number + 1], self.weights))[0]
            yield from made[-1:] if number == 0 else made  # the first stands for a single frame


def _apply(latent: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # (C, F, H, W) -> (F, H, W, values)
    values: np.ndarray = np.moveaxis(latent, 0, -1).astype(np.float32) @ weights[:-1] + weights[-1]
    return values


def _whole(values: np.ndarray) -> np.ndarray:
    # Cells put together: (F, H, W, values) in [-1, 1] -> (F, frames of a latent, SIDE H, SIDE W, 3) uint8.
    count, rows, columns, size = values.shape
    cells = values.reshape(count, rows, columns, size // (SIDE * SIDE * 3), SIDE, SIDE, 3)
    whole = cells.transpose(0, 3, 1, 4, 2, 5, 6).reshape(count, -1, rows * SIDE, columns * SIDE, 3)
    return (np.clip((whole + 1) / 2, 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- fitting


class _Sums:
    """Normal equations, which grow with no number of films."""

    def __init__(self, channels: int):
        self.inputs = np.zeros((channels + 1, channels + 1))
        self.both = np.zeros((channels + 1, VALUES))
        self.count = 0

    def add(self, cells: np.ndarray, values: np.ndarray) -> None:
        self.inputs += cells.T @ cells
        self.both += cells.T @ values
        self.count += len(cells)

    def solved(self) -> np.ndarray:
        ridge = np.eye(len(self.inputs)) * RIDGE * self.count
        ridge[-1, -1] = 0
        return np.linalg.solve(self.inputs + ridge, self.both).astype(np.float32)


def fit(films: Iterable[Film]) -> LatentMap:
    """The map that is nearest to a decoder on `films`, of which there are HELD_OUT at least.

    Its R2 is that of the same fit without every fourth film, on those.
    """
    sums, held = None, []
    for number, (latent, pixels) in enumerate(films, 1):
        cells, values = _cells(latent), _values(pixels)
        sums = sums or _Sums(len(latent))
        if number % HELD_OUT == 0:
            held.append((cells, values))
        else:
            sums.add(cells, values)
    if sums is None or not held:
        raise ValueError(f"a map is fitted to {HELD_OUT} films at least")
    r2 = _explained(sums.solved(), held)
    for cells, values in held:
        sums.add(cells, values)
    return LatentMap(sums.solved(), r2)


def _cells(latent: np.ndarray) -> np.ndarray:
    # (C, F, H, W) -> (cells, C + 1)
    flat = latent.reshape(len(latent), -1).T.astype(np.float64)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def _values(pixels: np.ndarray) -> np.ndarray:
    # (8F - 7, 32H, 32W, 3) -> (cells, VALUES); the first frame stands for all eight of its latent.
    frames, height, width, _ = pixels.shape
    small = pixels.reshape(frames, height // REDUCED, REDUCED, width // REDUCED, REDUCED, 3).mean((2, 4))
    small = np.concatenate([small[:1].repeat(TIME_SCALE - 1, axis=0), small])
    cells = small.reshape(-1, TIME_SCALE, height // SPACE_SCALE, SIDE, width // SPACE_SCALE, SIDE, 3)
    return cells.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, VALUES)


def _explained(weights: np.ndarray, films: list[tuple[np.ndarray, np.ndarray]]) -> float:
    cells, values = (np.concatenate(parts) for parts in zip(*films, strict=True))
    colours = values.reshape(-1, 3)
    rest = ((np.clip(cells @ weights, -1, 1) - values) ** 2).sum()
    whole = ((colours - colours.mean(axis=0)) ** 2).sum()
    return float(1 - rest / whole) if whole else 0.0
