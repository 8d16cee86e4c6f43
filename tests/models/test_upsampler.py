"""The latent upsampler: sizes, names, refusals, and numbers that the torch reference gave for seeded weights.

`fixtures/upsampler.npz` holds its outputs; `tests/parity/test_upsampler.py` writes it (run as a module) and checks that
the reference still says so.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2 import upsampler
from mlx_video.models.ltx_2.config import UpsamplerConfig
from mlx_video.models.ltx_2.upsampler import GroupNorm, Upsampler
from mlx_video.models.ltx_2.upsampler.pieces import NormWalk
from mlx_video.models.ltx_2.video_vae.patches import depth_to_space
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.support import peaks, real_keys, small

RECORDED = Path(__file__).parents[1] / "fixtures" / "upsampler.npz"
BASE = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
SPACE = {**BASE, "spatial_upsample": True}
RATIONAL = {**SPACE, "rational_resampler": True}
TIME = {**BASE, "spatial_upsample": False, "temporal_upsample": True}
CASES = {
    # name: (config, latent (B, C, F, H, W) in the checkpoint's order)
    "plain": (SPACE, (1, 16, 2, 3, 5)),
    "rational_x2": ({**RATIONAL, "spatial_scale": 2.0}, (2, 16, 1, 3, 2)),
    "rational_x1_5": ({**RATIONAL, "spatial_scale": 1.5}, (1, 16, 2, 3, 5)),
    "time": (TIME, (1, 16, 3, 2, 3)),
    "space_and_time": ({**SPACE, "temporal_upsample": True}, (1, 16, 2, 2, 3)),
}


def weights(network: Upsampler, case: str) -> dict[str, np.ndarray]:
    """Seeded weights by checkpoint name, in the checkpoint's axis order."""
    return {
        name: small.value(f"{case}/{name}", shape, 0).astype(np.float32)
        for name, shape in names.shapes(network).items()
    }


def latent(case: str) -> np.ndarray:
    """Seeded un-normalised latents, (B, C, F, H, W)."""
    shape = CASES[case][1]
    draw = np.random.default_rng(list(CASES).index(case))
    return (draw.normal(0, 1.5, shape) + draw.normal(0, 1, (1, shape[1], 1, 1, 1))).astype(np.float32)


def network(case: str) -> Upsampler:
    made = Upsampler(UpsamplerConfig.read(CASES[case][0]))
    names.assign(made, {name: mx.array(value) for name, value in weights(made, case).items()}, "upsampler")
    return made


@pytest.mark.parametrize("case", CASES)
def test_recorded_numbers(case):
    wanted = np.load(RECORDED)[case]
    result = np.moveaxis(np.array(network(case)(mx.array(np.moveaxis(latent(case), 1, -1)))), -1, 1)
    assert result.shape == wanted.shape
    assert np.linalg.norm(result - wanted) < 2e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("case", CASES)
def test_a_long_latent_in_pieces_is_the_whole_one(case, size):
    made = network(case)
    rng = np.random.default_rng(size)
    # Its mean drifts, so that pieces normalised by themselves would be far off.
    drift = np.linspace(-2, 2, 7)[:, None, None, None]
    long = mx.array((rng.normal(0, 1, (1, 7, 2, 3, 16)) + drift).astype(np.float32))
    whole = made(long)
    told = []
    pieces = made.long(long, size, lambda *done: told.append(done))
    assert pieces.shape == whole.shape == (1, *made.config.grid(7, 2, 3), 16)
    assert mx.linalg.norm(pieces - whole).item() < 3e-6 * mx.linalg.norm(whole).item()
    assert told == [(walk, 6) for walk in range(1, 7)]  # five norms to measure, and the result
    apart = mx.concatenate([made(long[:, i : i + size]) for i in range(0, 7, size)], axis=1)[:, : whole.shape[1]]
    assert apart.shape != whole.shape or mx.linalg.norm(apart - whole).item() > 0.05 * mx.linalg.norm(whole).item()


def test_a_short_latent_is_taken_as_a_whole():
    made, short = network("plain"), mx.array(np.moveaxis(latent("plain"), 1, -1))
    told = []
    assert mx.array_equal(made.long(short, report=lambda *done: told.append(done)), made(short))
    assert told == [(1, 1)]
    # 4 bytes x 32 channels x 6 x 10 of the result
    assert made.frames_at_once(3, 5) == upsampler.WHOLE_BYTES // (4 * 32 * 60)
    assert made.frames_at_once(30_000, 50_000) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["rational_x1_5", "space_and_time"])
