"""The 3x3x3 convolution of the video autoencoder: repeated frames at the ends of time, zeros or reflection around.

Time is padded by hand and space by the convolution: with one clip and no temporal padding of its own, MLX's conv3d
runs on Metal as a few two-dimensional ones, which have the fast kernels. Knows neither encoder nor decoder.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.models.ltx_2.video_vae.stream import Stream

TAPS = 3
COLUMNS_LIMIT = 128 << 20
"""Bytes. On the CPU backend conv3d first copies each input 27 times over (once for every tap). Beyond this size the
copies cost more than they save in the product: measured up to 2.8 times the time and 9 times the memory."""
ROWS_AT_ONCE = 2048
"""Rows of a product that stay in a core's cache while the 27 taps are added up."""


class Convolution(nn.Conv3d):
    """3x3x3 over (B, F, H, W, C), keeping the size where the stride is 1 (reference: `CausalConv3d`).

    causal: a frame sees the two before it, else one before and one after; the clip's end frames are repeated.
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
        """Between channel counts."""
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
        plain = self.stride == (1, 1, 1)
        if self._around == "reflect":
            window, space = _reflect(_reflect(window, 2), 3), 0
        else:
            space = 1
        if plain and platform.is_cpu() and window.nbytes * self.weight[0, ..., 0].size > COLUMNS_LIMIT:
            if space:
                window = mx.pad(window, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
            return convolve_by_shifts(window, self.weight, self.bias)
        return mx.conv3d(window, self.weight, self.stride, (0, space, space)) + self.bias


def convolve_by_shifts(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """A convolution of one padded clip (1, F + 2, H + 2, W + 2, I) -> (1, F, H, W, O) as 27 products of shifted rows.

    Seen as a list of pixels, the neighbour of each pixel at one tap stands a fixed number of rows further on, so a tap
    is a product of consecutive rows with one (I, O) matrix and needs no copy. Pixels in the padding give sums that
    nobody reads. Same result as conv3d up to the order of summation.
    """
    _, frames, rows, columns, channels = x.shape
    outputs = weight.shape[0]
    pixels = x.reshape(-1, channels)
    taps = mx.contiguous(weight.reshape(outputs, -1, channels).swapaxes(0, 1)).swapaxes(1, 2)
    offsets = [
        (time * rows + row) * columns + column for time in range(TAPS) for row in range(TAPS) for column in range(TAPS)
    ]
    count = pixels.shape[0] - offsets[-1]
    sums = []
    for start in range(0, count, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, count - start)
        total = mx.broadcast_to(bias, (size, outputs))
        for offset, tap in zip(offsets, taps, strict=True):
            total = mx.addmm(total, pixels[start + offset : start + offset + size], tap)
        sums.append(total)
    whole = (frames - TAPS + 1) * rows * columns
    sums.append(mx.zeros((whole - count, outputs), x.dtype))
    result = mx.concatenate(sums).reshape(1, -1, rows, columns, outputs)
    return result[:, :, : rows - TAPS + 1, : columns - TAPS + 1]


def _reflect(x: mx.array, axis: int) -> mx.array:
    # One more at each end, mirrored at the outermost pixel, which is not repeated.
    size = x.shape[axis]
    first, last = (mx.take(x, mx.array([i]), axis=axis) for i in (1, size - 2))
    return mx.concatenate([first, x, last], axis=axis)
