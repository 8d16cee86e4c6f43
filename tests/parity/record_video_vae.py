"""Records tests/fixtures/video_vae.npz from version 1.2.0 of the reference; run by hand with that source on PYTHONPATH:
`python -m tests.parity.record_video_vae`. PyPI's 1.0.0 lays tiles out otherwise when encoding and is refused.
"""

from __future__ import annotations

import numpy as np
from ltx_core.model.video_vae import VideoDecoderConfigurator, VideoEncoderConfigurator
from ltx_core.model.video_vae.video_vae import prepare_tiles_for_encoding
from ltx_core.tiling import DimensionSizeConfig, TileSizeConfig
from ltx_core.types import VIDEO_SCALE_FACTORS

from tests.models import video_vae_cases as cases
from tests.parity import reference
from tests.support import small

torch = reference.torch


def tiles(spans: cases.SPANS) -> TileSizeConfig:
    """The reference's config for (size, overlap) of time, rows and columns."""
    return TileSizeConfig(*(DimensionSizeConfig(*span) for span in spans))


def whole_axes_named(spans: cases.SPANS) -> cases.SPANS:
    """Decoding fails where an axis is not tiled; one tile that is larger than the clip means the same."""
    return tuple(span if span[0] else (32_000, 0) for span in spans)


def networks(generation: str) -> tuple:
    """The reference's decoder and encoder with the small checkpoint's weights."""
    config, found = small.config(generation), small.tensors(generation, "distilled")
    result = []
    for configurator, prefix in (
        (VideoDecoderConfigurator, "vae.decoder."),
        (VideoEncoderConfigurator, "vae.encoder."),
    ):
        state = {}
        for name, array in found.items():
            own = name.startswith(prefix)
            if own or name.startswith("vae.per_channel_statistics."):
                value = torch.from_numpy(np.array(array.astype(small.mx.float32)))
                state[name.removeprefix(prefix if own else "vae.")] = value
        network = reference.build(configurator, config)
        network.load_state_dict(state)
        result.append(network)
    return tuple(result)


def first(x: np.ndarray) -> torch.Tensor:
    """Channels last -> channels first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def kept(x: torch.Tensor, kind: str) -> np.ndarray:
    """Channels first -> channels last, thinned out."""
    return np.ascontiguousarray(np.moveaxis(x.numpy(), 1, -1)).ravel()[:: cases.STEP[kind]]


def numbers(generation: str) -> dict[str, np.ndarray]:
    """Results of the small checkpoint's networks, whole and tiled."""
    decoder, encoder = networks(generation)
    found = {}
    for name, grid in cases.DECODE.items():
        found[f"decode/{name}"] = kept(decoder(first(cases.latent(grid))), "decode")
    for name, size in cases.ENCODE.items():
        found[f"encode/{name}"] = kept(encoder(first(cases.pixels(size))), "encode")
    for name, (grid, spans) in cases.TILED_DECODE.items():
        chunks = list(decoder.tiled_decode(first(cases.latent(grid)), tiles(whole_axes_named(spans))))
        found[f"tiled_decode/{name}"] = kept(torch.cat(chunks, dim=2), "tiled_decode")
        found[f"tiled_decode/{name}/frames"] = np.array([chunk.shape[2] for chunk in chunks])
    for name, (size, spans) in cases.TILED_ENCODE.items():
        found[f"tiled_encode/{name}"] = kept(
            encoder.tiled_encode(first(cases.pixels(size)), tiles(spans)), "tiled_encode"
        )
    return {f"{generation}/{key}": value for key, value in found.items()}


def geometry() -> dict[str, np.ndarray]:
    """For each case, direction and axis: rows (latent start, stop, pixel start, stop), and all weights in a row."""
    decoder, _ = networks("2.3")
    found = {}
    for number, (grid, spans) in enumerate(cases.GEOMETRY):
        f, h, w = grid
        laid = {"decode": decoder._prepare_tiles(torch.zeros(1, 128, *grid, device="meta"), tiles(spans))}
        if all(span[1] >= least for span, least in zip(spans, (16, 64, 64), strict=True)):
            video = torch.zeros(1, 3, 8 * f - 7, 32 * h, 32 * w, device="meta")
            laid["encode"] = prepare_tiles_for_encoding(video, tiles(spans))
        for direction, tiles_laid in laid.items():
            for axis in (2, 3, 4):
                parts = {}
                for tile in tiles_laid:
                    pair = (tile.in_coords[axis], tile.out_coords[axis])
                    latents, pixels = pair if direction == "decode" else pair[::-1]
                    parts[latents.start, latents.stop, pixels.start, pixels.stop] = tile.masks_1d[axis].numpy()
                key = f"geometry/{number}/{direction}/{axis - 2}"
                found[key] = np.array(list(parts))
                found[f"{key}/weights"] = np.concatenate(list(parts.values())).astype(np.float32)
    sides = []
    for height, width in cases.SIZES:
        config = TileSizeConfig.from_long_side(
            long_side=DimensionSizeConfig(768, 64), height=height, width=width, scale_factors=VIDEO_SCALE_FACTORS
        )
        sides.append((config.height.tile_size, config.width.tile_size))
    return {**found, "sides": np.array(sides)}


if __name__ == "__main__":
    np.savez_compressed(cases.RECORDED, **geometry(), **numbers("2"), **numbers("2.3"))
