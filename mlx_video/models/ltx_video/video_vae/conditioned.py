"""A latent with what its decoder is told beside it; cut as an array is, it takes along what belongs to the cut.

So a clip that is decoded in tiles has in each of them the noise that the whole has there. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

Noise = Callable[[str, tuple[int, ...]], mx.array]
"""Standard normal noise by the name of its draw and its shape."""
DRAW = "decode/inject/{}"
"""The name of the K-th plane of injected noise, from 0, in the order in which the decoder's blocks take them."""


class Conditioned:
    """A normalised latent (B, F, H, W, C), the noise in it as the decoder is told, and planes to inject."""

    def __init__(self, latent: mx.array, timestep: float | None = None, planes: Sequence[mx.array] = ()):
        """timestep: from 0 to 1, or None for a decoder that is told none; planes: each (rows, columns) at the size of
        the block that takes it, a multiple of the latent's.
        """
        self.latent, self.timestep, self.planes = latent, timestep, tuple(planes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The latent's."""
        return self.latent.shape

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> Conditioned:
        """A part by slices of clips, frames, rows and columns; the planes' parts are of the same rows and columns."""
        rows, columns = index[2:]
        height, width = self.latent.shape[2:4]

        def inside(plane: mx.array) -> mx.array:
            return plane[_times(rows, plane.shape[0] // height), _times(columns, plane.shape[1] // width)]

        return Conditioned(self.latent[index], self.timestep, [inside(plane) for plane in self.planes])


def _times(span: slice, factor: int) -> slice:
    start, stop = (None if end is None else end * factor for end in (span.start, span.stop))
    return slice(start, stop)
