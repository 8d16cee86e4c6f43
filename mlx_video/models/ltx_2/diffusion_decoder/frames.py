"""Decodes whole clips with the diffusion decoder: frames come out as they are made, or, where the picture is decoded in
parts, once all parts are. Knows no files and no 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_video.models.ltx_2.diffusion_decoder.network import DiffusionDecoder
from mlx_video.models.ltx_2.diffusion_decoder.parts import parts
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces


def decode_frames(decoder: DiffusionDecoder, latent: mx.array, noise: mx.array, pieces: Pieces) -> Iterator[mx.array]:
    """Chunks (frames, height, width, 3) of a normalised latent (1, F, H, W, C), in order, about [-1, 1], not clipped.

    noise: (1, 3, frames, height, width), as it is drawn, of the size of `decoder.canvas`. The numbers are those of
    `decoder(latent, noise)`, whatever the pieces. Raises ValueError for more than one clip.
    """
    if latent.shape[0] != 1:
        raise ValueError(f"decode_frames takes one clip at a time, not {latent.shape[0]}")
    noise = noise.transpose(0, 2, 3, 4, 1)
    canvas = decoder.canvas((latent.shape[1], latent.shape[2], latent.shape[3]))
    cut = parts(decoder.config, canvas, pieces.rows, pieces.columns)
    if len(cut) == 1:
        for pixels in decoder.pieces(latent, noise, pieces.step):
            yield pixels[0]
        return
    done: list[mx.array] = []
    for part in cut:
        found = []
        for pixels in decoder.pieces(latent, noise, pieces.step, part):
            mx.eval(pixels)
            found.append(pixels[0])
        done.append(mx.concatenate(found))
        mx.eval(done[-1])
    rows = [done[i : i + pieces.columns] for i in range(0, len(done), pieces.columns)]
    for first in range(0, canvas.frames, pieces.step):
        some = slice(first, first + pieces.step)
        yield mx.concatenate([mx.concatenate([one[some] for one in row], axis=2) for row in rows], axis=1)
