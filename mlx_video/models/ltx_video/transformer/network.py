"""The diffusion transformer of LTX-Video 0.9.x: tokens, timesteps and text in, velocities out.

2B and 13B differ by what the config says. Knows no schedule, no guidance formula and no latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.models.bounded import go_through
from mlx_video.models.ltx_2.transformer.adaln import AdaLN, Modulation, TwoLinear, modulate
from mlx_video.models.ltx_2.transformer.prepared import distinct_levels
from mlx_video.models.ltx_video.config import TransformerConfig
from mlx_video.models.ltx_video.transformer.block import ROWS, Block
from mlx_video.models.ltx_video.transformer.passes import Pass, Visits
from mlx_video.models.ltx_video.transformer.prepared import Prepared, place


class Transformer(nn.Module):
    """Predicts the velocity, noise minus clean latent, of video tokens.

    Parameters carry the checkpoint's names. Source: Lightricks' Transformer3DModel, diffusers'
    LTXVideoTransformer3DModel.
    """

    prefixes: Mapping[str, str] = {"model.diffusion_model.": ""}
    visited = ("transformer_blocks",)
    """Paths of what `parts` gives."""
    keep_text = True
    """Whether each block's keys and values of a text are kept from their first use on."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.patchify_proj = nn.Linear(config.in_channels, config.dim)
        self.adaln_single = AdaLN(config.dim, ROWS)
        self.caption_projection = TwoLinear(config.caption_channels, config.dim, "gelu")
        self.transformer_blocks = [Block(config) for _ in range(config.layers)]
        self.scale_shift_table = mx.zeros((2, config.dim))
        self.proj_out = nn.Linear(config.dim, config.out_channels)

    @property
    def dtype(self) -> mx.Dtype:
        """What the network computes in: the precision of its weights."""
        return self.patchify_proj.bias.dtype

    def prepare(self, contexts: Mapping[str, mx.array], positions: np.ndarray | mx.array) -> Prepared:
        """Works out what all calls of a stage share.

        contexts: by name, T5's states of a prompt's own tokens (1 or B, L, caption_channels), without padding;
        positions: (1 or B, 3, T) where tokens begin (`corners`).
        """
        return Prepared(
            rotation=place(self.config, positions, self.dtype),
            contexts={name: self.caption_projection(c.astype(self.dtype)) for name, c in contexts.items()},
            text={} if self.keep_text else None,
        )

    def __call__(
        self,
        x: mx.array,
        timesteps: float | np.ndarray | mx.array,
        prepared: Prepared,
        passes: Sequence[Pass] = (Pass(),),
        *,
        flops_limit: float | None = None,
    ) -> list[mx.array]:
        """The velocity of every pass, in their order: (B, T, out_channels) in the network's dtype.

        x: (B, T, in_channels) noisy tokens; timesteps: from 0 to 1, a number, (B,) or (1 or B, T) for each token.
        flops_limit: operations after which the streams are evaluated, so that no graph grows without bound; None takes
        the platform's.
        """
        embedded = self.patchify_proj(x.astype(self.dtype))
        modulation, output = self._time(timesteps)
        visits = Visits(embedded, passes, modulation, prepared)
        limit = platform.flops_per_evaluation(self.dtype) if flops_limit is None else flops_limit
        go_through(self.parts(visits.streams), visits, limit)
        done: dict[int, mx.array] = {}
        for stream in visits.streams:
            if id(stream) not in done:
                done[id(stream)] = self._velocity(stream, output)
        return [done[id(stream)] for stream in visits.streams]

    def parts(self, results: object) -> Iterator[Block]:
        """The blocks in order, each visited once per call. Replace it to bring weights in and out.

        results: what the blocks visited so far have left; it is to be evaluated before a block's weights go.
        """
        yield from self.transformer_blocks

    def _time(self, timesteps: float | np.ndarray | mx.array) -> tuple[Modulation, Modulation]:
        # The rows of all blocks, and the bare embedding, which the output is modulated with.
        given = mx.array(timesteps, dtype=mx.float32)
        values, tokens = distinct_levels(given.reshape(len(given) if given.ndim else 1, -1))
        rows, embedded = self.adaln_single(values[None] * self.config.timestep_scale, self.dtype)
        return Modulation.of(rows, tokens), Modulation.of(embedded, tokens)

    def _velocity(self, x: mx.array, embedded: Modulation) -> mx.array:
        # Both rows of the table are added to the one embedding.
        rows = embedded.plus(self.scale_shift_table)
        y = mx.fast.layer_norm(x, None, None, self.config.norm_eps)
        return self.proj_out(modulate(y, rows.row(1), rows.row(0)))
