"""Whether a network's sizes are those that the pipelines work in: latents, tokens, frames of sound, rates.

A file can be whole in itself and yet of another geometry; that would be found after an hour, in an error about shapes.
Knows configs; knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_video.models.family import Component
from mlx_video.models.ltx_2.config import (
    AudioVAEConfig,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from mlx_video.models.ltx_2.video_vae.blocks import scale
from mlx_video.types import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_HOP,
    AUDIO_SAMPLE_RATE,
    SPACE_SCALE,
    TIME_SCALE,
    VIDEO_CHANNELS,
    UserError,
)

Size = tuple[str, Any, Any]
"""What it is, as a config says it, and as it should be."""
FRAMES_A_SECOND = AUDIO_SAMPLE_RATE // AUDIO_HOP
"""Of a spectrogram."""


def check(component: Component, settings: Mapping[str, Any], whose: str, *, audio: bool, **options: Any) -> None:
    """Raises UserError where the config of a component is of another geometry; `whose`: the file that states it.

    audio: whether the transformer has its stream for sound; options: of the config's reader, besides.
    """
    if component.key == "transformer":
        options["audio"] = audio
    config = component.read(settings, **options)
    for what, said, wanted in _sizes(component.key, config):
        if said != wanted:
            raise UserError(f"{whose}: the {component.label} has {what} = {said}; supported here: {wanted}.")
    if isinstance(config, TextConfig):
        _check_contexts(config, TransformerConfig.read(settings, audio=audio), whose)


def _check_contexts(text: TextConfig, transformer: TransformerConfig, whose: str) -> None:
    """The connectors' contexts are as wide as the transformer takes them."""
    for modality, stream in transformer.streams.items():
        wanted = transformer.caption_channels or stream.context_dim
        found = getattr(text, modality).dim
        if found != wanted:
            raise UserError(
                f"{whose}: the connectors make {modality} contexts of width {found}; the transformer takes {wanted}."
            )


def _sizes(component: str, config: object) -> Iterator[Size]:
    match config:
        case TransformerConfig():
            for modality, stream in config.streams.items():
                values = VIDEO_CHANNELS if modality == "video" else AUDIO_CHANNELS * AUDIO_BINS
                yield f"{modality} in_channels", stream.in_channels, values
                yield f"{modality} out_channels", stream.out_channels, values
        case VideoVAEConfig():
            blocks = config.encoder_blocks if component == "video_encoder" else config.decoder_blocks
            yield "latent_channels", config.latent_channels, VIDEO_CHANNELS
            if component != "latent_statistics":
                found = tuple(scale(blocks, config.patch_size))
                yield "scale of time, height and width", found, (TIME_SCALE, SPACE_SCALE, SPACE_SCALE)
        case AudioVAEConfig():
            yield "z_channels", config.latent_channels, AUDIO_CHANNELS
            yield "frequency bins of a latent", config.latent_bins, AUDIO_BINS
            yield "sampling_rate / hop_length", config.sample_rate / config.hop, FRAMES_A_SECOND
        case VocoderConfig():
            rate = FRAMES_A_SECOND * math.prod(config.generator.rates)
            yield "output_sampling_rate for its upsample_rates", config.sample_rate, rate
        case UpsamplerConfig():
            yield "in_channels", config.in_channels, VIDEO_CHANNELS
