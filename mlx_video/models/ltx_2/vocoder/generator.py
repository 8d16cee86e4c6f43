"""A waveform generator: from frames of a log-mel spectrogram to samples, by upsampling and residual blocks in turn.

HiFi-GAN (LTX-2) and its anti-aliased snake-beta kin (LTX-2.3) are one network with different activations; the second
occurs twice, as vocoder and as bandwidth extension. Channels-last, (B, S, C). Long sounds are taken in tiles, stage by
stage, and each stage is evaluated before the next. Knows nothing of checkpoints or sample rates.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.models.ltx_2.config import GeneratorConfig
from mlx_video.models.ltx_2.tiles import in_tiles
from mlx_video.models.ltx_2.vocoder import snake
from mlx_video.models.ltx_2.vocoder.convolution import Conv1d, TransposedConv1d, reach

MEL_CHANNELS = 128
"""Two channels of sound with 64 mel bins each, side by side. Source: ltx_core vocoder.Vocoder.conv_pre."""
EDGE_KERNEL = 7
"""Taps of the first and the last convolution."""
SLOPE, LAST_SLOPE = 0.1, 0.01
"""Of HiFi-GAN's leaky ReLUs; the last one is torch's default. Source: ltx_core resnet.LRELU_SLOPE, nn.LeakyReLU."""
TILE_ELEMENTS = {"cpu": 1 << 19, "gpu": 1 << 23}
"""Values in one tile of a stage: 2 MB stay in a CPU's cache; a GPU needs more to be busy."""
TILE_REACHES = 32
"""A tile is at least so many times as long as what is added at either side: a sixteenth of the work is done twice."""


class ResidualBlock(nn.Module):
    """x + convolution(activation(dilated convolution(activation(x)))), once for each dilation; keeps (B, S, C).

    Source: ltx_core resnet.ResBlock1, vocoder.AMPBlock1.
    """

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], anti_aliased: bool):
        """`anti_aliased` chooses the snake instead of the leaky ReLU. `reach` and `flops` are what one sample takes."""
        super().__init__()
        self.convs1 = [Conv1d(channels, channels, kernel, dilation=d) for d in dilations]
        self.convs2 = [Conv1d(channels, channels, kernel) for _ in dilations]
        self.acts1 = [_activation(channels, anti_aliased, SLOPE) for _ in dilations]
        self.acts2 = [_activation(channels, anti_aliased, SLOPE) for _ in dilations]
        around = 2 * snake.REACH if anti_aliased else 0
        self.reach = sum(reach(kernel, d) + reach(kernel) + around for d in dilations)
        self.flops = len(dilations) * 2 * (2 * kernel * channels**2)

    def __call__(self, x: mx.array) -> mx.array:
        """Runs x (B, S, C) through the block."""
        for dilated, plain, first, second in zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True):
            x = x + plain(second(dilated(first(x))))
        return x


class Generator(nn.Module):
    """Log-mel (B, 2, T, 64) -> waveform (B, 2, T times all rates). Source: ltx_core vocoder.Vocoder."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.anti_aliased, self.final = config.anti_aliased, config.final_activation
        widths = [config.channels // 2**i for i in range(len(config.rates) + 1)]
        self.conv_pre = Conv1d(MEL_CHANNELS, widths[0], EDGE_KERNEL)
        self.ups = [
            TransposedConv1d(widths[i], widths[i + 1], kernel, rate)
            for i, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True))
        ]
        self.blocks_per_stage = len(config.res_kernels)
        self.resblocks = [
            ResidualBlock(width, kernel, dilations, config.anti_aliased)
            for width in widths[1:]
            for kernel, dilations in zip(config.res_kernels, config.res_dilations, strict=True)
        ]
        self.act_post = _activation(widths[-1], config.anti_aliased, LAST_SLOPE)
        self.conv_post = Conv1d(widths[-1], 2, EDGE_KERNEL, bias=config.final_bias)

    def __call__(self, mel: mx.array) -> mx.array:
        """Makes the waveform of mel (B, 2, T, 64), in its dtype."""
        batch, _, frames, _ = mel.shape
        x = self.conv_pre(mel.swapaxes(1, 2).reshape(batch, frames, -1))
        for i, upsample in enumerate(self.ups):
            x = upsample(x if self.anti_aliased else nn.leaky_relu(x, SLOPE))
            blocks = self.resblocks[i * self.blocks_per_stage : (i + 1) * self.blocks_per_stage]
            around, flops = max(block.reach for block in blocks), sum(block.flops for block in blocks)
            x = _in_tiles(lambda y, blocks=blocks: _mean(blocks, y), x, around, flops)
            mx.eval(x)
        around, flops = snake.REACH + reach(EDGE_KERNEL), 2 * self.conv_post.weight.size
        return _in_tiles(self._finish, x, around, flops).swapaxes(1, 2)

    def _finish(self, x: mx.array) -> mx.array:
        x = self.conv_post(self.act_post(x))
        if self.final == "tanh":
            return mx.tanh(x)
        return mx.clip(x, -1, 1) if self.final == "clamp" else x


def _activation(channels: int, anti_aliased: bool, slope: float) -> nn.Module:
    return snake.AntiAliasedSnake(channels) if anti_aliased else nn.LeakyReLU(slope)


def _mean(blocks: list[ResidualBlock], x: mx.array) -> mx.array:
    return sum((block(x) for block in blocks[1:]), blocks[0](x)) / len(blocks)


def _in_tiles(function: Callable[[mx.array], mx.array], x: mx.array, around: int, flops: int) -> mx.array:
    """`function` of x (B, S, C), which sees `around` samples to either side and takes `flops` operations a sample."""
    batch, _, channels = x.shape
    elements = TILE_ELEMENTS["cpu" if platform.cpu_forms() else "gpu"]
    tile = min(elements // (batch * channels), int(platform.flops_per_evaluation(mx.float32)) // (batch * flops))
    tile = max(tile, TILE_REACHES * around)
    return in_tiles(function, x, tile=tile, before=around, after=around)
