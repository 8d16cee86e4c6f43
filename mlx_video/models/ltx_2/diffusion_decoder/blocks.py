"""The decoder's blocks: attention to the neighbourhood and a gated feed-forward, plain or modulated by the noise level.

A block is given a slab of frames and says what becomes of those whose neighbours are all in it. The picture goes in
bands of rows, evaluated one after the other, so that what is made on the way has a bound; numbers do not depend on it.
Knows no pixels, and of time nothing but the slab.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.models.layers import silu
from mlx_video.models.ltx_2.config.diffusion_decoder import StageConfig, Triple
from mlx_video.models.ltx_2.diffusion_decoder.attention import (
    NORM_EPS,
    Box,
    Extent,
    NeighbourhoodAttention,
)
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.transformer.adaln import modulate, timestep_features
from mlx_video.models.ltx_2.video_vae.patches import depth_to_space

TIMESTEP_WIDTH = 384
"""No config says it; reference: class default of t_emb_dim."""
ROWS = 7
"""Of a block's table: scale, shift and gate of attention, the same of the feed-forward, and the context's gate. The
gates are not used: residuals are added as they are."""
SCALE, SHIFT, FEED_SCALE, FEED_SHIFT = 0, 1, 3, 4
HIDDEN_MULTIPLE = 16
TOKEN_FLOPS = 32
"""Of a block for each token, times the square of its width, without attention: 2 for each weight."""
BAND_BYTES = 384 << 20
"""Of keys, values and feed-forward that a band of rows makes, at most, unless one row makes more."""


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), four times as wide (reference: `SwiGLU`)."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = -(-4 * dim // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
        self.w_gate = nn.Linear(dim, hidden, bias=False)
        self.w_up = nn.Linear(dim, hidden, bias=False)
        self.w_down = nn.Linear(hidden, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Applies it to each token."""
        return self.w_down(silu(self.w_gate(x)) * self.w_up(x))


