"""How the noise level reaches the tokens: the embedding of a timestep, and the vectors that shift, scale and gate.

A clip has few distinct noise levels (one, or two or three where a picture is given), so everything is computed once per
level and gathered to tokens last. Knows no block and no modality.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.layers import gelu

TIMESTEP_FEATURES = 256
LONGEST_PERIOD = 10_000.0


@mx.compile
def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """x * (1 + scale) + shift, computed in float32 and returned in x's dtype."""
    return (x.astype(mx.float32) * (1 + scale.astype(mx.float32)) + shift.astype(mx.float32)).astype(x.dtype)


@mx.compile
def add_gated(x: mx.array, y: mx.array, gate: mx.array) -> mx.array:
    """x + y * gate, computed in float32 and returned in x's dtype."""
    return (x.astype(mx.float32) + y.astype(mx.float32) * gate.astype(mx.float32)).astype(x.dtype)


def timestep_features(timesteps: mx.array) -> mx.array:
    """Cosines, then sines, of timesteps (...) at 128 frequencies: (..., 256) in float32.

    Source: ltx_core timestep_embedding.get_timestep_embedding with flip_sin_to_cos and downscale_freq_shift 0.
    """
    half = TIMESTEP_FEATURES // 2
    # Exponent and frequency are each rounded to float32 once, as nearly as can be what the reference does: angles reach
    # 1000 rad.
    exponents = np.float32(-math.log(LONGEST_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angles = timesteps.astype(mx.float32)[..., None] * mx.array(np.exp(exponents.astype(np.float64)).astype(np.float32))
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class TwoLinear(nn.Module):
    """linear_1, an activation, linear_2: the timestep embedder (SiLU) and LTX-2's caption projection (GELU)."""

    def __init__(self, in_dim: int, dim: int, activation: str):
        """(..., in_dim) -> (..., dim); `activation` is "silu" or "gelu"."""
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self._activation = {"silu": nn.silu, "gelu": gelu}[activation]

    def __call__(self, x: mx.array) -> mx.array:
        """Applies the three in turn."""
        return self.linear_2(self._activation(self.linear_1(x)))


class AdaLN(nn.Module):
    """From a timestep to `rows` vectors of the stream's width. Source: ltx_core adaln.AdaLayerNormSingle."""

    def __init__(self, dim: int, rows: int):
        super().__init__()
        self.emb = nn.Module()
        self.emb.timestep_embedder = TwoLinear(TIMESTEP_FEATURES, dim, "silu")
        self.linear = nn.Linear(dim, rows * dim)
        self.rows = rows

    def __call__(self, timesteps: mx.array, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """timesteps (N, levels) -> rows (N, levels, rows, D) and the embedding itself (N, levels, 1, D), in `dtype`."""
        embedded = self.emb.timestep_embedder(timestep_features(timesteps).astype(dtype))
        rows = self.linear(nn.silu(embedded))
        return rows.reshape(*timesteps.shape, self.rows, -1), embedded[:, :, None]


class Modulation(NamedTuple):
    """Shift, scale and gate vectors of one modality.

    rows: (N, levels, rows, D), N = 1 where all samples share a noise level, else B.
    tokens: (1 or B, T) which of the N * levels rows each token takes; None where a sample has one level for all tokens.
    """

    rows: mx.array
    tokens: mx.array | None = None

    @classmethod
    def of(cls, rows: mx.array, levels: mx.array | None) -> Modulation:
        """`levels`: (1 or B, T) the level of each token within its own sample, or None."""
        samples = rows.shape[0]
        if levels is None or samples == 1:
            return cls(rows, levels)
        return cls(rows, levels + mx.arange(samples)[:, None] * rows.shape[1])

    def plus(self, table: mx.array) -> Modulation:
        """With a block's own (rows, D) table added, in the dtype of the rows."""
        return Modulation(self.rows + table.astype(self.rows.dtype), self.tokens)

    def row(self, index: int) -> mx.array:
        """One vector for each token: (1 or B, 1 or T, D)."""
        values = self.rows[:, :, index]
        if self.tokens is None:
            return values
        return values.reshape(-1, values.shape[-1])[self.tokens]

    def repeat(self, times: int) -> Modulation:
        """For a batch that holds the samples `times` over."""
        if self.tokens is None:
            return Modulation(repeat_samples(self.rows, times))
        return Modulation(self.rows, repeat_samples(self.tokens, times))


def repeat_samples(x: mx.array, times: int) -> mx.array:
    """The first axis `times` over; left alone where it is 1 and broadcasts."""
    return x if times == 1 or x.shape[0] == 1 else mx.concatenate([x] * times)
