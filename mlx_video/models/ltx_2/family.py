"""LTX-2, 2.3 and 2.5 as data: networks, pipelines, generations. Imports nothing heavy, because `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mlx_video.models.family import Component, Facts, Family, Generation
from mlx_video.models.ltx_2 import config
from mlx_video.models.ltx_2.recipes import LATER_25, NEGATIVE_PROMPT, RECIPES, RECIPES_25, REFINING


def _component(key: str, place: str, read: Any, **more: Any) -> Component:
    return Component(key, f"mlx_video.models.ltx_2.{place}", read, **more)


_AUTOENCODER: Mapping[str, Any] = {"autoencoder": True}
_ENCODER: Mapping[str, Any] = {**_AUTOENCODER, "stacks": "encoder_stacks"}
_DECODER: Mapping[str, Any] = {**_AUTOENCODER, "stacks": "decoder_stacks"}

COMPONENTS: dict[str, Component] = {
    one.key: one
    for one in (
        _component("transformer", "transformer:Transformer", config.TransformerConfig.read),
        _component(
            "connectors", "text_encoder.connectors:Connectors", config.TextConfig.read,
            measured=lambda shapes: {"features": config.feature_width(shapes)},
        ),
        _component("video_encoder", "video_vae.encoder:VideoEncoder", config.VideoVAEConfig.read, **_ENCODER),
        _component("video_decoder", "video_vae.decoder:VideoDecoder", config.VideoVAEConfig.read, **_DECODER),
        _component(
            "latent_statistics", "video_vae.statistics:LatentStatistics", config.VideoVAEConfig.read, **_AUTOENCODER
        ),
        _component("audio_encoder", "audio_vae.encoder:AudioEncoder", config.AudioVAEConfig.read, **_ENCODER),
        _component("audio_decoder", "audio_vae.decoder:AudioDecoder", config.AudioVAEConfig.read, **_DECODER),
        # The reference keeps the vocoder in float32: in bfloat16 its spectral error grows by 40 to 90 %.
        _component("vocoder", "vocoder:Vocoder", config.VocoderConfig.read, always_float32=True),
        _component(
            "diffusion_decoder", "diffusion_decoder:DiffusionDecoder", config.DiffusionDecoderConfig.read,
            measured=lambda shapes: {"gated": any(name.endswith(".gate_ctx") for name in shapes)},
            optional=True, **_AUTOENCODER,
        ),
        _component(
            "duration_head", "duration:DurationHead", config.DurationConfig.read,
            measured=lambda shapes: {"apart": any(name.endswith("cross_attn.q_proj.weight") for name in shapes)},
            always_float32=True, optional=True,
        ),
        _component("upsampler", "upsampler:Upsampler", config.UpsamplerConfig.read, **_AUTOENCODER),
    )
}  # fmt: skip


_VIDEO_25 = "ltx-2.5-video-vae-conv-bf16.safetensors", 1_452_269_922
_SOUND_25 = "ltx-2.5-audio-vae-bf16.safetensors", 364_866_540
FILES_25: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("video_encoder", "video_decoder", "latent_statistics"), _VIDEO_25),
    **dict.fromkeys(("audio_encoder", "audio_decoder", "vocoder"), _SOUND_25),
    "connectors": ("gemma4-12b-with-proj-ltx-2.5-bf16.safetensors", 26_263_860_594),
    "diffusion_decoder": ("ltx-2.5-video-vae-bf16.safetensors", 1_472_223_346),
    "duration_head": ("ltx-2.5-duration-head-bf16.safetensors", 3_843_690),
}
"""Of the split pack that LTX-2.5 is published as, with their bytes."""


def _published(generation: str) -> Mapping[str, Any]:
    from mlx_video.models.ltx_2.published import CONFIGS

    return CONFIGS[generation]


def _published_parts(generation: str) -> Mapping[str, Mapping[str, Any]]:
    from mlx_video.models.ltx_2.published import PARTS

    return PARTS[generation]


def _check_geometry(component: str, settings: Mapping[str, Any], whose: str, **options: Any) -> None:
    from mlx_video.models.ltx_2.geometry import check

    check(COMPONENTS[component], settings, whose, **options)


def _facts(settings: Mapping[str, Any]) -> Facts:
    transformer, vae = config.TransformerConfig.read(settings), config.VideoVAEConfig.read(settings)
    reflects = (padding == "reflect" for padding in (vae.encoder_padding, vae.decoder_padding))
    return Facts(transformer.layers, transformer.video.dim, *reflects, transformer.keyframe_embedding)


LTX_2 = Family(
    name="LTX-2",
    components=COMPONENTS,
    recipes=RECIPES,
    generations=(
        Generation((2,), {"steps": 40, "stg_block": 29 / 48, "image_crf": 33}, config=lambda: _published("2")),
        Generation(
            (2, 3),
            {"steps": 30, "stg_block": 28 / 48, "image_crf": 33},
            config=lambda: _published("2.3"),
            told_by="prompt_adaln_single",
            whole_with="caption_proj_before_connector",
        ),
        Generation(
            (2, 5),
            {"steps": 30, "stg_block": 28 / 48, "image_crf": 18},
            recipes=RECIPES_25,
            files=FILES_25,
            later=LATER_25,
            config=lambda: _published("2.5"),
            configs=lambda: _published_parts("2.5"),
            told_by="keyframes_abs_pos_embedding",
            whole_with="caption_proj_before_connector",
        ),
    ),
    refining=REFINING,
    negative_prompt=NEGATIVE_PROMPT,
    facts=_facts,
    costs=lambda: import_module("mlx_video.models.ltx_2.costs"),
    text=lambda: import_module("mlx_video.models.ltx_2.text_encoder.offer"),
    trial=lambda: import_module("mlx_video.models.ltx_2.trial"),
    check_geometry=_check_geometry,
)
"""`stg_block` is a share of the depth, so that a checkpoint with fewer than 48 blocks gets the block at the same
relative depth."""
