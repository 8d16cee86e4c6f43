"""Shared layers: rotary tables, GELU, attention's ways in and out."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.cpu import forms
from mlx_video.models.layers import (
    Attention,
    KeysValues,
    Rotation,
    attend,
    gelu,
    rotary_frequencies,
    rotary_table,
    rotate,
    silu,
)


def test_rotary_frequencies_run_from_half_pi_to_theta_times_that() -> None:
    """They are what float64 gives, rounded once."""
    found = rotary_frequencies(4096, 3, 10_000.0)
    assert found.dtype == np.float32
    assert len(found) == 682
    exact = [10_000 ** (i / 681) * math.pi / 2 for i in range(682)]
    np.testing.assert_array_equal(found, np.array(exact, np.float32))


def test_rotary_frequencies_in_float32_differ_as_the_reference_does() -> None:
    """Only files that do not say float64 take this road; the two precisions part by a few units in the last place."""
    a, b = rotary_frequencies(4096, 3), rotary_frequencies(4096, 3, float64=False)
    assert 1e-8 < np.abs(a / b - 1).max() < 3e-6
    assert rotary_frequencies(2, 1, float64=False).tolist() == [np.float32(math.pi / 2)]


def test_rotary_table_is_frequency_major_over_heads_with_filler_in_front() -> None:
    """2 heads x 14 over 3 axes: 4 frequencies x 3 axes = 12 of 14 angles, so two fillers open the first head."""
    positions = np.random.default_rng(0).uniform(0, 20, (1, 3, 5)).astype(np.float32)
    longest = (20, 64, 32)
    table = rotary_table(positions, 2, 14, longest)
    assert table.cos.shape == table.sin.shape == (1, 2, 5, 7)
    frequencies = rotary_frequencies(28, 3)
    for token in range(5):
        angles = [
            np.float64(np.float32(f) * (positions[0, axis, token] / np.float32(longest[axis]) * 2 - 1))
            for f in frequencies
            for axis in range(3)
        ]
        cos, sin = [1.0, 1.0, *np.cos(angles)], [0.0, 0.0, *np.sin(angles)]
        np.testing.assert_allclose(np.array(table.cos[0, :, token]).reshape(-1), cos, atol=1e-7)
        np.testing.assert_allclose(np.array(table.sin[0, :, token]).reshape(-1), sin, atol=1e-7)


def test_samples_share_one_rotary_table_where_they_share_positions() -> None:
    positions = np.random.default_rng(1).uniform(0, 20, (1, 1, 4))
    same = rotary_table(np.concatenate([positions, positions]), 2, 8, (20,))
    other = rotary_table(np.concatenate([positions, positions + 1]), 2, 8, (20,))
    assert same.cos.shape[0] == 1
    assert other.cos.shape[0] == 2
    np.testing.assert_array_equal(np.array(other.cos[:1]), np.array(same.cos))


def test_rotary_table_refuses_the_wrong_number_of_axes() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, T\)"):
        rotary_table(np.zeros((1, 1, 4)), 2, 8, (20, 2048, 2048))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_rotation_pairs_halves_keeps_length_and_dtype(dtype) -> None:
    x = mx.random.normal((2, 3, 4, 6), key=mx.random.key(0)).astype(dtype)
    table = rotary_table(np.arange(4.0)[None, None], 3, 6, (20,))
    turned = rotate(x, table)
    assert turned.dtype == dtype
    angle = mx.arctan2(table.sin, table.cos)
    z = np.array(x.astype(mx.float32)).reshape(2, 3, 4, 2, 3)
    expected = (z[..., 0, :] + 1j * z[..., 1, :]) * np.exp(1j * np.array(angle))
    found = np.array(turned.astype(mx.float32)).reshape(2, 3, 4, 2, 3)
    np.testing.assert_allclose(found[..., 0, :], expected.real, atol=1e-6 if dtype == mx.float32 else 0.03)
    np.testing.assert_allclose(found[..., 1, :], expected.imag, atol=1e-6 if dtype == mx.float32 else 0.03)


def test_gelu_is_the_tanh_form() -> None:
    x = np.linspace(-9, 9, 2001)
    exact = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(np.array(gelu(mx.array(x, mx.float32))), exact, atol=1e-6)
    assert gelu(mx.ones(3, mx.bfloat16)).dtype == mx.bfloat16
    # Computed in float32, so the only rounding in bfloat16 is that of the input and of the output.
    half = mx.array(x, mx.bfloat16)
    assert mx.array_equal(gelu(half), gelu(half.astype(mx.float32)).astype(mx.bfloat16))


def test_silu_is_x_times_its_sigmoid() -> None:
    x = np.linspace(-120, 120, 2001)
    np.testing.assert_allclose(np.array(silu(mx.array(x, mx.float32))), x / (1 + np.exp(-x)), rtol=1e-6, atol=1e-6)
    half = mx.array(x, mx.bfloat16)
    assert mx.array_equal(silu(half), silu(half.astype(mx.float32)).astype(mx.bfloat16))


@pytest.mark.parametrize("at_once", [1, 80, 1 << 24])
def test_attention_is_the_same_however_many_heads_are_held_at_once(monkeypatch, at_once: int) -> None:
    """1, 2 and all 5 heads; scores of +-300 must not overflow."""
    monkeypatch.setattr(forms, "SCORES_AT_ONCE", at_once)
    q, k, v = (mx.random.normal((2, 5, n, 8), key=mx.random.key(n)) for n in (4, 5, 6))
    memory = KeysValues(60 * k, v[:, :, :5])
    found = attend(q, memory)
    expected = mx.fast.scaled_dot_product_attention(q, *memory, scale=8**-0.5)
    assert mx.allclose(found, expected, atol=2e-5)


def _attention(gated: bool) -> Attention:
    mx.random.seed(3)
    module = Attention(10, 3, 4, context_dim=7, gated=gated)
    module.q_norm.weight, module.k_norm.weight = mx.random.uniform(0.5, 1.5, (12,)), mx.random.uniform(0.5, 1.5, (12,))
    return module


@pytest.mark.parametrize("gated", [False, True])
def test_attention_is_softmax_of_normed_queries_and_keys_with_gates(gated: bool) -> None:
    module = _attention(gated)
    x, context = mx.random.normal((2, 5, 10)), mx.random.normal((2, 6, 7))
    table = rotary_table(np.arange(5.0)[None, None], 3, 4, (20,))
    found = np.array(module(x, module.remember(context), rotation=table))

    def linear(layer: nn.Linear, y: np.ndarray) -> np.ndarray:
        return y @ np.array(layer.weight).T + np.array(layer.bias)

    def norm(layer: nn.RMSNorm, y: np.ndarray) -> np.ndarray:
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * np.array(layer.weight)

    def heads(y: np.ndarray) -> np.ndarray:
        return y.reshape(2, -1, 3, 4).transpose(0, 2, 1, 3)

    xs, cs = np.array(x, np.float64), np.array(context, np.float64)
    q = np.array(rotate(mx.array(heads(norm(module.q_norm, linear(module.to_q, xs))), mx.float32), table))
    k, v = heads(norm(module.k_norm, linear(module.to_k, cs))), heads(linear(module.to_v, cs))
    weights = np.exp(q @ k.swapaxes(-1, -2) / 2)
    out = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
    if gated:
        out = out * (2 / (1 + np.exp(-linear(module.to_gate_logits, xs))))[..., None]
    np.testing.assert_allclose(found, linear(module.to_out[0], out.reshape(2, 5, 12)), atol=1e-5)


def test_bypass_is_attention_of_each_token_to_itself_alone() -> None:
    module = _attention(True)
    module.to_k, module.to_v = nn.Linear(10, 12), nn.Linear(10, 12)
    x = mx.random.normal((1, 4, 10))
    alone = mx.where(mx.eye(4) > 0, 0.0, -mx.inf)
    table = Rotation(mx.ones((1, 3, 4, 2)), mx.zeros((1, 3, 4, 2)))
    assert mx.allclose(module.bypass(x), module(x, rotation=table, mask=alone), atol=1e-6)
