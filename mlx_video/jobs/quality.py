"""What few bits cost: one block's output with quantized weights against the same block with its own.

Block 0 runs with its real weights on seeded random tokens, as any block would be called. Knows nothing of runs.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.diffusion.tokens import positions
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import Modulation
from mlx_video.models.ltx_2.transformer.block import CROSS_ROWS, Block, BlockInputs, Crossing, Skips
from mlx_video.models.ltx_2.transformer.prepared import place
from mlx_video.types import AudioShape, Tree, VideoShape
from mlx_video.weights import names, quantize
from mlx_video.weights.quantize import BITS, Quantization

SHAPE = VideoShape(9, 128, 128, 24.0)
"""Of the clip whose tokens go through the block: 32 of video, 9 of sound."""
TEXT_TOKENS = 16
MODULATION = 0.3
"""Spread of the random shifts, scales and gates that stand for those of a noise level."""
_FIRST = "transformer_blocks.0."


def block_errors(checkpoint: Checkpoint, group_size: int) -> dict[int, float]:
    """Bits -> ||quantized - source|| / ||source|| of block 0's output, in float32; of the worse modality.

    Raises UserError where nothing can be quantized in groups of that size.
    """
    weights = _weights_of_block_0(checkpoint)
    config = TransformerConfig.read(checkpoint.part("transformer").settings, audio=checkpoint.audio)
    outputs: dict[int, Tree] = {}
    cached = mx.set_cache_limit(0)  # of a real block's products, freed buffers alone would come to 1.5 GB
    try:
        for bits in (0, *BITS):
            block = Block(config)
            block.load_weights(list(weights.items()))
            if bits:
                quantize.quantize([block], Quantization(bits, group_size), mx.float32)
            outputs[bits] = _call(block, config)
            mx.eval(outputs[bits])
    finally:
        mx.set_cache_limit(cached)
    return {bits: _distance(outputs[bits], outputs[0]) for bits in BITS}


def _weights_of_block_0(checkpoint: Checkpoint) -> dict[str, mx.array]:
    part = checkpoint.part("transformer")
    network = checkpoint.build("transformer", audio=checkpoint.audio)
    arrays = names.native_arrays(network, part.load(mx.bfloat16), "transformer", form=part.form)
    return {path.removeprefix(_FIRST): array for path, array in arrays.items() if path.startswith(_FIRST)}


def _call(block: Block, config: TransformerConfig) -> Tree:
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


def _distance(ours: Tree, source: Tree) -> float:
    squares = [mx.square(ours[m] - source[m]).sum() / mx.square(source[m]).sum() for m in source]
    return float(mx.sqrt(mx.stack(squares).max()))  # type: ignore[arg-type]
