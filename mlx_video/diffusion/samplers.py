"""From noise to a latent: generators that walk down the sigmas and yield after every step.

A sampler sees `denoise(x, sigma, step) -> x0` over tokens (B, T, 128) by modality, nothing of guidance or masks,
and builds MLX's lazy graph only: evaluate `step.x` in the loop around it. Arrays stay float32, coefficients are Python
floats (the reference runs res_2s in float64, which Metal lacks; this stays within 1e-5 of it). `draw(k, modality)` is
the k-th raw noise of a stochastic one (None: deterministic steps); `blend` puts kept tokens back after noise was added.

Each can go on where another run of it stopped: `x` is then that run's last, `begin` the step that comes next, which
numbers its draws too, and `memory` what its last `Step` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.diffusion.denoise import Denoise
from mlx_video.diffusion.reductions import standardise
from mlx_video.types import Modality, Tree

Draw = Callable[[int, Modality], mx.array] | None
Blend = Callable[[Tree], Tree] | None

RES_2S_FLOOR = 0.0011
"""Where res_2s steps to instead of 0, which is endlessly far in log sigma; its last call is there."""


class Step(NamedTuple):
    """What a sampler yields: step `index` of `total` began at `sigma`; `x` is the result, `x0` its last prediction.

    memory: what the next step needs besides `x`, by modality; None for a sampler whose steps do not look back.
    """

    index: int  # type: ignore[assignment]  # a tuple's own `index` is of no use here
    total: int
    sigma: float
    x: Tree
    x0: Tree
    memory: Tree | None = None


def euler(
    x: Tree, sigmas: Sequence[float], denoise: Denoise, *, draw: Draw = None, blend: Blend = None,
    begin: int = 0, memory: Tree | None = None,
) -> Iterator[Step]:  # fmt: skip
    """First order: straight on along the velocity (x - x0) / sigma. Reference: euler_denoising_loop."""
    for index, total, sigma, after in _steps(sigmas, begin):
        x0 = denoise(x, sigma, index)
        x = _towards(x, x0, 1.0 - after / sigma)
        yield Step(index, total, sigma, x, x0)


def gradient_estimating_euler(
    x: Tree, sigmas: Sequence[float], denoise: Denoise, *, draw: Draw = None, blend: Blend = None,
    begin: int = 0, memory: Tree | None = None, gamma: float = 2.0,
) -> Iterator[Step]:  # fmt: skip
    """Euler with the velocity extrapolated from the last two (openreview o2ND9v0CeK).

    Reference: gradient_estimating_euler_denoising_loop.
    """
    last = memory
    for index, total, sigma, after in _steps(sigmas, begin):
        x0 = denoise(x, sigma, index)
        velocity = {m: (x[m] - x0[m]) / sigma for m in x}
        ahead = velocity if last is None else _towards(last, velocity, gamma)
        x = {m: x[m] + ahead[m] * (after - sigma) for m in x} if after > 0.0 else x0
        last = velocity
        yield Step(index, total, sigma, x, x0, last)


def ancestral_euler(
    x: Tree, sigmas: Sequence[float], denoise: Denoise, *, draw: Draw = None, blend: Blend = None,
    begin: int = 0, memory: Tree | None = None, eta: float = 1.0,
) -> Iterator[Step]:  # fmt: skip
    """Euler to a level below the next sigma, then back up with fresh noise; `eta` 0 is Euler, 1 fully ancestral.

    For rectified flow (signal 1 - sigma). The step to sigma 0 draws nothing. Reference: euler_ancestral_denoising_loop.
    """
    for index, total, sigma, after in _steps(sigmas, begin):
        x0 = denoise(x, sigma, index)
        if after == 0.0:
            x = x0
        elif draw is None or eta == 0.0 or sigma == after:
            x = _towards(x, x0, 1.0 - after / sigma)
        else:
            # In float32 as the reference has it: near sigma 1 little is left of 1 - down, and that shows in it.
            high, low, one = np.float32(sigma), np.float32(after), np.float32(1)
            down = low * (one + (low / high - one) * np.float32(eta))
            signal = float((one - low) / (one - down))
            up = math.sqrt(max(float(low**2 - down**2 * (one - low) ** 2 / (one - down) ** 2), 0.0))
            x = _towards(x, x0, float(one - down / high))
            x = _kept({m: x[m] * signal + draw(index, m) * up for m in x}, blend)
        yield Step(index, total, sigma, x, x0)


def res_2s(
    x: Tree, sigmas: Sequence[float], denoise: Denoise, *, draw: Draw = None, blend: Blend = None,
    begin: int = 0, memory: Tree | None = None, eta: float = 0.5,
) -> Iterator[Step]:  # fmt: skip
    """Second order in log sigma, an exponential Runge-Kutta step with a midpoint; noise after midpoint and step.

    Step i draws number 2i after its midpoint and 2i + 1 at its end. Where sigmas end in 0, the last step goes to
    `RES_2S_FLOOR` and one more prediction there is the result (part of the last step yielded).
    Reference: res2s_audio_video_denoising_loop with its defaults.
    """
    ends_clean = sigmas[-1] == 0.0
    for index, total, sigma, after in _steps([*sigmas[:-1], RES_2S_FLOOR] if ends_clean else sigmas, begin):
        h = math.log(sigma / after)
        half = -math.expm1(-h / 2)
        middle = math.sqrt(sigma * after)

        x0 = denoise(x, sigma, index)
        x_middle = _towards(x, x0, half)
        x_middle = _kept(_renoise(x, x_middle, sigma, middle, 0.5, draw, 2 * index), blend)
        if h < 0.5 and sigma > 0.03:
            # The reference moves the step's origin by 100 rounds of origin = x_middle - half * (x0 - origin), after
            # which it would have led to the noised midpoint. This is where they end.
            x = _towards(x0, x_middle, 1.0 / (1.0 - half))
        x0_middle = denoise(x_middle, middle, 0)  # step 0 is never skipped

        first, second = res_2s_weights(h)
        ahead = {m: x[m] + first * (x0[m] - x[m]) + second * (x0_middle[m] - x[m]) for m in x}
        x, x0 = _kept(_renoise(x, ahead, sigma, after, eta, draw, 2 * index + 1), blend), x0_middle
        if ends_clean and index == total - 1:
            x = x0 = denoise(x, RES_2S_FLOOR, total)
        yield Step(index, total, sigma, x, x0)


def res_2s_weights(h: float) -> tuple[float, float]:
    """How far a step of length `h` in log sigma goes towards its first prediction and the one at its midpoint.

    h (phi1(-h) - 2 phi2(-h)) and 2 h phi2(-h) with phi1(z) = (e^z - 1) / z and phi2(z) = (phi1(z) - 1) / z; they add up
    to 1 - e^-h.
    """
    reached = -math.expm1(-h)
    # Below 1e-4 the difference loses half its digits; two terms of its series are exact there.
    second = 2.0 * (h - reached) / h if h > 1e-4 else h * (1.0 - h / 3.0)
    return reached - second, second


def _renoise(origin: Tree, x: Tree, sigma: float, after: float, eta: float, draw: Draw, number: int) -> Tree:
    """`x`, reached from `origin` by a step from `sigma` to `after`, with part of its noise exchanged for a fresh draw.

    `eta` of the noise level is fresh; the draw is brought to mean 0 and deviation 1 over tokens and channels first.
    Reference: Res2sDiffusionStep (sigma_up = eta * sigma_next), _get_new_noise.
    """
    if draw is None or eta == 0.0 or sigma == after:
        return x
    fresh = after * min(eta, 0.9999)
    old = math.sqrt(after**2 - fresh**2)
    scale = 1.0 - after + old
    # The line from origin through x, followed down to where its noise is `old` against a signal of 1 - after.
    share = (sigma - old / scale) / (sigma - after)
    moved = _towards(origin, x, share)
    return {m: moved[m] * scale + standardise(draw(number, m)) * fresh for m in x}


def _steps(sigmas: Sequence[float], begin: int) -> Iterator[tuple[int, int, float, float]]:
    """(index, total, sigma, next sigma) of each step from `begin`; sigmas must not rise, and only the last may be 0."""
    total = len(sigmas) - 1
    if total < 1 or any(a <= 0.0 or a < b for a, b in pairwise(sigmas)) or sigmas[-1] < 0.0:
        raise ValueError(f"Sigmas fall from above 0 to 0 or more, in one step at least: {tuple(sigmas)}")
    for index, (sigma, after) in enumerate(islice(pairwise(sigmas), begin, None), begin):
        yield index, total, sigma, after


def _towards(start: Tree, end: Tree, way: float) -> Tree:
    """`way` of the way from `start` to `end`; equal tokens stay bit for bit, whatever the way."""
    return {m: start[m] + (end[m] - start[m]) * way for m in start}


def _kept(x: Tree, blend: Blend) -> Tree:
    return x if blend is None else blend(x)


class Sampler(NamedTuple):
    """A sampler by name: `run` it; it calls `denoise` `evaluations` times a step and `final` times at the end."""

    run: Callable[..., Iterator[Step]]
    evaluations: int = 1
    final: int = 0
    draws: int = 0
    """Noise injections in each step; 0 for a sampler that needs no `draw`."""

    def count(self, sigmas: Sequence[float]) -> int:  # type: ignore[override]
        """How often a run over `sigmas` calls `denoise`: the length of a progress bar."""
        return self.evaluations * (len(sigmas) - 1) + (self.final if sigmas[-1] == 0.0 else 0)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler),
    "gradient_estimating_euler": Sampler(gradient_estimating_euler),
    "ancestral_euler": Sampler(ancestral_euler, draws=1),
    "res_2s": Sampler(res_2s, evaluations=2, final=1, draws=2),
}
