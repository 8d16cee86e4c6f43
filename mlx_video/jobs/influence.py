"""How much the user's LoRAs change what the transformer predicts, measured before the first step.

The velocity of this prompt at the first noise level, without them and with them, over the tokens of one small picture
and its sound: two calls of some twenty tokens, where a step of a clip has thousands. A LoRA that was made for another
model, or is given at a strength near zero, fits by name and shape and does nothing; nobody sees that in the end. Knows
no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from mlx_video.diffusion.tokens import positions
from mlx_video.lending.adapters import Adapters, SetLoras, is_adapted
from mlx_video.types import AUDIO_BINS, AUDIO_CHANNELS, VIDEO_CHANNELS, AudioShape, Context, Tree, VideoShape

if TYPE_CHECKING:
    from mlx_video.jobs.settings import Settings

LEAST = 0.01
"""A relative change of the velocity below which no difference is seen in a clip."""
SIDE = 128
"""Pixels of the picture's sides; 16 tokens."""


def velocity(transformer: nn.Module, context: Context, settings: Settings) -> Tree:
    """What the transformer predicts for noise at the first noise level: (1, T, channels) by modality, float32."""
    shape = VideoShape(1, SIDE, SIDE, settings.request.fps)
    stage = settings.recipe.stages[0]
    sigma = settings.sigmas(stage, stage.of(settings.shape).tokens)[0]
    shapes = {m: shape if m == "video" else AudioShape.of(shape) for m in settings.modalities}
    widths = {"video": VIDEO_CHANNELS, "audio": AUDIO_CHANNELS * AUDIO_BINS}
    where: Tree = {m: positions(one) for m, one in shapes.items()}
    # Keys of its own: the draws of the run stay as they are, and a LoRA's measure is the same whatever else is asked.
    x: Tree = {
        m: mx.random.normal((1, where[m].shape[2], widths[m]), key=mx.random.key(n)) for n, m in enumerate(where)
    }
    prepared = transformer.prepare({"positive": context}, where)
    [found] = transformer(x, dict.fromkeys(where, sigma), prepared)
    result: Tree = {m: value.astype(mx.float32) for m, value in found.items()}
    mx.eval(result)
    return result


def change(before: Tree, after: Tree) -> float:
    """||after - before|| / ||before|| of the modality where it is more."""
    squares = [mx.square(after[m] - before[m]).sum() / mx.square(before[m]).sum() for m in before]
    return float(mx.sqrt(mx.stack(squares).max()))


def measured(
    adapters: Adapters, contexts: Mapping[str, Context], settings: Settings, say: Callable[[str], None]
) -> Callable[[nn.Module], SetLoras]:
    """`adapters.fuse`, which tells once what the user's LoRAs change; it adds the same in the same order.

    Where blocks are read from disk in every call nothing is measured, which would read all of them twice more.
    """
    told = not adapters.coverage

    def fuse(transformer: nn.Module) -> SetLoras:
        bring = adapters.fuse(transformer)

        def bring_and_tell(strengths: Mapping[str, float]) -> None:
            nonlocal told
            if not told and strengths.get("user"):
                told = True
                if is_adapted(transformer):  # by another clip of this run, which has told of it
                    bring(strengths)
                    return
                say(_tell(transformer, bring, strengths["user"]))
            bring(strengths)

        return bring_and_tell

    def _tell(transformer: nn.Module, bring: SetLoras, strength: float) -> str:
        what = adapters.coverage
        if adapters.beside_disk(transformer):
            return f"{what}; what it changes is not measured, since the transformer is read block by block."
        before = velocity(transformer, contexts["positive"], settings)
        bring({"user": strength})
        changed = change(before, velocity(transformer, contexts["positive"], settings))
        if changed < LEAST:
            return (
                f"{what}, but what the model predicts for this prompt changes by {changed:.2%}, under {LEAST:.0%}: "
                f"hardly anything will be seen of it. Was it made for this model, and is its strength right?"
            )
        return f"{what}; what the model predicts for this prompt changes by {changed:.0%}."

    return fuse
