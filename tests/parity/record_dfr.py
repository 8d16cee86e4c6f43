"""Records runs of the reference's DFR pipeline, which pip packages do not have, for `test_dfr.py`; by hand.

`PYTHONPATH=CORE/src:PIPELINES/src python -m tests.parity.record_dfr` takes a source tree of version 1.2.0 and writes
fixtures/dfr.npz from the small LTX-2.5 pack. The pipeline's file is used as it is; where it names bfloat16 it is
answered with float32, where it draws noise with our seeded draws by name, and its prompt with what our text encoder
made (which other tests hold against theirs). Nothing is decoded.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from mlx_video import LTXPipeline, Request
from mlx_video.diffusion.noise import draw_tokens, seeded
from mlx_video.jobs.generate import Generate
from mlx_video.types import AudioShape, Context, VideoShape, Watch
from tests.jobs.dfr_cases import CASES, EVERY, FIXTURE
from tests.parity.reference import torch
from tests.support import small_pack
from tests.support.cases import write_inputs
from tests.support.standing import Standing


class Draws:
    """Answers `torch.randn` by the stage that is under way, and keeps what each stage ended with."""

    def __init__(self, seed: int, source: Any):
        self.seed, self.source = seed, source
        self.name, self.shape, self.starts, self.injections, self.calls = "", None, 0, 0, 0
        self.latents: dict[str, np.ndarray] = {}

    def start(self, *shape: int, **settings: Any) -> Any:
        """The first noise of the stage: the video's, then the sound's."""
        self.starts += 1
        return self._tokens(f"{self.name}/{('video', 'audio')[self.starts - 1]}", shape)

    def inject(self, *shape: Any, **settings: Any) -> Any:
        """The sampler's own; there is no sound where it draws any."""
        self.injections += 1
        shape = shape[0] if isinstance(shape[0], tuple | torch.Size) else shape
        return self._tokens(f"{self.name}/sde/{self.injections - 1}/video", tuple(shape))

    def _tokens(self, name: str, shape: tuple[int, ...]) -> Any:
        grid = AudioShape.of(self.shape) if name.endswith("audio") else self.shape
        return torch.from_numpy(np.array(draw_tokens(self.source, name, grid, shape[1])))

    def stage(self, plain: Any) -> Any:
        """The reference's stage, which is told of."""

        @functools.wraps(plain)
        def run(stage: Any, **given: Any) -> Any:
            self.calls += 1
            self.shape = VideoShape(given["frames"], given["height"], given["width"], given["fps"])
            self.starts = self.injections = 0
            self.name = f"stage{self.calls}"
            if "loop" in given:
                turn, tile = divmod(given["loop"].keywords["noise_seed"] - self.seed, 1000)
                self.name = f"stage{turn + 2}/{tile}"
                given["loop"] = functools.partial(given["loop"], model_dtype=torch.float32)
            video, audio = plain(stage, **given)
            self.latents[f"{self.name}/video"] = video.latent.numpy()
            if video.generated_keyframes is not None:
                self.latents[f"{self.name}/keyframes"] = video.generated_keyframes.numpy()
            if audio is not None:
                self.latents[f"{self.name}/audio"] = audio.latent.numpy()
            return video, audio

        return run


