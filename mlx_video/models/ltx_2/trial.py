"""One block of the transformer on seeded random tokens, called as any block would be; to see what few bits cost, and
how fast a machine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import Modulation
from mlx_video.models.ltx_2.transformer.block import CROSS_ROWS, Block, BlockInputs, Crossing, Skips, step_operations
from mlx_video.models.ltx_2.transformer.prepared import place
from mlx_video.types import AudioShape, Modality, Tree, VideoShape

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


def operations(settings: Mapping[str, Any], audio: bool, shape: VideoShape = SHAPE) -> float:
    """Floating-point operations of a `call`."""
    config = TransformerConfig.read(settings, audio=audio)
    widths: dict[Modality, int] = {m: c.dim for m, c in config.streams.items()}
    tokens: dict[Modality, int] = {m: shape.tokens if m == "video" else AudioShape.of(shape).frames for m in widths}
    return sum(step_operations(tokens, widths, dict.fromkeys(tokens, TEXT_TOKENS), cross_modal=True))


def call(
    block: Block,
    settings: Mapping[str, Any],
    audio: bool,
    positions: Callable[[VideoShape | AudioShape], mx.array],
    shape: VideoShape = SHAPE,
    dtype: mx.Dtype = mx.float32,
) -> Tree:
    """What the block makes of the tokens of a clip of that shape, which are of that type.

    positions: of a shape's tokens; see `diffusion.tokens`.
    """
    config = TransformerConfig.read(settings, audio=audio)
    key = mx.random.key(0)

    def draw(*sizes: int, scale: float = 1.0) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        return (scale * mx.random.normal(sizes, key=own)).astype(dtype)

    def rows(count: int, dim: int) -> Modulation:
        return Modulation(draw(1, 1, count, dim, scale=MODULATION))

    streams = config.streams
    shapes = {m: shape if m == "video" else AudioShape.of(shape) for m in streams}
    own, cross = place(config, {m: positions(shapes[m]) for m in streams}, dtype)
    x: Tree = {m: draw(1, own[m].cos.shape[2], c.dim) for m, c in streams.items()}
    prompts = {m: draw(1, 1, 2, c.dim, scale=MODULATION) if config.text_adaln else None for m, c in streams.items()}
    around = BlockInputs(
        modulation={m: rows(config.rows, c.dim) for m, c in streams.items()},
        rotation=own,
        text={m: block.read_text(m, draw(1, TEXT_TOKENS, c.context_dim), prompts[m]) for m, c in streams.items()},
        crossing={m: Crossing(rows(CROSS_ROWS, c.dim), rows(1, c.dim), cross[m]) for m, c in streams.items() if cross},
    )
    return block(x, around, Skips())
