"""How fast: plain matrix products, then one block and the video decoder at real width, as shares of that.

A ratio to the plain product of the same minute says whether the machine is slow or what this package computes on it is.
Weights are random: speed hardly depends on them. Every size is chosen so that the whole takes seconds on any machine,
and what does not fit in memory is not tried. Knows no checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlx_video import platform
from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.diffusion.tokens import positions
from mlx_video.lending.loader import parameter_bytes
from mlx_video.models.families import DEFAULT
from mlx_video.types import TIME_SCALE, VideoShape, amount

GENERATION = "2.3"
"""Whose published config gives the real widths."""
SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Of square matrices; the first whose product takes LONG_ENOUGH is timed."""
LONG_ENOUGH, ROUNDS, NETWORK_ROUNDS = 0.05, 3, 2
"""Seconds of one product, and how often one is timed; the fastest counts, since neighbours only slow down."""
SHAPES = tuple(VideoShape(*size, 24.0) for size in ((9, 64, 64), (9, 128, 128), (17, 256, 256), (33, 512, 512)))
"""Clips whose tokens (8, 32, 192, 1,280, and their sound's) go through the block."""
GRIDS = ((1, 2, 2), (2, 2, 2), (2, 4, 4), (3, 8, 8))
"""Latents that are decoded."""
SECONDS = 8.0
"""What one of the two may take, by the plain product's rate and SLOWER."""
SLOWER = 4.0
"""How many times as long as its products a network may take, for choosing sizes; and for the verdict."""
WRONG_BY = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.002}
"""Relative error of a product of 256 x 256 that is more than rounding; TF32 in place of float32 is 5e-4 wrong."""


