"""Walks any recipe from contexts to final latents: one function for all pipelines.

The transformer is borrowed once and keeps its weights through all stages; only LoRA strengths change between them.
Knows stages, samplers and the transformer; knows no files and no codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.diffusion import conditioning
from mlx_video.diffusion.denoise import Denoise, blend, guided
from mlx_video.diffusion.noise import NamedNoise, draw_tokens
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.tokens import unpatchify
from mlx_video.lending.finite import Origin
from mlx_video.planning.settings import Settings
from mlx_video.types import AudioShape, Context, Modality, Pass, Progress, Stage, State, Tree, VideoShape

if TYPE_CHECKING:
    from mlx_video.lending.adapters import SetLora
    from mlx_video.lending.loader import Loader

Preview = Callable[[Progress, Tree], None]


@dataclass(frozen=True)
class Inputs:
    """What a run is steered by, ready as arrays."""

    contexts: Mapping[str, Context]
    conditions: Mapping[int, Sequence[conditioning.Condition]]
    """For the video, by stage number from 1."""
    sound: mx.array | None = None
    """Audio latent (1, 8, T, 16) that the video follows, frozen; None where sound is made or left out."""


@dataclass(frozen=True)
class Watcher:
    """Who is told of a run's progress and its end, and who is shown the prediction after each step."""

    report: Callable[[Progress], None]
    preview: Preview | None = None
    origin: Origin = field(default_factory=Origin)
    """Of the transformer's numbers, for who has to be told that they are none."""


def denoise_recipe(
    settings: Settings,
    loader: Loader,
    transformer: nn.Module,
    fuse: Callable[[nn.Module], SetLora],
    inputs: Inputs,
    noise: NamedNoise,
    watcher: Watcher,
) -> Tree:
    """Final latents of a run, normalised: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16).

    fuse: `Adapters.fuse`.
    """
    latents: Tree = {}
    kept: mx.array | None = None
    scale = None
    set_lora = fuse(transformer)
    for number, stage in enumerate(settings.recipe.stages, 1):
        shape = settings.shape.scaled(stage.scale)
        if scale is not None and stage.scale != scale:
            with loader.aside(transformer, **settings.build_options("transformer")):
                latents["video"] = upsample(loader, latents["video"], watcher)
            set_lora = fuse(transformer) if loader.ways.step_aside else set_lora
        set_lora(settings.lora_strengths[number - 1])
        latents = denoise_stage(settings, stage, number, shape, transformer, inputs, latents, noise, watcher)
        scale = stage.scale
        if number - 1 == settings.recipe.audio_from:
            kept = latents.get("audio")
    noise.finish()
    if kept is not None:
        latents["audio"] = kept
    return latents


def denoise_stage(
    settings: Settings,
    stage: Stage,
    number: int,
    shape: VideoShape,
    transformer: nn.Module,
    inputs: Inputs,
    latents: Tree,
    noise: NamedNoise,
    watcher: Watcher,
) -> Tree:
    """One stage: from `latents` (of the stage before; empty in the first) to the latents that it ends with."""
    shapes: dict[Modality, VideoShape | AudioShape] = {"video": shape}
    if "audio" in settings.modalities:
        shapes["audio"] = AudioShape.of(shape)
    sigmas = settings.sigmas(stage, shape.tokens)
    states = _start(number, shapes, inputs, latents, sigmas[0], noise)
    denoise = _denoiser(settings, stage, transformer, inputs, states)
    sampler = SAMPLERS[stage.sampler]

    def draw(k: int, modality: Modality) -> mx.array:
        return draw_tokens(
            noise, f"stage{number}/sde/{k}/{modality}", shapes[modality], states[modality].latent.shape[1]
        )

    platform.peak_memory()
    phase, total, done = f"stage {number}", sampler.count(sigmas), 0

    def counted(x: Tree, sigma: float, step: int) -> Tree:
        nonlocal done
        x0 = denoise(x, sigma, step)
        done += 1
        watcher.origin.check(f"{phase}, step {done} of {total},", x0)
        if done < total:
            watcher.report(Progress(phase, done, total))
        return x0

    watcher.report(Progress(phase, 0, total))
    x = {modality: state.latent for modality, state in states.items()}
    for step in sampler.run(x, sigmas, counted, draw=draw if sampler.draws else None, blend=blend(states)):
        x = step.x
        mx.eval(x)
        if watcher.preview is not None:
            now = {m: unpatchify(step.x0[m], shapes[m]) for m in step.x0}
            mx.eval(now)  # whoever looks at it may do so in another thread
            watcher.preview(Progress(phase, done, total), now)
    watcher.report(Progress(phase, total, total, platform.peak_memory()))
    result: Tree = {modality: unpatchify(value, shapes[modality]) for modality, value in x.items()}
    mx.eval(result)
    return result


def _start(
    number: int,
    shapes: Mapping[Modality, VideoShape | AudioShape],
    inputs: Inputs,
    latents: Tree,
    sigma: float,
    noise: NamedNoise,
) -> dict[Modality, State]:
    states = {}
    for modality, shape in shapes.items():
        conditions = list(inputs.conditions.get(number, ())) if modality == "video" else []
        if modality == "audio" and inputs.sound is not None:
            conditions.append(conditioning.Freeze(inputs.sound))
        latent = latents.get(modality)
        states[modality] = conditioning.start(
            shape,
            noise,
            f"stage{number}/{modality}",
            conditions=conditions,
            latent=latent,
            scale=1.0 if latent is None else sigma,
        )
    mx.eval(states)
    return states


def _denoiser(
    settings: Settings, stage: Stage, transformer: nn.Module, inputs: Inputs, states: Mapping[Modality, State]
) -> Denoise:
    wanted = {name: context for name, context in inputs.contexts.items() if name == "positive" or stage.guided}
    prepared = transformer.prepare(
        wanted,
        {modality: state.positions for modality, state in states.items()},
        {modality: state.mask[..., 0] for modality, state in states.items()},
    )

    def network(x: Tree, sigma: Mapping[Modality, float], passes: Sequence[Pass]) -> list[Tree]:
        return transformer(x, sigma, prepared, passes, batched=settings.batched)

    return guided(network, states, settings.guidance if stage.guided else {})


def upsample(loader: Loader, latent: mx.array, watcher: Watcher) -> mx.array:
    """A normalised video latent (1, 128, F, H, W) at twice its height and width; the network sees it un-normalised."""
    platform.peak_memory()
    watcher.report(Progress("upsample", 0, 1))
    with loader.borrow("latent_statistics") as statistics, loader.borrow_upsampler() as upsampler:
        raw = statistics.denormalize(latent.transpose(0, 2, 3, 4, 1).astype(loader.vae_dtype))
        result = statistics.normalize(upsampler(raw)).transpose(0, 4, 1, 2, 3).astype(mx.float32)
        Origin.of(loader, "latent_statistics", "spatial x2").check("upsampling", result)
    watcher.report(Progress("upsample", 1, 1, platform.peak_memory()))
    return result
