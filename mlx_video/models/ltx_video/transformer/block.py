"""One block of the transformer: tokens that attend to themselves, then to their text, then feed forward.

A block is told what holds for the whole call (`BlockInputs`) and how it is perturbed for the samples at hand. It knows
no passes, no guidance and no other block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import Attention, FeedForward, KeysValues, Rotation, rms_norm
from mlx_video.models.ltx_2.transformer.adaln import Modulation, add_gated, modulate
from mlx_video.models.ltx_video.config import TransformerConfig

SHIFT, SCALE, GATE, FEED_SHIFT, FEED_SCALE, FEED_GATE = range(6)
"""Rows of a block's table: of self-attention, then of the feed-forward."""
ROWS = 6
HEADS_EPS = 1e-5
"""Of the norms of queries and keys, whatever the config's `norm_eps` says (Lightricks' Attention.__init__)."""

Perturbation = Literal["attention_values", "attention_skip", "transformer_block"]
"""What spatio-temporal guidance makes of a block, in Lightricks' words: each token attends to itself alone; attention
gives its input; or the block is left out. Their fourth, "residual", changes nothing in these networks."""


class BlockInputs(NamedTuple):
    """What a block's tokens find around them.

    modulation: 6 rows, before the block adds its table; rotation: of self-attention; text: what they read.
    """

    modulation: Modulation
    rotation: Rotation
    text: KeysValues


class Block(nn.Module):
    """Self-attention, text cross-attention without a norm, feed-forward.

    Parameters carry the checkpoint's names. Source: Lightricks' BasicTransformerBlock, diffusers'
    LTXVideoTransformerBlock.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self._eps = config.norm_eps
        geometry = config.dim, config.heads, config.head_dim
        self.attn1 = Attention(*geometry, eps=HEADS_EPS, interleaved=True)
        self.attn2 = Attention(*geometry, eps=HEADS_EPS)
        self.ff = FeedForward(config.dim)
        self.scale_shift_table = mx.zeros((ROWS, config.dim))

    def __call__(self, x: mx.array, around: BlockInputs, perturbed: Perturbation | None = None) -> mx.array:
        """x: (B, T, D) tokens; returns the same after this block."""
        for step in self.steps(x, around, perturbed):
            x = step
        return x

    def steps(self, x: mx.array, around: BlockInputs, perturbed: Perturbation | None = None) -> Iterator[mx.array]:
        """x after each of three steps: self-attention, attention to the text, feed-forward; none where it is left out.

        Whoever takes them may evaluate in between: at full size a block is more work than one evaluation should be.
        """
        if perturbed == "transformer_block":
            return
        rows = around.modulation.plus(self.scale_shift_table)
        y = modulate(rms_norm(x, self._eps), rows.row(SCALE), rows.row(SHIFT))
        if perturbed is None:
            y = self.attn1(y, rotation=around.rotation)
        else:
            y = self.attn1.bypass(y) if perturbed == "attention_values" else self.attn1.leave_out(y)
        yield (x := add_gated(x, y, rows.row(GATE)))
        yield (x := x + self.attn2(x, around.text))
        y = modulate(rms_norm(x, self._eps), rows.row(FEED_SCALE), rows.row(FEED_SHIFT))
        yield add_gated(x, self.ff(y), rows.row(FEED_GATE))

    def read_text(self, context: mx.array) -> KeysValues:
        """Keys and values of a text (1 or B, L, D) for this block; they depend on the text alone."""
        return self.attn2.remember(context)


def step_operations(tokens: int, width: int, text: int) -> tuple[float, float, float]:
    """Floating-point operations of each of `Block.steps` for one sample of so many tokens.

    text: tokens of the text, whose keys and values are counted here, too. Two for each multiplication in the matrix
    products; the rest is small beside them.
    """
    attending = 8.0 * tokens * width**2 + 4.0 * tokens**2 * width
    reading = 4.0 * tokens * width**2 + 4.0 * tokens * text * width + 4.0 * text * width**2
    return attending, reading, 16.0 * tokens * width**2
