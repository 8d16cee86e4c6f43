"""Mistakes that a port of LTX-2.5 makes easily, each as a patch of our code; `traps25` makes them one at a time.

Not collected by pytest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_video.diffusion import conditioning, samplers
from mlx_video.jobs import stages
from mlx_video.models import families
from mlx_video.models.family import Generation
from mlx_video.models.ltx_2 import duration
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.diffusion_decoder import blocks
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.models.ltx_2.text_encoder import tokens
from mlx_video.models.ltx_2.text_encoder.gemma_config import Rotary
from mlx_video.models.ltx_2.text_encoder.language_model import TextRotation
from mlx_video.types.recipes import Recipe
from tests.models.test_gemma4 import _Contiguous

Patch = pytest.MonkeyPatch


def marks(change: Callable[[mx.array, Any], mx.array | None]) -> Callable[[Patch], object]:
    """What every video begins with is marked otherwise: `change(marks (1, T, 1), shape)`."""
    plain = conditioning.initial_state
    return lambda patch: patch.setattr(
        conditioning, "initial_state", lambda shape, *rest: (s := plain(shape, *rest))._replace(
            keyframes=None if s.keyframes is None else change(s.keyframes, shape))
    )  # fmt: skip


def unmarked_where_replaced(patch: Patch) -> None:
    """A clip that begins with a picture has no keyframe."""
    plain = conditioning.ReplaceFrame.apply
    patch.setattr(
        conditioning.ReplaceFrame, "apply",
        lambda self, state, shape: plain(self, state, shape)._replace(keyframes=mx.zeros_like(state.keyframes)),
    )  # fmt: skip


def appended(kind: type, mark: float) -> Callable[[Patch], object]:
    """Tokens that a condition of this kind appends are marked so."""
    plain = kind.apply

    def apply(self: Any, state: Any, shape: Any) -> Any:
        after = plain(self, state, shape)
        old = state.latent.shape[1]
        new = mx.full((1, after.latent.shape[1] - old, 1), mark)
        return after._replace(keyframes=mx.concatenate([after.keyframes[:, :old], new], axis=1))

    return lambda patch: patch.setattr(kind, "apply", apply)


def second_stage_unmarked(patch: Patch) -> None:
    """The second stage is told of no keyframe."""
    plain = stages.Denoising._begin

    def begin(self: Any, number: int, *rest: Any) -> Any:
        states = plain(self, number, *rest)
        return states | ({"video": states["video"]._replace(keyframes=None)} if number == 2 else {})

    patch.setattr(stages.Denoising, "_begin", begin)


def sampler(*kinds: str) -> Callable[[Patch], object]:
    """Other samplers in LTX-2.5's distilled stages."""

    def change(found: Recipe) -> Recipe:
        return replace(found, stages=tuple(replace(s, sampler=k) for s, k in zip(found.stages, kinds, strict=True)))

    return lambda patch: _recipe(patch, "distilled", change)


def _recipe(patch: Patch, name: str, change: Callable[[Recipe], Recipe]) -> None:
    plain = Generation.recipe

    def recipe(self: Generation, given: Recipe, reference: str | None = None) -> Recipe:
        found = plain(self, given, reference)
        return change(found) if self.name == "2.5" and found.name == name else found

    patch.setattr(Generation, "recipe", recipe)


def _in_last_step(x: Any, sigmas: Any, denoise: Any, *, draw: Any = None, **rest: Any) -> Any:
    for step in samplers.ancestral_euler(x, sigmas, denoise, draw=draw, **rest):
        last = step.index == step.total - 1
        noise = {m: step.x[m] + 0.1 * draw(step.index, m) for m in step.x} if last else step.x
        yield step._replace(x=noise)


def spoilt_sampler(patch: Patch) -> None:
    """Noise in the last step too."""
    patch.setitem(samplers.SAMPLERS, "ancestral_euler", samplers.Sampler(_in_last_step, draws=1))


def no_keyframes(patch: Patch) -> None:
    """The config's flag is not read."""
    _reading(patch, lambda found: replace(found, keyframe_embedding=False))


def older_crf(patch: Patch) -> None:
    """Pictures compressed as for older generations."""
    newest = families.DEFAULT.generations[-1]
    patch.setitem(newest.defaults, "image_crf", 33)


def swapped(patch: Patch) -> None:
    """Scale and shift of the decoder's last stage in the other order."""
    for name, value in (("SCALE", 1), ("SHIFT", 0), ("FEED_SCALE", 4), ("FEED_SHIFT", 3)):
        patch.setattr(blocks, name, value)


def same_stream(patch: Patch) -> None:
    """Fresh noise is the first noise again."""
    plain = stages.draw_tokens
    patch.setattr(stages, "draw_tokens", lambda noise, name, *rest: plain(noise, re.sub(r"/sde/\d+", "", name), *rest))


def sound_of_the_second(patch: Patch) -> None:
    """Two-stage runs hand on the sound that the second stage has made."""
    _recipe(patch, "dev-two-stage", lambda found: replace(found, audio_from=1))


def by_sound_alone(patch: Patch) -> None:
    """A duration is told from the sound's context alone where there is one."""
    plain = duration.DurationHead.__call__
    patch.setattr(duration.DurationHead, "__call__", lambda self, v, a: plain(self, None if a is not None else v, a))


def no_audio_bias(patch: Patch) -> None:
    """What the config says of the video's biases is taken for the sound too."""

    def change(found: TransformerConfig) -> TransformerConfig:
        bias = found.video.feed_forward_bias
        return replace(found, audio=found.audio and replace(found.audio, feed_forward_bias=bias))

    _reading(patch, change)


def _reading(patch: Patch, change: Callable[[TransformerConfig], TransformerConfig]) -> None:
    plain = TransformerConfig.read
    read = lambda *given, **options: change(plain(*given, **options))  # noqa: E731
    patch.setattr(TransformerConfig, "read", read)
    patch.setitem(COMPONENTS, "transformer", COMPONENTS["transformer"]._replace(read=read))


def ropes(chosen: Callable[[Any], Rotary]) -> Callable[[Any], None]:
    """The layers that see everything turn otherwise; `chosen` is of the network's config."""

    def spoil(network: Any) -> None:
        for layer in network.model.layers:
            if layer.self_attn.shared:
                layer.self_attn.rope = TextRotation(layer.self_attn.head_dim, chosen(network.config))

    return spoil


def quarter(network: Any) -> None:
    """The first quarter of a head is turned, and not pairs half a head apart."""
    for layer in network.model.layers:
        if layer.self_attn.shared:
            layer.self_attn.rope = _Contiguous(layer.self_attn.head_dim, network.config.far.rotary)


def tail(self: Any, prompt: str) -> list[int]:
    """Ids of a long prompt's end; a tokenizer's `encode`."""
    return self._begun(self.words.encode(prompt.strip(), add_special_tokens=False).ids[-tokens.CONTEXT_TOKENS :])[:1024]


def spaced(patch: Patch) -> None:
    """A space before every prompt."""
    patch.setattr(tokens.Tokenizer, "encode", lambda self, prompt: [2, *self.words.encode(" " + prompt).ids])


def put(owner: Any, name: str, value: Any) -> Callable[[Patch], object]:
    """A mistake that is another value of something."""
    return lambda patch: patch.setattr(owner, name, value)


def scale(self: Any, key: str, rank: int) -> float:
    """Of a LoRA's pair of matrices, by the alpha that the published file states."""
    return 450 / rank
