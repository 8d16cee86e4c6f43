"""`LTXPipeline`: the Python API. Everything that the commands do is a call of this class.

Checks all that is cheap, then runs text, inputs, denoising in that order, one large network at a time, and hands back a
`Clip` that decodes when asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.hub.fetch import Take, fetch
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.provenance import model_of
from mlx_video.diffusion.noise import NamedNoise, given, seeded
from mlx_video.jobs import decode, placeholder, text
from mlx_video.jobs import embeddings as contexts
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs import latents as given_latents
from mlx_video.jobs.clip import Clip
from mlx_video.jobs.demand import Networks, decoding, encoding, upscaling
from mlx_video.jobs.ready import Ready, Setup
from mlx_video.jobs.refine import RECIPES as REFINING
from mlx_video.jobs.refining import Refining
from mlx_video.jobs.stages import Preview, Watcher, denoise_recipe
from mlx_video.jobs.upscale import Source, Upscaled, bytes_needed, latent_grid, read_source, upscale
from mlx_video.jobs.upscale import check_output as check_upscaled
from mlx_video.lending.distilled import brings_distilled
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader
from mlx_video.media.files import check_apart, check_place
from mlx_video.models.ltx_2.recipes import NEGATIVE_PROMPT, RECIPES
from mlx_video.planning.plan import Memory, Plan, make_plan
from mlx_video.request import Request, RequestOptions, Upscaling, kinds
from mlx_video.request.generating import request_of
from mlx_video.request.spelling import in_keywords, told
from mlx_video.request.upscaling import UpscalingOptions, upscaling_of
from mlx_video.types import TILINGS, Lora, Noise, Progress, Recipe, UserError
from mlx_video.weights.quantize import Quantization

log = logging.getLogger(__name__)
Opened = TypeVar("Opened")


class LTXPipeline:
    """A checkpoint, ready to generate from. Holds no weights between calls.

    Any thread may call it; of two at once, the second waits. Clips may be decoded in another thread, too.

    with LTXPipeline.from_pretrained("Lightricks/LTX-2") as pipe:
        pipe.generate(prompt="waves at night", height=512, width=768, num_frames=97).save("waves.mp4")
    """

    def __init__(self, setup: Setup):
        """Use `from_pretrained`."""
        self._setup = setup
        self._checkpoints: dict[str, Checkpoint] = {}

    @classmethod
    @in_keywords()
    def from_pretrained(
        cls,
        where: str | Path,
        *,
        dtype: str | mx.Dtype | None = None,
        text_encoder: str | Path | None = None,
        lora: Any = (),
        quantize: int | None = None,
        low_memory: bool | None = None,
        memory_limit: float | None = None,
        vae_dtype: str | mx.Dtype | None = None,
    ) -> LTXPipeline:
        """From a Hugging Face id, a converted folder, an official file or its folder, or a pack of another converter.

        dtype: "float16", "bfloat16" or "float32", of transformer and text; what this machine computes best in if left
        out. vae_dtype: the same of autoencoders and upsamplers (float32 on a Mac, whatever dtype says). text_encoder:
        Gemma's folder or id where it does not lie beside the checkpoint. lora: one or several, as in `generate`, for
        every clip. quantize: 4 or 8 bits for the transformer's blocks, made while loading; packs that are quantized
        need nothing. low_memory: whether networks are read from disk part by part; None does so where they do not fit.
        memory_limit: GiB that a run may take, if not what the machine has to give. Raises UserError where nothing is
        there; tensors are only described now and read when a clip needs them.
        """
        platform.prepare()
        encoder = kinds.taken("text_encoder", text_encoder, str | None)
        kinds.check("low_memory", low_memory, bool | None)
        bits = kinds.taken("quantize", quantize, int | None)
        named = kinds.taken("where", where, str)
        if not locate.is_hub_id(named):
            locate.existing(named, "--model-repo")
        how, memory = None if bits is None else Quantization.of(bits), Memory.of(low_memory, memory_limit)
        computed, decoded = platform.dtype_of(dtype), platform.dtype_of(vae_dtype, "vae_dtype")
        return cls(Setup(named, computed, encoder, kinds.taken("lora", lora, tuple[Lora, ...]), how, memory, decoded))

    def __enter__(self) -> LTXPipeline:
        """The pipeline itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Gives cached memory back."""
        self.close()

    def close(self) -> None:
        """Gives cached memory back; clips made so far stay usable."""
        self._checkpoints.clear()
        mx.clear_cache()

    @in_keywords()
    def generate(
        self,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_preview: Preview | None = None,
        on_message: Callable[[str], None] = log.info,
        **options: Unpack[RequestOptions],
    ) -> Clip:
        """One clip. Keywords are the command's flags with underscores (`prompt`, `pipeline`, ...): see `Request`.

        noise: a callable (name, shape) -> array or a mapping, in place of the seeded draws (names: `diffusion.noise`).
        on_step: called with every Progress. on_preview: called after each step with Progress and the current prediction
        of the latents, which has the axes of `Clip.latents` and can be handed to `decode`. What either raises cancels
        the run. on_message: told what the user should know, such as a number of frames that was rounded. image: path,
        ImageAt, (path, frame, strength), or several. lora: path, Lora, (path, strength), or several. audio_file: path,
        AudioIn or (path, start). Raises UserError for what the user can put right.
        """
        request = request_of(demo.defaults(self._setup.where), options)
        return self.run(request, noise=noise, on_step=on_step, on_preview=on_preview, on_message=told(on_message))

    @in_keywords()
    def run(
        self,
        request: Request,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_preview: Preview | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> Clip:
        """One clip from a whole Request. on_message: told what the user should know, such as a LoRA's coverage.

        Of files that are still to be fetched the headers come first, so that what cannot run is refused before.
        """
        recipe = request.check(RECIPES)
        request, notes = request.rounded()
        for message in notes:
            on_message(message)
        if request.placeholder:
            if isinstance(noise, Mapping):
                given(noise).finish()
            return placeholder.make(request, recipe, (*self._setup.loras, *request.lora), on_message)
        ready = self._fetched(lambda outlines: self._ready(request, recipe, outlines), on_step, on_message)
        for message in (*ready.messages, *ready.plan.choices):
            on_message(message)
        draws = seeded(request.seed) if noise is None else given(noise)
        with platform.computing(ready.plan.ways.limit):
            return _generated(ready, draws, on_step or (lambda progress: None), on_preview, on_message)

    @in_keywords()
    def plan(
        self,
        request: Request,
        *,
        on_step: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> Plan:
        """What a run of `request` would take, phase by phase, and how it would keep within memory; makes nothing.

        Fetches nothing but the headers of files on the hub. on_message: told what a run would fetch, besides what it
        is told there. Raises UserError as a run does, and where the run cannot fit.
        """
        recipe = request.check(RECIPES)
        request, notes = request.rounded()
        with self._outlines(on_step) as outlines:
            with platform.computing():
                ready = self._ready(request, recipe, outlines)
            for message in (*notes, *ready.messages, *outlines.summary()):
                on_message(message)
        return ready.plan

    @in_keywords()
    def decode(
        self,
        latents: Mapping[str, Any],
        *,
        fps: float = 24.0,
        tiling: str = "auto",
        stream: bool = False,
        on_step: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> Clip:
        """The clip of latents, such as `Clip.latents` or what `on_preview` is shown; decoded when asked for.

        latents: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16), normalised. on_step: of a
        download; tiling, stream: as in `generate`. Raises UserError for shapes and numbers that are none of a clip's.
        """
        if tiling not in TILINGS:
            raise UserError(f"tiling {tiling!r} is not known; there are {', '.join(TILINGS)}.")
        with platform.computing():
            found = given_latents.check(latents, fps)
            mx.eval(found)

        def opened(outlines: Outlines) -> Loader:
            loader = self._setup.loader(self._any_checkpoint(outlines.take))
            for component in ("video_decoder", *(("audio_decoder", "vocoder") if "audio" in found else ())):
                loader.check(component)
            frames, rows, columns = found["video"].shape[2:]
            demand = decoding(Networks(loader), (frames, rows, columns), tiling, stream)
            loader.ways = make_plan(demand, self._setup.memory).ways
            return loader

        loader = self._fetched(opened, on_step, on_message)
        return decode.clip_of_latents(loader, found, fps, tiling, stream, model_of(loader.checkpoint))

    def _any_checkpoint(self, take: Take) -> Checkpoint:
        """One that is open already, else whichever variant is there: their decoders are the same."""
        if known := next(iter(self._checkpoints.values()), None):
            return known
        try:
            return self.checkpoint(RECIPES["distilled"], text_encoder=False, take=take)
        except UserError as fault:
            try:
                return self.checkpoint(RECIPES["dev"], text_encoder=False, take=take)
            except UserError:
                raise fault from None

    def _ready(self, request: Request, recipe: Recipe, outlines: Outlines) -> Ready:
        brought = brings_distilled(request, (*self._setup.loras, *request.lora), recipe)
        checkpoint = self.checkpoint(
            recipe, text_encoder=request.embedding is None, lora=not brought, take=outlines.take
        )
        return Ready.open(request, recipe, self._setup, checkpoint, outlines)

    def _fetched(
        self,
        open: Callable[[Outlines], Opened],
        report: Callable[[Progress], None] | None,
        say: Callable[[str], None],
    ) -> Opened:
        """What `open` makes of files that are all here: it is shown outlines of those that are not before the fetch."""
        with self._outlines(report) as outlines:
            with platform.computing():
                opened = open(outlines)
            if outlines.absent:
                outlines.fetch(report, say)
                self._checkpoints.clear()
                with platform.computing():
                    opened = open(outlines)
            return opened

    @contextmanager
    def _outlines(self, report: Callable[[Progress], None] | None) -> Iterator[Outlines]:
        with Outlines(report) as outlines:
            try:
                yield outlines
            finally:
                if outlines.absent:
                    self._checkpoints.clear()  # some lie in a folder that goes now

    @in_keywords()
    def upscale(
        self,
        input: str | Path,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        **options: Unpack[UpscalingOptions],
    ) -> Upscaled:
        """A picture or video upscaled; `save` writes it. Keywords are the command's flags: see `Upscaling`.

        noise, on_step: as in `generate`; only refining draws noise. Raises UserError for what the user can put right.
        """
        asked = upscaling_of({"input": input, **options})
        return self.run_upscaling(asked, noise=noise, on_step=on_step)

    @in_keywords()
    def run_upscaling(
        self,
        asked: Upscaling,
        *,
        output: str | Path | None = None,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> Upscaled:
        """A picture or video upscaled as a whole Upscaling asks. on_message: as in `run`.

        output: where it will be saved, so that a place without room for it is refused before the work.
        """
        asked.check()
        source = read_source(asked)
        if output is not None:
            check_upscaled(source.path, output, needed=bytes_needed(asked, source))
        for sentence in (demo.ENLARGES, demo.advice(asked.prompt)) if self._setup.where == demo.NAME else ():
            if sentence:
                on_message(sentence)
        loader, refining = self._fetched(
            lambda outlines: self._upscaler(asked, source, outlines.take), on_step, on_message
        )
        report = on_step or (lambda progress: None)
        with platform.computing(loader.ways.limit):
            refiner = None
            if refining is not None:
                draws = seeded(asked.seed) if noise is None else given(noise)
                refiner = refining.refiner(draws, report)
            elif isinstance(noise, Mapping):
                given(noise).finish()
            return upscale(asked, source, loader, refiner, report)

    def _upscaler(self, asked: Upscaling, source: Source, take: Take) -> tuple[Loader, Refining | None]:
        recipe = REFINING["distilled"]
        checkpoint = self.checkpoint(recipe, text_encoder=asked.refine, upsamplers=asked.upsamplers, take=take)
        loader = self._setup.loader(checkpoint)
        for component in ("video_encoder", "video_decoder", *(["latent_statistics"] if asked.upsamplers else [])):
            loader.check(component)
        for kind in asked.upsamplers:
            loader.check("upsampler", kind=kind)
        grid = latent_grid(asked, source, checkpoint)
        demand = upscaling(Networks(loader), grid, asked.tiling, asked.refine)
        loader.ways = make_plan(demand, self._setup.memory).ways
        if not asked.refine:
            return loader, None
        request = Request(prompt=asked.prompt, audio=False, fps=float(source.fps), seed=asked.seed)
        return loader, Refining.open(request, self._setup, loader, take)

    def checkpoint(
        self,
        recipe: Recipe,
        *,
        text_encoder: bool = True,
        lora: bool = True,
        upsamplers: tuple[str, ...] = (),
        take: Take = fetch,
    ) -> Checkpoint:
        """The checkpoint that `recipe` runs on; fetched if it is on the hub, and described once.

        lora: False where the distilled one comes from elsewhere; upsamplers: kinds that are needed besides the recipe's
        own; take: how files on the hub are had.
        """
        wanted = text_encoder and self._setup.text_encoder is None
        key = "/".join((recipe.name, *upsamplers, *(["text"] if wanted else []), *([] if lora else ["other LoRA"])))
        found = self._checkpoints.get(key)
        if found is None:
            path = locate.checkpoint(
                self._setup.where, recipe, text_encoder=wanted, lora=lora, upsamplers=upsamplers, take=take
            )
            found = self._checkpoints[key] = open_checkpoint(path, recipe.variant)
        return found

    @in_keywords()
    def encode(
        self,
        prompt: str,
        path: str | Path,
        *,
        variant: str = "distilled",
        negative_prompt: str | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> None:
        """Writes a prompt (and the negative one) as a file for `embedding=`; raises UserError as `generate` does."""
        kinds.check("prompt", prompt, str)
        kinds.check("negative_prompt", negative_prompt, str | None)
        if not prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        path = check_place(kinds.taken("path", path, str), contexts.SUFFIXES)
        kinds.check("variant", variant, Literal["distilled", "dev"])
        recipe = next(recipe for recipe in RECIPES.values() if recipe.variant == variant)
        prompts = {"positive": prompt, "negative": NEGATIVE_PROMPT if negative_prompt is None else negative_prompt}

        def open_both(outlines: Outlines) -> tuple[Loader, Path]:
            checkpoint = self.checkpoint(recipe, take=outlines.take)
            folder = locate.text_encoder(self._setup.text_encoder, checkpoint, outlines.take)
            check_apart([path], _files_of(checkpoint, folder))
            loader = Loader(checkpoint, self._setup.dtype)
            demand = encoding(Networks.of(loader, folder), list(prompts.values()))
            loader.ways = make_plan(demand, self._setup.memory).ways
            return loader, folder

        loader, folder = self._fetched(open_both, on_step, on_message)
        with platform.computing(loader.ways.limit):
            encoded = text.encode_prompts(loader, folder, prompts, on_step or (lambda progress: None))
            contexts.save(path, encoded, prompts, contexts.connectors_mark(loader.checkpoint))


def _generated(
    ready: Ready,
    draws: NamedNoise,
    report: Callable[[Progress], None],
    on_preview: Preview | None,
    on_message: Callable[[str], None],
) -> Clip:
    """The clip of a run that has been found possible."""
    settings, loader = ready.settings, ready.loader
    loader.ways = ready.plan.ways
    encoded = ready.embedded
    if ready.encoder is not None:
        if settings.request.enhance_prompt:
            settings = text.enhanced(settings, ready.encoder, report, on_message)
        encoded = text.encode_prompts(loader, ready.encoder, settings.prompts, report)
    inputs = conditions.encode(ready.media, encoded, settings, loader, report)
    watcher = Watcher(report, on_preview, Origin.of(loader, "transformer", loras=ready.adapters.used))
    with loader.borrow("transformer", **settings.build_options("transformer")) as transformer:
        latents = denoise_recipe(settings, loader, transformer, ready.adapters.fuse, inputs, draws, watcher)
    return decode.clip_of(settings, loader, latents, ready.media)


def _files_of(checkpoint: Checkpoint, encoder: Path) -> dict[str, Path]:
    """The files of a checkpoint and of its text encoder, as check_apart takes them."""
    parts = (*checkpoint.parts.values(), *checkpoint.upsamplers.values())
    files = [*(file for part in parts for file in part.tensors.paths), *sorted(encoder.iterdir())]
    files += [checkpoint.distilled_lora] if checkpoint.distilled_lora else []
    return {f"a file of the model, {file.name}": file for file in files}
