"""Gradients of what lies between the matrices: those of the formula in float64, and finite however large the input."""

import math
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.checkpoints import demo
from mlx_video.diffusion.tokens import positions
from mlx_video.models import layers
from mlx_video.models.layers import KeysValues, Rotation
from mlx_video.models.ltx_2 import load
from mlx_video.models.ltx_2.transformer import adaln
from mlx_video.models.ltx_2.vocoder import snake
from mlx_video.types import AudioShape, Context, VideoShape

DTYPES = ("float32", "bfloat16", "float16")
ROUNDING = {"float32": 3e-6, "bfloat16": 8e-3, "float16": 1e-3}
"""Of a gradient, relative to the largest; float32's is that of an exponential and a few products."""
X = np.linspace(-100, 100, 4001)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


class Activation(NamedTuple):
    """Ours, and the formula for float64."""

    ours: Callable[[mx.array], mx.array]
    formula: Callable[[np.ndarray], np.ndarray]


ONE = mx.ones((1,))
ACTIVATIONS = {
    "silu": Activation(layers.silu, lambda x: x * sigmoid(x)),
    "gelu": Activation(layers.gelu, tanh_gelu),
    "gate": Activation(lambda x: layers._gate(mx.ones((x.size, 1), x.dtype), x)[:, 0], lambda x: 2 * sigmoid(x)),
    "modulate": Activation(lambda x: adaln.modulate(x, x, x), lambda x: x * (1 + x) + x),
    "add_gated": Activation(lambda x: adaln.add_gated(x, x, x), lambda x: x + x * x),
}


def slope(formula: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return (formula(x + 1e-6) - formula(x - 1e-6)) / 2e-6


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(name, dtype) -> None:
    """GELU's was NaN below about -10 and SiLU's below -88: an overflowing exponential, times zero."""
    one, kind = ACTIVATIONS[name], getattr(mx, dtype)
    x = mx.array(X.astype(np.float32)).astype(kind)
    found = mx.grad(lambda a: one.ours(a).astype(mx.float32).sum())(x)
    assert found.dtype == kind
    exact = slope(one.formula, np.array(x.astype(mx.float32), np.float64))
    np.testing.assert_allclose(found.astype(mx.float32), exact, rtol=0, atol=ROUNDING[dtype] * np.abs(exact).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_timestep_s_own_activation_is_finite(dtype) -> None:
    """MLX's SiLU, which rounds in between."""
    x = mx.array(X.astype(np.float32)).astype(getattr(mx, dtype))
    found = mx.grad(lambda a: nn.silu(a).astype(mx.float32).sum())(x)
    assert mx.isfinite(found).all()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_snake(on_cpu, monkeypatch) -> None:
    """In the CPU's form it was 0: the whole turns that are taken away took the slope with them."""
    monkeypatch.setattr(snake.platform, "is_cpu", lambda: on_cpu)
    x = mx.array(X.astype(np.float32))
    found = mx.grad(lambda a: snake.sine_squared(a).sum())(x)
    np.testing.assert_allclose(found, np.sin(2 * np.array(x, np.float64)), rtol=0, atol=2e-5)
    whole = mx.grad(lambda a: snake._snake(a, ONE, ONE).sum())(x)
    assert mx.isfinite(whole).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1.0, 100.0])
def test_attention_and_norms(dtype, size) -> None:
    """Queries and keys as far apart as they come, and rows of nothing at all."""
    kind = getattr(mx, dtype)
    q, k, v, angles = ((size * mx.random.normal((1, 2, 9, 8), key=mx.random.key(i))).astype(kind) for i in range(4))
    turn = Rotation(mx.cos(angles[..., :4]), mx.sin(angles[..., :4]))

    def attending(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return layers.attend(layers.rotate(q, turn), KeysValues(k, v)).astype(mx.float32).sum()

    for gradient in mx.grad(attending, argnums=(0, 1, 2))(q, k, v):
        assert gradient.dtype == kind
        assert mx.isfinite(gradient).all()
    rows = mx.concatenate([q, mx.zeros_like(q)], axis=1)
    assert mx.isfinite(mx.grad(lambda a: layers.rms_norm(a).astype(mx.float32).sum())(rows)).all()


def test_attention_s_own_form_for_the_cpu_has_the_gradient_of_the_fused_one(monkeypatch) -> None:
    q, k, v = (4 * mx.random.normal((1, 3, 7, 8), key=mx.random.key(i)) for i in range(3))

    def attending(*given: mx.array) -> mx.array:
        return mx.square(layers.attend(given[0], KeysValues(*given[1:]))).sum()

    found = []
    for on_cpu in (True, False):
        monkeypatch.setattr(layers.platform, "is_cpu", lambda on_cpu=on_cpu: on_cpu)
        found.append(mx.grad(attending, argnums=(0, 1, 2))(q, k, v))
    for ours, fused in zip(*found, strict=True):
        np.testing.assert_allclose(ours, fused, rtol=0, atol=1e-5 * float(mx.abs(fused).max()))


def test_every_lora_gradient_of_the_demo_is_finite() -> None:
    """They were NaN, all of them, from the first feed-forward on."""
    network = load("transformer", demo.folder())
    shape = VideoShape(9, 128, 128, 24.0)
    sizes = {"video": shape, "audio": AudioShape.of(shape)}
    where = {m: positions(size) for m, size in sizes.items()}
    widths = [network.config.caption_channels or c.context_dim for c in network.config.streams.values()]
    draw = iter(range(10_000))

    def normal(*size: int) -> mx.array:
        return mx.random.normal(size, key=mx.random.key(next(draw)))

    contexts = {"positive": Context(*(normal(1, 1024, width) for width in widths))}
    x = {m: normal(1, where[m].shape[2], 128) for m in where}
    linear = {
        f"{i}.{path}": layer
        for i, block in enumerate(network.transformer_blocks)
        for path, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    }
    weights = {path: layer.weight for path, layer in linear.items()}
    pairs = {
        path: (0.01 * normal(4, weight.shape[1]), 0.01 * normal(weight.shape[0], 4)) for path, weight in weights.items()
    }

    def loss(pairs: dict) -> mx.array:
        for path, (down, up) in pairs.items():
            linear[path].weight = weights[path] + up @ down
        network.keep_text = False
        prepared = network.prepare(contexts, where)
        [velocity] = network(x, dict.fromkeys(x, 0.6), prepared, flops_limit=math.inf)
        return sum(mx.square(velocity[m] - x[m]).mean() for m in x)

    gradients = mx.grad(loss)(pairs)
    assert len(gradients) > 20
    for path, some in gradients.items():
        for matrix in some:
            assert mx.isfinite(matrix).all(), path
            assert mx.abs(matrix).max() > 0, path
