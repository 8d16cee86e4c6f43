"""LTX-2.5 beside LTX-2.3, in the same rounds: a transformer block, a step, and the layers of their text encoders.

What 2.5 adds is one sum a step, what it leaves out a bias in each feed-forward, so its transformer costs what 2.3's
does. A layer of Gemma is compared with its own matrix products and nothing else: a prompt's hundred rows are fewer than
plain square products have, and those would be no floor. Weights are random. Knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from bench import block, steps
from bench.measure import MIB, alternate, table
from mlx_video import platform
from mlx_video.models.ltx_2.text_encoder import gemma, gemma4
from mlx_video.models.ltx_2.text_encoder.gemma4_config import Gemma4Config
from mlx_video.models.ltx_2.text_encoder.language_model import TextRotation
from tests.support import published_25, real_gemma

GENERATIONS = ("2.3", "2.5")
WORDS = 96
"""Tokens of a prompt of some seventy words."""


def report(tokens: int, rounds: int) -> str:
    """Three tables; `tokens` of video go through the block."""
    return "\n\n".join([_blocks(tokens, rounds), _steps(rounds), _layers(rounds)])


def _beside(title: str, cases: dict[str, Callable[[], object]], rounds: int) -> str:
    """Seconds of each, and of how many of the first one's that is."""
    found = alternate(cases, rounds)
    base = next(iter(found.values())).seconds
    lines = [[name, f"{t.seconds:.3f}", f"{t.seconds / base:.3f}", f"{t.peak / MIB:.0f}"] for name, t in found.items()]
    mx.clear_cache()
    return table(title, ["case", "s", "x LTX-2.3", "peak MiB"], lines)


def _blocks(tokens: int, rounds: int) -> str:
    given = {"video": tokens, "audio": 101}
    cases = {f"LTX-{generation}": block.prepare(generation, given)[0] for generation in GENERATIONS}
    return _beside(f"One block at full width, {tokens} video tokens, median of {rounds} rounds", cases, rounds)


def _steps(rounds: int) -> str:
    cases = {f"LTX-{generation}": steps.prepare(generation) for generation in GENERATIONS}
    return _beside(f"A step of 4 blocks, 512 / 256 wide, one pass, median of {rounds} rounds", cases, rounds)


def text_layers() -> dict[str, nn.Module]:
    """A layer of each kind at full width, of random weights."""
    three = real_gemma.config()
    four = Gemma4Config.read(published_25.metadata(published_25.TEXT_ENCODER)["gemma_config"], "published")
    made: dict[str, Any] = {
        "Gemma 3": gemma.Layer(three, TextRotation(three.head_dim, three.local_rotary)),
        "Gemma 4, of a window": gemma4.Layer(four, four.near, TextRotation(four.near.head_dim, four.near.rotary)),
        "Gemma 4, of everything": gemma4.Layer(four, four.far, TextRotation(four.far.head_dim, four.far.rotary)),
    }
    mx.random.seed(0)
    for layer in made.values():
        layer.update(tree_map(_random, layer.parameters()))
    return made


def _layers(rounds: int) -> str:
    lines = []
    for name, layer in text_layers().items():
        weights = {path: array for path, array in tree_flatten(layer.parameters()) if array.ndim == 2}
        given = {array.shape[1]: _random(mx.zeros((1, WORDS, array.shape[1]))) for array in weights.values()}
        x = given[3840]
        mx.eval(layer.parameters(), given)
        whole: Callable[[], object] = partial(layer, x, "causal")
        floor: Callable[[], object] = partial(_products, list(weights.values()), given)
        found = alternate({"layer": whole, "products": floor}, rounds)
        operations = 2.0 * WORDS * sum(array.size for array in weights.values())
        seconds = {case: timing.seconds for case, timing in found.items()}
        lines.append(
            [
                name,
                f"{operations / 1e9:.0f}",
                f"{sum(array.nbytes for array in weights.values()) / MIB:.0f}",
                *(f"{seconds[case]:.3f}" for case in ("layer", "products")),
                f"{seconds['layer'] / seconds['products']:.2f}",
            ]
        )
        layer.clear()
        mx.clear_cache()
    title = f"A layer of the text encoder at full width, {WORDS} tokens, {platform.compute_dtype()}"
    return table(title, ["layer", "GFLOP", "weights MiB", "s", "its products s", "ratio"], lines)


def _products(weights: list[mx.array], given: dict[int, mx.array]) -> list[mx.array]:
    return [given[weight.shape[1]] @ weight.T for weight in weights]


def _random(array: mx.array) -> mx.array:
    scale = array.shape[-1] ** -0.5 if array.ndim == 2 else 1.0
    return (mx.random.normal(array.shape) * scale).astype(platform.compute_dtype())
