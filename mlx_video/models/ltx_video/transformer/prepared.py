"""What the transformer works out once per stage: the rotary table, projected captions, where tokens lie.

Knows positions and texts; knows no weights, no step and no pass.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.models.layers import KeysValues, Rotation, rotary_table
from mlx_video.models.ltx_video.config import TransformerConfig
from mlx_video.types import SPACE_SCALE, TIME_SCALE


class Prepared(NamedTuple):
    """Everything that a stage's calls share; made by `Transformer.prepare`.

    contexts: name -> text (1 or B, L, D) at the stream's width.
    text: keys and values by (context, block), filled as they are first needed; None where they are not kept.
    """

    rotation: Rotation
    contexts: dict[str, mx.array]
    text: dict[tuple[str, int], KeysValues] | None


def corners(
    grid: tuple[int, int, int], fps: float, *, causal: bool, start: int = 0, scale: tuple[int, int] | None = None
) -> np.ndarray:
    """Where the tokens of a latent grid (F, H, W) begin, in order: (1, 3, T) float32 of seconds, rows and columns.

    A token is placed by the start of its patch: 8 f, 32 h, 32 w. causal: the first latent frame stands for one frame of
    pixels, so that the others begin 7 earlier (never before 0). start: pixel frames by which a clip of its own lies
    later (pictures within a clip). scale: of time and space, (8, 32) if left out.
    Source: Lightricks' latent_to_pixel_coords_from_factors; the product with 1 / fps is taken in float32 as there.
    """
    time, space = scale or (TIME_SCALE, SPACE_SCALE)
    frames, rows, columns = (axis.reshape(-1) for axis in np.meshgrid(*map(np.arange, grid), indexing="ij"))
    frames = np.maximum(frames * time + 1 - time, 0) if causal else frames * time
    seconds = (frames + start).astype(np.float32) * np.float32(1.0 / fps)
    return np.stack([seconds, *(axis.astype(np.float32) * space for axis in (rows, columns))])[None]


def place(config: TransformerConfig, positions: np.ndarray | mx.array, dtype: mx.Dtype) -> Rotation:
    """The rotation of tokens that begin at `positions` (1 or B, 3, T), as `corners` gives them.

    Raises ValueError for another number of axes.
    """
    return rotary_table(
        np.array(positions, np.float32), config.heads, config.head_dim, config.max_positions,
        theta=config.theta, float64=False, dtype=dtype,
    )  # fmt: skip
