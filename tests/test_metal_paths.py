"""Whether convolutions reach MLX's fast kernels on Metal at the real sizes, seen from how they are called.

MLX (mlx/backend/metal/conv.cpp) turns a conv3d into two-dimensional ones, one for each tap in time, where it has one
clip, a stride of 1 and no padding of its own in time; those go to Winograd's kernels (up to five times fewer
multiplications) where both channel counts are multiples of 32 and there is enough to do. Graphs are built for a GPU and
never computed.
"""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import platform
from mlx_video.models.ltx_2.family import COMPONENTS
from tests.support import real_keys


class Convolutions:
    """Operations by the kernel that a conv3d would reach."""

    def __init__(self) -> None:
        self.by_kernel = {"winograd": 0.0, "two-dimensional": 0.0, "general": 0.0}

    def share(self, kernel: str) -> float:
        return self.by_kernel[kernel] / sum(self.by_kernel.values())


@pytest.fixture
def convolutions(monkeypatch):
    found = Convolutions()
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    monkeypatch.setattr(platform.mx, "device_info", lambda *_: {"architecture": "applegpu_g13g"})
    plain = mx.conv3d

    def watched(x, weight, stride=1, padding=0, *rest, **more):
        result = plain(x, weight, stride, padding, *rest, **more)
        stride, padding = (np.broadcast_to(value, 3) for value in (stride, padding))
        planes = len(x) == 1 and stride[0] == 1 and padding[0] == 0
        aligned = weight.shape[0] % 32 == 0 and weight.shape[-1] % 32 == 0 and all(stride == 1)
        kernel = ("winograd" if aligned else "two-dimensional") if planes else "general"
        found.by_kernel[kernel] += 2.0 * result.size * np.prod(weight.shape[1:])
        return result

    monkeypatch.setattr(mx, "conv3d", watched)
    monkeypatch.setattr(mx, "eval", lambda *_: None)
    return found


def build(component, config, **options):
    network = COMPONENTS[component].build(config, **options)
    network.set_dtype(mx.bfloat16)
    return network


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
@pytest.mark.parametrize("piece", [None, 1])
def test_video_decoder(convolutions, generation, piece) -> None:
    """768 x 512, 33 frames: all but the first and last layer, whose channels are pixels."""
    for _ in build("video_decoder", real_keys.config(generation)).pieces(mx.zeros((1, 5, 16, 24, 128)), piece):
        pass
    assert convolutions.by_kernel["general"] == 0
    assert convolutions.share("winograd") > 0.97


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_video_decoder_takes_several_clips_one_at_a_time(convolutions, generation) -> None:
    build("video_decoder", real_keys.config(generation))(mx.zeros((2, 2, 16, 24, 128)))
    assert convolutions.by_kernel["general"] == 0


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_video_encoder(convolutions, generation) -> None:
    build("video_encoder", real_keys.config(generation))(mx.zeros((1, 9, 512, 768, 3)))
    assert convolutions.by_kernel["general"] == 0
    assert convolutions.share("winograd") > 0.9


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_upsampler(convolutions, generation) -> None:
    config, _ = real_keys.upsamplers(generation)["spatial_x2"]
    build("upsampler", config)(mx.zeros((1, 5, 8, 12, 128)))
    assert convolutions.by_kernel["general"] == 0
    assert convolutions.share("winograd") > 0.99
