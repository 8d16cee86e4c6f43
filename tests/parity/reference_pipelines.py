"""Runs the torch reference's own pipeline classes (ltx-pipelines 1.0.0) on a small folder, in float32 on the CPU.

Their files are used as they are. Where they name bfloat16 and CUDA, they are answered with float32 and with nothing;
where they draw noise, they are given named draws (the names of mlx_video.diffusion.noise), so that ours can be given
the same. Four rules of version 1.2.0 that 1.0.0 does not have yet are put in their place, each in a line or two: what
feeds the audio-video modulation, sigma 0 for a sound that is given, the span of a keyframe, and runs without sound.
Needs torch.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.noise import draw_tokens
from mlx_video.types import MODALITIES, AudioShape, Noise, VideoShape
from tests.parity.reference import torch
from tests.support import small
from tests.support.cases import Case
from tests.support.standing import Standing

ledgers = pytest.importorskip("ltx_pipelines.utils.model_ledger")
transformers = pytest.importorskip("transformers")

from ltx_core.components import noisers  # noqa: E402
from ltx_core.components.guiders import MultiModalGuiderParams  # noqa: E402
from ltx_core.conditioning import VideoConditionByKeyframeIndex  # noqa: E402
from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP, LoraPathStrengthAndSDOps, fuse_loras  # noqa: E402
from ltx_core.model.audio_vae import ops as audio_ops  # noqa: E402
from ltx_core.model.transformer.transformer_args import MultiModalTransformerArgsPreprocessor  # noqa: E402
from ltx_core.text_encoders.gemma import GemmaTextEncoder  # noqa: E402
from ltx_core.text_encoders.gemma.encoders import encoder_configurator  # noqa: E402
from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer  # noqa: E402
from ltx_pipelines.utils import helpers, samplers  # noqa: E402
from ltx_pipelines.utils.args import ImageConditioningInput  # noqa: E402

MODULES = {
    "distilled": ("distilled", "DistilledPipeline"),
    "dev": ("ti2vid_one_stage", "TI2VidOneStagePipeline"),
    "dev-two-stage": ("ti2vid_two_stages", "TI2VidTwoStagesPipeline"),
    "dev-two-stage-hq": ("ti2vid_two_stages_hq", "TI2VidTwoStagesHQPipeline"),
}
SOUND_GIVEN = ("a2vid_two_stage", "A2VidPipelineTwoStage")
PARTS = {
    name: getattr(ledgers.ModelLedger, name)
    for name in (
        "gemma_embeddings_processor", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder",
        "spatial_upsampler",
    )
}  # fmt: skip
"""The ledger's ways to build what is the same in every run; the reference builds them anew each time."""


class Run(NamedTuple):
    """What the reference made: latents by modality (of the stages that 1.2.0 ships), frames, the draws.

    The waveform only where 1.0.0 and 1.2.0 ship the same one.
    """

    latents: dict[str, np.ndarray]
    frames: np.ndarray
    waveform: np.ndarray | None
    noise: dict[str, mx.array]


