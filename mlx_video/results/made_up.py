"""Films that no camera took, to try an autoencoder on: plain shapes that drift over plain or shaded grounds.

Made by generation, so that nothing has to be shipped or read; the same number always gives the same film.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

MOST_SHAPES = 4
SHADED = 0.3
"""Share of the grounds that go over from one colour to another."""
STRONG = np.array((0.05, 0.5, 0.95))
"""What the channels of pure colours are near."""
EDGE = 1.5
"""Pixels over which a shape ends."""


class _Shape(NamedTuple):
    kind: int
    colour: np.ndarray
    centre: np.ndarray
    speed: np.ndarray
    reach: float
    turn: float

    def covers(self, time: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How much of each pixel it covers, 0 to 1; lengths are shares of a side."""
        right, down = x - self.centre[0] - self.speed[0] * time, y - self.centre[1] - self.speed[1] * time
        along = math.cos(self.turn) * right - math.sin(self.turn) * down
        across = math.sin(self.turn) * right + math.cos(self.turn) * down
        away = np.hypot(along, across) if self.kind == 0 else np.maximum(abs(along), abs(across))
        away = abs(along) + abs(across) if self.kind == 2 else away
        share: np.ndarray = np.clip((self.reach - away) * len(x) / EDGE + 0.5, 0, 1)
        return share[..., None]


def film(number: int, frames: int, side: int) -> np.ndarray:
    """(frames, side, side, 3) float32 in [-1, 1]."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[0:side, 0:side] / side
    first, last, angle = _colour(draw), _colour(draw), draw.uniform(0, 2 * math.pi)
    shade = math.cos(angle) * x + math.sin(angle) * y
    shade = (shade - shade.min()) / (shade.max() - shade.min())
    ground = first + (last - first) * shade[..., None] * (draw.uniform() < SHADED)
    shapes = [
        _Shape(
            int(draw.integers(3)), _colour(draw), draw.uniform(0.1, 0.9, 2), draw.uniform(-0.03, 0.03, 2),
            draw.uniform(0.1, 0.35), draw.uniform(0, math.pi),
        )
        for _ in range(draw.integers(1, MOST_SHAPES + 1))
    ]  # fmt: skip
    made = np.empty((frames, side, side, 3), np.float32)
    for time in range(frames):
        picture = ground
        for shape in shapes:
            share = shape.covers(time, x, y)
            picture = picture * (1 - share) + shape.colour * share
        made[time] = picture * 2 - 1
    return made


def _colour(draw: np.random.Generator) -> np.ndarray:
    pure = np.clip(draw.choice(STRONG, 3) + draw.normal(0, 0.05, 3), 0, 1)
    return pure if draw.uniform() < 0.5 else draw.uniform(0, 1, 3)
