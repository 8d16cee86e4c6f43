"""Layers that two networks or more use: attention, feed-forward, weightless norm, and rotary positions.

Knows no generation, modality or checkpoint; inside attention a tensor is (B, heads, T, head_dim). Element-wise
arithmetic is in float32 and rounded once. Compiled, the casts are part of one kernel and cost nothing; Apple's GPUs
before the M5 have no bfloat16 arithmetic and would convert each operand all the same (ml-explore/mlx#4241).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.cpu import forms


def rms_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """x / sqrt(mean(x^2) + eps) over the last axis, without a weight; computed in float32, returned in x's dtype."""
    return mx.fast.rms_norm(x, None, eps)


def _exp(x: mx.array) -> mx.array:
    return forms.exp(x) if platform.cpu_forms() else mx.exp(x)


_LARGEST_EXPONENT = 88.7228
"""exp of more is no float32."""


def _share(y: mx.array, exponent: mx.array) -> mx.array:
    """y / (1 + exp(exponent)), with a gradient where the exponential overflows: there, by itself, it is infinity times
    zero. A `custom_function` would give one as well, but keeps its input from being overwritten by its output.
    """
    share = y / (1 + _exp(mx.minimum(exponent, _LARGEST_EXPONENT)))
    return mx.where(exponent > _LARGEST_EXPONENT, y * 0, share)


@mx.compile
def silu(x: mx.array) -> mx.array:
    """x / (1 + exp(-x)), computed in float32 and returned in x's dtype."""
    y = x.astype(mx.float32)
    return _share(y, -y).astype(x.dtype)


@mx.compile
def gelu(x: mx.array) -> mx.array:
    """The tanh form of GELU, computed in float32 and returned in x's dtype.

    Written as x / (1 + exp(-2u)), which equals x * (1 + tanh u) / 2 and needs neither a cube nor a tanh.
    """
    y = x.astype(mx.float32)
    u = math.sqrt(2 / math.pi) * (y + 0.044715 * (y * y * y))
    return _share(y, -2 * u).astype(x.dtype)


# ------------------------------------------------------------------------------------------------ rotary positions


class Rotation(NamedTuple):
    """Cosines and sines by which queries and keys are turned: each (1 or B, heads, T, head_dim / 2)."""

    cos: mx.array
    sin: mx.array


