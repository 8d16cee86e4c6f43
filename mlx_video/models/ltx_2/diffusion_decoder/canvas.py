"""What a latent is decoded on: at least as large as the windows of attention, and so sometimes larger than the clip.

Knows a config and sizes, no network.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_video.models.ltx_2.config.diffusion_decoder import DiffusionDecoderConfig, Triple


class Canvas(NamedTuple):
    """Sizes of one decoding. In time a short latent is continued by its last frame; in space the border is repeated on
    both sides, the odd one at the end.
    """

    grid: Triple
    """Of the latent: frames, rows, columns."""
    padded_grid: Triple
    size: Triple
    """Of the noise: frames, height and width in pixels."""
    frames: int
    """Of the clip."""
    top: int
    """Pixels that are cut off above."""
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, config: DiffusionDecoderConfig, grid: Triple) -> Canvas:
        """For a latent of `grid`."""
        padded = tuple(max(one, least) for one, least in zip(grid, config.least, strict=True))
        time, rows, columns = config.growth
        height, width = rows * config.patch_size, columns * config.patch_size
        # Frames of context that the last window needs are kept, although they are those of appended latents.
        frames = max(time * (padded[0] - 1) + 1, config.stages[-1].window[0])
        return cls(
            grid,
            (padded[0], padded[1], padded[2]),
            (frames, padded[1] * height, padded[2] * width),
            time * (grid[0] - 1) + 1,
            (padded[1] - grid[1]) // 2 * height,
            (padded[2] - grid[2]) // 2 * width,
            grid[1] * height,
            grid[2] * width,
        )

    def padded(self, latent: mx.array) -> mx.array:
        """The latent (B, F, H, W, C) with the canvas's borders."""
        if self.grid == self.padded_grid:
            return latent
        (_, *spare) = [more - own for own, more in zip(self.grid, self.padded_grid, strict=True)]
        borders = [(0, self.padded_grid[0] - self.grid[0]), *((one // 2, one - one // 2) for one in spare)]
        return mx.pad(latent, [(0, 0), *borders, (0, 0)], mode="edge")
