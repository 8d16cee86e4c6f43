"""One transformer block at the width of the real models, against plain matrix products of as many operations.

The products are run in the same rounds, so the ratio says what the block costs beyond its arithmetic, whatever the
machine is doing. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from bench.measure import MIB, alternate, multiply, table
from mlx_video import platform
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import Modulation
from mlx_video.models.ltx_2.transformer.block import CROSS_ROWS, Block, BlockInputs, Crossing, Skips
from mlx_video.models.ltx_2.transformer.prepared import place
from mlx_video.types import CONTEXT_TOKENS, MODALITIES, Tree
from tests.support import published_25, real_keys


def published(generation: str) -> dict[str, Any]:
    """A fresh copy of the config of a generation's published checkpoint; of LTX-2.5's several files, all of theirs."""
    return published_25.config() if generation == "2.5" else real_keys.config(generation)


def flops(config: TransformerConfig, tokens: dict[str, int]) -> float:
    """Operations (two per multiplication and addition) of all matrix products in a block, text keys and values too."""
    total = 0.0
    for modality, c in config.streams.items():
        count, dim = tokens[modality], c.dim
        gates = 2 * count * dim * c.heads if config.gated_attention else 0
        total += 8 * count * dim**2 + 4 * count**2 * dim + gates  # self-attention
        total += (
            4 * count * dim**2 + 4 * CONTEXT_TOKENS * c.context_dim * dim + 4 * count * CONTEXT_TOKENS * dim + gates
        )
        total += 16 * count * dim**2  # feed-forward
    if config.audio is not None:
        wide, narrow, heads = config.video.dim, config.audio.dim, config.audio.heads
        seen, heard = tokens["video"], tokens["audio"]
        total += 4 * seen * wide * narrow + 4 * heard * narrow**2 + 4 * seen * heard * narrow
        total += 4 * heard * narrow**2 + 4 * seen * wide * narrow + 4 * seen * heard * narrow
        total += 2 * heads * (seen * wide + heard * narrow) if config.gated_attention else 0
    return total


def place_block(generation: str, tokens: dict[str, int]) -> tuple[TransformerConfig, Block, dict[str, Any]]:
    """A block of random weights and all that a call of it takes; nothing is computed yet."""
    config = TransformerConfig.read(published(generation))
    dtype = platform.compute_dtype()
    mx.random.seed(0)
    block = Block(config)
    block.update(tree_map(lambda a: _random(a.shape, dtype), block.parameters()))

    def rows(modality: str, count: int) -> Modulation:
        return Modulation(_random((1, 1, count, config.streams[modality].dim), dtype))

    positions = {"video": _video_positions(tokens["video"]), "audio": _audio_positions(tokens["audio"])}
    own, cross = place(config, positions, dtype)
    streams = config.streams.items()
    return config, block, {
        "x": {m: _random((1, tokens[m], c.dim), dtype) for m, c in streams},
        "own": own,
        "texts": {m: _random((1, CONTEXT_TOKENS, c.context_dim), dtype) for m, c in streams},
        "prompts": {m: _random((1, 1, 2, c.context_dim), dtype) for m, c in streams} if config.text_adaln else {},
        "modulation": {m: rows(m, config.rows) for m in MODALITIES},
        "crossing": {m: Crossing(rows(m, CROSS_ROWS), rows(m, 1), cross[m]) for m in MODALITIES},
    }  # fmt: skip


def call(block: Block, given: dict[str, Any]) -> Tree:
    """The block's output for what `place_block` has placed."""
    text = {m: block.read_text(m, given["texts"][m], given["prompts"].get(m)) for m in MODALITIES}
    return block(given["x"], BlockInputs(given["modulation"], given["own"], text, given["crossing"]), Skips())


def prepare(generation: str, tokens: dict[str, int]) -> tuple[Callable[[], object], float]:
    """A call of one block with everything around it in place, and its operations."""
    config, block, given = place_block(generation, tokens)
    mx.eval(block.parameters(), given)
    return functools.partial(call, block, given), flops(config, tokens)


def report(generation: str, counts: list[int], rounds: int) -> str:
    """The table for some numbers of video tokens, with a sound as long as such clips have."""
    lines = []
    for count in counts:
        tokens = {"video": count, "audio": 101}
        run, operations = prepare(generation, tokens)
        product, factor = multiply(min(operations, 4e11))
        scale = operations / min(operations, 4e11) * factor
        found = alternate({"block": run, "product": product}, rounds)
        floor = found["product"].seconds * scale
        lines.append(
            [
                f"{count} video + {tokens['audio']} audio tokens",
                f"{operations / 1e9:.0f}",
                f"{operations / floor / 1e9:.0f}",
                f"{found['block'].seconds:.2f}",
                f"{floor:.2f}",
                f"{found['block'].seconds / floor:.2f}",
                f"{found['block'].peak / MIB:.0f}",
            ]
        )
        mx.clear_cache()
    return table(
        f"One LTX-{generation} block at full width, {platform.compute_dtype()}, median of {rounds} alternating rounds",
        ["tokens", "GFLOP", "product GFLOP/s", "block s", "floor s", "ratio", "peak MiB"],
        lines,
    )


def _random(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
    return (mx.random.normal(shape) * scale).astype(dtype)


def _video_positions(count: int) -> mx.array:
    side = max(1, round((count / 6) ** 0.5))
    grid = np.indices((-(-count // side**2), side, side)).reshape(3, -1)[:, :count].astype(np.float32)
    start = grid * np.array([[8 / 24], [32], [32]], np.float32)
    return mx.array(np.stack([start, start + np.array([[8 / 24], [32], [32]], np.float32)], -1)[None])


def _audio_positions(count: int) -> mx.array:
    start = np.arange(count, dtype=np.float32) / 25
    return mx.array(np.stack([start, start + 1 / 25], -1)[None, None])