def run(folder: Path, picture: Path, context: Context, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the reference's pipeline ends its stages with, by stage, tile and kind; `video`: what it would decode."""
    sys.modules.setdefault("OpenImageIO", ModuleType("OpenImageIO"))  # for pictures of a kind that is not used here

    from ltx_core.components import noisers
    from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP, LoraPathStrengthAndSDOps
    from ltx_core.loader.fuse_loras import FuseRule
    from ltx_core.loader.single_gpu_model_builder import SingleGPUModelBuilder
    from ltx_pipelines import dfr_pipeline as module
    from ltx_pipelines.utils import blocks, samplers
    from ltx_pipelines.utils.args import ImageConditioningInput
    from ltx_pipelines.utils.model_paths import ModelPaths

    seed = options["seed"]
    draws, build = Draws(seed, seeded(seed)), SingleGPUModelBuilder.build
    texts = SimpleNamespace(video_encoding=_torch(context.video), audio_encoding=_torch(context.audio))
    decoded: dict[str, np.ndarray] = {}

    def built(builder: Any, device: Any = None, dtype: Any = None, **more: Any) -> Any:
        rule = FuseRule(torch.float32, lambda key, weight, deltas, state: {key: deltas.float() + weight.float()})
        builder = builder.with_fuse_rule(rule) if builder.loras else builder
        return build(builder, device=device, dtype=torch.float32, **more).to(torch.float32)

    def shown(decoder: Any, latent: Any, *rest: Any) -> list[Any]:
        decoded["video"] = latent.numpy()
        return []

    def heard(decoder: Any, latent: Any) -> Any:
        sound = sounds(decoder, latent)
        decoded["audio"], decoded["rate"] = latent.numpy(), np.array(sound.sampling_rate)
        return sound

    sounds, single = blocks.AudioDecoder.__call__, Standing(torch, bfloat16=torch.float32)
    lora = LoraPathStrengthAndSDOps(str(folder / small_pack.LORA), 1.0, LTXV_LORA_COMFY_RENAMING_MAP)
    paths = ModelPaths.from_split(
        transformer_path=str(folder / small_pack.TRANSFORMER.format("dev")),
        text_encoder_path=str(folder / small_pack.TEXT_ENCODER),
        video_vae_path=str(folder / small_pack.VIDEO),
        audio_vae_path=str(folder / small_pack.SOUND),
        duration_head_path=str(folder / small_pack.DURATION),
    )
    images = [ImageConditioningInput(str(picture), *image) for image in options.get("images", ())]
    with (
        patch.object(module, "torch", single),
        patch.object(SingleGPUModelBuilder, "build", built),
        patch.object(noisers, "torch", Standing(torch, randn=draws.start)),
        patch.object(samplers, "torch", Standing(torch, randn=draws.inject, bfloat16=torch.float32)),
        patch.object(module, "PromptEncoder", lambda *given, **more: lambda *asked, **how: [texts]),
        patch.object(blocks.DiffusionStage, "__call__", draws.stage(blocks.DiffusionStage.__call__)),
        patch.object(blocks.VideoDecoder, "__call__", shown),
        patch.object(blocks.AudioDecoder, "__call__", heard),
        torch.inference_mode(),
    ):
        pipeline = module.DFRPipeline(
            paths, [lora], str(folder / small_pack.UPSAMPLER), [],
            temporal_upsampler_path=str(folder / small_pack.TEMPORAL), device=torch.device("cpu"),
        )  # fmt: skip
        _, sound, frames, _ = pipeline(
            "", seed, options["height"], options["width"], options.get("fps", 24.0), images,
            num_frames=options["num_frames"], temporal_upsample_rounds=options.get("rounds", 0), tiling_config=None,
        )  # fmt: skip
    return {**draws.latents, **decoded, "waveform": sound.waveform.numpy(), "frames": np.array(frames)}


def _torch(array: mx.array) -> Any:
    return torch.from_numpy(np.array(array.astype(mx.float32)))


def context_of(folder: Path, prompt: str) -> Context:
    """What our text encoder makes of a prompt, for the dev transformer."""
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        job = Generate(Request(prompt, pipeline="dev", height=64, width=64, num_frames=9))
        job.check(Watch())
        pipe._runner.open(job, Watch())
        return job._run.contexts(Watch())["positive"]


def main() -> None:
    """Writes the fixture."""
    kept: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, inputs = small_pack.make(Path(place) / "small"), write_inputs(Path(place) / "inputs")
        for name, options in CASES.items():
            context = context_of(folder, options["prompt"])
            found = run(folder, inputs / "picture.png", context, options)
            found["some"] = found["video"][:, :, ::EVERY]
            found["length"] = np.array([found["frames"], found["waveform"].shape[1], found["rate"]])
            kept |= {f"{name}/{key}": found[key] for key in (*options["kept"], "length")}
    np.savez_compressed(FIXTURE, **kept)


if __name__ == "__main__":
    main()
