"""Convolutions along time in the forms that run fast on each backend.

MLX computes a transposed 1-D convolution in naive loops on the CPU and unrolls it on Metal; here it is a plain one that
makes all phases of the output at once. Everything is channels-last, (B, S, C). Knows nothing of sound.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.cpu import forms

METAL_CHANNELS = 16
"""Metal's implicit product takes channels in such steps; what does not fit is unrolled into columns in memory."""


def convolve(x: mx.array, weight: mx.array, *, padding: int = 0, dilation: int = 1) -> mx.array:
    """Correlates x (B, S, C), with `padding` zeros at either end, with weight (O, K, C).

    Returns (B, S + 2 * padding - dilation * (K - 1), O).
    """
    if platform.cpu_forms():
        return forms.conv1d(x, weight, padding, dilation)
    return filled_up(x, weight, padding, dilation)


def filled_up(x: mx.array, weight: mx.array, padding: int, dilation: int) -> mx.array:
    """`convolve` as MLX's own, with channels filled up to what Metal's implicit product takes: 24 become 32."""
    out, _, channels = weight.shape
    more_in = -channels % METAL_CHANNELS if channels > 4 else 0
    more_out = -out % METAL_CHANNELS if out > METAL_CHANNELS else 0
    if more_in:
        x = mx.pad(x, ((0, 0), (0, 0), (0, more_in)))
    if more_in or more_out:
        weight = mx.pad(weight, ((0, more_out), (0, 0), (0, more_in)))
    return mx.conv1d(x, weight, padding=padding, dilation=dilation)[..., :out]


def reach(kernel: int, dilation: int = 1) -> int:
    """How many samples to either side a kernel with an odd number of taps sees."""
    return (kernel - 1) // 2 * dilation


class Conv1d(nn.Conv1d):
    """A convolution that keeps the length: (B, S, C) -> (B, S, O). Its number of taps is odd."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, bias: bool = True):
        padding = reach(kernel, dilation)
        super().__init__(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Convolves x (B, S, C)."""
        y = convolve(x, self.weight, padding=self.padding, dilation=self.dilation)
        return y + self.bias if "bias" in self else y


class TransposedConv1d(nn.ConvTranspose1d):
    """A transposed convolution, (B, S, C) -> (B, (S - 1) * rate + kernel - 2 * padding, O), in polyphase form.

    Each output sample sees only every rate-th tap, and which ones depends on its place modulo `rate`. So a plain
    convolution with rate x O channels and ceil(kernel / rate) taps makes `rate` neighbouring samples side by side.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int):
        """Makes `rate` samples of one, centred: the padding is (kernel - rate) // 2."""
        super().__init__(in_channels, out_channels, kernel, stride=rate, padding=(kernel - rate) // 2)

    def __call__(self, x: mx.array) -> mx.array:
        """Upsamples x (B, S, C)."""
        rate, (out, kernel, channels) = self.stride, self.weight.shape
        taps = -(-kernel // rate)
        weight = mx.pad(self.weight, ((0, 0), (0, taps * rate - kernel), (0, 0)))
        # A transposed convolution runs through its taps backwards.
        weight = weight.reshape(out, taps, rate, channels)[:, ::-1].transpose(2, 0, 1, 3)
        phases = convolve(x, weight.reshape(rate * out, taps, channels), padding=taps - 1)
        length = (x.shape[1] - 1) * rate + kernel - 2 * self.padding
        return phases.reshape(x.shape[0], -1, out)[:, self.padding : self.padding + length] + self.bias
