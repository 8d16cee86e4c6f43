"""A clip from a request: text, inputs, denoising, one large network at a time.

`Run` is a recipe on a checkpoint, which other jobs denoise with, too. Everything that can be refused is refused in
`check` and `open`, from headers and the user's own files; no tensor of a network is read before `run`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.hub.fetch import Take
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.provenance import described
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion.noise import DECODING, NamedNoise, draws, seeded
from mlx_video.jobs import embeddings, text
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs.decode import Decoders
from mlx_video.jobs.demand import Networks, generating
from mlx_video.jobs.settings import Settings, resolve
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.lending.adapters import Adapters
from mlx_video.lending.distilled import brings_distilled, choose
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.models.families import RECIPES
from mlx_video.planning.plan import Plan, make_plan
from mlx_video.reading import path_of
from mlx_video.request import Request
from mlx_video.results.clip import Clip
from mlx_video.results.look import Look
from mlx_video.types import Context, Noise, Recipe, Stage, Tree, Watch, frames_of

if TYPE_CHECKING:
    from mlx_video.runner import Runner


@dataclass(frozen=True)
class Run:
    """A recipe on a checkpoint, found to go together; nothing in it holds weights."""

    settings: Settings
    loader: Loader
    encoder: TextSource | None
    """None where the prompt is encoded already."""
    adapters: Adapters
    messages: tuple[str, ...]
    """What the user should know, such as a LoRA's coverage."""
    writer: TextSource | None = None
    """What writes the prompt out; None where it is taken as it is."""

    @classmethod
    def open(cls, request: Request, recipe: Recipe, runner: Runner, loader: Loader, take: Take) -> Run:
        """Raises UserError where request, checkpoint, text encoder and LoRAs do not go together."""
        loras = choose(request, (*runner.loras, *request.lora), recipe, loader.checkpoint, take)
        if loras.distilled != loader.checkpoint.distilled_lora:
            loader.checkpoint = replace(loader.checkpoint, distilled_lora=loras.distilled)
        checkpoint = loader.checkpoint
        recipe = checkpoint.generation.recipe(recipe, request.reference_version)
        settings = resolve(loras.request, recipe, checkpoint)
        embedded = request.embedding is not None
        encoder = None
        if not embedded:
            loader.checkpoint, encoder = locate.text_encoder(runner.text_encoder, checkpoint, take)
        writer = None
        if encoder is not None and request.enhance_prompt:
            writer = locate.prompt_writer(request.prompt_writer, encoder, checkpoint, take)
        for component in settings.components:
            loader.check(component, **settings.build_options(component))
        for kind in recipe.upsamplers:
            loader.check("upsampler", kind=kind)
        messages = [*settings.notes, *loras.told(settings.lora_strengths), *filter(None, [checkpoint.doubt])]
        adapters = Adapters.open(loras.own, settings, loader.checkpoint, messages.append, take)
        return cls(settings, loader, encoder, adapters, tuple(messages), writer)

    def contexts(self, watch: Watch) -> dict[str, Context]:
        """The settings' prompts, encoded."""
        assert self.encoder is not None
        return text.encode_prompts(self.loader, self.encoder, self.settings.prompts, watch.report)

    def denoise(self, inputs: Inputs, noise: NamedNoise, watch: Watch) -> Iterator[Tree]:
        """Latents after each stage; the last are the result."""
        origin = Origin.of(self.loader, "transformer", loras=self.adapters.used)
        with self.loader.borrow("transformer", **self.settings.build_options("transformer")) as transformer:
            fuse = self.adapters.fuse
            stages = Denoising(self.settings, self.loader, transformer, fuse, inputs, noise, watch, origin)
            yield from stages.run()


