"""`LTXPipeline`: the Python API. Everything that the commands do is a call of this class.

Checks all that is cheap, then runs text, inputs, denoising in that order, one large network at a time, and hands back a
`Clip` that decodes when asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import platform
from mlx_video.diffusion.noise import NamedNoise, given, seeded
from mlx_video.media.files import check_place
from mlx_video.pipelines import conditions, contexts, decode, demo, locate, text
from mlx_video.pipelines.adapters import Adapters
from mlx_video.pipelines.checkpoint import Checkpoint
from mlx_video.pipelines.clip import Clip, Sound
from mlx_video.pipelines.footprint import Footprint
from mlx_video.pipelines.layouts import open_checkpoint
from mlx_video.pipelines.loader import Loader
from mlx_video.pipelines.plan import Memory, Plan, make_plan, ways_by_weights
from mlx_video.pipelines.recipes import NEGATIVE_PROMPT, RECIPES
from mlx_video.pipelines.refine import RECIPES as REFINING
from mlx_video.pipelines.run import Inputs, Preview, Watcher, denoise_recipe
from mlx_video.pipelines.settings import Settings, resolve
from mlx_video.pipelines.upscale import Refiner, Source, Upscaled, Upscaling, read_source, upscale
from mlx_video.request import Request
from mlx_video.types import AudioIn, Context, ImageAt, Lora, Noise, Progress, Recipe, Tree, UserError
from mlx_video.weights.quantize import Quantization

log = logging.getLogger(__name__)
DTYPES = ("float16", "bfloat16", "float32")


class LTXPipeline:
    """A checkpoint, ready to generate from. Holds no weights between calls.

    with LTXPipeline.from_pretrained("Lightricks/LTX-2") as pipe:
        pipe.generate(prompt="waves at night", height=512, width=768, num_frames=97).save("waves.mp4")
    """

    def __init__(
        self,
        where: str,
        dtype: mx.Dtype | None,
        text_encoder: str | None,
        loras: tuple[Lora, ...],
        quantization: Quantization | None,
        memory: Memory,
    ):
        """Use `from_pretrained`."""
        self._where, self._dtype, self._text_encoder, self._loras = where, dtype, text_encoder, loras
        self._quantization, self._memory = quantization, memory
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
        return cls(str(where), _dtype(dtype), encoder, _loras(lora), how, memory)

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
            inputs = {"image": _images(image), "audio_file": _audio(audio_file), "lora": _loras(lora)}
            request = Request(**{**demo.defaults(self._where), **inputs, **options})
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
        """One clip from a whole Request. on_message: told what the user should know, such as a LoRA's coverage."""
        recipe = request.check(RECIPES)
        checkpoint = self.checkpoint(recipe, text_encoder=request.embedding is None, report=on_step)
        settings = resolve(request, recipe, checkpoint)
        encoded = self._embedded(settings, checkpoint)
        folder = locate.text_encoder(self._text_encoder, checkpoint, on_step) if encoded is None else None
        loader = Loader(checkpoint, self._dtype, self._quantization)
        for component in settings.components:
            loader.check(component, **_options(component, settings))
        advice = demo.advice(request.prompt) if self._where == demo.NAME else None
        if advice is not None:
            on_message(advice)
        adapters = Adapters.open((*self._loras, *request.lora), settings, checkpoint, on_message)
        plan = make_plan(Footprint.of(loader, folder, adapters.sizes), settings, self._memory)
        for choice in plan.choices:
            on_message(choice)
        loader.ways = plan.ways
        media = conditions.read(settings)
        watcher = Watcher(on_step or (lambda progress: None), on_preview)
        draws = seeded(request.seed) if noise is None else given(noise)

        if folder is not None:
            if request.enhance_prompt:
                settings = _enhanced(settings, folder, on_message)
            encoded = text.encode_prompts(loader, folder, _prompts(settings), watcher.report)
        inputs = conditions.encode(media, encoded or {}, settings, loader, watcher.report)
        latents = self._denoise(settings, loader, adapters, inputs, draws, watcher)
        return _clip(settings, loader, latents, media)

    def plan(self, request: Request, *, on_step: Callable[[Progress], None] | None = None) -> Plan:
        """What a run of `request` would take, phase by phase, and how it would keep within memory; makes nothing.

        Raises UserError as a run does, and where the run cannot fit.
        """
        recipe = request.check(RECIPES)
        texts = request.embedding is None
        checkpoint = self.checkpoint(recipe, text_encoder=texts, report=on_step)
        settings = resolve(request, recipe, checkpoint)
        folder = locate.text_encoder(self._text_encoder, checkpoint, on_step) if texts else None
        adapters = Adapters.open((*self._loras, *request.lora), settings, checkpoint, log.info)
        loader = Loader(checkpoint, self._dtype, self._quantization)
        return make_plan(Footprint.of(loader, folder, adapters.sizes), settings, self._memory)

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
    ) -> Upscaled:
        """A picture or video upscaled as a whole Upscaling asks."""
        asked.check()
        source = read_source(asked)
        recipe = REFINING["distilled"]
        checkpoint = self.checkpoint(recipe, text_encoder=asked.refine, upsamplers=asked.upsamplers, report=on_step)
        loader = Loader(checkpoint, self._dtype, self._quantization)
        report = on_step or (lambda progress: None)
        for component in ("video_encoder", "video_decoder", *(["latent_statistics"] if asked.upsamplers else [])):
            loader.check(component)
        for kind in asked.upsamplers:
            loader.check("upsampler", kind=kind)
        refiner = None
        if asked.refine:
            draws = seeded(asked.seed) if noise is None else given(noise)
            refiner = self._refiner(asked, source, loader, draws, report)
        elif isinstance(noise, Mapping):
            given(noise).finish()
        return upscale(asked, source, loader, refiner, report)

    def _refiner(
        self, asked: Upscaling, source: Source, loader: Loader, draws: NamedNoise, report: Callable[[Progress], None]
    ) -> Refiner:
        checkpoint = loader.checkpoint
        recipe = REFINING[checkpoint.variant or "distilled"]
        if recipe.distilled_lora:
            advice = "with a dev checkpoint --refine needs its .safetensors file there."
            checkpoint.need("distilled LoRA", checkpoint.distilled_lora, advice)
        request = Request(prompt=asked.prompt, audio=False, fps=float(source.fps), seed=asked.seed)
        settings = resolve(request, recipe, checkpoint)
        options = _options("transformer", settings)
        folder = locate.text_encoder(self._text_encoder, checkpoint, report)
        for component in ("connectors", "transformer"):
            loader.check(component, **_options(component, settings))
        adapters = Adapters.open(self._loras, settings, checkpoint, log.info)
        loader.ways = ways_by_weights(Footprint.of(loader, folder), self._memory)
        contexts = text.encode_prompts(loader, folder, {"positive": asked.prompt}, report)

        @contextmanager
        def borrow() -> Iterator[Any]:
            with loader.borrow("transformer", **options) as transformer:
                adapters.fuse(transformer)(settings.lora_strengths[0])
                yield transformer

        return Refiner(contexts, borrow, draws)

    def checkpoint(
        self,
        recipe: Recipe,
        *,
        text_encoder: bool = True,
        upsamplers: tuple[str, ...] = (),
        report: Callable[[Progress], None] | None = None,
    ) -> Checkpoint:
        """The checkpoint that `recipe` runs on; fetched if it is on the hub, and described once.

        upsamplers: kinds that are needed besides the recipe's own.
        """
        wanted = text_encoder and self._text_encoder is None
        key = "/".join((recipe.name, *upsamplers, *(["text"] if wanted else [])))
        if key not in self._checkpoints:
            path = locate.checkpoint(self._where, recipe, text_encoder=wanted, upsamplers=upsamplers, report=report)
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
    ) -> None:
        """Writes a prompt (and the negative one) as a file for `embedding=`; raises UserError as `generate` does."""
        if not prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        path = check_place(path, (".safetensors",))
        recipe = next(recipe for recipe in RECIPES.values() if recipe.variant == variant)
        checkpoint = self.checkpoint(recipe, report=on_step)
        folder = locate.text_encoder(self._text_encoder, checkpoint, on_step)
        prompts = {"positive": prompt, "negative": NEGATIVE_PROMPT if negative_prompt is None else negative_prompt}
        loader = Loader(checkpoint, self._dtype)
        loader.ways = ways_by_weights(Footprint.of(loader, folder), self._memory)
        encoded = text.encode_prompts(loader, folder, prompts, on_step or (lambda progress: None))
        contexts.save(path, encoded, prompts, contexts.connectors_mark(checkpoint))

    @staticmethod
    def _embedded(settings: Settings, checkpoint: Checkpoint) -> dict[str, Context] | None:
        path = settings.request.embedding
        if path is None:
            return None
        found, _ = contexts.load(Path(path).expanduser(), contexts.connectors_mark(checkpoint))
        needed = ["positive"] if settings.negative_prompt is None else ["positive", "negative"]
        return {name: found[name] for name in needed}

    @staticmethod
    def _denoise(
        settings: Settings, loader: Loader, adapters: Adapters, inputs: Inputs, draws: NamedNoise, watcher: Watcher
    ) -> Tree:
        with loader.borrow("transformer", **_options("transformer", settings)) as transformer:
            set_lora = adapters.fuse(transformer)
            return denoise_recipe(settings, loader, transformer, set_lora, inputs, draws, watcher)


