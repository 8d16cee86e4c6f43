"""LTX-2.5's diffusion decoder: normalised latents and noise to pixels, in one step, piece by piece in time.

Four stages of attention to the neighbourhood enlarge the latent to a context; a fifth makes pixels of noise beside it.
All layers but attention work on single tokens, and attention sees few frames, so a clip goes through all of it as a
stream (`passage.py`), and the numbers are those of the whole clip at once, whatever the size of a piece.

What is kept, at 768 x 512 and any length: each of the 8 last blocks its 11 last frames, and contexts of the 35 frames
that lie between the first and the last of them. A frame is 128 x 192 x 256 values, 25 MB in float32: with a step of 8
frames and what waits for it 170 of them, 4.3 GB, and no more for a longer clip. Layer by layer over the whole clip
(the activations and the context) would hold 2 x 121 frames, 6.1 GB, and grow; tiles that cannot see each other, as the
reference has them, need blending over 160 pixels and 40 frames, and give other numbers. Pictures too large for the
stream go in parts with a margin (`parts.py`), which changes no number either. Knows no files and no 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.config.diffusion_decoder import DiffusionDecoderConfig, Triple
from mlx_video.models.ltx_2.diffusion_decoder.attention import NORM_EPS
from mlx_video.models.ltx_2.diffusion_decoder.blocks import (
    Block,
    DiffusionBlock,
    SharedModulation,
    TimestepEmbedder,
    Upsample,
)
from mlx_video.models.ltx_2.diffusion_decoder.canvas import Canvas
from mlx_video.models.ltx_2.diffusion_decoder.parts import Part
from mlx_video.models.ltx_2.diffusion_decoder.passage import Contexts, DiffusionPassage, Passage, Until
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.patches import patchify, unpatchify
from mlx_video.models.ltx_2.video_vae.statistics import RENAMES, STATISTICS_PREFIX, LatentStatistics
from mlx_video.models.ltx_2.video_vae.stream import Piece, Through

NOISE_LEVEL = 1.0
"""Of the one step: the network is given noise alone, and gives the pixels themselves (x0)."""


class DiffusionDecoder(nn.Module):
    """Latents and noise to pixels (reference: `NADiffusionDecoder`)."""

    # Of the decoder's own file, whose names lack the `vae.` of a file that holds everything.
    prefixes = {"decoder.": "", STATISTICS_PREFIX.removeprefix("vae."): "statistics."}
    renames = RENAMES
    ignored = (r"^statistics\.(?!(mean|std)$)", r"^coarse_")

    def __init__(self, config: DiffusionDecoderConfig, *, repeats_columns: bool = True):
        """The decoder that `config` describes.

        repeats_columns: see `NeighbourhoodAttention`; False is the reference's "combined" mode, and NATTEN's.
        """
        super().__init__()
        self.config = config
        *stages, last = config.stages
        wide = [one.channels for one in config.stages]
        values = config.out_channels * config.patch_size**2
        self.statistics = LatentStatistics(config)
        self.conv_in = nn.Linear(config.latent_channels, wide[0])
        self.det_stages = [[Block(s.channels, config.head_dim, s.window) for _ in range(s.depth)] for s in stages]
        self.upsamples = [Upsample(stage, channels) for stage, channels in zip(stages, wide[1:], strict=True)]
        self.conv_in_x_t = nn.Linear(values, last.channels)
        self.t_embedder = TimestepEmbedder()
        self.shared_adaln = SharedModulation(last.channels)
        options = {"gated": config.gated, "repeats_columns": repeats_columns}
        self.diff_blocks = [
            DiffusionBlock(last.channels, config.head_dim, last.window, **options) for _ in range(last.depth)
        ]
        self.norm_out = nn.RMSNorm(last.channels, NORM_EPS)
        self.conv_out = nn.Linear(last.channels, values)

    def canvas(self, grid: Triple) -> Canvas:
        """What a latent of `grid` (F, H, W) is decoded on."""
        return Canvas.of(self.config, grid)

    def __call__(self, latent: mx.array, noise: mx.array) -> mx.array:
        """Normalised latent (B, F, H, W, C) and noise -> pixels (B, 8F - 7, 32H, 32W, 3), about [-1, 1], not clipped.

        noise: standard normal (B, frames, height, width, 3), of the size of `canvas(grid)`, which is larger than the
        clip where that is smaller than the windows. The reference draws it as (B, 3, frames, height, width) from the
        pipeline's generator, after the last stage. Raises ValueError for another shape.
        """
        return mx.concatenate(list(self.pieces(latent, noise)), axis=1)

    def pieces(
        self, latent: mx.array, noise: mx.array, step: int | None = None, part: Part | None = None
    ) -> Iterator[mx.array]:
        """Pixels of a latent and noise as above in order, a few frames at a time.

        step: frames of the last stage that are computed at a time (None: as many as come, a latent frame's 8 at first
        and more at the end); part: of the picture, None for all of it. The numbers depend on neither.
        """
        canvas = self.canvas((latent.shape[1], latent.shape[2], latent.shape[3]))
        if noise.shape != (len(latent), *canvas.size, self.config.out_channels):
            wanted = (len(latent), *canvas.size, self.config.out_channels)
            raise ValueError(f"noise for this latent is {wanted}, not {tuple(noise.shape)}")
        part = part or Part.whole(self.config, canvas)
        self._prepare()
        context = self._context(canvas.padded(latent), canvas, part)
        frames, done = self._pixels(context, noise, part, step), 0
        for piece in frames:
            pixels = part.kept(piece.frames[:, : canvas.frames - done], canvas)
            done += pixels.shape[1]
            del piece
            yield pixels
            if done == canvas.frames:
                return

    def decode_frames(self, latent: mx.array, noise: mx.array, pieces: Pieces) -> Iterator[mx.array]:
        """See `frames.decode_frames`."""
        from mlx_video.models.ltx_2.diffusion_decoder.frames import decode_frames

        return decode_frames(self, latent, noise, pieces)

    def _prepare(self) -> None:
        rows = self.shared_adaln(self.t_embedder(NOISE_LEVEL * self.config.timestep_multiplier))
        for block in self.diff_blocks:
            block.prepare(rows)

    def _context(self, latent: mx.array, canvas: Canvas, part: Part) -> Iterator[Piece]:
        """Context (B, frames, rows, columns, D) of the part, from a latent with the canvas's own borders."""
        count = latent.shape[1] + self.config.appended
        frames = (
            latent[:, i : i + 1] for i in [*range(latent.shape[1]), *[latent.shape[1] - 1] * self.config.appended]
        )
        pieces: Iterator[Piece] = (Piece(self._enter(frame), i == count) for i, frame in enumerate(frames, 1))
        limit = 1
        for i, (blocks, upsample) in enumerate(zip(self.det_stages, self.upsamples, strict=True)):
            if i == len(self.det_stages) - 1:
                # From here on the picture goes in parts; before, it is small.
                pieces = Through(lambda x, _: part.cells(x), pieces, None)
            # As many frames at a time as a latent frame has become: at the clip's end each block gives more than it is
            # given, and without a limit all of that would come through at once.
            for block in blocks:
                pieces = Through(Passage(block, limit), pieces, limit)
            pieces = Through(upsample, pieces, limit)
            limit *= upsample.factors[0]
        return Until(pieces, canvas.size[0])

    def _enter(self, latent: mx.array) -> mx.array:
        return self.conv_in(self.statistics.denormalize(latent.astype(self.conv_in.weight.dtype)))

    def _pixels(self, context: Iterator[Piece], noise: mx.array, part: Part, step: int | None) -> Iterator[Piece]:
        contexts = Contexts()
        pieces: Iterator[Piece] = Through(Beginning(self, noise, part, contexts), context, step)
        for block in self.diff_blocks:
            pieces = Through(DiffusionPassage(block, contexts, step), pieces, step)
        return Through(self._leave, pieces, step)

    def _leave(self, x: mx.array, stream: Stream) -> mx.array:
        return unpatchify(self.conv_out(self.norm_out(x)), self.config.patch_size)


class Beginning:
    """Where the last stage begins: frames of context are kept for its blocks, and tokens made of the noise there."""

    def __init__(self, network: DiffusionDecoder, noise: mx.array, part: Part, contexts: Contexts):
        self._network, self._noise, self._part, self._contexts = network, noise, part, contexts
        self._came = 0

    def __call__(self, context: mx.array, stream: Stream) -> mx.array:
        """The next frames of context (B, F, H, W, D) -> the noise's tokens of these frames, as many."""
        self._contexts.add(context)
        start, self._came = self._came, self._came + context.shape[1]
        noise = self._part.pixels(self._noise[:, start : self._came]).astype(context.dtype)
        return self._network.conv_in_x_t(patchify(noise, self._network.config.patch_size))