class Draws:
    """Answers calls of `torch.randn` in the order that the reference makes them, and keeps what it answered by name."""

    def __init__(self, case: Case, source: Noise):
        self.case, self.source = case, source
        self.starts = self.injections = 0
        self.kept: dict[str, mx.array] = {}

    @property
    def stage(self) -> int:
        """The stage that is under way, from 1."""
        return (self.starts + 1) // 2

    def start(self, *shape: int, **settings: Any) -> Any:
        """A stage's first noise: the video's, then the sound's."""
        self.starts, self.injections = self.starts + 1, 0
        return self._tokens(f"stage{self.stage}/{MODALITIES[(self.starts - 1) % 2]}", shape, settings)

    def inject(self, shape: Any, **settings: Any) -> Any:
        """A stochastic sampler's noise: the video's, then the sound's, and again."""
        number, turn = divmod(self.injections, 2)
        self.injections += 1
        return self._tokens(f"stage{self.stage}/sde/{number}/{MODALITIES[turn]}", tuple(shape), settings)

    def _tokens(self, name: str, shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
        clip = self.case.shape.scaled(0.5 if self.stage == 1 and self.case.pipeline != "dev" else 1.0)
        grid: VideoShape | AudioShape = clip if "video" in name else AudioShape.of(clip)

        def draw(name: str, shape: tuple[int, ...]) -> mx.array:
            value = self.source(name, shape)
            if self.case.audio or "video" in name:
                self.kept[name] = value
            return value

        return torch.from_numpy(np.array(draw_tokens(draw, name, grid, shape[1]))).to(settings["dtype"])


@functools.cache
def built(name: str, checkpoint: str, upsampler: str | None, dtype: Any) -> torch.nn.Module:
    """A network that stays the same from run to run, from the reference's own ledger; built once."""
    return PARTS[name](ledgers.ModelLedger(dtype, torch.device("cpu"), checkpoint, spatial_upsampler_path=upsampler))


def _built(name: str) -> Callable[[Any], torch.nn.Module]:
    def part(ledger: Any) -> torch.nn.Module:
        upsampler = ledger.upsampler_builder.model_path if name == "spatial_upsampler" else None
        return built(name, ledger.checkpoint_path, upsampler, ledger.dtype)

    return part


class Asked(torch.nn.Module):
    """The reference's transformer, asked as 1.2.0 asks it: without sound, or with sigma 0 for a sound that is given."""

    def __init__(self, network: torch.nn.Module, audio: bool):
        super().__init__()
        self.network, self.audio = network, audio

    def forward(self, video: Any, audio: Any, perturbations: Any) -> tuple[Any, Any]:
        if not self.audio:
            return self.network(video=video, audio=None, perturbations=perturbations)[0], torch.zeros_like(audio.latent)
        if not audio.timesteps.any():
            audio = replace(audio, sigma=torch.zeros_like(audio.sigma))
        return self.network(video=video, audio=audio, perturbations=perturbations)


@functools.cache
def text_encoder(folder: Path) -> GemmaTextEncoder:
    """The reference's text encoder around the model as transformers itself loads it."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()  # the small folder has no vision tower, and none is used
    network = transformers.Gemma3ForConditionalGeneration.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True
    )
    return GemmaTextEncoder(network.eval(), LTXVGemmaTokenizer(str(folder), 1024), dtype=torch.float32).eval()


class Mel(torch.nn.Module):
    """torchaudio's mel spectrogram as ltx-core asks for it; torchaudio has no CPU build."""

    def __init__(self, *, sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float, **framing: Any):
        super().__init__()
        from librosa.filters import mel

        self.bases = torch.from_numpy(mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max))
        self.framing = {name: framing[name] for name in ("hop_length", "center", "pad_mode")}
        self.framing |= {"n_fft": n_fft, "window": framing["window_fn"](n_fft)}

    def forward(self, waveform: Any) -> Any:
        return self.bases @ torch.stft(waveform[0], **self.framing, return_complex=True).abs()[None]


@contextmanager
def on_the_cpu(module: types.ModuleType, folder: Path, case: Case, draws: Draws) -> Iterator[list[Any]]:
    """The reference's module made to run here; gives the list that the results of its stages will be put in."""
    stages: list[Any] = []
    float32 = {"bfloat16": torch.float32, "cuda": Standing(torch.cuda, synchronize=lambda: None)}
    plain, apply = MultiModalTransformerArgsPreprocessor.prepare, VideoConditionByKeyframeIndex.apply_to
    build = ledgers.ModelLedger.transformer

    def prepare(self: Any, modality: Any, cross_modality: Any = None) -> Any:
        # Since 1.2.0 scale and shift follow this stream's own timesteps; only the gate follows the other one's sigma.
        args = plain(self, modality, cross_modality)
        if cross_modality is None:
            return args
        own, _ = self._prepare_cross_attention_timestep(
            modality.timesteps, self.simple_preprocessor.timestep_scale_multiplier, args.x.shape[0], args.x.dtype
        )
        return replace(args, cross_scale_shift_timestep=own)

    def apply_to(self: Any, latent_state: Any, latent_tools: Any) -> Any:
        # Since 1.2.0 a picture at a frame spans that one frame in time, not the eight of a latent.
        state = apply(self, latent_state, latent_tools)
        start, end = state.positions[:, 0, -self.keyframes.shape[-1] * self.keyframes.shape[-2] :].unbind(-1)
        end.copy_(start + 1 / latent_tools.fps)
        return state

    def kept(denoise: Callable[..., Any]) -> Callable[..., Any]:
        def run(**arguments: Any) -> Any:
            stages.append((denoise(**arguments), arguments))
            return stages[-1][0]

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "torch", Standing(torch, **float32))
        patch.setattr(helpers, "torch", Standing(torch, **float32))
        patch.setattr(helpers, "gc", types.SimpleNamespace(collect=lambda: None))  # takes longer than all else together
        patch.setattr(noisers, "torch", Standing(torch, randn=draws.start))
        patch.setattr(samplers, "torch", Standing(torch, randn=draws.inject))
        patch.setattr(samplers, "tqdm", lambda steps: steps)
        patch.setattr(fuse_loras, "torch", Standing(torch, matmul=lambda b, a: torch.matmul(b.float(), a.float())))
        patch.setattr(MultiModalTransformerArgsPreprocessor, "prepare", prepare)
        patch.setattr(VideoConditionByKeyframeIndex, "apply_to", apply_to)
        patch.setattr(ledgers.ModelLedger, "text_encoder", lambda ledger: text_encoder(folder / "gemma"))
        patch.setattr(ledgers.ModelLedger, "transformer", lambda ledger: Asked(build(ledger).float(), case.audio))
        for name in PARTS:
            patch.setattr(ledgers.ModelLedger, name, _built(name))
        patch.setattr(audio_ops.torchaudio.transforms, "MelSpectrogram", Mel)
        text = encoder_configurator.GEMMA3_CONFIG_FOR_LTX.text_config
        patch.setattr(text, "hidden_size", small.TEXT_WIDTH)
        patch.setattr(text, "num_hidden_layers", small.TEXT_LAYERS)
        for name in ("denoise_audio_video", "denoise_video_only"):
            if hasattr(module, name):
                patch.setattr(module, name, kept(getattr(module, name)))
        if hasattr(module, "res2s_audio_video_denoising_loop"):
            loop = functools.partial(module.res2s_audio_video_denoising_loop, model_dtype=torch.float32)
            patch.setattr(module, "res2s_audio_video_denoising_loop", loop)
        yield stages


