"""`LTXPipeline`: the Python API. Everything that the commands do is a call of this class.

Checks all that is cheap, then runs text, inputs, denoising in that order, one large network at a time, and hands back a
`Clip` that decodes when asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx

from mlx_video import platform
from mlx_video.diffusion.noise import given, seeded
from mlx_video.media.files import check_place
from mlx_video.pipelines import arguments, conditions, contexts, decode, demo, locate, text
from mlx_video.pipelines.checkpoint import Checkpoint
from mlx_video.pipelines.clip import Clip
from mlx_video.pipelines.footprint import Footprint
from mlx_video.pipelines.layouts import open_checkpoint
from mlx_video.pipelines.loader import Loader
from mlx_video.pipelines.plan import Memory, Plan, plan_pictures, plan_texts
from mlx_video.pipelines.ready import Ready, Setup
from mlx_video.pipelines.recipes import NEGATIVE_PROMPT, RECIPES
from mlx_video.pipelines.refine import RECIPES as REFINING
from mlx_video.pipelines.refining import Refining
from mlx_video.pipelines.run import Preview, Watcher, denoise_recipe
from mlx_video.pipelines.upscale import Source, Upscaled, Upscaling, latent_grid, read_source, upscale
from mlx_video.request import Request
from mlx_video.types import AudioIn, Noise, Progress, Recipe, UserError
from mlx_video.weights.hub import Take, fetch
from mlx_video.weights.outlines import Outlines
from mlx_video.weights.quantize import Quantization

log = logging.getLogger(__name__)
Opened = TypeVar("Opened")


class LTXPipeline:
    """A checkpoint, ready to generate from. Holds no weights between calls.

    with LTXPipeline.from_pretrained("Lightricks/LTX-2") as pipe:
        pipe.generate(prompt="waves at night", height=512, width=768, num_frames=97).save("waves.mp4")
    """

    def __init__(self, setup: Setup):
        """Use `from_pretrained`."""
        self._setup = setup
        self._checkpoints: dict[str, Checkpoint] = {}

    @classmethod
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
    ) -> LTXPipeline:
        """From a Hugging Face id, a converted folder, an official file or its folder, or a pack of another converter.

        dtype: "float16", "bfloat16" or "float32"; what this machine computes best in if left out. text_encoder: Gemma's
        folder or id where it does not lie beside the checkpoint. lora: one or several, as in `generate`, for every
        clip. quantize: 4 or 8 bits for the transformer's blocks, made while loading; packs that are quantized need
        nothing. low_memory: whether networks are read from disk part by part; None does so where they do not fit.
        memory_limit: GiB that a run may take, if not what the machine has to give. Raises UserError where nothing is
        there; tensors are only described now and read when a clip needs them.
        """
        platform.prepare()
        if not locate.is_hub_id(str(where)):
            locate.existing(str(where), "--model-repo")
        how = None if quantize is None else Quantization.of(quantize)
        encoder, memory = None if text_encoder is None else str(text_encoder), Memory.of(low_memory, memory_limit)
        return cls(Setup(str(where), arguments.dtype_of(dtype), encoder, arguments.loras_of(lora), how, memory))

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

    def generate(
        self,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_preview: Preview | None = None,
        image: Any = (),
        audio_file: str | AudioIn | None = None,
        lora: Any = (),
        **options: Any,
    ) -> Clip:
        """One clip. Keywords are the command's flags with underscores (`prompt`, `pipeline`, ...): see `Request`.

        noise: a callable (name, shape) -> array or a mapping, in place of the seeded draws (names: `diffusion.noise`).
        on_step: called with every Progress. on_preview: called after each step with Progress and the current prediction
        of the latents. What either raises cancels the run. image: path, ImageAt, (path, frame, strength), or several.
        lora: path, Lora, (path, strength), or several. Raises UserError for what the user can put right.
        """
        try:
            inputs = {
                "image": arguments.images_of(image),
                "audio_file": arguments.audio_of(audio_file),
                "lora": arguments.loras_of(lora),
            }
            request = Request(**{**demo.defaults(self._setup.where), **inputs, **options})
        except TypeError as error:
            raise UserError(f"{str(error).replace('Request.__init__()', 'generate()')}.") from error
        return self.run(request, noise=noise, on_step=on_step, on_preview=on_preview)

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
        ready = self._fetched(lambda outlines: self._ready(request, outlines), on_step, on_message)
        for message in (*ready.messages, *ready.plan.choices):
            on_message(message)
        settings, loader = ready.settings, ready.loader
        loader.ways = ready.plan.ways
        watcher = Watcher(on_step or (lambda progress: None), on_preview)
        draws = seeded(request.seed) if noise is None else given(noise)

        encoded = ready.embedded
        if ready.encoder is not None:
            if request.enhance_prompt:
                settings = text.enhanced(settings, ready.encoder, on_message)
            encoded = text.encode_prompts(loader, ready.encoder, settings.prompts, watcher.report)
        inputs = conditions.encode(ready.media, encoded, settings, loader, watcher.report)
        with loader.borrow("transformer", **settings.build_options("transformer")) as transformer:
            set_lora = ready.adapters.fuse(transformer)
            latents = denoise_recipe(settings, loader, transformer, set_lora, inputs, draws, watcher)
        return decode.clip_of(settings, loader, latents, ready.media)

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
        with self._outlines(on_step) as outlines:
            ready = self._ready(request, outlines)
            for message in (*ready.messages, *outlines.summary()):
                on_message(message)
        return ready.plan

    def _ready(self, request: Request, outlines: Outlines) -> Ready:
        recipe = request.check(RECIPES)
        checkpoint = self.checkpoint(recipe, text_encoder=request.embedding is None, take=outlines.take)
        return Ready.open(request, recipe, self._setup, checkpoint, outlines)

    def _fetched(
        self,
        open: Callable[[Outlines], Opened],
        report: Callable[[Progress], None] | None,
        say: Callable[[str], None],
    ) -> Opened:
        """What `open` makes of files that are all here: it is shown outlines of those that are not before the fetch."""
        with self._outlines(report) as outlines:
            opened = open(outlines)
            if outlines.absent:
                outlines.fetch(report, say)
                self._checkpoints.clear()
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

    def upscale(
        self,
        input: str | Path,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Upscaled:
        """A picture or video upscaled; `save` writes it. Keywords are the command's flags: see `Upscaling`.

        noise, on_step: as in `generate`; only refining draws noise. Raises UserError for what the user can put right.
        """
        try:
            asked = Upscaling(str(input), **options)
        except TypeError as error:
            raise UserError(f"{str(error).replace('Upscaling.__init__()', 'upscale()')}.") from error
        return self.run_upscaling(asked, noise=noise, on_step=on_step)

    def run_upscaling(
        self,
        asked: Upscaling,
        *,
        noise: Noise | Mapping[str, Any] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] = log.info,
    ) -> Upscaled:
        """A picture or video upscaled as a whole Upscaling asks. on_message: as in `run`."""
        asked.check()
        source = read_source(asked)
        for sentence in (demo.ENLARGES, demo.advice(asked.prompt)) if self._setup.where == demo.NAME else ():
            if sentence:
                on_message(sentence)
        loader, refining = self._fetched(
            lambda outlines: self._upscaler(asked, source, outlines.take), on_step, on_message
        )
        report = on_step or (lambda progress: None)
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
        loader.ways = plan_pictures(Footprint.of(loader, None), grid, asked.tiling, self._setup.memory, asked.refine)
        if not asked.refine:
            return loader, None
        request = Request(prompt=asked.prompt, audio=False, fps=float(source.fps), seed=asked.seed)
        return loader, Refining.open(request, self._setup, loader, take)

    def checkpoint(
        self,
        recipe: Recipe,
        *,
        text_encoder: bool = True,
        upsamplers: tuple[str, ...] = (),
        take: Take = fetch,
    ) -> Checkpoint:
        """The checkpoint that `recipe` runs on; fetched if it is on the hub, and described once.

        upsamplers: kinds that are needed besides the recipe's own; take: how files on the hub are had.
        """
        wanted = text_encoder and self._setup.text_encoder is None
        key = "/".join((recipe.name, *upsamplers, *(["text"] if wanted else [])))
        if key not in self._checkpoints:
            path = locate.checkpoint(self._setup.where, recipe, text_encoder=wanted, upsamplers=upsamplers, take=take)
            self._checkpoints[key] = open_checkpoint(path, recipe.variant)
        return self._checkpoints[key]

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
        if not prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        path = check_place(path, (".safetensors",))
        recipe = next(recipe for recipe in RECIPES.values() if recipe.variant == variant)
        prompts = {"positive": prompt, "negative": NEGATIVE_PROMPT if negative_prompt is None else negative_prompt}

        def open_both(outlines: Outlines) -> tuple[Loader, Path]:
            checkpoint = self.checkpoint(recipe, take=outlines.take)
            folder = locate.text_encoder(self._setup.text_encoder, checkpoint, outlines.take)
            loader = Loader(checkpoint, self._setup.dtype)
            loader.ways = plan_texts(Footprint.of(loader, folder), list(prompts.values()), self._setup.memory)
            return loader, folder

        loader, folder = self._fetched(open_both, on_step, on_message)
        encoded = text.encode_prompts(loader, folder, prompts, on_step or (lambda progress: None))
        contexts.save(path, encoded, prompts, contexts.connectors_mark(loader.checkpoint))
