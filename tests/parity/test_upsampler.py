"""The latent upsampler against the torch reference: every kind that the format knows, sizes that are odd, batches.

`python -m tests.parity.test_upsampler` records the fixture that the tests without torch compare with.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_2.config import UpsamplerConfig
from mlx_video.models.ltx_2.upsampler import Upsampler
from mlx_video.weights import names
from mlx_video.weights.store import Tensors
from tests.models import test_upsampler as recipe
from tests.parity.reference import build, error, normal, randomize, save, torch

pytestmark = pytest.mark.parity
upsampler = pytest.importorskip("ltx_core.model.upsampler")

LIMIT = 2e-5
PLAIN = {"spatial_upsample": True, "temporal_upsample": False}
RATIONAL = {**PLAIN, "rational_resampler": True}
TIME = {"spatial_upsample": False, "temporal_upsample": True}

CASES = {
    # name: (config, latent (B, C, F, H, W))
    "2 space x2": ({**RATIONAL, "spatial_scale": 2.0, "mid_channels": 64}, (1, 128, 3, 3, 5)),
    "2.3 space x2": ({**PLAIN, "mid_channels": 96}, (1, 128, 2, 5, 3)),
    "2.3 space x1.5": ({**RATIONAL, "spatial_scale": 1.5, "mid_channels": 32}, (1, 128, 3, 3, 5)),
    "space x1.5, even": ({**RATIONAL, "spatial_scale": 1.5, "mid_channels": 32}, (1, 128, 1, 4, 6)),
    "space x4": ({**RATIONAL, "spatial_scale": 4.0, "mid_channels": 32}, (1, 16, 2, 2, 3)),
    "space x0.75": ({**RATIONAL, "spatial_scale": 0.75, "mid_channels": 32}, (1, 16, 2, 5, 7)),
    "time x2": ({**TIME, "mid_channels": 64}, (1, 128, 4, 3, 2)),
    "time x2, one frame": ({**TIME, "mid_channels": 32}, (1, 128, 1, 2, 2)),
    "space and time x2": ({"spatial_upsample": True, "temporal_upsample": True, "mid_channels": 32}, (1, 16, 3, 2, 3)),
    "one row, one column": ({**PLAIN, "mid_channels": 32}, (1, 128, 2, 1, 1)),
    "batch of two": ({**PLAIN, "mid_channels": 32}, (2, 128, 2, 2, 3)),
    "no blocks": ({**PLAIN, "mid_channels": 32, "num_blocks_per_stage": 0}, (1, 16, 1, 3, 3)),
    "wide and deep": ({**PLAIN, "mid_channels": 256, "num_blocks_per_stage": 4}, (1, 128, 2, 3, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case, tmp_path):
    config, shape = CASES[case]
    config = {"_class_name": "LatentUpsampler", "in_channels": shape[1], "dims": 3, "num_blocks_per_stage": 2, **config}
    seed = list(CASES).index(case)
    reference = randomize(build(upsampler.LatentUpsamplerConfigurator, config), seed)
    tensors = Tensors([save(tmp_path / "upsampler.safetensors", {"": reference}, config)])
    ours = Upsampler(UpsamplerConfig.read(tensors.metadata["config"]))
    names.assign(ours, tensors.load(), "upsampler", dtype=mx.float32)

    # Un-normalised latents have means and deviations of their own in each channel.
    latent = normal(seed + 100, *shape) * 2 + normal(seed + 200, 1, shape[1], 1, 1, 1)
    wanted = reference(latent)
    result = np.moveaxis(np.array(ours(mx.array(np.moveaxis(latent.numpy(), 1, -1)))), -1, 1)
    assert result.shape[2:] == ours.config.grid(*shape[2:])
    assert error(result, wanted) < LIMIT


@pytest.mark.parametrize("config", [PLAIN, {**RATIONAL, "spatial_scale": 1.5}, TIME], ids=["x2", "x1.5", "time"])
def test_a_long_latent_in_pieces_matches_reference(config, tmp_path):
    config = {"mid_channels": 64, "num_blocks_per_stage": 4, **config}
    reference = randomize(build(upsampler.LatentUpsamplerConfigurator, config), 21)
    tensors = Tensors([save(tmp_path / "upsampler.safetensors", {"": reference}, config)])
    ours = Upsampler(UpsamplerConfig.read(tensors.metadata["config"]))
    names.assign(ours, tensors.load(), "upsampler", dtype=mx.float32)
    latent = normal(22, 1, 128, 11, 2, 3) * 2 + normal(23, 1, 128, 11, 1, 1)
    result = ours.long(mx.array(np.moveaxis(latent.numpy(), 1, -1)), 3)
    assert error(np.moveaxis(np.array(result), -1, 1), reference(latent)) < LIMIT


def test_bfloat16_stays_near_the_reference(tmp_path):
    config = {"mid_channels": 64, "num_blocks_per_stage": 1, **RATIONAL, "spatial_scale": 1.5}
    reference = randomize(build(upsampler.LatentUpsamplerConfigurator, config), 7)
    tensors = Tensors([save(tmp_path / "upsampler.safetensors", {"": reference}, config)])
    ours = Upsampler(UpsamplerConfig.read(tensors.metadata["config"]))
    names.assign(ours, tensors.load(), "upsampler", dtype=mx.bfloat16)
    latent = normal(8, 1, 128, 2, 3, 3)
    result = ours(mx.array(np.moveaxis(latent.numpy(), 1, -1)).astype(mx.bfloat16))
    assert result.dtype == mx.bfloat16
    result = np.moveaxis(np.array(result.astype(mx.float32)), -1, 1)
    assert error(result, reference(latent)) < 2e-2


def recorded(case: str) -> np.ndarray:
    """What the reference gives for the seeded case of `tests/models/test_upsampler.py`."""
    config, _ = recipe.CASES[case]
    reference = build(upsampler.LatentUpsamplerConfigurator, config)
    weights = recipe.weights(Upsampler(UpsamplerConfig.read(config)), case)
    reference.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return reference(torch.from_numpy(recipe.latent(case))).numpy()


@pytest.mark.parametrize("case", recipe.CASES)
def test_fixture_is_the_reference(case):
    assert error(np.load(recipe.RECORDED)[case], recorded(case)) < 1e-5


if __name__ == "__main__":
    np.savez_compressed(recipe.RECORDED, **{case: recorded(case) for case in recipe.CASES})
