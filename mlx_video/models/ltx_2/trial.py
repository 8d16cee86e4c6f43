"""One block of the transformer on seeded random tokens, called as any block would be; to see what few bits cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import Modulation
from mlx_video.models.ltx_2.transformer.block import CROSS_ROWS, Block, BlockInputs, Crossing, Skips
from mlx_video.models.ltx_2.transformer.prepared import place
from mlx_video.types import AudioShape, Tree, VideoShape

SHAPE = VideoShape(9, 128, 128, 24.0)
"""Of the clip whose tokens go through the block: 32 of video, 9 of sound."""
TEXT_TOKENS = 16
MODULATION = 0.3
"""Spread of the random shifts, scales and gates that stand for those of a noise level."""
FIRST = "transformer_blocks.0."
"""How the names of the first block's tensors begin in the network."""


def block(settings: Mapping[str, Any], audio: bool) -> Block:
    """A block without weights, from a checkpoint's config."""
    return Block(TransformerConfig.read(settings, audio=audio))


def call(
    block: Block, settings: Mapping[str, Any], audio: bool, positions: Callable[[VideoShape | AudioShape], mx.array]
) -> Tree:
    """What the block makes of the tokens. positions: of a shape's tokens; see `diffusion.tokens`."""
    config = TransformerConfig.read(settings, audio=audio)
    key = mx.random.key(0)

    def draw(*shape: int, scale: float = 1.0) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        return scale * mx.random.normal(shape, key=own)

    def rows(count: int, dim: int) -> Modulation:
        return Modulation(draw(1, 1, count, dim, scale=MODULATION))

    streams = config.streams
    shapes = {m: SHAPE if m == "video" else AudioShape.of(SHAPE) for m in streams}
    own, cross = place(config, {m: positions(shapes[m]) for m in streams}, mx.float32)
    x: Tree = {m: draw(1, own[m].cos.shape[2], c.dim) for m, c in streams.items()}
    prompts = {m: draw(1, 1, 2, c.dim, scale=MODULATION) if config.text_adaln else None for m, c in streams.items()}
    around = BlockInputs(
        modulation={m: rows(config.rows, c.dim) for m, c in streams.items()},
        rotation=own,
        text={m: block.read_text(m, draw(1, TEXT_TOKENS, c.context_dim), prompts[m]) for m, c in streams.items()},
        crossing={m: Crossing(rows(CROSS_ROWS, c.dim), rows(1, c.dim), cross[m]) for m, c in streams.items() if cross},
    )
    return block(x, around, Skips())
