"""How much work one evaluation holds at the real sizes, counted from graphs that are built and never computed.

macOS kills work that keeps the GPU for too long, so every network evaluates before there is too much of it. Operations
are those of matrix products and convolutions; the chip is a described one, the slowest that there is.
"""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import platform
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma
from mlx_video.types import Context, Pass
from tests.support import real_gemma, real_keys

SLACK = 2.2
"""An evaluation comes after what goes over the bound, at most two large products (a feed-forward's) and their small
change."""


class Evaluations:
    """Operations since the last evaluation, and the most that any has held."""

    def __init__(self) -> None:
        self.pending = self.most = self.total = 0.0
        self.largest = 0.0

    def add(self, operations: float) -> None:
        self.pending += operations
        self.total += operations
        self.largest = max(self.largest, operations)

    def evaluate(self, *_: object) -> None:
        self.most, self.pending = max(self.most, self.pending), 0.0


@pytest.fixture
def evaluations(monkeypatch):
    """Counts instead of computing, as on a Mac with an M1."""
    found = Evaluations()
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    monkeypatch.setattr(platform.mx, "device_info", lambda *_: {"architecture": "applegpu_g13g"})

    def watch(owner, name, operations):
        plain = getattr(owner, name)

        def watched(*args, **kwargs):
            result = plain(*args, **kwargs)
            found.add(operations(result, *args))
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(mx.array, "__matmul__", lambda y, a, b: 2.0 * y.size * a.shape[-1])
    watch(mx, "addmm", lambda y, c, a, b: 2.0 * y.size * a.shape[-1])
    watch(mx.fast, "scaled_dot_product_attention", lambda y, q, k, v: 4.0 * q.size * k.shape[2])
    for convolution in ("conv1d", "conv2d", "conv3d"):
        watch(mx, convolution, lambda y, x, w, *_: 2.0 * y.size * np.prod(w.shape[1:]))
    monkeypatch.setattr(mx, "eval", found.evaluate)
    return found


def check(found: Evaluations, least: float) -> None:
    """The most is within the bound, or what is single operations; `least` operations have been seen."""
    found.evaluate()
    assert found.total > least
    assert found.most <= SLACK * max(platform.flops_per_evaluation(), found.largest)


def build(component, generation, **options):
    network = COMPONENTS[component].build(real_keys.config(generation), **options)
    network.set_dtype(mx.bfloat16)
    return network


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
@pytest.mark.parametrize("tokens", [384, 6144])
def test_transformer(evaluations, generation, tokens) -> None:
    """768 x 512 with 9 and with 121 frames, two passes through two blocks."""
    config = real_keys.config(generation)
    config["transformer"]["num_layers"] = 2
    network = COMPONENTS["transformer"].build(config)
    network.set_dtype(mx.bfloat16)
    streams = network.config.streams
    widths = [network.config.caption_channels or stream.context_dim for stream in streams.values()]
    contexts = {n: Context(*(mx.zeros((1, 1024, w), mx.bfloat16) for w in widths)) for n in ("positive", "negative")}
    counts = {"video": tokens, "audio": 126}
    positions = {m: mx.zeros((1, len(streams[m].max_positions), counts[m], 2)) for m in counts}
    prepared = network.prepare(contexts, positions)
    x = {m: mx.zeros((1, counts[m], 128)) for m in counts}
    network(x, dict.fromkeys(x, 0.5), prepared, [Pass(), Pass("negative")])
    check(evaluations, 2 * 2 * 28 * tokens * streams["video"].dim ** 2)
    assert evaluations.most < 2.8 * platform.flops_per_evaluation()  # 1.4 s at most


def test_text_encoder(evaluations) -> None:
    """Two prompts of full length."""
    network = Gemma(real_gemma.config())
    network.set_dtype(mx.bfloat16)
    network([[2] * 1024] * 2)
    check(evaluations, 2 * network.config.layers * network.config.layer_flops(1024) * 0.9)


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_connectors(evaluations, generation) -> None:
    network = build("connectors", generation, features=real_gemma.FEATURES)
    network(mx.zeros((300, 3840, 49), mx.bfloat16))
    check(evaluations, 1e12)


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
@pytest.mark.parametrize("piece", [1, 4])
def test_video_decoder(evaluations, generation, piece) -> None:
    """768 x 512, 33 frames."""
    for _ in build("video_decoder", generation).pieces(mx.zeros((1, 5, 16, 24, 128), mx.bfloat16), piece):
        pass
    check(evaluations, 1e13)


def test_video_encoder(evaluations) -> None:
    """1280 x 704, one frame."""
    build("video_encoder", "2.3")(mx.zeros((1, 1, 704, 1280, 3), mx.bfloat16))
    check(evaluations, 1e12)


def test_upsampler(evaluations) -> None:
    """To 1280 x 704, 121 frames."""
    config, _ = real_keys.upsamplers("2.3")["spatial_x2"]
    network = COMPONENTS["upsampler"].build(config)
    network.set_dtype(mx.bfloat16)
    network.long(mx.zeros((1, 16, 11, 20, 128), mx.bfloat16))
    check(evaluations, 5e12)


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_sound(evaluations, generation) -> None:
    """Five seconds."""
    build("audio_decoder", generation)(mx.zeros((1, 8, 126, 16), mx.bfloat16))
    COMPONENTS["vocoder"].build(real_keys.config(generation))(mx.zeros((1, 2, 501, 64)))
    check(evaluations, 5e11)
