"""MLX's Winograd convolution on Metal, emulated: F(6x6, 3x3) with what it stores rounded to the arrays' own type.

mlx/backend/metal/kernels/conv.metal transforms the weights and each 8 x 8 tile of the input in float32 and stores both
in the type of the arrays; 64 matrix products over the channels, summed in float32, are stored in that type again; and
so is what the last transform makes of them. In 16 bit each of the three roundings is followed by sums of numbers up to
30 times as large as their result. mlx/backend/metal/conv.cpp says which convolutions go there (`takes`); a conv3d that
qualifies is three such convolutions, one for each tap in time, whose results are added in that type.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

TILE, TAPS, SIDE = 6, 3, 8
_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
"""Where the polynomials are taken, besides infinity."""


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the weights (8, 3), of the input (8, 8) and of the products (6, 8), by Toom and Cook's construction.

    They are conv.metal's tables, but for the sign of the first row of the first two.

    A row of the weights' is the powers of its point over the product of its distances to the others; of the input's the
    coefficients of the product of the other points' linear factors.
    """
    weights = np.zeros((SIDE, TAPS))
    inputs = np.zeros((SIDE, SIDE))
    outputs = np.zeros((TILE, SIDE))
    for i, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        weights[i] = np.power(float(point), range(TAPS)) / np.prod([point - other for other in others])
        inputs[i, :-1] = np.poly(others)[::-1]
        outputs[:, i] = np.power(float(point), range(TILE))
    weights[-1, -1], outputs[-1, -1] = 1, 1
    inputs[-1] = np.poly(_POINTS)[::-1]
    return weights, inputs, outputs


WEIGHTS, INPUTS, OUTPUTS = (mx.array(np.kron(table, table).astype(np.float32)) for table in _transforms())
"""For rows and columns at once: (64, 9), (64, 64) and (36, 64)."""


def takes(x: mx.array, weight: mx.array) -> bool:
    """Whether MLX gives a convolution of x (N, H, W, C), stride 1, by weight (O, 3, 3, C) to Winograd's form."""
    images, rows, columns, channels = x.shape
    outputs = len(weight)
    aligned = channels % 32 == 0 and outputs % 32 == 0
    return (
        weight.shape[1:3] == (TAPS, TAPS) and aligned and channels + outputs >= 256 and images * rows * columns >= 4096
    )


def conv2d(x: mx.array, weight: mx.array, padding: int = 0) -> mx.array:
    """x (N, H, W, C) by weight (O, 3, 3, C), stride 1, in Winograd's form; stores what Metal stores in x's dtype."""
    images, rows, columns = (size + 2 * padding * (axis > 0) for axis, size in enumerate(x.shape[:3]))
    rows, columns = rows - TAPS + 1, columns - TAPS + 1
    down, across = -(-rows // TILE), -(-columns // TILE)
    around = [
        (padding, size * TILE + TAPS - 1 - have - padding) for size, have in ((down, x.shape[1]), (across, x.shape[2]))
    ]
    padded = mx.contiguous(mx.pad(x, [(0, 0), *around, (0, 0)]))
    image, row, column, channel = _strides(padded.shape)
    tiles = mx.as_strided(
        padded, (images, down, across, SIDE, SIDE, x.shape[3]), (image, TILE * row, TILE * column, row, column, channel)
    )
    stored = _stored(INPUTS @ tiles.reshape(-1, SIDE * SIDE, x.shape[3]).astype(mx.float32), x.dtype)
    matrices = _stored(WEIGHTS @ weight.reshape(len(weight), TAPS * TAPS, -1).astype(mx.float32), x.dtype)
    products = _stored(stored.swapaxes(0, 1) @ matrices.transpose(1, 2, 0), x.dtype)  # (64, tiles, O)
    result = (OUTPUTS @ products.swapaxes(0, 1)).astype(x.dtype)
    result = result.reshape(images, down, across, TILE, TILE, -1).swapaxes(2, 3)
    return result.reshape(images, down * TILE, across * TILE, -1)[:, :rows, :columns]


def conv3d(x: mx.array, weight: mx.array, padding: int = 0, *, always: bool = False) -> mx.array:
    """One clip (1, F, H, W, C) by weight (O, 3, 3, 3, C), stride 1, `padding` around rows and columns: as MLX does it,
    each tap in time by itself and in Winograd's form where `takes` says so (or always), added up in x's dtype.
    """
    frames = x.shape[1] - TAPS + 1
    result = None
    for tap in range(TAPS):
        images, kernel = x[0, tap : tap + frames], weight[:, tap]
        one = conv2d(images, kernel, padding) if always or takes(images, kernel) else plain(images, kernel, padding)
        result = one if result is None else result + one
    return result[None]


def plain(x: mx.array, weight: mx.array, padding: int = 0) -> mx.array:
    """The same as `conv2d`, summed in float32 and rounded once: what MLX's other kernels do."""
    return mx.conv2d(x.astype(mx.float32), weight.astype(mx.float32), 1, padding).astype(x.dtype)


def _stored(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype).astype(mx.float32)


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