def _enhanced(settings: Settings, folder: Path, on_message: Callable[[str], None]) -> Settings:
    """The settings with the prompt that Gemma made of the user's."""
    from mlx_video.models.ltx_2.text_encoder.enhance import enhance

    asked = settings.request
    options: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    prompt = enhance(
        folder,
        asked.prompt,
        image=asked.image[0].path if asked.image else None,
        seed=asked.seed,
        **{name: value for name, value in options.items() if value is not None},
    )
    on_message(f"enhanced prompt: {prompt}")
    return replace(settings, request=replace(asked, prompt=prompt), original_prompt=asked.prompt)


def _options(component: str, settings: Settings) -> dict[str, Any]:
    """How a run wants a network built: a silent one leaves the transformer's sound where it is."""
    return {"audio": "audio" in settings.modalities} if component == "transformer" else {}


def _prompts(settings: Settings) -> dict[str, str]:
    prompts = {"positive": settings.request.prompt}
    if settings.negative_prompt is not None:
        prompts["negative"] = settings.negative_prompt
    return prompts


def _clip(settings: Settings, loader: Loader, latents: Tree, media: conditions.Media) -> Clip:
    request = settings.request
    video, audio = latents["video"], latents.get("audio")

    def frames(report: Callable[[Progress], None]) -> Iterator[Any]:
        return decode.decode_video(loader, video, request.tiling, request.stream, report)

    sound: Callable[[], Sound] | None = None
    if media.sound is not None:
        sound = partial(_same, media.sound)
    elif audio is not None:
        sound = partial(decode.decode_audio, loader, audio)
    return Clip(request.shape, latents, frames, sound, settings.metadata)


