"""The convolutional decoder: normalised latents to pixels, a whole clip at once or piece by piece with the same result.

From 0.9.1 on it is told how much noise is in its latent; 0.9.1's also takes noise of its own, by named draws. It does
not tile (see LTX-2's tiles.py), puts no noise into the latent and does not turn pixels into 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import itemgetter

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import rms_norm, silu
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.transformer.adaln import modulate, timestep_features
from mlx_video.models.ltx_2.video_vae.blocks import PIXEL_NORM_EPS, Upsample, frames_at_once, scale
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import Factors, unpatchify
from mlx_video.models.ltx_2.video_vae.statistics import RENAMES, STATISTICS_PREFIX, LatentStatistics
from mlx_video.models.ltx_2.video_vae.stream import Block, Piece, Through
from mlx_video.models.ltx_2.video_vae.tiling import Tiling
from mlx_video.models.ltx_video.config import VideoVAEConfig
from mlx_video.models.ltx_video.video_vae.blocks import Beside, ResidualStack, TimeEmbedder, decoder_blocks
from mlx_video.models.ltx_video.video_vae.conditioned import DRAW, Conditioned, Noise

LAST_ROWS = 2
"""Of the table before the last convolution: shift, scale."""


class VideoDecoder(nn.Module):
    """Latents to pixels. Source: Lightricks' causal_video_autoencoder.Decoder, diffusers' LTXVideoDecoder3d."""

    prefixes = {"vae.decoder.": "", STATISTICS_PREFIX: "statistics."}
    renames = (*RENAMES, (r"\.conv\.(weight|bias)$", r".\1"))
    ignored = (r"^statistics\.(?!(mean|std)$)",)

    def __init__(self, config: VideoVAEConfig):
        """The decoder that `config` describes; raises UserError where it names blocks that are not supported."""
        super().__init__()
        options = {"padding": "zeros", "causal": False}
        self.config = config
        self.scale = scale(config.decoder_blocks, config.patch_size)
        self.statistics = LatentStatistics(config)
        self.up_blocks, first, channels = decoder_blocks(config)
        self.conv_in = Convolution(config.latent_channels, first, **options)
        self.conv_out = Convolution(channels, config.out_channels * config.patch_size**2, **options)
        if config.timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(0.0)
            self.last_time_embedder = TimeEmbedder(LAST_ROWS * channels)
            self.last_scale_shift_table = mx.zeros((LAST_ROWS, channels))

    def draws(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        """The planes of noise that decoding a latent of so many rows and columns takes: their names and shapes.

        They are the same for all frames and channels. Empty but for 0.9.1.
        """
        found: dict[str, tuple[int, int]] = {}
        for block in self.up_blocks:
            if isinstance(block, Upsample):
                rows, columns = rows * block.factors[1], columns * block.factors[2]
            for _ in range(getattr(block, "draws", 0)):
                found[DRAW.format(len(found))] = rows, columns
        return found

    def condition(self, latent: mx.array, timestep: float | None = None, noise: Noise | None = None) -> Conditioned:
        """What `pieces` and `tiles.decode_frames` take. timestep: from 0 to 1; noise: asked for each of `draws`.

        Raises ValueError where this decoder is told a timestep and there is none, or takes noise and there is none, and
        where it is told a timestep that it does not know.
        """
        if (timestep is None) is self.config.timestep_conditioning:
            raise ValueError(f"timestep = {timestep}; this decoder is told {'one' if timestep is None else 'none'}")
        draws = self.draws(*latent.shape[2:4])
        if draws and noise is None:
            raise ValueError(f"this decoder injects noise: {len(draws)} draws")
        return Conditioned(latent, timestep, [noise(name, shape) for name, shape in draws.items()] if noise else ())

    def decode_frames(
        self, latent: mx.array, tiling: Tiling, timestep: float | None = None, noise: Noise | None = None
    ) -> Iterator[mx.array]:
        """See LTX-2's `tiles.decode_frames`; timestep and noise: as `condition` takes them."""
        from mlx_video.models.ltx_2.video_vae.tiles import decode_frames

        return decode_frames(self, self.condition(latent, timestep, noise), tiling)

    def __call__(self, latent: mx.array, timestep: float | None = None, noise: Noise | None = None) -> mx.array:
        """Normalised latent (B, F, H, W, C) -> pixels (B, 8F - 7, 32H, 32W, 3), about [-1, 1] and not clipped.

        timestep and noise: as `condition` takes them.
        """
        return mx.concatenate(list(self.pieces(self.condition(latent, timestep, noise))), axis=1)

    def pieces(self, given: Conditioned, size: int | None = None) -> Iterator[mx.array]:
        """Pixels (B, frames, 32H, 32W, 3) of what `condition` gave in order, `size` latent frames on their way at a
        time. The numbers are those of the whole clip, whatever the size.

        None: as many at a time as one evaluation may hold (`platform.flops_per_evaluation`). A piece gives about 8 *
        size frames, fewer at the clip's ends; the first come late, because each convolution waits for frames to come.
        """
        latent = given.latent
        _, frames, rows, columns, _ = latent.shape
        step = frames if size is None else min(size, frames)
        # Made as they are asked for: a list would keep what has gone through.
        pieces: Iterator[Piece] = map(
            lambda start, step=step: Piece(latent[:, start : start + step], start + step >= frames),
            range(0, frames, step),
        )
        for block, layers, (time, height, width) in self._blocks(given):
            pieces = Through(block, pieces, min(step, frames_at_once(layers, rows * columns)))
            step, rows, columns = step * time, rows * height, columns * width
        return map(itemgetter(0), pieces)

    def _blocks(self, given: Conditioned) -> Iterator[tuple[Block, nn.Module, Factors]]:
        # What to call, the layers that it evaluates together, and how much it multiplies time, rows and columns.
        yield self._enter, self.conv_in, (1, 1, 1)
        features, taken = self._features(given.timestep), 0
        for block in self.up_blocks:
            if isinstance(block, ResidualStack):
                beside = Beside(block.rows(features), given.planes[taken : taken + block.draws])
                taken += block.draws
                yield partial(block, beside=beside), block.res_blocks[0], (1, 1, 1)
            else:
                yield block, block, block.factors if isinstance(block, Upsample) else (1, 1, 1)
        yield partial(self._leave, rows=self._last_rows(features)), self.conv_out, (1, 1, 1)

    def _features(self, timestep: float | None) -> mx.array | None:
        if timestep is None:
            return None
        features = timestep_features(mx.array(timestep, mx.float32) * self.timestep_scale_multiplier)
        return features.astype(self.conv_in.weight.dtype)

    def _last_rows(self, features: mx.array | None) -> mx.array | None:
        if features is None:
            return None
        table = self.last_scale_shift_table
        return self.last_time_embedder(features).reshape(table.shape) + table

    def _enter(self, latent: mx.array, stream: Stream) -> mx.array:
        return self.conv_in(self.statistics.denormalize(latent.astype(self.conv_in.weight.dtype)), stream)

    def _leave(self, x: mx.array, stream: Stream, rows: mx.array | None) -> mx.array:
        y = rms_norm(x, PIXEL_NORM_EPS)
        y = silu(y if rows is None else modulate(y, rows[1], rows[0]))
        return unpatchify(self.conv_out(y, stream), self.config.patch_size)
