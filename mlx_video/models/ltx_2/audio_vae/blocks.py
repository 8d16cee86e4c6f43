"""What both halves of the audio autoencoder are made of: causal convolutions, residual blocks and their levels.

A spectrogram is an image here, (B, T, F, C): T rows of time, F of frequency, channels last. A convolution sees no later
row (zeros come before the first), and frequencies to both sides. Knows checkpoints only by the names of their parts.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import rms_norm, silu
from mlx_video.models.ltx_2.tiles import in_tiles

NORM_EPS = 1e-6
"""Of the norm over channels. Source: ltx_core normalization.build_normalization_layer."""
TILE_ELEMENTS = 1 << 21
"""Values in one tile (8 MB in float32); a CPU unrolls nine times that for a convolution of them."""

RENAMES = (
    # The checkpoint wraps a causal convolution in a module of its own: conv_in.conv.weight, upsample.conv.conv.weight.
    (r"(\.conv)+\.(weight|bias)$", r".\2"),
    (r"^mid\.block_1\.", "mid.0."),
    (r"^mid\.block_2\.", "mid.1."),
    (r"^per_channel_statistics\.(mean|std)-of-means$", r"latent_\1"),
)
IGNORED = (r"^per_channel_statistics\.",)
"""Further statistics, which a file may carry and the reference drops."""


class CausalConv2d(nn.Conv2d):
    """A convolution that keeps T and F, (B, T, F, C) -> (B, T, F, O), and sees only the past.

    Source: ltx_core causal_conv_2d.CausalConv2d with causality_axis "height".
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3):
        """`kernel` is the odd number of taps along either axis."""
        super().__init__(in_channels, out_channels, kernel, padding=(0, kernel // 2))
        self.past = kernel - 1

    def __call__(self, x: mx.array) -> mx.array:
        """Convolves x (B, T, F, C)."""
        found: mx.array = super().__call__(mx.pad(x, ((0, 0), (self.past, 0), (0, 0), (0, 0))) if self.past else x)
        return found


class ResidualBlock(nn.Module):
    """x + convolution(activation(convolution(activation(x)))), with a 1x1 convolution of x where the width changes.

    Source: ltx_core resnet.ResnetBlock.
    """

    past = 4
    """Earlier rows that it sees."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = CausalConv2d(in_channels, out_channels)
        self.conv2 = CausalConv2d(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = CausalConv2d(in_channels, out_channels, kernel=1)

    def __call__(self, x: mx.array) -> mx.array:
        """Runs x (B, T, F, C) through the block."""
        h = self.conv2(activate(self.conv1(activate(x))))
        return (self.nin_shortcut(x) if "nin_shortcut" in self else x) + h


class Level(nn.Module):
    """Residual blocks at one resolution; the coder that owns it adds `downsample` or `upsample` where one follows."""

    def __init__(self, in_channels: int, out_channels: int, count: int):
        """The first of `count` blocks changes the width."""
        super().__init__()
        self.block = [ResidualBlock(in_channels if i == 0 else out_channels, out_channels) for i in range(count)]

    def __call__(self, x: mx.array) -> mx.array:
        """Runs x (B, T, F, C) through the blocks."""
        return run(self.block, x)


class Downsample(nn.Conv2d):
    """Halves time and frequency with a 3x3 convolution: (B, T, F, C) -> (B, (T + 1) // 2, F // 2, C).

    Source: ltx_core downsample.Downsample with causality_axis "height".
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        """Downsamples x: two rows of zeros come before the first, one column after the last."""
        found: mx.array = super().__call__(mx.pad(x, ((0, 0), (2, 0), (0, 1), (0, 0))))
        return found


class Upsample(CausalConv2d):
    """Repeats rows and columns, convolves, drops the first row: (B, T, F, C) -> (B, 2 * T - 1, 2 * F, C).

    Source: ltx_core upsample.Upsample with causality_axis "height".
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        """Upsamples x (B, T, F, C)."""
        return by_tiles(super().__call__, mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2), self.past)[:, 1:]


def run(blocks: list[ResidualBlock], x: mx.array) -> mx.array:
    """Runs x (B, T, F, C) through `blocks` one after the other."""

    def through(y: mx.array) -> mx.array:
        for block in blocks:
            y = block(y)
        return y

    return by_tiles(through, x, sum(block.past for block in blocks))


def by_tiles(function: Callable[[mx.array], mx.array], x: mx.array, past: int) -> mx.array:
    """`function` of x (B, T, F, C), which keeps T and sees `past` earlier rows, in tiles that keep memory level."""
    batch, _, bins, channels = x.shape
    return in_tiles(function, x, tile=max(TILE_ELEMENTS // (batch * bins * channels), 8 * past), before=past)


def activate(x: mx.array) -> mx.array:
    """silu of x over the root of its mean square, which is taken over channels."""
    return silu(rms_norm(x, NORM_EPS))
