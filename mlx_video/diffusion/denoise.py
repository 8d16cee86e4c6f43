"""From a network's velocities to the one function that samplers see: `denoise(x, sigma, step) -> x0`.

Guidance, masks, frozen modalities and skipped steps end here. Knows no network (it is handed one as a function) and no
sampler. Everything is float32; the network casts to its own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx

from mlx_video.diffusion.guidance import combine, plan
from mlx_video.types import Guidance, Modality, State, Tree

Network = Callable[..., list[Tree]]
"""network(x, sigma of each modality, passes) -> the velocities of each pass; tokens (B, T, 128). Only where a step is
skipped for one of two modalities is it also given `still=`, the modalities that it need not compute."""
Denoise = Callable[[Tree, float, int], Tree]
"""denoise(x, sigma, step) -> the prediction of the clean tokens, kept tokens put back."""


def guided(
    network: Network,
    states: Mapping[Modality, State],
    guidance: Mapping[Modality, Guidance],
    repeated: Tree | None = None,
) -> Denoise:
    """All passes that `guidance` needs, combined for each modality, then blended with what conditioning keeps.

    The network's own timesteps are mask * sigma for each token; a frozen modality has sigma 0 and no guidance.
    Where one modality is frozen, the caller's "negative" context gives that modality its positive text, as the
    reference's audio-to-video pipeline does. repeated: the predictions that skipped steps repeat; brought up to date in
    place, so that who keeps them can go on from there. Reference: GuidedDenoiser, SimpleDenoiser.
    """
    unmoved = frozen(states)
    moving = [m for m in states if m not in unmoved]
    keep = blend(states)
    last: Tree = {} if repeated is None else repeated

    def denoise(x: Tree, sigma: float, step: int) -> Tree:
        skipped = frozenset(m for m in last if step % (guidance[m].skip_step + 1))
        computed = [m for m in moving if m not in skipped]
        predictions: Tree = {**x, **last}
        if computed:
            passes = plan({m: guidance[m] for m in computed if m in guidance}, states)
            levels = {m: 0.0 if m in unmoved else sigma for m in x}
            velocities = network(x, levels, list(passes.values()), **({"still": skipped} if skipped else {}))
            for m in computed:
                timesteps = states[m].mask * sigma
                x0 = {name: to_x0(x[m], v[m], timesteps) for name, v in zip(passes, velocities, strict=True)}
                predictions[m] = combine(guidance.get(m, Guidance()), x0)
        last.update({m: predictions[m] for m in computed if m in guidance and guidance[m].skip_step})
        return keep(predictions)

    return denoise


def to_x0(x: mx.array, velocity: mx.array, timesteps: mx.array) -> mx.array:
    """x0 = x - velocity * timesteps in float32: (B, T, 128), (B, T, 128), (B, T, 1). Reference: to_denoised."""
    return x - velocity.astype(mx.float32) * timesteps


def blend(states: Mapping[Modality, State]) -> Callable[[Tree], Tree]:
    """A function that puts kept tokens back: x * mask + clean * (1 - mask), and `clean` itself where all is kept.

    Reference: post_process_latent.
    """
    unmoved = frozen(states)

    def keep(x: Tree) -> Tree:
        return {
            m: states[m].clean if m in unmoved else value * states[m].mask + states[m].clean * (1.0 - states[m].mask)
            for m, value in x.items()
        }

    return keep


def frozen(states: Mapping[Modality, State]) -> frozenset[Modality]:
    """The modalities of which every token is kept as it is."""
    return frozenset(m for m, state in states.items() if mx.max(state.mask).item() == 0.0)