def run(folder: Path, generation: str, case: Case, inputs: Path, noise: Noise) -> Run:
    """The reference's own run of `case` on a folder of tests/small.py, with the draws of `noise`."""
    name, pipeline = SOUND_GIVEN if case.sound is not None else MODULES[case.pipeline]
    module = importlib.import_module(f"ltx_pipelines.{name}")
    draws = Draws(case, noise)
    with on_the_cpu(module, folder, case, draws) as stages, torch.inference_mode():
        video, audio = getattr(module, pipeline)(**_parts(folder, generation, case))(**_arguments(case, inputs))
        frames = torch.cat(list(video)).numpy()
    # The sound of stage 2 is what 1.0.0 decodes in two-stage pipelines; 1.2.0 ships that of stage 1.
    heard = case.audio and (case.pipeline in ("distilled", "dev") or case.sound is not None)
    return Run(_latents(case, stages), frames, audio.waveform.float().numpy() if heard else None, draws.kept)


def _parts(folder: Path, generation: str, case: Case) -> dict[str, Any]:
    checkpoint = str(folder / small.NAMES[generation].format("dev" if case.guided else "distilled"))
    lora = LoraPathStrengthAndSDOps(str(folder / small.LORAS[generation]), 1.0, LTXV_LORA_COMFY_RENAMING_MAP)
    # No folder for Gemma: the reference would read files of it that the small one does not have.
    parts: dict[str, Any] = {"gemma_root": None, "loras": (), "device": torch.device("cpu")}
    parts["checkpoint_path" if case.guided else "distilled_checkpoint_path"] = checkpoint
    if case.pipeline != "dev":
        parts["spatial_upsampler_path"] = str(folder / small.UPSAMPLERS[generation])
    if case.pipeline.startswith("dev-two-stage"):
        parts["distilled_lora"] = [lora]
    if case.pipeline == "dev-two-stage-hq":
        parts |= {"distilled_lora_strength_stage_1": 0.25, "distilled_lora_strength_stage_2": 0.5}
    return parts


def _arguments(case: Case, inputs: Path) -> dict[str, Any]:
    shape = case.shape
    arguments: dict[str, Any] = {
        "prompt": case.prompt, "seed": case.seed, "height": shape.height, "width": shape.width,
        "num_frames": shape.frames, "frame_rate": shape.fps,
    }  # fmt: skip
    arguments["images"] = [ImageConditioningInput(str(inputs / "picture.png"), *image) for image in case.images]
    if case.guided:
        used = case.guidance_used
        shared = {
            "stg_scale": used["stg_scale"], "stg_blocks": list(used.get("stg_blocks", ())),
            "rescale_scale": used["cfg_rescale"], "modality_scale": used.get("modality_scale", 1.0),
        }  # fmt: skip
        arguments |= {"negative_prompt": case.negative_prompt, "num_inference_steps": case.steps}
        arguments["video_guider_params"] = MultiModalGuiderParams(cfg_scale=used["cfg_scale"], **shared)
        if case.sound is None:
            sound = MultiModalGuiderParams(cfg_scale=used["audio_cfg_scale"], **shared) if case.audio else None
            arguments["audio_guider_params"] = sound or MultiModalGuiderParams()
    if case.sound is not None:
        arguments |= {"audio_path": str(inputs / "sound.wav"), "audio_start_time": case.sound}
    return arguments


def _latents(case: Case, stages: list[Any]) -> dict[str, np.ndarray]:
    """Video of the last stage; sound of the stage that 1.2.0 ships (1.0.0 ships the last one's): see the recipes."""
    if case.sound is not None:
        final, arguments = stages[-1]
        return {"video": final.latent.numpy(), "audio": arguments["initial_audio_latent"].numpy()}
    (video, last), (_, first) = stages[-1][0], stages[0][0]
    latents = {"video": video.latent.numpy()}
    if case.audio:
        latents["audio"] = (first if case.guided else last).latent.numpy()
    return latents
