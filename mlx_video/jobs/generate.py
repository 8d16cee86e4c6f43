"""A clip from a request: text, inputs, denoising, one large network at a time.

`Run` is a recipe on a checkpoint, which other jobs denoise with, too. Everything that can be refused is refused in
`check` and `open`, from headers and the user's own files; no tensor of a network is read before `run`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Iterator, Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.hub.fetch import Take
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.provenance import described
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion.noise import DECODING, NamedNoise, draws, seeded
from mlx_video.diffusion.tokens import latent_shape
from mlx_video.jobs import influence
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs.decode import Decoders
from mlx_video.jobs.demand import Networks, generating
from mlx_video.jobs.keep import NOTHING, Keep, identity, keeping
from mlx_video.jobs.settings import Settings, resolve
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.jobs.texts import embeddings
from mlx_video.jobs.texts import prompts as text
from mlx_video.lending.adapters import Adapters
from mlx_video.lending.distilled import brings_distilled, choose
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.models.families import RECIPES
from mlx_video.planning.plan import Demand, Plan, make_plan
from mlx_video.reading import path_of
from mlx_video.request import Request
from mlx_video.results import faults, preview
from mlx_video.results.clip import Clip, Decoder
from mlx_video.results.kept import check_folder
from mlx_video.results.latent_map import LatentMap
from mlx_video.results.look import Look, Sound
from mlx_video.types import AudioShape, Context, Noise, Phase, Tree, Watch, frames_of
from mlx_video.types.recipes import Recipe, Stage

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
        return text.encode_prompts(self.loader, self.encoder, self.settings.prompts, watch.report, watch.say)

    @property
    def steps(self) -> tuple[Any, ...]:
        """What runs have in common that go through their stages together: pipeline, LoRAs, and what is denoised."""
        return self.loader.checkpoint.source, self.settings.recipe, self.adding, self.settings.modalities

    @property
    def adding(self) -> tuple[Hashable, ...]:
        """The LoRAs that the run adds to its transformer, and how strongly in each stage."""
        return self.adapters.used and (self.adapters.used, self.settings.lora_strengths)

    def denoise(self, inputs: Inputs, noise: NamedNoise, watch: Watch, **how: Any) -> Iterator[Tree]:
        """Latents after each stage; the last are the result. how: `keep` and `in_turns` of `Denoising`."""
        origin, build = Origin.of(self.loader, "transformer", loras=self.adapters.used), self.settings.build_options
        with self.loader.borrow("transformer", loras=self.adding, **build("transformer")) as transformer:
            fuse = influence.measured(self.adapters, inputs.contexts, self.settings, watch.say)
            stages = Denoising(self.settings, self.loader, transformer, fuse, inputs, noise, watch, origin, **how)
            yield from stages.run()


class Generate:
    """One clip. Jobs that differ in what they start from are given other `recipes` and `inputs`."""

    recipes: Mapping[str, Recipe] = RECIPES
    _run: Run
    _media: conditions.Media | None
    _sound: Sound | None = None
    _embedded: dict[str, Context]
    _decoding: Noise | None = None
    _map: LatentMap | None = None
    _pictured = False
    _suspected: tuple[str, ...] = ()
    _about: dict[str, Any] | None = None
    _where: str = ""
    _written: bool = False
    networks: Networks
    demand: Demand
    plan: Plan
    ways: Ways

    def __init__(
        self,
        request: Request,
        noise: Noise | Mapping[str, Any] | None = None,
        keep: Path | None = None,
    ):
        """noise: as `LTXPipeline.generate` takes it; keep: a folder for what the run has so far."""
        self.request, self._noise, self._keep = request, noise, keep

    def check(self, watch: Watch) -> None:
        """What needs no model; tells what is rounded."""
        if self._keep is not None:
            check_folder(self._keep)
        self._recipe = self.request.check(self.recipes)
        self._pictured = watch.picture is not None or self.request.skip_vae
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
        if self._pictured:
            preview.check(run.loader)
        self._embedded = _embedded(run, whole=not outlines.absent)
        self.networks = Networks.of(run.loader, run.encoder, run.adapters.sizes, run.writer)
        self.demand = generating(self.networks, run.settings)
        self.plan = make_plan(self.demand, runner.memory)
        self.go(self.plan.ways)
        self._media = conditions.read(run.settings)
        told = (preview.TOLD,) if request.skip_vae else ()
        advice = (demo.advice(request.prompt), demo.reach(request.shape)) if runner.where == demo.NAME else ()
        return (*run.messages, *told, *filter(None, advice))

    @property
    def opened(self) -> Run:
        """The recipe on the checkpoint, once the job is open."""
        return self._run

    @property
    def embedded(self) -> Mapping[str, Context]:
        """The contexts that the user has handed over, where there is no text to encode."""
        return self._embedded

    @property
    def waiting(self) -> int:
        """Bytes that it leaves from one phase to the next: its texts and its latents."""
        run, settings = self._run, self._run.settings
        costs, config = run.loader.checkpoint.family.costs(), run.loader.checkpoint.config
        shapes = [latent_shape(settings.decoded), latent_shape(AudioShape.of(settings.shape))]
        texts: int = costs.contexts(config, len(settings.prompts), run.loader.dtype.size)
        return texts + sum(mx.float32.size * math.prod(shape) for shape in shapes)

    @property
    def described(self) -> dict[str, Any]:
        """What the file of the clip will say of how it was made."""
        if self._about is None:
            loader = self._run.loader
            where = {"model_repo": self._where} if self._where == demo.NAME or locate.is_hub_id(self._where) else {}
            computed = {**where, **loader.computed}
            self._about = described(self._run.settings, loader.checkpoint, computed, self._run.encoder)
        return self._about

    def go(self, ways: Ways) -> None:
        """Keeps within memory in these ways."""
        self._run.loader.ways = self.ways = ways

    def with_seed(self, seed: int) -> Generate:
        """This open job with another seed."""
        other, settings = copy(self), self._run.settings
        other.request, other._about = replace(self.request, seed=seed), None
        other._run = replace(self._run, settings=replace(settings, request=replace(settings.request, seed=seed)))
        return other

    def forget_files(self) -> None:
        """Lets go of pictures and sounds, which were read to be checked; they are read again when they are wanted."""
        self._media = None

    def run(self, watch: Watch) -> Clip:
        """The clip; nothing of it is decoded yet."""
        for sentence in self.plan.choices:
            watch.say(sentence)
        watch.expect(self.plan.expected)
        with closing(self.clips(watch)) as clips:
            *_, clip = clips
        return clip

    def clips(self, watch: Watch) -> Generator[Clip, None, None]:
        """What each stage ends with, as a clip of that stage's size that can be stored; the last is the result.

        Where the run has kept its result, that alone.
        """
        noise = draws(self.request.seed, self._noise)
        with keeping(self._keep, self._asked, noise, watch.say) as keep:
            self.write(watch, keep)
            run, contexts = self._run, self._embedded
            if run.encoder is not None and keep.result is None:
                contexts = keep.contexts(run.settings.prompts, lambda: run.contexts(watch))
            with closing(self.turns(contexts, watch, noise, keep)) as turns:
                yield from (clip for clip in turns if clip is not None)

    def write(self, watch: Watch, keep: Keep = NOTHING) -> None:
        """Has the prompt written out, where that is asked for."""
        if self._run.writer is not None and not self._written:
            settings = text.enhanced(self._run.settings, self._run.writer, watch, keep.found.get("prompt"))
            keep.tell(prompt=settings.request.prompt)
            self._run = replace(self._run, settings=settings)
            self._written, self._about = True, None

    def turns(
        self,
        contexts: Mapping[str, Context],
        watch: Watch,
        noise: NamedNoise | None = None,
        keep: Keep = NOTHING,
    ) -> Generator[Clip | None, None, None]:
        """As `clips`, with None wherever another network is wanted next: runs of the same `steps` that change turns
        there, with a shelf between them, have each network read once. contexts: of the prompts, by their names, which
        nobody needs of a run that has kept its result.
        """
        if self.request.seconds is not None:
            self._run, self._about = self._lasting(self._run, contexts, watch, keep), None
        yield None
        run, noise = self._run, noise or draws(self.request.seed, self._noise)
        stages, self._decoding, self._suspected = run.settings.recipe.stages, self._drawn(noise), ()
        if self._pictured:
            self._map = preview.map_of(run.loader, watch)
            watch = preview.pictured(watch, self._map)
        self._sound = self.media.sound
        if keep.result is not None:
            yield self._clip(keep.result, stages[-1])
            return
        inputs = self.inputs(contexts, watch)
        self._media = None  # they are encoded now
        yield None
        number = 0
        for latents in run.denoise(inputs, noise, watch, keep=keep, in_turns=True):
            if not latents:
                yield None
                continue
            self._suspect(number + 1, latents, watch)
            clip = self._clip(latents, stages[number])
            number += 1
            if number == len(stages):
                keep.finish(clip.stored)
            yield clip

    def _suspect(self, number: int, latents: Tree, watch: Watch) -> None:
        """Looks at what a stage ended with, and says what is wrong with it."""
        found = faults.of_latents(Phase.STAGE.numbered(number), latents)
        for sentence in found:
            watch.say(sentence)
        self._suspected += found

    def _lasting(self, run: Run, contexts: Mapping[str, Context], watch: Watch, keep: Keep) -> Run:
        """The run as long as the prompt asks for; sound or not, both contexts tell (reference: 1.2.0's pipelines)."""
        request, frames = self.request, keep.found.get("num_frames")
        assert request.seconds is not None
        if frames is None:
            context = contexts["positive"]
            with run.loader.borrow("duration_head") as head:
                seconds = head.seconds(context.video.astype(mx.float32), context.audio.astype(mx.float32))
            frames = frames_of(seconds, request.fps, request.seconds)
            watch.say(f"The prompt asks for {seconds:.1f} seconds: the clip has {frames} frames.")
            keep.tell(num_frames=frames)
        lasting = replace(run.settings.request, num_frames=frames, auto_duration=None)
        settings = replace(run.settings, request=lasting)
        self.request, self._media = settings.request, conditions.read(settings)
        return replace(run, settings=settings)

    def _asked(self) -> Mapping[str, Any]:
        """What tells this run from others that might be kept."""
        run = self._run
        about = described(run.settings, run.loader.checkpoint, run.loader.computed)
        encoder = None if run.encoder is None else embeddings.encoder_mark(run.encoder)
        return identity(about, run.adapters.used, encoder, self._noise)

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

    @property
    def media(self) -> conditions.Media:
        """The user's files."""
        if self._media is None:
            self._media = conditions.read(self._run.settings)
        return self._media

    def inputs(self, contexts: Mapping[str, Context], watch: Watch) -> Inputs:
        """What the run starts from and is steered by."""
        return conditions.encode(self.media, contexts, self._run.settings, self._run.loader, watch.report)

    def _clip(self, latents: Tree, stage: Stage) -> Clip:
        settings, loader, sound = self._run.settings, self._run.loader, self._sound
        request, made = settings.request, stage.of(settings.shape)
        shown = stage.of(request.shape)
        latents = {m: a[:, :, : shown.grid[0]] if m == "video" else a for m, a in latents.items()}
        look = Look.cut(shown, made, latents, sound, rate=settings.rate(stage), tiling=request.tiling,
                       stream=request.stream, decoder=request.video_decoder or "conv", seed=request.seed)  # fmt: skip
        files = conditions.files_of(request)
        decoder = self._decoder(loader)
        if request.skip_vae:
            look = replace(look, sound="given" if sound is not None else None)
        return Clip(latents, look, self.described, decoder, given=sound, inputs=files, suspected=self._suspected)

    def _decoder(self, loader: Loader) -> Decoder:
        if self.request.skip_vae and self._map is not None:
            return preview.MapDecoder(self._map)
        return Decoders(loader, self._decoding)


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
