"""The duration head: its definition, the published file's names, and frames within bounds."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_video.models.ltx_2.config import DurationConfig
from mlx_video.models.ltx_2.duration import DurationHead
from mlx_video.types import UserError, frames_of
from mlx_video.weights import names
from tests.support import published_25


def make() -> DurationHead:
    head, rng = DurationHead(DurationConfig(12, 10)), np.random.default_rng(0)
    head.update(tree_map(lambda x: mx.array(rng.standard_normal(x.shape).astype(np.float32) * 0.1), head.parameters()))
    return head


def defined(head: DurationHead, *contexts: tuple[str, np.ndarray], heads: int = 4) -> float:
    """In float64, one head after the other."""

    def value(array) -> np.ndarray:
        return np.array(array, np.float64)

    def linear(layer, x):
        return x @ value(layer.weight).T + value(layer.bias)

    tokens = [linear(head[f"{m}_input_proj"], x[0]) + value(head[f"{m}_modality_emb"]) for m, x in contexts]
    own, pooler = head.attention_pooler.cross_attn, head.attention_pooler
    sources = [value(pooler.query_tokens), *[np.concatenate(tokens)] * 2]
    parts = zip(sources, np.split(value(own.in_proj_weight), 3), np.split(value(own.in_proj_bias), 3), strict=True)
    q, k, v = (np.split(x @ w.T + b, heads, axis=-1) for x, w, b in parts)
    found = []
    for i in range(heads):
        scores = np.exp(q[i] @ k[i].T / np.sqrt(256 / heads))
        found.append(scores / scores.sum() @ v[i])
    x = linear(head.mlp_hidden, linear(own.out_proj, np.concatenate(found, axis=-1)))
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return float(np.exp(linear(head.mlp_out, x))[0, 0])


def test_tells_seconds_as_defined():
    head, rng = make(), np.random.default_rng(1)
    video, audio = rng.standard_normal((1, 7, 12)), rng.standard_normal((1, 5, 10))
    both = defined(head, ("video", video), ("audio", audio))
    given = mx.array(video, mx.float32), mx.array(audio, mx.float32)
    assert head.seconds(*given) == pytest.approx(both, rel=1e-6)
    assert head.seconds(given[0], None) == pytest.approx(defined(head, ("video", video)), rel=1e-6)
    assert head.seconds(None, given[1]) == pytest.approx(defined(head, ("audio", audio)), rel=1e-6)
    # One modality alone, and another number of heads, would be noticed.
    assert abs(head.seconds(given[0], None) / both - 1) > 1e-4
    assert abs(defined(head, ("video", video), ("audio", audio), heads=8) / both - 1) > 1e-4
    with pytest.raises(ValueError, match="there is neither"):
        head(None, None)


def test_the_published_file_fits_one_to_one():
    settings, tensors = published_25.part("model_patches/ltx-2.5-duration-head-bf16")
    head = DurationHead(DurationConfig.read(settings))
    assert len(names.match(head, tensors, "duration head")) == len(tensors) == 15
    assert sum(np.prod(shape) for shape in tensors.values()) == 1_903_361


@pytest.mark.parametrize(
    ("seconds", "fps", "bounds", "frames"),
    [
        (5.0, 24.0, (1.0, 20.0), 113),  # 120 -> 1 + 8 x 14
        (5.05, 24.0, (1.0, 20.0), 121),
        (0.01, 24.0, (1.0, 20.0), 25),  # 24 -> 17 is below the least
        (25.0, 25.0, (1.0, 20.0), 497),  # 500 -> 1 + 8 x 62
        (1.0, 24.0, (1.0, 1.0), 24),  # no 1 + 8k lies between the bounds
        (2.5 / 24, 24.0, (0.0, 1.0), 1),  # 2.5 is rounded to even
    ],
)
def test_frames(seconds, fps, bounds, frames):
    assert frames_of(seconds, fps, bounds) == frames


def test_bounds_are_kept_wherever_there_is_a_number_of_frames_between_them():
    for seconds in np.linspace(0, 30, 301):
        for fps in (24.0, 25.0, 29.97, 30.0):
            for bounds in ((1.0, 20.0), (3.0, 8.0)):
                frames = frames_of(float(seconds), fps, bounds)
                assert frames % 8 == 1
                assert round(bounds[0] * fps) <= frames <= round(bounds[1] * fps)


def test_a_config_of_something_else_is_refused():
    with pytest.raises(UserError, match="duration_head"):
        DurationConfig.read({"transformer": {}})
    with pytest.raises(UserError, match="cross_attention_dim"):
        DurationConfig.read({"duration_head": {}, "transformer": {"cross_attention_dim": "4096"}})