class Product(NamedTuple):
    """What plain products of matrices are like in a precision."""

    dtype: mx.Dtype
    rate: float
    """Floating-point operations a second."""
    error: float
    """||product - exact|| / ||exact||."""


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def fastest(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of some runs, after one that does not count; each gives what is to be evaluated."""
    mx.eval(run())
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        mx.eval(run())
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)


# ------------------------------------------------------------------------------------------------ plain products


def product(dtype: mx.Dtype, sizes: Sequence[int] = SIZES) -> Product:
    """Measures one; the sizes are tried in turn until one is large enough to be timed."""
    rate = 0.0
    for size in sizes:
        left, right = (mx.random.normal((size, size), key=mx.random.key(n)).astype(dtype) for n in (0, 1))
        mx.eval(left, right)
        seconds = fastest(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        rate = max(rate, 2 * size**3 / seconds)
        if seconds >= LONG_ENOUGH:
            break
    mx.clear_cache()
    return Product(dtype, rate, _error(dtype))


def _error(dtype: mx.Dtype, size: int = 256) -> float:
    left, right = (mx.random.normal((size, size), key=mx.random.key(n)).astype(dtype) for n in (2, 3))
    found = np.array((left @ right).astype(mx.float32), np.float64)
    exact = np.array(left.astype(mx.float32), np.float64) @ np.array(right.astype(mx.float32), np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def examine_product(found: Product) -> Finding:
    """Whether plain products are right, and as fast as this chip's are."""
    name = _name(found.dtype)
    topic, said = f"product {name}", f"{found.rate / 1e9:,.0f} GFLOP/s, {found.error:.0e} from exact"
    figures = {"gflop_per_second": found.rate / 1e9, "error": found.error}
    if not found.error <= WRONG_BY[name]:
        advice = f"more than rounding ({WRONG_BY[name]:g}): matrix products are wrong"
        if name == "float32" and found.error < 2e-3:
            return Finding(topic, Verdict.LOOK, f"{said}: 10-bit factors (TF32); unset {platform.TF32_SWITCH}", figures)
        return Finding(topic, Verdict.WRONG, f"{said}, {advice}", figures)
    expected = platform.flops_per_second(found.dtype)
    if platform.is_metal() and found.rate < expected / 2:
        said += f"; {expected / 1e9:,.0f} are usual: something else keeps the GPU busy, or the Mac saves power"
        return Finding(topic, Verdict.LOOK, said, figures)
    return Finding(topic, Verdict.OK, said, figures)


# ------------------------------------------------------------------------------------------------ networks


class _Trial(NamedTuple):
    """A network, and a call of it."""

    network: Any
    dtype: mx.Dtype
    flops: float
    work: float
    """Bytes beside the weights, about."""
    call: Callable[[], object]
    what: str

    @property
    def needed(self) -> int:
        """Bytes, with some to spare."""
        weights = parameter_bytes(self.network) // mx.float32.size
        return int(weights * self.dtype.size * 1.1 + self.work)


def examine_block(plain: Product, room: int, settings: Any = None, seconds: float = SECONDS) -> Finding:
    """One block of the transformer in the plain product's precision.

    room: bytes that it may take; settings: a checkpoint's config, the published one if left out.
    """
    settings, trial, dtype = settings or _published(), DEFAULT.trial(), plain.dtype
    costs = {shape: trial.operations(settings, True, shape) for shape in SHAPES}
    shape = _largest(costs, plain, seconds)
    if shape is None:
        return _too_slow("block", plain)
    network = trial.block(settings, True)
    work = 40 * shape.tokens * DEFAULT.facts(settings).width * 4.0
    what = f"of LTX-{GENERATION} over {shape.tokens} tokens of video"

    def call() -> object:
        return trial.call(network, settings, True, positions, shape, dtype)

    return _examine("block", _Trial(network, dtype, costs[shape], work, call, what), plain, room)


def examine_decoder(plain: Product, room: int, settings: Any = None, seconds: float = SECONDS) -> Finding:
    """The video decoder, in the plain product's precision, over a small latent; the rest as in `examine_block`."""
    settings, costs, dtype = settings or _published(), DEFAULT.costs(), plain.dtype

    def cost(grid: Any) -> Any:
        tiling = costs.tiles(settings, "none", grid, room, stream=False, size=dtype.size)
        return costs.decode_video(settings, tiling, grid, dtype.size)

    known = {grid: cost(grid) for grid in GRIDS}
    # Its first latent stands for one frame, where a long clip's cost is eight for each.
    flops = {grid: one.flops * (1 + TIME_SCALE * (grid[0] - 1)) / (TIME_SCALE * grid[0]) for grid, one in known.items()}
    grid = _largest(flops, plain, seconds)
    if grid is None:
        return _too_slow("decoder", plain)
    network = DEFAULT.components["video_decoder"].build(settings)
    latent = mx.random.normal((1, *grid, 128), key=mx.random.key(0)).astype(dtype)
    what = f"of LTX-{GENERATION} over {' x '.join(map(str, grid))} latents"
    one = _Trial(network, dtype, flops[grid], known[grid].work, lambda: network(latent), what)
    return _examine("decoder", one, plain, room)


def _published() -> Any:
    config = next(one.config for one in DEFAULT.generations if one.name == GENERATION)
    assert config is not None
    return config()


def _largest(flops: Any, plain: Product, seconds: float) -> Any:
    """Of the sizes, by their operations, the largest that can be timed in so many seconds; None: not even the least."""
    most = min(plain.rate * seconds / (SLOWER / 2) / (NETWORK_ROUNDS + 1), platform.flops_per_evaluation(plain.dtype))
    return max((size for size in flops if flops[size] <= most), key=lambda size: flops[size], default=None)


def _too_slow(topic: str, plain: Product) -> Finding:
    said = f"not measured: at {plain.rate / 1e9:,.1f} GFLOP/s it would take more than {SECONDS:g} seconds"
    return Finding(topic, Verdict.LOOK, said)


def _examine(topic: str, trial: _Trial, plain: Product, room: int) -> Finding:
    if trial.needed > room:
        said = f"not measured: it takes {amount(trial.needed)}, and {amount(room)} are free"
        return Finding(topic, Verdict.LOOK, said, {"needed_bytes": trial.needed, "free_bytes": room})
    try:
        trial.network.update(tree_map(lambda array: _filled(array.shape, trial.dtype), trial.network.parameters()))
        mx.eval(trial.network.parameters())
        platform.peak_memory()
        seconds = fastest(trial.call, NETWORK_ROUNDS)
        peak = platform.peak_memory()
    finally:
        trial.network.clear()
        mx.clear_cache()
    rate, slower = trial.flops / seconds, plain.rate * seconds / trial.flops
    said = (
        f"{trial.what} in {_name(trial.dtype)}: {rate / 1e9:,.0f} GFLOP/s, "
        f"{slower:.1f} times the time of plain products; {amount(peak)}"
    )
    figures = {"gflop_per_second": rate / 1e9, "times_plain": slower, "seconds": seconds, "peak_bytes": peak}
    if slower > SLOWER:
        return Finding(topic, Verdict.LOOK, f"{said}; up to {SLOWER:g} are usual", figures)
    return Finding(topic, Verdict.OK, said, figures)


def _filled(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Numbers of a size that keeps activations level; few of them, many times, since drawing 400 million takes long."""
    count, fan_in = math.prod(shape), max(1, math.prod(shape[1:]))
    few = min(count, 65_521)  # a prime: rows differ
    numbers = (mx.random.normal((few,), key=mx.random.key(few)) / fan_in**0.5).astype(dtype)
    return mx.tile(numbers, -(-count // few))[:count].reshape(shape)
