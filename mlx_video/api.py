"""`LTXPipeline`: the Python API. Everything that the commands do is a call of this class.

Turns keywords into a job and hands it to the runner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import demo, locate
from mlx_video.jobs.decode import Decode
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.many import Failed, Fault, Made, Many
from mlx_video.jobs.placeholder import Placeholder
from mlx_video.jobs.texts.prompts import Encode
from mlx_video.jobs.upscale import Upscale
from mlx_video.planning.plan import Memory, Plan
from mlx_video.reading import path_of
from mlx_video.request import Request, RequestOptions, Upscaling, kinds
from mlx_video.request.generating import request_of
from mlx_video.request.spelling import in_keywords, keywords, told
from mlx_video.request.upscaling import UpscalingOptions, upscaling_of
from mlx_video.results.clip import Clip
from mlx_video.results.look import Look
from mlx_video.results.stored import latents_of
from mlx_video.runner import Runner
from mlx_video.types import (
    SPACE_SCALE,
    TILINGS,
    TIME_SCALE,
    Listener,
    Lora,
    Noise,
    Picture,
    Preview,
    Progress,
    UserError,
    VideoShape,
    Watch,
)
from mlx_video.weights.quantize import Quantization

log = logging.getLogger(__name__)
Given = Noise | Mapping[str, Any] | None
Step = Callable[[Progress], None] | None
Say = Callable[[str], None]


class LTXPipeline:
    """A checkpoint, ready to generate from. Holds no weights between calls.

    Any thread may call it; of two at once, the second waits. Clips may be decoded in another thread, too.

    with LTXPipeline.from_pretrained("Lightricks/LTX-2") as pipe:
        pipe.generate(prompt="waves at night", height=512, width=768, num_frames=97).save("waves.mp4")
    """

    def __init__(self, runner: Runner):
        """Use `from_pretrained`."""
        self._runner = runner

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
        Gemma's folder, file or id where it does not lie beside the checkpoint. lora: one or several, as in `generate`,
        for every clip. quantize: 4 or 8 bits for the transformer's blocks, made while loading; packs that are quantized
        need nothing. low_memory: whether networks are read from disk part by part; None does so where they do not fit.
        memory_limit: GiB that a run may take, if not what the machine has to give. Raises UserError where nothing is
        there; tensors are only described now and read when a clip needs them.
        """
        platform.prepare()
        encoder = kinds.taken("text_encoder", text_encoder, str | None)
        kinds.check("low_memory", low_memory, bool | None)
        bits = kinds.taken("quantize", quantize, int | None)
        named = kinds.taken("where", where, str)
        how, memory = None if bits is None else Quantization.of(bits), Memory.of(low_memory, memory_limit)
        computed, decoded = platform.dtype_of(dtype), platform.dtype_of(vae_dtype, "vae_dtype")
        runner = Runner(named, computed, encoder, kinds.taken("lora", lora, tuple[Lora, ...]), how, memory, decoded)
        if not locate.is_hub_id(runner.where):
            locate.existing(runner.where, "--model-repo")
        return cls(runner)

    def __enter__(self) -> LTXPipeline:
        """The pipeline itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Gives cached memory back."""
        self.close()

    def close(self) -> None:
        """Gives cached memory back; clips made so far stay usable."""
        self._runner.close()

    @in_keywords()
    def generate(
        self,
        *,
        noise: Given = None,
        keep: str | Path | None = None,
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_kept: Step = None,
        on_picture: Picture | None = None,
        on_message: Say = log.info,
        **options: Unpack[RequestOptions],
    ) -> Clip:
        """One clip. Keywords are the command's flags with underscores (`prompt`, `pipeline`, ...): see `Request`.

        noise: a callable (name, shape) -> array or a mapping, in place of the seeded draws (names: `diffusion.noise`).
        keep: a folder for what the run has so far, step by step; the same call again goes on from there, to the same
        latents, and once the clip is finished only decodes it. on_step: called with every Progress. on_preview: called
        after each step with Progress and the current prediction of the latents, which has the axes of `Clip.latents`
        and can be handed to `decode`. on_picture: the same as pictures (n, h, w, 3) uint8, one for each latent frame,
        through a map that is fitted to the checkpoint's decoder once. on_kept: called after each step, once it is kept.
        What any of them raises cancels the run. on_message: told what the user should know, such as a number of frames
        that was rounded. image: path, ImageAt, (path, frame, strength), or several. lora: path, Lora, (path, strength),
        or several. audio_file: path, AudioIn or (path, start). Raises UserError for what the user can put right.
        """
        request = request_of(demo.defaults(self._runner.where), options)
        return self.run(
            request, noise=noise, keep=keep, on_step=on_step, on_preview=on_preview, on_picture=on_picture,
            on_kept=on_kept, on_message=told(on_message),
        )  # fmt: skip

    @in_keywords()
    def run(
        self,
        request: Request,
        *,
        noise: Given = None,
        keep: str | Path | None = None,
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_picture: Picture | None = None,
        on_kept: Step = None,
        on_message: Say = log.info,
    ) -> Clip:
        """One clip from a whole Request; everything else as in `generate`."""
        watch = _watch(on_step, on_message, on_preview, on_picture, on_kept)
        if request.placeholder is True:
            if keep is not None:
                raise UserError(f"--keep {keep} has no effect with --placeholder, which takes next to nothing.")
            return self._runner.run(Placeholder(request, noise), watch)
        folder = None if keep is None else path_of(keep, "--keep", "give the name of a folder")
        return self._runner.run(Generate(request, noise, folder), watch)

    def generate_many(
        self,
        requests: Iterable[Request | Mapping[str, Any]],
        *,
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_message: Say = log.info,
        on_error: Failed | None = None,
    ) -> Iterator[Clip]:
        """Clips of several requests (each a Request, or the keywords of `generate`), in their order, as an iterator.

        Every network is read once for all: texts, inputs and denoising go phase by phase before the first clip comes;
        each is what it would be by itself. Decode or save a clip before you take the next. All are checked before this
        returns. on_error: called with the number of a clip, from 0, and the fault where it fails by itself; it is left
        out then. Without it the first such fault is raised, which ends the iterator. Its end, or closing it, frees the
        networks. on_step: told of all clips' steps together; everything else as in `generate`.
        """
        pairs = self.run_many(
            requests, on_step=on_step, on_preview=on_preview, on_message=told(on_message), on_error=on_error
        )
        return _clips(pairs)

    @in_keywords()
    def run_many(
        self,
        requests: Iterable[Request | Mapping[str, Any]],
        *,
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_message: Say = log.info,
        on_error: Failed | None = None,
        is_there: Made | None = None,
    ) -> Generator[tuple[int, Clip], None, None]:
        """As `generate_many`, with the number of each clip, from 0; those that `is_there` knows are not made.

        is_there: called with a clip's number and the settings that its file would have.
        """
        job = self._many(requests, on_error, is_there)
        return _spelt(self._runner.run(job, _watch(on_step, on_message, on_preview)))

    def _many(
        self, requests: Iterable[Request | Mapping[str, Any]], on_error: Failed | None, is_there: Made | None = None
    ) -> Many:
        defaults = demo.defaults(self._runner.where)
        asked = [one if isinstance(one, Request) else request_of(defaults, one) for one in requests]
        return Many(asked, _spelling(on_error or _raise), *([is_there] if is_there else []))

    @in_keywords()
    def plan_many(
        self, requests: Iterable[Request | Mapping[str, Any]], *, on_step: Step = None, on_message: Say = log.info
    ) -> Plan:
        """As `plan`, of all clips that `generate_many` would make of `requests`, together."""
        job, watch = self._many(requests, None), _watch(on_step, on_message)
        job.check(watch)
        self._runner.open(job, watch, plan=True)
        if job.plan is None:
            raise UserError("There is nothing to plan: every clip is a placeholder, or cannot be made.")
        return job.plan

    @in_keywords()
    def plan(self, request: Request, *, on_step: Step = None, on_message: Say = log.info) -> Plan:
        """What a run of `request` would take, phase by phase, and how it would keep within memory; makes nothing.

        Fetches nothing but the headers of files on the hub. on_message: told what a run would fetch, besides what it
        is told there. Raises UserError as a run does, and where the run cannot fit.
        """
        job, watch = Generate(request), _watch(on_step, on_message)
        job.check(watch)
        self._runner.open(job, watch, plan=True)
        return job.plan

    @in_keywords()
    def decode(
        self,
        latents: Mapping[str, Any],
        *,
        fps: float = 24.0,
        tiling: str = "auto",
        stream: bool = False,
        on_step: Step = None,
        on_message: Say = log.info,
    ) -> Clip:
        """The clip of latents, such as `Clip.latents` or what `on_preview` is shown; decoded when asked for.

        latents: video (1, 128, F, H, W) and, where there is sound, audio (1, 8, T, 16), normalised. on_step: of a
        download; tiling, stream: as in `generate`. Raises UserError for shapes and numbers that are none of a clip's.
        """
        if tiling not in TILINGS:
            raise UserError(f"tiling {tiling!r} is not known; there are {', '.join(TILINGS)}.")
        with platform.computing():
            found = latents_of(latents, fps)
            mx.eval(found)
        frames, rows, columns = found["video"].shape[2:]
        shape = VideoShape((frames - 1) * TIME_SCALE + 1, rows * SPACE_SCALE, columns * SPACE_SCALE, fps)
        look = Look(shape, tiling=tiling, stream=stream, sound="latents" if "audio" in found else None)
        return self._runner.run(Decode(Clip(found, look, {})), _watch(on_step, on_message))

    @in_keywords()
    def open(
        self,
        where: str | Path,
        *,
        tiling: str | None = None,
        stream: bool | None = None,
        video_decoder: str | None = None,
        fps: float | None = None,
        audio: bool | None = None,
        on_step: Step = None,
        on_message: Say = log.info,
    ) -> Clip:
        """The clip that `Clip.store` wrote, or that a finished run has kept, to be decoded by this model.

        where: its folder or its .safetensors file. tiling, stream, video_decoder: as in `generate`, where it is to be
        decoded otherwise; fps: of a clip without sound; audio: False for none. on_step: of a download. Raises UserError
        where there is no such clip, or it is damaged or another model's.
        """
        with platform.computing():
            stored = Clip.open(where)
        stored.look = stored.look.otherwise(
            tiling=tiling, stream=stream, video_decoder=video_decoder, fps=fps, audio=audio
        )
        return self._runner.run(Decode(stored), _watch(on_step, on_message))

    @in_keywords()
    def upscale(
        self, input: str | Path, *, noise: Given = None, on_step: Step = None, **options: Unpack[UpscalingOptions]
    ) -> Clip:
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
        noise: Given = None,
        on_step: Step = None,
        on_message: Say = log.info,
    ) -> Clip:
        """A picture or video upscaled as a whole Upscaling asks. on_message: as in `run`.

        output: where it will be saved, so that a place without room for it is refused before the work.
        """
        return self._runner.run(Upscale(asked, output, noise), _watch(on_step, on_message))

    @in_keywords()
    def encode(
        self,
        prompt: str,
        path: str | Path,
        *,
        variant: str = "distilled",
        negative_prompt: str | None = None,
        on_step: Step = None,
        on_message: Say = log.info,
    ) -> None:
        """Writes a prompt (and the negative one) as a file for `embedding=`; raises UserError as `generate` does."""
        self._runner.run(Encode(prompt, path, variant, negative_prompt), _watch(on_step, on_message))


def _clips(pairs: Generator[tuple[int, Clip], None, None]) -> Iterator[Clip]:
    with closing(pairs):
        for _, clip in pairs:
            yield clip


def _spelt(pairs: Iterator[tuple[int, Clip]]) -> Generator[tuple[int, Clip], None, None]:
    with in_keywords():
        yield from pairs


def _raise(number: int, fault: Fault) -> None:
    raise fault


def _spelling(tell: Failed) -> Failed:
    """`tell`, handed faults that name keywords."""

    def take(number: int, fault: Fault) -> None:
        fault.said = keywords(fault.args[0])
        tell(number, fault)

    return take


def _watch(
    on_step: Step,
    on_message: Say,
    on_preview: Preview | None = None,
    on_picture: Picture | None = None,
    on_kept: Step = None,
) -> Watch:
    report: Listener = on_step or (lambda progress: None)
    # A listener that shows what is left of the whole run is told what is expected of it.
    expect = getattr(report, "expect", Watch.expect)
    return Watch(report, on_preview, on_message, on_kept or (lambda progress: None), on_picture, expect)
