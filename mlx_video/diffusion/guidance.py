"""Steering by comparison: which extra passes of the network a guidance needs, and how their predictions combine.

Works on predictions of the clean latent (x0), tokens (B, T, 128) float32, one modality at a time. Knows no network: a
`Pass` only says what a network should do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import mlx.core as mx

from mlx_video.diffusion.reductions import deviation, total
from mlx_video.types import Guidance, Modality, Pass

POSITIVE, NEGATIVE, PERTURBED, ISOLATED = "positive", "negative", "perturbed", "isolated"


def plan(guidance: Mapping[Modality, Guidance], present: Collection[Modality]) -> dict[str, Pass]:
    """The passes of one step, by what they are for, in the reference's order; modalities share every pass.

    `guidance` of the modalities that are steered (not of one that is frozen or absent); `present` are those that the
    network sees. The prediction for the prompt comes first and always; the others only where some scale uses them and
    they would differ from it: with one modality there is nothing to isolate from.
    """
    steered = [(m, g) for m, g in guidance.items() if m in present]
    passes = {POSITIVE: Pass()}
    if any(g.cfg_scale != 1.0 for _, g in steered):
        passes[NEGATIVE] = Pass(context=NEGATIVE)
    skipped = tuple((m, frozenset(g.stg_blocks)) for m, g in steered if g.stg_scale != 0.0 and g.stg_blocks)
    if skipped:
        passes[PERTURBED] = Pass(skip_self_attention=skipped)
    if len(present) > 1 and any(g.modality_scale != 1.0 for _, g in steered):
        passes[ISOLATED] = Pass(cross_modal=False)
    return passes


def combine(guidance: Guidance, x0: Mapping[str, mx.array]) -> mx.array:
    """One modality's guided prediction from its predictions by pass name, as `plan` names them.

    With scales c, s, m for text, perturbation and modality:
    positive + (c - 1) (positive - negative) + s (positive - perturbed) + (m - 1) (positive - isolated), then pulled
    back to the standard deviation of `positive` by `rescale`. A pass that `plan` left out adds nothing.
    Reference: MultiModalGuider.calculate.
    """
    positive = x0[POSITIVE]
    guided = positive
    if guidance.cfg_scale != 1.0:
        guided = guided + (guidance.cfg_scale - 1.0) * text_direction(guidance, positive, x0[NEGATIVE])
    if guidance.stg_scale != 0.0 and PERTURBED in x0:
        guided = guided + guidance.stg_scale * (positive - x0[PERTURBED])
    if guidance.modality_scale != 1.0 and ISOLATED in x0:
        guided = guided + (guidance.modality_scale - 1.0) * (positive - x0[ISOLATED])
    if guidance.rescale != 0.0 and guided is not positive:
        # One deviation for the whole tensor, appended tokens included.
        ratio = deviation(positive) / deviation(guided)
        guided = guided * (guidance.rescale * ratio + (1.0 - guidance.rescale))
    return guided


def text_direction(guidance: Guidance, positive: mx.array, negative: mx.array) -> mx.array:
    """Where text guidance points: positive - negative, projected as `guidance` asks. (B, T, 128) -> (B, T, 128).

    Reference: CFGGuider, CFGStarRescalingGuider (arXiv 2503.18886), LtxAPGGuider (arXiv 2410.02416). Norms and
    projections are of each batch item.
    """
    if guidance.cfg_star:
        negative = project(positive, negative)
    direction = positive - negative
    if guidance.apg_threshold > 0.0:
        norm = mx.sqrt(total(mx.square(direction)))[:, None, None]
        direction = direction * mx.minimum(1.0, guidance.apg_threshold / norm)
    if guidance.apg_eta != 1.0:
        direction = direction + (guidance.apg_eta - 1.0) * project(direction, positive)
    return direction


def project(vector: mx.array, onto: mx.array) -> mx.array:
    """The part of each batch item of `vector` that is parallel to the one of `onto`: (B, ...) -> (B, ...)."""
    share = total(vector * onto) / (total(mx.square(onto)) + 1e-8)
    return share.reshape(-1, *(1,) * (onto.ndim - 1)) * onto
