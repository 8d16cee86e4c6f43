"""What Metal's 16-bit Winograd convolutions do to a decoder, and that float32 is not harmed: emulated on the CPU."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline
from mlx_video.checkpoints import demo
from mlx_video.jobs.decode import to_uint8
from mlx_video.models.ltx_2 import load
from mlx_video.models.ltx_2.video_vae import convolution
from mlx_video.types import RunError
from tests.support import metal_winograd

CLIP = {
    "prompt": "a red ball bounces on grass",
    "height": 128,
    "width": 128,
    "num_frames": 9,
    "seed": 1,
    "audio": False,
}


def error(ours: mx.array, exact: mx.array) -> float:
    ours, exact = ours.astype(mx.float32), exact.astype(mx.float32)
    return (mx.linalg.norm(ours - exact) / mx.linalg.norm(exact)).item()


def noise(*shape: int, seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def smooth(x: mx.array) -> mx.array:
    """Averaged over 9 x 9 pixels, as pictures and what decoders make of them are: neighbours are alike."""
    for axis in (2, 3):
        total = mx.cumsum(mx.pad(x, [(0, 0), (0, 0), *((5, 4) if a == axis else (0, 0) for a in (2, 3)), (0, 0)]), axis)
        ends = [slice(None)] * 5
        ends[axis] = slice(9, None)
        starts = [slice(None)] * 5
        starts[axis] = slice(None, -9)
        x = (total[tuple(ends)] - total[tuple(starts)]) / 9
    return x / mx.std(x)


def test_its_tables_are_those_of_metal() -> None:
    """Rows of conv.metal, by their values."""
    weights, inputs, outputs = metal_winograd._transforms()
    np.testing.assert_allclose(weights[3], [1 / 90, 1 / 45, 2 / 45])
    np.testing.assert_allclose(weights[6], [32 / 45, -16 / 45, 8 / 45])
    np.testing.assert_allclose(inputs[5], [0, 2, 4, -2.5, -5, 0.5, 1, 0], atol=1e-12)
    np.testing.assert_allclose(inputs[7], [0, -1, 0, 5.25, 0, -5.25, 0, 1], atol=1e-12)
    np.testing.assert_allclose(outputs[5], [0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1])


@pytest.mark.parametrize("size", [(1, 3, 12, 12), (1, 4, 9, 7), (1, 3, 8, 20)])
@pytest.mark.parametrize("padding", [0, 1])
def test_it_is_a_convolution(size, padding) -> None:
    """Whatever the size: tiles of six by six that do not fill the picture are cut."""
    x, weight = noise(*size, 5, seed=0), noise(7, 3, 3, 3, 5, seed=1)
    exact = mx.conv3d(x, weight, 1, (0, padding, padding))
    found = metal_winograd.conv3d(x, weight, padding, always=True)
    assert found.shape == exact.shape
    assert error(found, exact) < 5e-6  # transforms of numbers up to 30 times as large as the result


@pytest.mark.parametrize(
    ("shape", "outputs", "taken"),
    [
        ((1, 64, 64, 128), 128, True),
        ((4, 32, 32, 128), 128, True),
        ((1, 63, 64, 128), 128, False),
        ((1, 64, 64, 96), 128, False),
        ((1, 64, 64, 120), 160, False),
        ((1, 64, 64, 1024), 48, False),
    ],
)
def test_which_convolutions_go_there(shape, outputs, taken) -> None:
    assert metal_winograd.takes(mx.zeros(shape), mx.zeros((outputs, 3, 3, shape[-1]))) is taken


ERRORS = {
    ("bfloat16", "smooth"): (1.0e-2, 1.8e-2), ("bfloat16", "white"): (4.5e-2, 7e-2),
    ("float16", "smooth"): (1.3e-3, 2.3e-3), ("float16", "white"): (5.5e-3, 9e-3),
}  # fmt: skip
"""Least and most of a 3x3x3 convolution of 512 channels; ml-explore/mlx#4242 saw the like on a Mac."""
PLAIN = {"bfloat16": 4e-3, "float16": 5e-4}


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["smooth", "white"])
def test_in_16_bit_it_is_several_times_less_exact(name, kind) -> None:
    dtype = getattr(mx, name)
    x = noise(1, 3, 24, 24, 512, seed=0)
    x = (smooth(x) if kind == "smooth" else x).astype(dtype)
    weight = (noise(32, 3, 3, 3, 512, seed=1) / 512**0.5).astype(dtype)
    exact = mx.conv3d(x.astype(mx.float32), weight.astype(mx.float32), 1, (0, 1, 1))
    found = error(metal_winograd.conv3d(x, weight, 1, always=True), exact)
    least, most = ERRORS[name, kind]
    assert least < found < most
    direct = sum(metal_winograd.plain(x[0, tap : tap + 1], weight[:, tap], 1) for tap in range(3))
    assert error(direct, exact[0]) < PLAIN[name]


@pytest.fixture(scope="module")
def clips() -> dict:
    """The demo's clip of a transformer in each type, the same noise, autoencoders as they come."""
    made = {}
    for dtype in ("float32", "bfloat16", "float16"):
        with LTXPipeline.from_pretrained("demo", dtype=dtype) as pipe:
            clip = pipe.generate(**CLIP)
            made[dtype] = clip.latents["video"], np.stack(list(clip))
    return made


def decibels(frames: np.ndarray, exact: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.square(frames.astype(float) - exact).mean(), 1e-9))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_transformer_in_16_bit_gives_the_clip_of_float32(clips, dtype) -> None:
    """40 dB. With the autoencoders in float16, too, a clip on an M1 had 13.5 dB, a fifth of it black, and no error."""
    assert mx.isfinite(clips[dtype][0]).all()
    assert decibels(clips[dtype][1], clips["float32"][1]) > 40


def test_a_decoder_that_overflows_says_what_to_do() -> None:
    """The demo's, if float16 is asked for."""
    with LTXPipeline.from_pretrained("demo", vae_dtype="float16") as pipe:
        clip = pipe.generate(**CLIP)
        for one in (clip, pipe.decode(clip.latents)):
            with pytest.raises(
                RunError, match=r"decoding the video gave .* \(--vae-dtype float32, in place of float16\)"
            ):
                list(one)


def on_metal(clips: dict, dtype: mx.Dtype, monkeypatch) -> np.ndarray:
    """The demo's frames, decoded with every convolution in Winograd's form."""

    def emulated(window, weight, bias, space):
        return metal_winograd.conv3d(window, weight, space, always=True) + bias

    monkeypatch.setattr(convolution, "convolve", emulated)
    decoder = load("video_decoder", demo.folder(), dtype)
    latent = clips["float32"][0].transpose(0, 2, 3, 4, 1).astype(dtype)
    return np.array(decoder(latent).astype(mx.float32))[0]


@pytest.mark.slow
def test_on_metal_the_demo_decodes_right_in_float32_alone(clips, monkeypatch) -> None:
    exact = clips["float32"][1]
    found = on_metal(clips, mx.float32, monkeypatch)
    assert decibels(np.array(to_uint8(mx.array(found))), exact) > 60
    halves = on_metal(clips, mx.bfloat16, monkeypatch)
    assert decibels(np.array(to_uint8(mx.array(halves))), exact) < 56
    assert not np.isfinite(on_metal(clips, mx.float16, monkeypatch)).all()
