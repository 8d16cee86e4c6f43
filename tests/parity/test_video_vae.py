"""The video autoencoder against the torch reference: both generations, other blocks, odd sizes, pieces and tiles."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.parity import reference

pytestmark = pytest.mark.parity
torch = reference.torch
V = pytest.importorskip("ltx_core.model.video_vae")

from mlx_video.models.ltx_2.config import VideoVAEConfig  # noqa: E402
from mlx_video.models.ltx_2.video_vae import (  # noqa: E402
    Span,
    Tiling,
    VideoDecoder,
    VideoEncoder,
    decode_frames,
    encode_frames,
)
from mlx_video.weights import names  # noqa: E402
from mlx_video.weights.store import Tensors  # noqa: E402

LIMIT = 5e-6
"""The issue asks for 2e-5; the reference in float32 is 6e-7 to 9e-7 from float64."""
PARTS = {
    "decoder": (VideoDecoder, V.VideoDecoderConfigurator),
    "encoder": (VideoEncoder, V.VideoEncoderConfigurator),
}
COMMON = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 32,
    "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform", "timestep_conditioning": False,
    "decoder_base_channels": 4, "causal_decoder": False,
}  # fmt: skip
RESIDUAL = {"residual": True, "multiplier": 2}
CONFIGS = {
    "2": {
        **COMMON,
        "encoder_blocks": [
            ["res_x", {"num_layers": 2}], ["compress_space_res", {"multiplier": 2}], ["res_x", 1],
            ["compress_time_res", {"multiplier": 1}], ["compress_all_res", {"multiplier": 1}],
            ["compress_all_res", {"multiplier": 2}], ["res_x", 1],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 2, "inject_noise": False}], ["compress_all", RESIDUAL], ["res_x", 1],
            ["compress_all", RESIDUAL], ["compress_all", RESIDUAL], ["res_x", 1],
        ],
    },
    "2.3": {
        **COMMON,
        "encoder_blocks": [
            ["res_x", 1], ["compress_space_res", {"multiplier": 1}], ["compress_time_res", {"multiplier": 2}],
            ["res_x", 2], ["compress_all_res", {"multiplier": 2}], ["compress_all_res", {"multiplier": 1}],
        ],
        "decoder_blocks": [
            ["res_x", 2], ["compress_space", {"multiplier": 2}], ["compress_time", {"multiplier": 2}], ["res_x", 1],
            ["compress_all", {"multiplier": 1}], ["compress_all", {"multiplier": 2}], ["res_x", 1],
        ],
        "spatial_padding_mode": "zeros",
    },
    "other": {
        **COMMON,
        "causal_decoder": True,
        "encoder_blocks": [
            ["compress_space", 1], ["res_x_y", {"multiplier": 2}], ["compress_time", 1], ["compress_all", 1],
            ["compress_all_x_y", {"multiplier": 2}],
        ],
        "decoder_blocks": [
            ["res_x_y", {"multiplier": 2}], ["compress_all", 1], ["compress_time", {"multiplier": 2}], ["res_x", 1],
            ["compress_space", {"multiplier": 2}], ["compress_all", RESIDUAL | {"multiplier": 1}],
        ],
        "spatial_padding_mode": "reflect",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """pair(half, config name, seed) -> (the reference's network, ours with the same weights through a file)."""

    def make(half: str, name: str, seed: int = 0):
        config = {"vae": CONFIGS[name]}
        ours, configurator = PARTS[half]
        theirs = reference.randomize(reference.build(configurator, config), seed)
        state = theirs.state_dict()
        extra = {
            "per_channel_statistics.channel": torch.zeros(32),
            "per_channel_statistics.mean-of-stds": torch.ones(32),
        }
        tensors = {
            f"vae.{key}" if "statistics" in key else f"vae.{half}.{key}": value
            for key, value in (state | extra).items()
        }
        path = reference.save(tmp_path_factory.mktemp("vae") / "vae.safetensors", {"": tensors}, config)
        read = Tensors([path])
        network = ours(VideoVAEConfig.read(read.metadata["config"]))
        names.assign(network, read.load(network.prefixes), half)
        return theirs, network

    return make


def last(x) -> mx.array:
    return mx.array(np.ascontiguousarray(np.moveaxis(x.numpy(), 1, -1)))


GRIDS = {
    "2": [(1, 2, 2), (3, 2, 5), (2, 4, 3)],
    "2.3": [(1, 1, 1), (4, 1, 3), (2, 5, 2)],
    "other": [(1, 2, 3), (3, 3, 2)],
}


@pytest.mark.parametrize(("name", "grid"), [(name, grid) for name, grids in GRIDS.items() for grid in grids])
def test_decodes(pair, name, grid):
    theirs, ours = pair("decoder", name, seed=sum(grid))
    latent = reference.normal(7, 2, 32, *grid)
    wanted = last(theirs(latent))
    assert reference.error(ours(last(latent)), wanted) < LIMIT
    assert reference.error(mx.concatenate(list(ours.pieces(last(latent), 1)), axis=1), wanted) < LIMIT


@pytest.mark.parametrize(("name", "grid"), [(name, grid) for name, grids in GRIDS.items() for grid in grids])
def test_encodes(pair, name, grid):
    theirs, ours = pair("encoder", name, seed=sum(grid))
    frames, rows, columns = grid
    pixels = reference.normal(8, 2, 3, 8 * frames - 7, 32 * rows, 32 * columns).clamp(-1, 1)
    wanted = last(theirs(pixels))
    assert reference.error(ours(last(pixels)), wanted) < LIMIT
    assert reference.error(encode_frames(ours, last(pixels), Tiling(piece=1)), wanted) < LIMIT


TILES = {
    "time": ((6, 2, 2), (24, 8), (64, 0), (64, 0)),
    "no overlap in time": ((5, 2, 2), (16, 0), (64, 32), (64, 32)),
    "three deep": ((5, 3, 4), (24, 16), (64, 32), (64, 32)),
    "square": ((2, 5, 5), (64, 24), (96, 64), (96, 64)),
}


@pytest.mark.parametrize("name", ["2", "2.3"])
@pytest.mark.parametrize("case", TILES)
def test_decodes_tiles(pair, name, case):
    grid, frames, height, width = TILES[case]
    theirs, ours = pair("decoder", name, seed=3)
    latent = reference.normal(9, 1, 32, *grid)
    chunks = list(theirs.tiled_decode(latent, _tiles(frames, height, width, grid)))
    tiling = Tiling(Span(*frames), *_coupled(height, width, grid), piece=2)
    decoded = list(decode_frames(ours, last(latent), tiling))
    assert [chunk.shape[0] for chunk in decoded] == [chunk.shape[2] for chunk in chunks]
    assert reference.error(mx.concatenate(decoded)[None], last(torch.cat(chunks, dim=2))) < LIMIT


def _coupled(height: tuple[int, int], width: tuple[int, int], grid: tuple[int, int, int]) -> list[Span]:
    """1.0.0 takes the longer side's size and gives the shorter its share; at least 2 latents and the overlap + 1."""
    longer = max(grid[1:])
    return [
        Span(32 * max(2, span[1] // 32 + 1, round(span[0] // 32 * side / longer)), span[1])
        for span, side in zip((height, width), grid[1:], strict=True)
    ]


def _tiles(frames: tuple[int, int], height: tuple[int, int], width: tuple[int, int], grid: tuple[int, int, int]):
    """The reference's config, in the words of 1.0.0 or of 1.2.0."""
    if hasattr(V, "TilingConfig") and hasattr(V, "SpatialTilingConfig"):
        assert height == width
        return V.TilingConfig(V.SpatialTilingConfig(*width), V.TemporalTilingConfig(*frames))
    from ltx_core.tiling import DimensionSizeConfig, TileSizeConfig

    return TileSizeConfig(*(DimensionSizeConfig(*span) for span in (frames, *_coupled(height, width, grid))))


@pytest.mark.parametrize("name", ["2", "2.3"])
def test_encodes_tiles(pair, name):
    """1.0.0 cuts the borders of tiles off where 1.2.0 blends them, so 1.0.0 is compared on the tiles themselves."""
    from mlx_video.models.ltx_2.video_vae.tiling import encode_parts

    theirs, ours = pair("encoder", name, seed=4)
    pixels = reference.normal(10, 1, 3, 33, 64, 160).clamp(-1, 1)
    tiling = Tiling(Span(24, 16), None, Span(128, 64), piece=1)
    total = np.zeros((1, 5, 2, 5, 32))
    times, rows, columns = encode_parts(tiling, (5, 2, 5), ours.scale)
    assert (len(times), len(rows), len(columns)) == (3, 1, 2)
    for time in times:
        for column in columns:
            latent = last(theirs(pixels[:, :, time.pixels, :, column.pixels]))
            weights = time.weights[:, None, None, None] * column.weights[:, None]
            total[:, time.latents, :, column.latents] += np.array(latent) * weights
    assert reference.error(encode_frames(ours, last(pixels), tiling), total) < LIMIT
    if not hasattr(V, "TilingConfig") or not hasattr(V, "SpatialTilingConfig"):
        from ltx_core.tiling import DimensionSizeConfig, TileSizeConfig

        config = TileSizeConfig(DimensionSizeConfig(24, 16), DimensionSizeConfig(), DimensionSizeConfig(128, 64))
        assert reference.error(last(theirs.tiled_encode(pixels, config)), total) < LIMIT


@pytest.mark.parametrize("name", ["2", "2.3"])
def test_statistics(pair, name):
    theirs, ours = pair("decoder", name, seed=5)
    latent = reference.normal(11, 2, 32, 3, 2, 4)
    for own, its in (("normalize", "normalize"), ("denormalize", "un_normalize")):
        wanted = last(getattr(theirs.per_channel_statistics, its)(latent))
        assert reference.error(getattr(ours.statistics, own)(last(latent)), wanted) < 1e-6
