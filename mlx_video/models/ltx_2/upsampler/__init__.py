"""The latent upsampler: residual blocks, a resampling of space or time, residual blocks.

It works on un-normalised latents, channels last. It does not know the video autoencoder's statistics (its caller takes
them off before and puts them on after) and holds no sizes of its own: files for space x2 (plain or rational), space
x1.5 and time x2 differ by their config alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import silu
from mlx_video.models.ltx_2.config import UPSAMPLER_GROUPS, UpsamplerConfig
from mlx_video.models.ltx_2.upsampler.pieces import NormWalk, in_pieces
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import depth_to_space

_convolution = partial(Convolution, padding="zeros", causal=False)
"""3x3x3, keeping the size: one frame before and one after, zeros beyond all edges (`NormWalk`)."""
BLUR_SIZE = 5
"""Taps a side of the rational resampler's binomial low-pass."""
WHOLE_BYTES = 128 << 20
"""Largest activation that a latent is taken through as a whole with, in bytes of float32: 21 latent frames (161 frames)
of a video that becomes 1024 x 1536. About a dozen of that size are alive at once (measured on the CPU)."""


class Upsampler(nn.Module):
    """Upsamples un-normalised video latents in space or in time (reference: `LatentUpsampler`)."""

    prefixes = {"": ""}

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        channels = config.mid_channels
        self.config = config
        self.initial_conv = _convolution(config.in_channels, channels)
        self.initial_norm = GroupNorm(channels)
        self.res_blocks = [ResidualBlock(channels) for _ in range(config.blocks)]
        self.upsampler: Any
        if config.rational:
            self.upsampler = RationalResampler(channels, *config.ratio)
        elif config.temporal:
            self.upsampler = [_convolution(channels, (8 if config.spatial else 2) * channels)]
        else:
            self.upsampler = [nn.Conv2d(channels, 4 * channels, 3, padding=1)]
        self.post_upsample_res_blocks = [ResidualBlock(channels) for _ in range(config.blocks)]
        self.final_conv = _convolution(channels, config.in_channels)

    def __call__(self, latent: mx.array, walk: NormWalk | None = None) -> mx.array:
        """Latent (B, F, H, W, C) -> (B, F', H', W', C) with the sizes of `config.grid(F, H, W)`.

        `walk`: where the latent is a piece of a longer one; the result may then be of other frames, or of none.
        """
        walk = walk or NormWalk()
        x = silu(self.initial_norm(self.initial_conv(latent, walk), walk))
        blocks: list[Any] = [*self.res_blocks, self._resample, *self.post_upsample_res_blocks]
        for block in blocks:
            x = block(x, walk)
            walk.evaluate(x)
        return self.final_conv(x, walk)

    def long(
        self, latent: mx.array, size: int | None = None, report: Callable[[int, int], None] = lambda done, total: None
    ) -> mx.array:
        """As a call, for a latent of any length in level memory: `size` latent frames at a time where it has more.

        None takes as many as WHOLE_BYTES hold. The numbers are those of the whole latent up to rounding. `report` is
        told how many of how many walks are done.
        """
        size = size or self.frames_at_once(*latent.shape[2:4])
        total = self.walks(latent, size)
        if total == 1:
            result = self(latent)
        else:
            result = in_pieces(self, latent, size, lambda walks: report(walks, total))
        mx.eval(result)
        report(total, total)
        return result

    def walks(self, latent: mx.array, size: int | None = None) -> int:
        """How many walks `long` makes: one measures each norm of a latent in pieces, and one makes the result."""
        norms = 1 + 2 * (len(self.res_blocks) + len(self.post_upsample_res_blocks))
        return 1 if latent.shape[1] <= (size or self.frames_at_once(*latent.shape[2:4])) else 1 + norms

    def frames_at_once(self, rows: int, columns: int) -> int:
        """How many latent frames of a grid WHOLE_BYTES hold, one at least."""
        frames, rows, columns = self.config.grid(2, rows, columns)
        return max(1, WHOLE_BYTES * 2 // (4 * self.config.mid_channels * frames * rows * columns))

    def _resample(self, x: mx.array, walk: NormWalk) -> mx.array:
        if self.config.temporal:
            # The first latent frame stands for one pixel frame, so it gives one frame and not two.
            side = 2 if self.config.spatial else 1
            grown = self.upsampler[0](x, walk)
            first = 1 if walk.begins(self.upsampler, grown.shape[1]) else 0
            return depth_to_space(grown, (2, side, side))[:, first:]
        if x.shape[1] == 0:
            return x
        images = x.flatten(0, 1)
        images = self.upsampler(images) if self.config.rational else _spread(self.upsampler[0](images), 2)
        return images.reshape(*x.shape[:2], *images.shape[1:])


class GroupNorm(nn.Module):
    """Group normalisation over (B, ..., C) with neighbouring channels in a group, as torch has it.

    Statistics are taken channel by channel and then joined, in float32: no transpose, and one pass to apply them.
    """

    def __init__(self, channels: int, groups: int = UPSAMPLER_GROUPS, eps: float = 1e-5):
        """`channels` is a multiple of `groups`; eps is torch's default."""
        super().__init__()
        self.weight, self.bias = mx.ones((channels,)), mx.zeros((channels,))
        self.groups, self.eps = groups, eps

    def __call__(self, x: mx.array, walk: NormWalk) -> mx.array:
        """(B, F, ..., C) -> the same shape and dtype; no frames where `walk` measures this norm."""
        flat = x.flatten(1, -2).astype(mx.float32)
        moments = walk.moments(self, flat)
        if moments is None:
            return x[:, :0]
        mean = self._per_group(moments.mean)
        # The spread within each channel, and that of the channels' means within their group.
        variance = self._per_group(moments.variance + mx.square(moments.mean - mean))
        scale = self.weight * mx.rsqrt(variance + self.eps)
        return (flat * scale + (self.bias - mean * scale)).astype(x.dtype).reshape(x.shape)

    def _per_group(self, values: mx.array) -> mx.array:
        # (B, 1, C) of equally weighted channels -> each channel's group mean, again (B, 1, C).
        size = values.shape[-1] // self.groups
        return mx.repeat(values.reshape(*values.shape[:-1], self.groups, size).mean(axis=-1), size, axis=-1)


class ResidualBlock(nn.Module):
    """Convolution, norm, SiLU, convolution, norm; SiLU after the residual sum (reference: `ResBlock`)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.norm1 = _convolution(channels, channels), GroupNorm(channels)
        self.conv2, self.norm2 = _convolution(channels, channels), GroupNorm(channels)

    def __call__(self, x: mx.array, walk: NormWalk) -> mx.array:
        """(B, F, H, W, C) -> the same shape; on the way of a piece perhaps of earlier frames, or of fewer."""
        change = silu(self.norm1(self.conv1(x, walk), walk))
        change = self.norm2(self.conv2(change, walk), walk)
        return silu(change + walk.delayed(self, x, change.shape[1]))


class RationalResampler(nn.Module):
    """Up by `up` through channels, then down by `down` behind a low-pass, image by image.

    Reference: `SpatialRationalResampler`. Scale 2 is up by 2 with nothing after it; its file carries the kernel all
    the same.
    """

    def __init__(self, channels: int, up: int, down: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, up * up * channels, 3, padding=1)
        self.blur_down = BlurDown(down)
        self.up = up

    def __call__(self, images: mx.array) -> mx.array:
        """(N, H, W, C) -> (N, ceil(H * up / down), ceil(W * up / down), C)."""
        return self.blur_down(_spread(self.conv(images), self.up))


class BlurDown(nn.Module):
    """A fixed low-pass on each channel, kept at every `stride`-th pixel; a stride of 1 leaves images as they are."""

    def __init__(self, stride: int):
        """The kernel, (1, 1, 5, 5), is the file's own."""
        super().__init__()
        self.kernel = mx.zeros((1, 1, BLUR_SIZE, BLUR_SIZE))
        self.stride = stride

    def __call__(self, images: mx.array) -> mx.array:
        """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C)."""
        if self.stride == 1:
            return images
        channels = images.shape[-1]
        weight = mx.broadcast_to(self.kernel.reshape(1, BLUR_SIZE, BLUR_SIZE, 1), (channels, BLUR_SIZE, BLUR_SIZE, 1))
        return mx.conv2d(images, weight, stride=self.stride, padding=BLUR_SIZE // 2, groups=channels)


def _spread(images: mx.array, factor: int) -> mx.array:
    # (N, H, W, C * factor * factor) -> (N, H * factor, W * factor, C)
    return depth_to_space(images[None], (1, factor, factor))[0]