def _same(sound: Sound) -> Sound:
    return sound


# ------------------------------------------------------------------------------------------------ what callers may pass


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is not known; there are {', '.join(DTYPES)}.")
        return getattr(mx, dtype)
    return dtype


def _several(given: Any) -> list[Any]:
    """One thing or several: a tuple that starts with a path and goes on with a number is one."""
    if isinstance(given, (str, Path, ImageAt, Lora)):
        return [given]
    if (
        isinstance(given, tuple)
        and len(given) > 1
        and isinstance(given[0], (str, Path))
        and not isinstance(given[1], (str, Path))
    ):
        return [given]
    return list(given) if isinstance(given, Sequence) else [given]


def _loras(given: Any) -> tuple[Lora, ...]:
    return tuple(_one(item, Lora) for item in _several(given))


def _images(given: Any) -> tuple[ImageAt, ...]:
    return tuple(_one(item, ImageAt) for item in _several(given))


def _one(item: Any, kind: type) -> Any:
    if isinstance(item, kind):
        return item
    if isinstance(item, (str, Path)):
        return kind(str(item))
    try:
        path, *rest = item
        return kind(str(path), *rest)
    except TypeError as error:
        raise UserError(
            f"{item!r} is not a {kind.__name__}: give a path, a {kind.__name__}, or a tuple that starts with a path."
        ) from error


def _audio(given: str | Path | AudioIn | None) -> AudioIn | None:
    return given if given is None or isinstance(given, AudioIn) else AudioIn(str(given))