def test_memory_of_a_long_latent_is_that_of_a_piece(case):
    made = network(case)
    made.long(mx.zeros((1, 5, 4, 4, 16)), 4)

    def held(frames):
        long = mx.random.normal((1, frames, 4, 4, 16))
        mx.eval(long)
        with peaks.measured() as memory:
            result = made.long(long, 4)
            return memory.peak - 2 * result.nbytes

    assert held(160) < 1.05 * held(40)


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        (2.0, (3, 5, 7), (3, 10, 14)),
        (1.5, (2, 4, 6), (2, 6, 9)),
        (1.5, (2, 3, 5), (2, 5, 8)),
        (0.75, (1, 5, 8), (1, 4, 6)),
        (4.0, (1, 1, 2), (1, 4, 8)),
    ],
)
def test_sizes_of_the_rational_resampler(scale, size, expected):
    config = UpsamplerConfig.read(
        {**BASE, "spatial_upsample": True, "rational_resampler": True, "spatial_scale": scale}
    )
    assert config.grid(*size) == expected
    assert Upsampler(config)(mx.zeros((1, *size, 16))).shape == (1, *expected, 16)


def test_sizes_in_time():
    config = UpsamplerConfig.read(TIME)
    assert (config.scale, config.ratio) == (1.0, (1, 1))
    for frames in (1, 2, 5):
        assert config.grid(frames, 2, 3) == (2 * frames - 1, 2, 3)
        assert Upsampler(config)(mx.zeros((1, frames, 2, 3, 16))).shape == (1, 2 * frames - 1, 2, 3, 16)


def test_order_of_spread_channels():
    # The output's channel is slowest in the input's channels, then rows, then columns.
    x = mx.arange(2 * 2 * 3).reshape(1, 1, 1, 1, 12)
    result = np.array(depth_to_space(x, (1, 2, 3))[0])
    assert result.shape == (1, 2, 3, 2)
    np.testing.assert_array_equal(result[0, ..., 0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(result[0, ..., 1], [[6, 7, 8], [9, 10, 11]])
    time = np.array(depth_to_space(mx.arange(8).reshape(1, 2, 1, 1, 4), (2, 1, 1)))
    np.testing.assert_array_equal(time[0, :, 0, 0], [[0, 2], [1, 3], [4, 6], [5, 7]])


def test_group_norm_with_a_large_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (2, 3, 4, 5, 64)) + np.linspace(-20, 20, 64)
    norm = GroupNorm(64)
    norm.weight, norm.bias = (mx.array(rng.normal(1, 0.2, 64).astype(np.float32)) for _ in range(2))
    grouped = x.reshape(2, -1, 32, 2)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    wanted = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * np.array(norm.weight) + np.array(
        norm.bias
    )
    result = norm(mx.array(x.astype(np.float32)), NormWalk())
    np.testing.assert_allclose(np.array(result), wanted, atol=2e-5)
    assert norm(result.astype(mx.bfloat16), NormWalk()).dtype == mx.bfloat16


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_published_files_fit(generation):
    found = real_keys.upsamplers(generation)
    assert "spatial_x2" in found
    for config, tensors in found.values():
        made = Upsampler(UpsamplerConfig.read(config))  # full size; nothing is evaluated
        pairs = names.match(made, {name: tensor.shape for name, tensor in tensors.items()}, "upsampler")
        assert len(pairs) == len(tensors) == len(tree_flatten(made.parameters()))


def test_file_of_another_kind_is_refused():
    plain = network("plain")
    with pytest.raises(UserError, match=r"do not fit the upsampler.*upsampler\.conv\.weight"):
        names.assign(
            plain, {name: mx.array(value) for name, value in weights(network("rational_x2"), "x").items()}, "upsampler"
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"spatial_upsample": False}, "one must be on"),
        ({"dims": 2}, r"config\.dims = 2"),
        ({"mid_channels": 48}, "48.*multiples of 32"),
        (
            {"rational_resampler": True, "spatial_scale": 3.0},
            r"spatial_scale = 3\.0; supported here: 2\.0, 1\.5, 4\.0, 0\.75",
        ),
    ],
)
def test_configs_that_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        UpsamplerConfig.read({**BASE, **config})


def test_plain_resampler_doubles_whatever_the_scale_says():
    config = UpsamplerConfig.read({**SPACE, "spatial_scale": 1.5})
    assert config.grid(1, 2, 3) == (1, 4, 6)
