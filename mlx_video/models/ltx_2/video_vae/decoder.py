"""The convolutional decoder: normalised latents to pixels, a whole clip at once or piece by piece with the same result.

It does not tile (see tiles.py) and does not turn pixels into 8 bit. Which blocks there are, and in what generation,
is the config's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.blocks import (
    ResidualStack,
    Upsample,
    activate,
    decoder_blocks,
    frames_at_once,
    scale,
    spans_time,
)
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import Factors, unpatchify
from mlx_video.models.ltx_2.video_vae.statistics import RENAMES, STATISTICS_PREFIX, LatentStatistics
from mlx_video.models.ltx_2.video_vae.stream import Block, Piece, Through
from mlx_video.models.ltx_2.video_vae.tiling import Tiling
from mlx_video.types import UserError


class VideoDecoder(nn.Module):
    """Latents to pixels (reference: `ConvVideoDecoder`, called `VideoDecoder` before 1.1)."""

    prefixes = {"vae.decoder.": "", STATISTICS_PREFIX: "statistics."}
    renames = (*RENAMES, (r"\.conv\.(weight|bias)$", r".\1"))
    ignored = (r"^statistics\.(?!(mean|std)$)",)

    def __init__(self, config: VideoVAEConfig):
        """The decoder that `config` describes; raises UserError where it names blocks that are not supported."""
        super().__init__()
        options = {"padding": config.decoder_padding, "causal": config.causal_decoder}
        self.config = config
        self.scale = scale(config.decoder_blocks, config.patch_size)
        self.statistics = LatentStatistics(config)
        self.up_blocks, first, channels = decoder_blocks(config)
        self.conv_in = Convolution(config.latent_channels, first, **options)
        self.conv_out = Convolution(channels, config.out_channels * config.patch_size**2, **options)

    def decode_frames(self, latent: mx.array, tiling: Tiling) -> Iterator[mx.array]:
        """See `tiles.decode_frames`."""
        from mlx_video.models.ltx_2.video_vae.tiles import decode_frames

        return decode_frames(self, latent, tiling)

    def __call__(self, latent: mx.array) -> mx.array:
        """Normalised latent (B, F, H, W, C) -> pixels (B, 8F - 7, 32H, 32W, 3), about [-1, 1] and not clipped.

        Raises UserError for a side of one latent where the decoder pads by reflection (LTX-2).
        """
        return mx.concatenate(list(self.pieces(latent)), axis=1)

    def pieces(self, latent: mx.array, size: int | None = None) -> Iterator[mx.array]:
        """Pixels (B, frames, 32H, 32W, 3) of a latent as above in order, `size` latent frames on their way at a time.

        The numbers are those of the whole clip, whatever the size. None: as many at a time as one evaluation may hold
        (`platform.flops_per_evaluation`). A piece gives about 8 * size frames, fewer at the clip's ends; the first come
        late, because each convolution waits for frames to come.
        """
        _, frames, rows, columns, _ = latent.shape
        if self.config.decoder_padding == "reflect" and min(rows, columns) < 2:
            raise UserError(
                f"A latent of {rows} x {columns} (rows x columns) is too small for this decoder, which pads by "
                f"reflection: each side needs 2 or more ({2 * self.scale.height} pixels)."
            )
        mixed = spans_time(self.up_blocks)
        step = frames if size is None or mixed else min(size, frames)
        # Made as they are asked for: a list would keep what has gone through.
        pieces: Iterator[Piece] = map(
            lambda start, step=step: Piece(latent[:, start : start + step], start + step >= frames),
            range(0, frames, step),
        )
        for block, layers, (time, height, width) in self._blocks():
            limit = None if mixed else min(step, frames_at_once(layers, rows * columns))
            pieces = Through(block, pieces, limit)
            step, rows, columns = step * time, rows * height, columns * width
        return map(itemgetter(0), pieces)

    def _blocks(self) -> Iterator[tuple[Block, nn.Module, Factors]]:
        # What to call, the layers that it evaluates together, and how much it multiplies time, rows and columns.
        yield self._enter, self.conv_in, (1, 1, 1)
        for block in self.up_blocks:
            layers = block.res_blocks[0] if isinstance(block, ResidualStack) else block
            yield block, layers, block.factors if isinstance(block, Upsample) else (1, 1, 1)
        yield self._leave, self.conv_out, (1, 1, 1)

    def _enter(self, latent: mx.array, stream: Stream) -> mx.array:
        return self.conv_in(self.statistics.denormalize(latent.astype(self.conv_in.weight.dtype)), stream)

    def _leave(self, x: mx.array, stream: Stream) -> mx.array:
        return unpatchify(self.conv_out(activate(x), stream), self.config.patch_size)
