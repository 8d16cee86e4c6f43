"""What the transformer works out once per stage: rotary tables, projected captions, distinct noise levels.

Knows positions, masks and texts; knows no weights, no step and no pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.models.layers import KeysValues, Rotation, rotary_table
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.types import MODALITIES, Tree


class Levels(NamedTuple):
    """A denoising mask as its distinct values.

    values: (levels,) float32; tokens: (1 or B, T) which value each token has, or None where there is only one.
    """

    values: mx.array
    tokens: mx.array | None


class Prepared(NamedTuple):
    """Everything that a stage's calls share; made by `Transformer.prepare`.

    contexts: name -> text (B, L, D) by modality, at the stream's width.
    text: keys and values that do not depend on the noise level, filled as they are first needed, by (context, modality,
    block); None where they are not kept.
    keyframes: (1 or B, T, 1) as in `State`, for a network that has an embedding of them.
    """

    rotation: dict[str, Rotation]
    cross_rotation: dict[str, Rotation]
    levels: dict[str, Levels]
    contexts: dict[str, Tree]
    text: dict[tuple[Any, ...], KeysValues] | None
    keyframes: mx.array | None = None


def distinct_levels(mask: mx.array | None) -> Levels:
    """`mask`: (B, T, 1) or (B, T), 1 = free; None stands for all ones."""
    if mask is None:
        return Levels(mx.ones((1,)), None)
    values = np.array(mask.astype(mx.float32)).reshape(mask.shape[0], -1)
    if (values == values[:1]).all():
        values = values[:1]
    distinct, where = np.unique(values, return_inverse=True)
    tokens = None if len(distinct) == 1 else mx.array(where.reshape(values.shape).astype(np.int32))
    return Levels(mx.array(distinct), tokens)


def middles(positions: mx.array) -> np.ndarray:
    """(B, axes, T, 2) bounds of tokens -> (B, axes, T) their middles, float32."""
    bounds = np.array(positions.astype(mx.float32))
    found: np.ndarray = (bounds[..., 0] + bounds[..., 1]) / np.float32(2)
    return found


def place(
    config: TransformerConfig, positions: Tree, dtype: mx.Dtype
) -> tuple[dict[str, Rotation], dict[str, Rotation]]:
    """Rotations of self-attention and of audio-video cross-attention, by modality, for `positions` (B, axes, T, 2).

    Cross-attention sees time alone and is in the audio stream's geometry on both sides; there is none for one modality.
    Raises ValueError where the axes do not fit the stream.
    """
    own: dict[str, Rotation] = {}
    cross: dict[str, Rotation] = {}
    how: dict[str, Any] = {"theta": config.theta, "float64": config.rope_float64, "dtype": dtype}
    for m, stream in config.streams.items():
        if m not in positions:
            continue
        middle = middles(positions[m])
        own[m] = rotary_table(middle, stream.heads, stream.head_dim, stream.max_positions, **how)
        if config.audio is not None and len(positions) == len(MODALITIES):
            longest = max(stream.max_positions[0] for stream in config.streams.values())
            cross[m] = rotary_table(middle[:, :1], config.audio.heads, config.audio.head_dim, (longest,), **how)
    return own, cross
