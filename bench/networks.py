"""The convolutional networks at the width of the real models, against plain matrix products of as many operations.

Weights are random and grids small; speed does not depend on the first, and ratios hardly on the second (the smallest
grids excepted: products of few rows are slow by themselves). Operations are those of the convolutions, counted while
the network runs. Knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from bench.measure import MIB, alternate, multiply, table
from mlx_video.models.ltx_2.family import COMPONENTS
from tests.support import real_keys

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d)
PRODUCTS = 2e11
"""Operations of the plain products in one round at most; their time is scaled to the network's."""
HEAD = ["case", "GFLOP", "product GFLOP/s", "s", "floor s", "ratio", "peak MiB"]
CASES = [
    ("upsampler", "2", (1, 3, 16, 24, 128)),
    ("upsampler", "2.3", (1, 3, 16, 24, 128)),
    ("video_decoder", "2", (1, 2, 4, 4, 128)),
    ("video_decoder", "2", (1, 3, 8, 8, 128)),
    ("video_decoder", "2.3", (1, 2, 4, 4, 128)),
    ("video_decoder", "2.3", (1, 3, 8, 8, 128)),
    ("video_encoder", "2", (1, 17, 192, 192, 3)),
    ("video_encoder", "2.3", (1, 17, 192, 192, 3)),
    ("audio_decoder", "2.3", (1, 8, 13, 16)),
    ("vocoder", "2.3", (1, 2, 49, 64)),
]
"""Component, generation and input; the last two are half a second of sound, with its bandwidth extension. LTX-2.5's are
2.3's."""
PIECES = (1, 2, 4, None)
LONG = (1, 5, 4, 4, 128)


def report(rounds: int) -> str:
    """Two tables."""
    return "\n\n".join([_whole(rounds), _pieces(rounds)])


def build(component: str, generation: str) -> nn.Module:
    """The published network with random weights that keep the sizes of activations about level."""
    settings = real_keys.config(generation)
    if component == "upsampler":
        settings = real_keys.upsamplers(generation)["spatial_x2"][0]
    network = COMPONENTS[component].build(settings)
    mx.random.seed(0)
    network.update(tree_map(_random, network.parameters()))
    mx.eval(network.parameters())
    return network


@contextmanager
def counted(network: nn.Module) -> Iterator[dict[str, float]]:
    """Adds up under "flops" the operations (two per multiplication and addition) of all convolutions that are called."""
    count = {"flops": 0.0}
    replaced: dict[type, Any] = {}

    def counting(kind: type) -> Callable[..., mx.array]:
        inner = kind.__call__  # type: ignore[operator]

        def call(self: nn.Module, x: mx.array, *rest: Any) -> mx.array:
            y = inner(self, x, *rest)
            if type(self) is kind:
                each = 2.0 * self.weight[0].size
                transposed = isinstance(self, nn.ConvTranspose1d)
                count["flops"] += each * (x[..., 0].size * len(self.weight) if transposed else y.size)
            return y

        return call

    for kind in {type(layer) for layer in network.modules() if isinstance(layer, CONVOLUTIONS)}:
        replaced[kind] = vars(kind).get("__call__")
        kind.__call__ = counting(kind)  # type: ignore[attr-defined]
    try:
        yield count
    finally:
        for kind, own in replaced.items():
            if own is None:
                del kind.__call__  # type: ignore[attr-defined]
            else:
                kind.__call__ = own  # type: ignore[attr-defined]


def compare(name: str, network: nn.Module, run: Callable[[], object], rounds: int) -> list[str]:
    """One line: a call of the network against its floor."""
    with counted(network) as count:
        mx.eval(run())
    operations = count["flops"]
    some = min(operations, PRODUCTS)
    product, factor = multiply(some)
    found = alternate({"network": run, "product": product}, rounds)
    floor = found["product"].seconds * factor * operations / some
    mine = found["network"]
    mx.clear_cache()
    numbers = [operations / 1e9, operations / floor / 1e9]
    return [
        name,
        *(f"{number:.0f}" for number in numbers),
        f"{mine.seconds:.2f}",
        f"{floor:.2f}",
        f"{mine.seconds / floor:.2f}",
        f"{mine.peak / MIB:.0f}",
    ]


def _whole(rounds: int) -> str:
    lines = []
    for component, generation, shape in CASES:
        network, x = build(component, generation), mx.random.normal(shape)
        name = f"{component.replace('_', ' ')} {generation}, {' x '.join(map(str, shape[1:]))}"
        lines.append(compare(name, network, lambda network=network, x=x: network(x), rounds))
        network.clear()
    return table(f"Networks at full width, median of {rounds} alternating rounds", HEAD, lines)


def _pieces(rounds: int) -> str:
    network, latent = build("video_decoder", "2.3"), mx.random.normal(LONG)

    def decode(size: int | None) -> mx.array:
        for piece in network.pieces(latent, size):
            mx.eval(piece)
        return piece

    found = alternate({str(size): lambda size=size: decode(size) for size in PIECES}, rounds)
    whole = found["None"].seconds
    lines = [
        [f"{size or 'all'}", f"{t.seconds:.2f}", f"{t.seconds / whole:.2f}", f"{t.peak / MIB:.0f}"]
        for size, t in zip(PIECES, found.values(), strict=True)
    ]
    title = f"LTX-2.3's video decoder at full width, latent {' x '.join(map(str, LONG[1:]))}, by size of a piece"
    return table(title, ["latent frames at a time", "s", "x all", "peak MiB"], lines)


def _random(array: mx.array) -> mx.array:
    if array.ndim < 2:
        return 1 + 0.02 * mx.random.normal(array.shape)
    return mx.random.normal(array.shape) * (array.size // len(array)) ** -0.5
