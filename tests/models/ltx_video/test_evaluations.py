"""How much work one evaluation of LTX-Video's networks holds at the real sizes, counted as for LTX-2's
(`tests/test_evaluations.py`).
"""

import copy

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import platform
from mlx_video.models.ltx_video import family
from mlx_video.models.ltx_video.transformer import Pass, corners
from mlx_video.models.section import Stated
from tests import test_evaluations as counting
from tests.models.ltx_video.test_files import REAL

evaluations = counting.evaluations
FILES = {"2b": "ltx-video-2b-v0.9.5.safetensors", "13b": "ltxv-13b-0.9.8-dev.safetensors",
         "0.9.0": "ltx-video-2b-v0.9.safetensors", "0.9.1": "ltx-video-2b-v0.9.1.safetensors"}  # fmt: skip


def build(component: str, file: str, **changes):
    config = copy.deepcopy(REAL[FILES[file]]["config"])
    config["transformer"] |= changes
    network = family.COMPONENTS[component].build(Stated(config, file))
    network.set_dtype(mx.bfloat16)
    return network


@pytest.mark.parametrize("size", ["2b", "13b"])
@pytest.mark.parametrize("grid", [(2, 16, 24), (16, 22, 38)])
def test_transformer(evaluations, size, grid) -> None:
    """768 x 512 with 9 frames and 1216 x 704 with 121, two passes through two blocks."""
    network = build("transformer", size, num_layers=2)
    contexts = {name: mx.zeros((1, 256, 4096), mx.bfloat16) for name in ("positive", "negative")}
    tokens = int(np.prod(grid))
    around = network.prepare(contexts, corners(grid, 25.0, causal=True))
    network(mx.zeros((1, tokens, 128)), 0.5, around, [Pass(), Pass("negative")])
    counting.check(evaluations, 2 * 2 * 28 * tokens * network.config.dim**2)
    assert evaluations.most < 2.8 * max(platform.flops_per_evaluation(), evaluations.largest)


def test_text_encoder(evaluations) -> None:
    """Two prompts of full length."""
    shapes = {name: tuple(shape) for name, (_, shape) in REAL["t5xxl_fp16.safetensors"]["tensors"].items()}
    network = family.COMPONENTS["text_encoder"].build(family.of_text(shapes, "t5"))
    network.set_dtype(mx.bfloat16)
    network([[2] * 256] * 2)
    counting.check(evaluations, 2 * network.config.layers * network.config.layer_flops(256) * 0.9)


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "2b"])
@pytest.mark.parametrize("piece", [1, 4])
def test_video_decoder(evaluations, version, piece) -> None:
    """768 x 512, 33 frames."""
    decoder = build("video_decoder", version)
    timestep = 0.05 if decoder.config.timestep_conditioning else None
    given = decoder.condition(mx.zeros((1, 5, 16, 24, 128), mx.bfloat16), timestep, lambda name, shape: mx.zeros(shape))
    for _ in decoder.pieces(given, piece):
        pass
    counting.check(evaluations, 1e12)


@pytest.mark.parametrize("version", ["0.9.0", "2b"])
def test_video_encoder(evaluations, version) -> None:
    """1216 x 704, nine frames."""
    build("video_encoder", version)(mx.zeros((1, 9, 704, 1216, 3), mx.bfloat16))
    counting.check(evaluations, 1e12)
