"""The one loop: walks the stages of any recipe, and the windows of each, from what is given to final latents.

The transformer is borrowed once and keeps its weights through all stages; only LoRA strengths change between them. What
a run before has kept is not made again; from there the numbers are the same, bit for bit.
Knows stages, samplers and the transformer; knows no files and no codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.diffusion.conditioning import Condition, Freeze, ReplaceFrame, start
from mlx_video.diffusion.denoise import Denoise, blend, guided
from mlx_video.diffusion.noise import NamedNoise, draw_tokens
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.segments import MOST_FPS, Tile, merged
from mlx_video.diffusion.tokens import unpatchify, video_positions
from mlx_video.jobs.keep import Keep, Reached
from mlx_video.jobs.settings import Settings
from mlx_video.lending.finite import Origin
from mlx_video.types import (
    TIME_SCALE,
    AudioShape,
    Context,
    Listener,
    Modality,
    Pass,
    Phase,
    Progress,
    State,
    Tree,
    VideoShape,
    Watch,
)
from mlx_video.types.recipes import Stage

if TYPE_CHECKING:
    from mlx_video.lending.adapters import SetLoras
    from mlx_video.lending.loader import Loader

Shapes = dict[Modality, VideoShape | AudioShape]


@dataclass(frozen=True)
class Inputs:
    """What a run starts from and is steered by, ready as arrays."""

    contexts: Mapping[str, Context]
    conditions: Mapping[tuple[int, Modality], Sequence[Condition]] = field(default_factory=dict)
    """By stage number from 1 and modality."""
    latents: Tree = field(default_factory=dict)
    """What the first stage is given."""


class Part(NamedTuple):
    """Part `index` (from 0) of stage `number` (from 1): what its draws are named by, and its shapes."""

    number: int
    index: int  # type: ignore[assignment]  # a tuple's own `index` is of no use here
    stage: Stage
    name: str
    shapes: Shapes


@dataclass(frozen=True)
class Denoising:
    """One run of a recipe, with everything that it takes."""

    settings: Settings
    loader: Loader
    transformer: nn.Module
    fuse: Callable[[nn.Module], SetLoras]
    """`Adapters.fuse`."""
    inputs: Inputs
    noise: NamedNoise
    watch: Watch
    origin: Origin = field(default_factory=Origin)
    """Of the transformer's numbers, for who has to be told that they are none."""
    keep: Keep = field(default_factory=Keep)
    keyframes: dict[int, mx.array] = field(default_factory=dict, init=False)
    """Those that stages have made beside the video so far, by the stage's number: (1, 128, n, H, W)."""
    in_turns: bool = False
    """Whether several runs share one transformer: then nothing, {}, is given wherever an upsampler has been used."""

    def run(self) -> Iterator[Tree]:
        """Latents after each stage, normalised: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16).

        The last are the result; a run that ended early can go on from those of a stage.
        """
        recipe, latents = self.settings.recipe, self.inputs.latents
        shipped: Tree = {}
        set_loras, build = self.fuse(self.transformer), self.settings.build_options("transformer")
        before: list[dict[str, float]] = []
        kept: tuple[Tree, mx.array | None] | None = latents, None  # after a stage that is made nothing kept is used
        for number, stage in enumerate(recipe.stages, 1):
            strengths = {"user": 1.0, **stage.loras, "distilled": self.settings.lora_strengths[number - 1]}
            anew = bool(stage.upsample) and self.loader.ways.step_aside
            kept = self.keep.stage(number) if kept is not None else None
            if kept is not None:
                # Weights that LoRAs were added to in two steps are not those of one: the steps are made up for later.
                before = [*([] if anew else before), strengths]
                made, keyframes = kept
                self.keyframes.update({} if keyframes is None else {number: keyframes})
            else:
                for kind in stage.upsample:
                    with self.loader.aside(self.transformer, **build):
                        latents = {**latents, "video": self._upsampled(latents["video"], number, kind)}
                        if self.in_turns:
                            yield {}  # all others use that upsampler before the transformer comes back
                    set_loras = self.fuse(self.transformer) if anew else set_loras
                for each in (*([] if anew else before), strengths):
                    set_loras(each)
                before = []
                made = self.stage(number, stage, latents)
                self.keep.put_stage(number, made, self.keyframes.get(number))
            latents = {**latents, **made} if stage.silent else made
            if number - 1 == recipe.audio_from:
                shipped = {m: latents[m] for m in latents if m == "audio"}
            if number == len(recipe.stages):
                self.noise.finish()
                latents = {**latents, **shipped}
            yield latents

    def _upsampled(self, latent: mx.array, number: int, kind: str) -> mx.array:
        """The video that a stage begins with, larger; the keyframes of the stage before as well."""
        larger = upsample(latent, kind, self.loader, self.watch.report, Phase.UPSAMPLE)
        before = self.keyframes.get(number - 1)
        if before is not None and kind.startswith("spatial"):  # in time they are single frames
            self.keyframes[number - 1] = upsample(before, kind, self.loader, self.watch.report, Phase.UPSAMPLE)
        return larger

    def stage(self, number: int, stage: Stage, given: Tree) -> Tree:
        """One stage: from `given` (what the stage before ended with) to the latents that it ends with."""
        settings, sampler = self.settings, SAMPLERS[stage.sampler]
        whole, tiles = stage.of(settings.shape), settings.tiles(stage)
        if stage.rate > 1:
            whole = whole._replace(fps=min(whole.fps, MOST_FPS))
        sigmas = settings.sigmas(stage, whole.tokens)
        spans = stage.window.spans(whole.grid[0]) if stage.window else [(0, whole.grid[0])]
        spans = [tile.span for tile in tiles] or spans
        phase = stage.phase or Phase.STAGE.numbered(number)
        steps = platform.Steps(phase, len(spans) * sampler.count(sigmas), self.watch.report)
        done, parts, fresh = self.keep.parts(number)
        ready = spans[done - 1][1] if done else 0
        for k, (begin, stop) in enumerate(spans[done:], done):
            name = (stage.phase or f"stage{number}") + (f"/{k}" if stage.window or stage.tiles else "")
            shape = whole._replace(frames=(stop - begin - 1) * TIME_SCALE + 1)
            shapes: Shapes = {"video": shape}
            if "audio" in settings.modalities and not stage.silent:
                shapes["audio"] = AudioShape.of(shape)
            held = mx.concatenate(parts, axis=2)[:, :, begin:] if stage.window and begin else None
            part = {m: a[:, :, begin:stop] if m == "video" else a for m, a in given.items()}
            tile = tiles[k] if tiles else None
            states = self._begin(number, stage, name, shapes, part, held, sigmas[0], tile)
            steps.done = k * sampler.count(sigmas)
            x = self._denoise(Part(number, k, stage, name, shapes), states, sigmas, steps)
            made: Tree = {modality: unpatchify(value, shapes[modality]) for modality, value in x.items()}
            parts.append(made["video"][:, :, ready - begin :])
            fresh += [] if tile is None else [tile.keyframes(x["video"], shape.grid)]
            mx.eval(made, parts, fresh)
            ready = stop
            if k + 1 < len(spans):
                self.keep.put_parts(number, k + 1, parts, fresh)
        steps.tell(steps.total)
        if tiles:
            own = mx.concatenate(fresh, axis=2)
            self.keyframes[number] = merged(self.keyframes[number - 1], own) if stage.tiles else own
            mx.eval(self.keyframes[number])
        return {**made, "video": parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)}

    def _begin(
        self,
        number: int,
        stage: Stage,
        name: str,
        shapes: Shapes,
        given: Tree,
        held: mx.array | None,
        sigma: float,
        tile: Tile | None,
    ) -> dict[Modality, State]:
        """What the sampler begins with. held: finished latents that a later window begins with."""
        states: dict[Modality, State] = {}
        for modality, shape in shapes.items():
            conditions = list(self.inputs.conditions.get((number, modality), ()))
            if tile is not None and modality == "video":
                conditions = tile.conditions(conditions, self.keyframes.get(number - 1), given.get("video"))
            conditions += [Freeze(given[modality])] if modality in stage.frozen else []
            conditions += [] if held is None else [ReplaceFrame(held)]
            begin: dict[str, Any] = {} if stage.start == "noise" else {"latent": given[modality], "scale": sigma}
            states[modality] = start(shape, self.noise, f"{name}/{modality}", conditions=conditions, **begin)
        if held is not None:
            # Only the clip's first latent stands for a single frame; a later window starts on one of eight.
            video = cast(VideoShape, shapes["video"])
            frames, rows, columns = video.grid
            positions = video_positions((frames + 1, rows, columns), video.fps)[:, :, rows * columns :]
            states["video"] = states["video"]._replace(positions=positions, keyframes=None)
        mx.eval(states)
        return states

    def _denoise(
        self, part: Part, states: Mapping[Modality, State], sigmas: Sequence[float], steps: platform.Steps
    ) -> Tree:
        """The tokens that it ends with, those that conditions have appended among them."""
        number, k, stage, name, shapes = part
        sampler, reached = SAMPLERS[stage.sampler], self.keep.reached(number, k)
        repeated = dict(reached.repeated)
        denoise = self._denoiser(stage, states, repeated)
        if reached.step:
            steps.tell(steps.done + sampler.evaluations * reached.step, end=False)

        def draw(k: int, modality: Modality) -> mx.array:
            tokens = states[modality].latent.shape[1]
            return draw_tokens(self.noise, f"{name}/sde/{k}/{modality}", shapes[modality], tokens)

        def counted(x: Tree, sigma: float, step: int) -> Tree:
            x0 = denoise(x, sigma, step)
            self.origin.check(f"{steps.phase}, step {steps.done + 1} of {steps.total},", x0)
            steps.tell(steps.done + 1, end=False)
            return x0

        x = reached.x or {modality: state.latent for modality, state in states.items()}
        own: dict[str, Any] = {} if stage.eta is None else {"eta": stage.eta}
        own |= {"draw": draw if sampler.draws else None, "blend": blend(states)}
        for step in sampler.run(x, sigmas, counted, begin=reached.step, memory=reached.memory, **own):
            x = step.x
            mx.eval(x, step.memory, repeated)
            self.keep.put_reached(number, k, Reached(step.index + 1, x, step.memory, repeated))
            now = Progress(steps.phase, steps.done, steps.total)
            if self.watch.preview is not None:
                shown: Tree = {m: unpatchify(step.x0[m], shapes[m]) for m in step.x0}
                mx.eval(shown)  # whoever looks at it may do so in another thread
                self.watch.preview(now, shown)
            self.watch.stepped(now)
        return x

    def _denoiser(self, stage: Stage, states: Mapping[Modality, State], repeated: Tree) -> Denoise:
        contexts = self.inputs.contexts
        wanted = {name: context for name, context in contexts.items() if name == "positive" or stage.guided}
        prepared = self.transformer.prepare(
            wanted,
            {modality: state.positions for modality, state in states.items()},
            {modality: state.mask[..., 0] for modality, state in states.items()},
            states["video"].keyframes,
        )

        def network(x: Tree, sigma: Mapping[Modality, float], passes: Sequence[Pass], **still: Any) -> list[Tree]:
            return self.transformer(x, sigma, prepared, passes, batched=self.settings.batched, **still)

        return guided(network, states, self.settings.guidance if stage.guided else {}, repeated)


def upsample(latent: mx.array, kind: str, loader: Loader, report: Listener, phase: str) -> mx.array:
    """A normalised video latent (1, 128, F, H, W), larger or with more frames; the network sees it un-normalised.

    Reference: `upsample_video`.
    """
    statistics: Any
    network: Any
    with loader.borrow("latent_statistics") as statistics, loader.borrow_upsampler(kind) as network:
        raw = statistics.denormalize(latent.transpose(0, 2, 3, 4, 1).astype(loader.vae_dtype))
        steps = platform.Steps(phase, network.walks(raw), report)
        larger = network.long(raw, report=lambda done, total: steps.tell(done))
        result: mx.array = statistics.normalize(larger).transpose(0, 4, 1, 2, 3).astype(mx.float32)
        Origin.of(loader, "latent_statistics", kind).check("upsampling", result)
    return result
