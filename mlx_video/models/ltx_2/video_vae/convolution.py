"""The 3x3x3 convolution of the video autoencoder and the upsampler: zeros or reflection around; time is a stream's.

Time is padded by hand and space by the convolution: with one clip and no temporal padding of its own, MLX's conv3d
runs on Metal as a few two-dimensional ones, which have the fast kernels. Knows neither encoder nor decoder.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.cpu import forms
from mlx_video.models.ltx_2.pieces import Stream

TAPS = 3


class Convolution(nn.Conv3d):
    """3x3x3 over (B, F, H, W, C), keeping the size where the stride is 1 (reference: `CausalConv3d`).

    causal: a frame sees the two before it, else one before and one after; beyond a clip's ends: `Stream.edge`.
    padding: "zeros" or "reflect", for rows and columns. Weight (O, 3, 3, 3, I).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: str,
        causal: bool,
        stride: tuple[int, int, int] = (1, 1, 1),
    ):
        super().__init__(in_channels, out_channels, TAPS, stride=stride)
        self._around = padding
        self._before, self._after = (TAPS - 1, 0) if causal else (TAPS // 2, TAPS // 2)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, I) -> (B, F', H', W', O); between pieces of a stream F' may differ from F and be 0."""
        window = stream.window(self, x, self._before, self._after, self.stride[0])
        if window.shape[1] < TAPS:
            _, _, rows, columns, _ = x.shape
            sizes = (0, -(-rows // self.stride[1]), -(-columns // self.stride[2]))
            return mx.zeros((x.shape[0], *sizes, self.weight.shape[0]), x.dtype)
        # One clip at a time: with more, Metal has no fast path.
        clips = [self._convolve(window[i : i + 1]) for i in range(window.shape[0])]
        result = clips[0] if len(clips) == 1 else mx.concatenate(clips)
        stream.worked(2.0 * TAPS**3 * window.shape[-1] * result.size, result)
        return result

    def _convolve(self, window: mx.array) -> mx.array:
        space = 1
        if self._around == "reflect":
            window, space = _reflect(_reflect(window, 2), 3), 0
        if self.stride == (1, 1, 1):
            return convolve(window, self.weight, self.bias, space)
        return mx.conv3d(window, self.weight, self.stride, (0, space, space)) + self.bias


def convolve(window: mx.array, weight: mx.array, bias: mx.array, space: int) -> mx.array:
    """One clip (1, F + 2, H, W, I), with `space` (0 or 1) zeros to be set around its rows and columns, by weight
    (O, 3, 3, 3, I): (1, F, H', W', O).
    """
    if platform.cpu_forms():
        return forms.conv3d(window, weight, bias, space)
    return mx.conv3d(window, weight, 1, (0, space, space)) + bias


def _reflect(x: mx.array, axis: int) -> mx.array:
    # One more at each end, mirrored at the outermost pixel, which is not repeated.
    size = x.shape[axis]
    first, last = (mx.take(x, mx.array([i]), axis=axis) for i in (1, size - 2))
    return mx.concatenate([first, x, last], axis=axis)