class Block(nn.Module):
    """Of the first four stages (reference: `NABlock`)."""

    def __init__(self, dim: int, head_dim: int, window: Triple, *, repeats_columns: bool = False):
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, NORM_EPS)
        self.attn = NeighbourhoodAttention(dim, head_dim, window, repeats_columns=repeats_columns)
        self.norm2 = nn.RMSNorm(dim, NORM_EPS)
        self.mlp = FeedForward(dim)

    def __call__(self, x: mx.array, first: int, queries: range, frames: int | None) -> mx.array:
        """x (B, T, H, W, D): frames of a clip from `first` on, as many as `queries` see. Gives those of `queries`.

        frames: of the clip at this stage, as `Extent` has them.
        """
        rows, columns = x.shape[2:4]
        extent = Extent(frames, rows, columns)
        done = []
        for band in self._bands(x, len(queries)):
            asked = Box(queries, band, range(columns))
            t, h, _ = self.attn.reaches(asked, extent)
            seen = Box(range(int(t.starts[0]), t.stop), range(int(h.starts[0]), h.stop), asked.columns)
            around, own = (_cut(x, first, box) for box in (seen, asked))
            own = own + self._gated("gate_msa", self.attn(self._attending(around), seen, asked, extent))
            mx.eval(own)
            own = own + self._gated("gate_mlp", self.mlp(self._feeding(own)))
            mx.eval(own)
            done.append(own)
        return done[0] if len(done) == 1 else mx.concatenate(done, axis=2)

    def _bands(self, x: mx.array, queries: int) -> list[range]:
        batch, frames, rows, columns, dim = x.shape
        window, wide = self.attn.window, columns + 2 * self.attn.margin
        keys, own = row_bytes(dim, self.attn.head_dim, x.itemsize)
        seen = batch * min(frames, queries + window[0]) * wide * keys
        own *= batch * queries * columns
        fitting = (BAND_BYTES - seen * min(window[1], rows)) // (seen + own)
        work = TOKEN_FLOPS * batch * queries * columns * dim**2
        most = max(1, min(fitting, int(platform.flops_per_evaluation(x.dtype) / work)))
        count = -(-rows // most)
        return [range(i * rows // count, (i + 1) * rows // count) for i in range(count)]

    def _attending(self, x: mx.array) -> mx.array:
        found: mx.array = self.norm1(x)
        return found

    def _feeding(self, x: mx.array) -> mx.array:
        found: mx.array = self.norm2(x)
        return found

    def _gated(self, name: str, x: mx.array) -> mx.array:
        return x * self[name] if name in self else x


def row_bytes(dim: int, head_dim: int, size: int) -> tuple[int, int]:
    """Bytes that a token makes on its way through a block: as one that is seen, and as one that is computed.

    Keys and values, each normed, turned and laid out, with their table of angles; and the feed-forward's wide arrays.
    All of them, for MLX takes memory ahead of what is computed, and how far ahead is a matter of timing.
    """
    return 9 * dim * size + 16 * head_dim, 22 * dim * size


def _cut(x: mx.array, first: int, box: Box) -> mx.array:
    """The box of x (B, T, H, W, D), whose frames count from `first` on."""
    return x[:, box.frames.start - first : box.frames.stop - first, box.rows.start : box.rows.stop]


class DiffusionBlock(Block):
    """Of the last stage: it takes the latent's context in first, and is modulated (reference: `DiffusionNABlock`).

    gated: with constant gates for attention, feed-forward and context, as some files have them.
    """

    def __init__(self, dim: int, head_dim: int, window: Triple, *, gated: bool, repeats_columns: bool):
        super().__init__(dim, head_dim, window, repeats_columns=repeats_columns)
        self.context_proj = nn.Linear(dim, dim)
        self.scale_shift_table = mx.zeros((ROWS, dim))
        if gated:
            for name in ("gate_msa", "gate_mlp", "gate_ctx"):
                self[name] = mx.ones((dim,))
        self._rows: mx.array | None = None

    def prepare(self, rows: mx.array) -> None:
        """rows (7, D): what the noise level gives all blocks; this one adds its table."""
        self._rows = rows + self.scale_shift_table.astype(rows.dtype)

    def take_in(self, x: mx.array, context: mx.array) -> mx.array:
        """x with the context of the same frames added, both (B, T, H, W, D)."""
        return x + self._gated("gate_ctx", self.context_proj(context))

    def _attending(self, x: mx.array) -> mx.array:
        return modulate(self.norm1(x), self._row(SCALE), self._row(SHIFT))

    def _feeding(self, x: mx.array) -> mx.array:
        return modulate(self.norm2(x), self._row(FEED_SCALE), self._row(FEED_SHIFT))

    def _row(self, index: int) -> mx.array:
        if self._rows is None:
            raise ValueError("a diffusion block is prepared for a noise level before it is called")
        return self._rows[index]


class TimestepEmbedder(nn.Module):
    """256 cosines and sines of a timestep through two layers (reference: `TimestepEmbedder`)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = [nn.Linear(256, TIMESTEP_WIDTH), nn.SiLU(), nn.Linear(TIMESTEP_WIDTH, TIMESTEP_WIDTH)]

    def __call__(self, timestep: float) -> mx.array:
        """(384,), in the weights' dtype."""
        first, activate, second = self.mlp
        x = timestep_features(mx.array([timestep])).astype(first.weight.dtype)
        found: mx.array = second(activate(first(x)))[0]
        return found


class SharedModulation(nn.Module):
    """From a timestep's embedding to the rows that all diffusion blocks start from (reference: `AdaLNZero`)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(TIMESTEP_WIDTH, ROWS * dim)

    def __call__(self, embedded: mx.array) -> mx.array:
        """(384,) -> (7, D)."""
        return self.proj(nn.silu(embedded)).reshape(ROWS, -1)


class Upsample(nn.Module):
    """A linear layer whose channels spread over time and space (reference: `PixelShuffleUpsampler`).

    Where time grows the clip's first frame is dropped: F frames give 2F - 1.
    """

    def __init__(self, stage: StageConfig, channels: int):
        """After `stage`, to `channels`."""
        super().__init__()
        t, h, w = stage.growth
        self.proj = nn.Linear(stage.channels, channels * t * h * w)
        self.factors = stage.growth

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, I) -> (B, F * t (- 1), H * h, W * w, O)."""
        count = x.shape[1]
        y = depth_to_space(self.proj(x), self.factors)
        return y[:, 1:] if self.factors[0] == 2 and stream.begins(self, count) else y