class Generate:
    """One clip. Jobs that differ in what they start from are given other `recipes` and `inputs`."""

    recipes: Mapping[str, Recipe] = RECIPES
    _run: Run
    _media: conditions.Media
    _embedded: dict[str, Context]
    _decoding: Noise | None = None
    _about: dict[str, Any] | None = None
    _where: str = ""
    plan: Plan
    ways: Ways

    def __init__(self, request: Request, noise: Noise | Mapping[str, Any] | None = None):
        """noise: as `LTXPipeline.generate` takes it."""
        self.request, self._noise = request, noise

    def check(self, watch: Watch) -> None:
        """What needs no model; tells what is rounded."""
        self._recipe = self.request.check(self.recipes)
        self.request, notes = self.request.rounded()
        for note in notes:
            watch.say(note)
        if self.request.seconds is not None:
            # What is looked at beforehand is the longest that the prompt may ask for.
            self.request = replace(self.request, num_frames=self.request.lengths[1])

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Raises UserError where request, checkpoint, inputs and memory do not go together."""
        request, recipe, take = self.request, self._recipe, outlines.take
        self._where = runner.where
        brought = brings_distilled(request, (*runner.loras, *request.lora), recipe)
        found = runner.checkpoint(
            recipe, text_encoder=request.embedding is None, lora=not brought, parts=_own_files(request), take=take
        )
        self._run = run = Run.open(request, recipe, runner, runner.loader(found), take)
        self._embedded = _embedded(run, whole=not outlines.absent)
        self.plan = make_plan(
            generating(Networks.of(run.loader, run.encoder, run.adapters.sizes, run.writer), run.settings),
            runner.memory,
        )
        run.loader.ways = self.ways = self.plan.ways
        self._media = conditions.read(run.settings)
        advice = (demo.advice(request.prompt), demo.reach(request.shape)) if runner.where == demo.NAME else ()
        return (*run.messages, *filter(None, advice))

    def run(self, watch: Watch) -> Clip:
        """The clip; nothing of it is decoded yet."""
        for sentence in self.plan.choices:
            watch.say(sentence)
        with closing(self.clips(watch)) as clips:
            *_, clip = clips
        return clip

    def clips(self, watch: Watch) -> Generator[Clip, None, None]:
        """What each stage ends with, as a clip of that stage's size that can be stored; the last is the result."""
        noise, run, contexts = draws(self.request.seed, self._noise), self._run, self._embedded
        if run.encoder is not None:
            if run.writer is not None:
                self._run = run = replace(run, settings=text.enhanced(run.settings, run.writer, watch))
            contexts = run.contexts(watch)
        if self.request.seconds is not None:
            self._run = run = self._lasting(run, contexts["positive"], watch)
        inputs = self.inputs(contexts, watch)
        self._decoding = self._drawn(noise)
        for stage, latents in zip(run.settings.recipe.stages, run.denoise(inputs, noise, watch), strict=True):
            yield self._clip(latents, stage)

    def _lasting(self, run: Run, context: Context, watch: Watch) -> Run:
        """The run as long as the prompt asks for; sound or not, both contexts tell (reference: 1.2.0's pipelines)."""
        request = self.request
        assert request.seconds is not None
        with run.loader.borrow("duration_head") as head:
            seconds = head.seconds(context.video.astype(mx.float32), context.audio.astype(mx.float32))
        frames = frames_of(seconds, request.fps, request.seconds)
        watch.say(f"The prompt asks for {seconds:.1f} seconds: the clip has {frames} frames.")
        lasting = replace(run.settings.request, num_frames=frames, auto_duration=None)
        settings = replace(run.settings, request=lasting)
        self.request, self._media = settings.request, conditions.read(settings)
        return replace(run, settings=settings)

    def _drawn(self, noise: NamedNoise) -> Noise | None:
        """What a diffusion decoder makes the result of, where that was handed in."""
        settings, loader = self._run.settings, self._run.loader
        if settings.request.video_decoder != "diffusion" or self._noise is None:
            return None
        part = loader.checkpoint.part("diffusion_decoder")
        shape = loader.checkpoint.family.costs().diffuse_noise(part.settings, settings.decoded.grid)
        array, own = noise(DECODING, shape), seeded(settings.request.seed)
        # The clips of earlier stages are smaller.
        return lambda name, wanted: array if wanted == shape else own(name, wanted)

    def inputs(self, contexts: Mapping[str, Context], watch: Watch) -> Inputs:
        """What the run starts from and is steered by."""
        return conditions.encode(self._media, contexts, self._run.settings, self._run.loader, watch.report)

    def _described(self, settings: Settings) -> dict[str, Any]:
        if self._about is None:
            loader = self._run.loader
            where = {"model_repo": self._where} if self._where == demo.NAME or locate.is_hub_id(self._where) else {}
            self._about = described(settings, loader.checkpoint, {**where, **loader.computed}, self._run.encoder)
        return self._about

    def _clip(self, latents: Tree, stage: Stage) -> Clip:
        settings, loader, media = self._run.settings, self._run.loader, self._media
        request, made = settings.request, stage.of(settings.shape)
        shown = stage.of(request.shape)
        latents = {m: a[:, :, : shown.grid[0]] if m == "video" else a for m, a in latents.items()}
        look = Look.cut(shown, made, latents, media.sound, rate=settings.rate(stage), tiling=request.tiling,
                       stream=request.stream, decoder=request.video_decoder or "conv", seed=request.seed)  # fmt: skip
        files = conditions.files_of(request)
        metadata = self._described(settings)
        return Clip(latents, look, metadata, Decoders(loader, self._decoding), given=media.sound, inputs=files)


def _own_files(request: Request) -> tuple[str, ...]:
    """What a run takes of a repo besides what every run does, as `hub.rules` names it."""
    wanted = {"diffusion video VAE": request.video_decoder == "diffusion", "duration head": request.seconds is not None}
    return tuple(kind for kind, used in wanted.items() if used)


def _embedded(run: Run, *, whole: bool) -> dict[str, Context]:
    """The contexts of a file; whole: whether the checkpoint's own tensors are here."""
    path, checkpoint = run.settings.request.embedding, run.loader.checkpoint
    if path is None:
        return {}
    # What tells one checkpoint's connectors from another's is in their tensors, which outlines do not have.
    mark = embeddings.connectors_mark(checkpoint) if whole else None
    widths, prompts = embeddings.Widths.of(checkpoint), run.settings.prompts
    found, _ = embeddings.load(path_of(path, "--embedding"), mark, widths, prompts)
    return {name: found[name] for name in prompts}
