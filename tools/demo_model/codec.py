"""A linear stand-in for the video VAE that fixes what the latents are before any network is trained.

A latent holds a block of 8 x 32 x 32 pixels as its main components, 41 for each of R, G and B: the same geometry as the
VAE (32x in space, 8x in time, the first latent one frame). The first frame counts as a block of 8 equal frames, so
all latents share one meaning. Three more channels are ramps along time, height and width. They mean nothing to the
decoder; learning to predict them teaches the small transformer where its tokens are.

The VAE's encoder and decoder are trained to agree with it; nothing of it is shipped but the statistics.
"""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from . import device, world

PARTS = 41
COLOUR_CHANNELS = 3 * PARTS  # 0..122
RAMPS = slice(123, 126)  # time, height, width; 126 and 127 stay empty
RAMP_HEIGHT = 4.0
RMS = 2.0  # of the normalised latents: moves the decision about the content to sigmas where the 8 steps are dense
EVENNESS = 0.35  # channel scale = std ** this: 0 leaves the spectrum as it is, 1 whitens it
LATENT_FRAMES = 5  # after which all but bounces rest; the ramp along time ends there too


def to_blocks(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, 1 + 8k, H, W) -> (N, F, h, w, 3, 8 * 32 * 32)"""
    pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, 8, -1, -1), pixels[:, :, 1:]], 2)
    n, c, t, height, width = pixels.shape
    blocks = pixels.reshape(n, c, t // 8, 8, height // 32, 32, width // 32, 32)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(-3)


def from_blocks(blocks: torch.Tensor) -> torch.Tensor:
    n, f, h, w = blocks.shape[:4]
    pixels = (
        blocks.reshape(n, f, h, w, 3, 8, 32, 32).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(n, 3, f * 8, h * 32, w * 32)
    )
    return pixels[:, :, 7:]


def ramps(f: int, h: int, w: int) -> torch.Tensor:
    """(3, F, H, W); time is absolute up to the fifth latent and stays there, height and width run from one edge of the frame to the other."""
    t = (torch.arange(f) / (LATENT_FRAMES - 1) * 2 - 1).clamp(max=1)
    grid = torch.meshgrid(t, torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return RAMP_HEIGHT * torch.stack(grid)


class Codec:
    """`mean` and `scale` are the VAE's mean-of-means and std-of-means."""

    def __init__(self, state: dict):
        self.block_mean, self.basis = state["block_mean"], state["basis"]
        self.mean, self.scale = state["mean"], state["scale"]

    def importance(self) -> torch.Tensor:
        """(123,) of mean 1: what the square of a normalised component's error counts in pixels. Counted alike, the finest
        half of the components is half of every loss, though little of it can be told before the last noise levels."""
        pixels = self.scale[:COLOUR_CHANNELS] ** 2
        return pixels / pixels.mean()

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        """Raw components, (N, 128, F, h, w)."""
        z = ((to_blocks(pixels) - self.block_mean) @ self.basis).flatten(-2)
        return torch.nn.functional.pad(z, (0, 128 - COLOUR_CHANNELS)).permute(0, 4, 1, 2, 3)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised latents with ramps, as the transformer sees them."""
        z = self.normalise(self.project(pixels))
        z[:, RAMPS] = ramps(*z.shape[2:])
        return z

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        z = self.restore(latents)[:, :COLOUR_CHANNELS].permute(0, 2, 3, 4, 1)
        return from_blocks(z.unflatten(-1, (3, PARTS)) @ self.basis.T + self.block_mean).clamp(-1, 1)

    def normalise(self, z):
        return (z - self.mean[:, None, None, None]) / self.scale[:, None, None, None]

    def restore(self, latents):
        return latents * self.scale[:, None, None, None] + self.mean[:, None, None, None]


def load(folder: str) -> Codec:
    """The one that a training folder was begun with."""
    return Codec(device.read(os.path.join(folder, "codec.pt")))


def fit() -> dict:
    """The basis from about 20,000 blocks, mostly blocks with an edge; the statistics from whole clips. On the CPU, wherever
    training runs: another kind of processor may find other signs, or another turn of two components of like size."""
    with torch.device("cpu"):
        return _fit()


def _fit() -> dict:
    rng, pick = np.random.default_rng(3), random.Random(3)
    clips = {}
    for size, batches in ((128, 40), (256, 12)):
        clips[size] = [
            world.render(world.draw_scenes([pick.choice(world.VISUALS) for _ in range(8)], rng), 33, size)
            for _ in range(batches)
        ]
    samples = []
    for size, count in ((128, 12000), (256, 10000)):
        blocks = torch.cat([to_blocks(c).reshape(-1, 8192) for c in clips[size]])
        edged = blocks.std(1) > 0.02
        for part, n in ((blocks[edged], count), (blocks[~edged], count // 10)):
            samples.append(part[torch.randperm(len(part), generator=torch.Generator("cpu").manual_seed(0))[:n]])
    samples = torch.cat(samples)
    mean = samples.mean(0)
    torch.manual_seed(0)
    _, _, basis = torch.svd_lowrank(samples - mean, q=60, niter=3)
    codec = Codec(
        dict(block_mean=mean, basis=basis[:, :PARTS].contiguous(), mean=torch.zeros(128), scale=torch.ones(128))
    )
    z = torch.cat([codec.project(c) for c in clips[128]])[:, :COLOUR_CHANNELS]
    centre, spread = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    scale = spread.clamp(min=0.01 * float(spread.max())) ** EVENNESS
    scale *= float((((z - centre[:, None, None, None]) / scale[:, None, None, None]) ** 2).mean().sqrt()) / RMS
    codec.mean[:COLOUR_CHANNELS], codec.scale[:COLOUR_CHANNELS] = centre, scale
    codec.scale[COLOUR_CHANNELS:] = float(scale.mean())
    return dict(block_mean=codec.block_mean, basis=codec.basis, mean=codec.mean, scale=codec.scale)
