"""LTX-2.5's diffusion decoder: seconds and memory by output pixel, predicted and measured, by frames at a time.

An eighth as wide as the published one, with its windows, depths and steps: attention, which is most of the work, takes
as many scores for a head as there. Weights are random. Knows no checkpoint.
"""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from bench.measure import MIB, alternate, table
from mlx_video.models.ltx_2.config import DiffusionDecoderConfig
from mlx_video.models.ltx_2.diffusion_decoder import DiffusionDecoder
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces, operations, peak_bytes
from tests.support import published_25

NARROWER = 8
GRID = (3, 7, 8)
"""The least rows that the windows have room in."""
HEAD = ["frames at a time", "s", "us / pixel-frame", "GFLOP/s", "predicted MiB", "peak MiB"]


def report(rounds: int) -> str:
    """One table."""
    network = DiffusionDecoder(DiffusionDecoderConfig.read(_narrow()))
    mx.random.seed(0)
    network.update(tree_map(_random, network.parameters()))
    canvas = network.canvas(GRID)
    latent, noise = mx.random.normal((1, *GRID, 128)), mx.random.normal((1, *canvas.size, 3))
    mx.eval(network.parameters(), latent, noise)

    def decode(step: int) -> mx.array:
        for pixels in network.pieces(latent, noise, step):
            mx.eval(pixels)
        return pixels

    steps = (8, 2)
    found = alternate({str(step): lambda step=step: decode(step) for step in steps}, rounds)
    lines = []
    for step, taken in zip(steps, found.values(), strict=True):
        pieces = Pieces(step)
        numbers = [
            f"{taken.seconds:.1f}", f"{taken.seconds / prod(canvas.size) * 1e6:.1f}",
            f"{operations(network.config, GRID, pieces) / taken.seconds / 1e9:.1f}",
            f"{peak_bytes(network.config, GRID, pieces, 4) / MIB:.0f}", f"{taken.peak / MIB:.0f}",
        ]  # fmt: skip
        lines.append([str(step), *numbers])
    title = f"LTX-2.5's diffusion decoder, 1/{NARROWER} of its width, latent {' x '.join(map(str, GRID))}"
    return table(title, HEAD, lines)


def _narrow() -> dict[str, Any]:
    settings, _ = published_25.part("vae/ltx-2.5-video-vae-bf16")
    settings = copy.deepcopy(settings)
    decoder = settings["vae"]["decoder"]
    decoder["stage_channels"] = [channels // NARROWER for channels in decoder["stage_channels"]]
    decoder["head_dim"] //= NARROWER
    return settings


def _random(array: mx.array) -> mx.array:
    return mx.random.normal(array.shape) * array.shape[-1] ** -0.5
