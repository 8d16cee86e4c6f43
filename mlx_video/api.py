"""`LTXPipeline`: the Python API. Everything that the commands do is a call of this class.

Turns keywords into a job and hands it to the runner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import demo, locate
from mlx_video.jobs.decode import Decode
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.placeholder import Placeholder
from mlx_video.jobs.text import Encode
from mlx_video.jobs.upscale import Upscale
from mlx_video.planning.plan import Memory, Plan
from mlx_video.request import Request, RequestOptions, Upscaling, kinds
from mlx_video.request.generating import request_of
from mlx_video.request.spelling import in_keywords, told
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
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_message: Say = log.info,
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
        request = request_of(demo.defaults(self._runner.where), options)
        return self.run(request, noise=noise, on_step=on_step, on_preview=on_preview, on_message=told(on_message))

    @in_keywords()
    def run(
        self,
        request: Request,
        *,
        noise: Given = None,
        on_step: Step = None,
        on_preview: Preview | None = None,
        on_message: Say = log.info,
    ) -> Clip:
        """One clip from a whole Request; everything else as in `generate`."""
        job = (Placeholder if request.placeholder is True else Generate)(request, noise)
        return self._runner.run(job, _watch(on_step, on_message, on_preview))

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
    def open(self, folder: str | Path, *, on_step: Step = None, on_message: Say = log.info) -> Clip:
        """The clip that `Clip.store` wrote to `folder`, to be decoded by this model; the keywords are `decode`'s.

        Raises UserError where there is none, or it is damaged or another model's.
        """
        with platform.computing():
            stored = Clip.open(folder)
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


def _watch(on_step: Step, on_message: Say, on_preview: Preview | None = None) -> Watch:
    report: Listener = on_step or (lambda progress: None)
    # A listener that shows what is left of the whole run is told what is expected of it.
    return Watch(report, on_preview, on_message, getattr(report, "expect", Watch.expect))