def rotary_frequencies(dim: int, axes: int, theta: float = 10_000.0, *, float64: bool = True) -> np.ndarray:
    """theta^[0..1] * pi/2 in dim // (2 * axes) steps, float32; `float64` says in what precision the power is taken.

    Source: ltx_core rope.generate_freq_grid_np / generate_freq_grid_pytorch.
    """
    count = dim // (2 * axes)
    if float64:
        return (np.power(theta, np.linspace(0.0, 1.0, count)) * (math.pi / 2)).astype(np.float32)
    # As torch.linspace does it in float32: up from the start in the first half, down from the end in the second, each
    # value rounded once.
    step, i = float(np.float32(1 / max(count - 1, 1))), np.arange(count)
    exponents = np.where(i < max(count // 2, 1), step * i, 1.0 - step * (count - 1 - i)).astype(np.float32)
    powers = np.power(theta, exponents.astype(np.float64)).astype(np.float32)
    return powers * np.float32(math.pi) / np.float32(2)


def rotary_table(
    positions: np.ndarray,
    heads: int,
    head_dim: int,
    max_positions: Sequence[float],
    *,
    theta: float = 10_000.0,
    float64: bool = True,
    dtype: mx.Dtype = mx.float32,
) -> Rotation:
    """The rotation of tokens at `positions` (B, axes, T), in units whose whole range is `max_positions`, one per axis.

    Split layout: each head has frequencies of its own, ordered frequency-major and axis-minor over all heads; angles
    that the axes cannot fill stand at the front with cosine 1 and sine 0. One table serves all samples (1, ...) where
    they share positions. Raises ValueError where the axes do not match.

    Angles reach 15,700 rad, for which a GPU's fast sine will not do: cosines are taken on the host, in float64 of the
    float32 angle, once per distinct coordinate, and gathered on the device. Source: ltx_core rope.precompute_freqs_cis.
    """
    positions = np.asarray(positions, np.float32)
    if positions.ndim != 3 or positions.shape[1] != len(max_positions):
        raise ValueError(f"positions are {positions.shape}, expected (B, {len(max_positions)}, T)")
    if (positions == positions[:1]).all():
        positions = positions[:1]
    batch, axes, tokens = positions.shape
    frequencies = rotary_frequencies(heads * head_dim, axes, theta, float64=float64)
    cosines, sines = [], []
    for axis in range(axes):
        distinct, where = np.unique(positions[:, axis], return_inverse=True)
        fraction = distinct / np.float32(max_positions[axis]) * np.float32(2) - np.float32(1)
        angles = (frequencies * fraction[:, None]).astype(np.float64)
        index = mx.array(where.reshape(batch, tokens).astype(np.int32))
        cosines.append(mx.array(np.cos(angles).astype(np.float32)).astype(dtype)[index])
        sines.append(mx.array(np.sin(angles).astype(np.float32)).astype(dtype)[index])
    return Rotation(
        _by_head(mx.stack(cosines, axis=-1), heads, head_dim, 1.0),
        _by_head(mx.stack(sines, axis=-1), heads, head_dim, 0.0),
    )


def _by_head(table: mx.array, heads: int, head_dim: int, filler: float) -> mx.array:
    # (B, T, frequencies, axes) -> (B, heads, T, head_dim / 2)
    batch, tokens = table.shape[:2]
    table = table.reshape(batch, tokens, -1)
    missing = heads * head_dim // 2 - table.shape[-1]
    if missing:
        table = mx.concatenate([mx.full((batch, tokens, missing), filler, table.dtype), table], axis=-1)
    return mx.contiguous(table.reshape(batch, tokens, heads, head_dim // 2).swapaxes(1, 2))


@mx.compile
def _turn(first: mx.array, second: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
    dtype = first.dtype
    first, second, cos, sin = (array.astype(mx.float32) for array in (first, second, cos, sin))
    return (first * cos - second * sin).astype(dtype), (second * cos + first * sin).astype(dtype)


def rotate(x: mx.array, rotation: Rotation) -> mx.array:
    """Turns x (B, heads, T, head_dim): element i is paired with element i + head_dim / 2. Keeps x's dtype.

    Source: ltx_core rope.apply_split_rotary_emb.
    """
    half = x.shape[-1] // 2
    cos, sin = rotation.cos.astype(x.dtype), rotation.sin.astype(x.dtype)
    return mx.concatenate(list(_turn(x[..., :half], x[..., half:], cos, sin)), axis=-1)


def rotate_pairs(x: mx.array, rotation: Rotation) -> mx.array:
    """Turns x (B, heads, T, head_dim): element 2i is paired with element 2i + 1. Keeps x's dtype.

    Source: diffusers transformer_ltx.apply_rotary_emb.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    cos, sin = rotation.cos.astype(x.dtype), rotation.sin.astype(x.dtype)
    return mx.stack(_turn(pairs[..., 0], pairs[..., 1], cos, sin), axis=-1).reshape(x.shape)


# ------------------------------------------------------------------------------------------------ attention


class KeysValues(NamedTuple):
    """What queries attend to: keys (normalised, turned) and values, each (B, heads, T, head_dim)."""

    keys: mx.array
    values: mx.array


def attend(queries: mx.array, memory: KeysValues, mask: mx.array | None = None) -> mx.array:
    """softmax(queries keys^T / sqrt(head_dim)) values: (B, heads, T, head_dim).

    mask: as in `mx.fast.scaled_dot_product_attention`, which does the work but for a CPU's.
    """
    scale = 1 / math.sqrt(queries.shape[-1])
    if mask is None and queries.dtype == mx.float32 and platform.cpu_forms():
        return forms.attend(queries, *memory, scale)
    return mx.fast.scaled_dot_product_attention(queries, *memory, scale=scale, mask=mask)


@mx.compile
def _gate(x: mx.array, logits: mx.array) -> mx.array:
    return (x.astype(mx.float32) * (2 * mx.sigmoid(logits.astype(mx.float32)))[..., None]).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys and, where `gated`, a gate for each head.

    The norms span all heads at once. The gate is 2 * sigmoid of a projection of the query input.
    Parameters: to_q, to_k, to_v, to_out.0, q_norm, k_norm, to_gate_logits. Source: ltx_core attention.Attention.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        context_dim: int | None = None,
        gated: bool = False,
        eps: float = 1e-6,
        interleaved: bool = False,
    ):
        """`dim` is the width of queries' input and of the output, `context_dim` that of what is attended to.

        interleaved: positions turn neighbours (`rotate_pairs`) and not halves.
        """
        super().__init__()
        inner = heads * head_dim
        context_dim = dim if context_dim is None else context_dim
        self.heads, self.head_dim = heads, head_dim
        self._rotate = rotate_pairs if interleaved else rotate
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(context_dim, inner)
        self.to_v = nn.Linear(context_dim, inner)
        self.to_out = [nn.Linear(inner, dim)]
        self.q_norm = nn.RMSNorm(inner, eps)
        self.k_norm = nn.RMSNorm(inner, eps)
        if gated:
            self.to_gate_logits = nn.Linear(dim, heads)

    def __call__(
        self,
        x: mx.array,
        memory: KeysValues | None = None,
        *,
        rotation: Rotation | None = None,
        mask: mx.array | None = None,
    ) -> mx.array:
        """Attends from x (B, T, dim) to `memory`, or to x itself where there is none; returns (B, T, dim).

        rotation turns the queries, and the keys that come from x; mask: as in `mx.fast.scaled_dot_product_attention`.
        """
        if memory is None:
            memory = self.remember(x, rotation)
        queries = self._split(self.q_norm(self.to_q(x)))
        if rotation is not None:
            queries = self._rotate(queries, rotation)
        out = attend(queries, memory, mask)
        return self._finish(x, out.swapaxes(1, 2))

    def remember(self, context: mx.array, rotation: Rotation | None = None) -> KeysValues:
        """Keys and values of `context` (B, T, context_dim), which may serve several calls."""
        keys = self._split(self.k_norm(self.to_k(context)))
        return KeysValues(keys if rotation is None else self._rotate(keys, rotation), self._split(self.to_v(context)))

    def bypass(self, x: mx.array) -> mx.array:
        """The output for x (B, T, dim) with each token attending to itself alone: its value, then gate and projection.

        This is how a block is perturbed in spatio-temporal guidance.
        """
        return self._finish(x, self.to_v(x).reshape(*x.shape[:2], self.heads, self.head_dim))

    def leave_out(self, x: mx.array) -> mx.array:
        """The output with x (B, T, dim) itself in the place of what the heads give, then gate and projection: the other
        way of perturbing a block, for heads that are as wide together as x.
        """
        return self._finish(x, x.reshape(*x.shape[:2], self.heads, self.head_dim))

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim).swapaxes(1, 2)

    def _finish(self, x: mx.array, out: mx.array) -> mx.array:
        # out: (B, T, heads, head_dim)
        if "to_gate_logits" in self:
            out = _gate(out, self.to_gate_logits(x))
        return self.to_out[0](out.reshape(*x.shape[:2], -1))


class GELULinear(nn.Module):
    """A linear layer and GELU: (..., dim) -> (..., out_dim)."""

    def __init__(self, dim: int, out_dim: int, *, bias: bool = True):
        super().__init__()
        self.proj = nn.Linear(dim, out_dim, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Applies both."""
        return gelu(self.proj(x))


class FeedForward(nn.Module):
    """Four times as wide, GELU, and back. Parameters: net.0.proj, net.2. Source: ltx_core feed_forward.FeedForward."""

    def __init__(self, dim: int, *, bias: bool = True):
        super().__init__()
        self.net = [GELULinear(dim, 4 * dim, bias=bias), nn.Identity(), nn.Linear(4 * dim, dim, bias=bias)]

    def __call__(self, x: mx.array) -> mx.array:
        """Applies it to each token."""
        found: mx.array = self.net[2](self.net[0](x))
        return found
