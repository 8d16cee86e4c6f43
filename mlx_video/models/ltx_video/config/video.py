"""What a checkpoint says of its video autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.ltx_2.config.video import MAX_CHANNELS, read_blocks, stacks_of
from mlx_video.models.section import Section, Stacks, section

Blocks = tuple[tuple[str, Mapping[str, Any]], ...]
"""Kinds with their settings, from the pixels on."""
BASE_CHANNELS = 128
"""At the pixels' end, in both halves, where a config does not say; published files never do."""


@dataclass(frozen=True)
class VideoVAEConfig:
    """The convolutional video autoencoder, both halves."""

    in_channels: int
    out_channels: int
    latent_channels: int
    patch_size: int
    encoder_blocks: Blocks
    decoder_blocks: Blocks
    """From the pixels on, too."""
    encoder_base_channels: int
    decoder_base_channels: int
    timestep_conditioning: bool
    """The decoder is told how noisy its latent is (from 0.9.1 on)."""

    @property
    def encoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        return stacks_of("vae.encoder_blocks", "down_blocks", self.encoder_blocks)

    @property
    def decoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        return stacks_of("vae.decoder_blocks", "up_blocks", tuple(reversed(self.decoder_blocks)))

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VideoVAEConfig:
        """From a checkpoint's config, in the official form.

        0.9.0 has one list of blocks for both halves. Padding in space is with zeros where nothing is said.
        """
        s = section(config, "vae")
        for key, value in (
            ("_class_name", "CausalVideoAutoencoder"), ("dims", 3), ("norm_layer", "pixel_norm"),
            ("latent_log_var", "uniform"), ("use_quant_conv", False), ("causal_decoder", False),
            ("spatial_padding_mode", "zeros"),
        ):  # fmt: skip
            s.only(key, value)
        return cls(
            in_channels=s.only("in_channels", 3),
            out_channels=s.only("out_channels", 3),
            latent_channels=s.integer("latent_channels", 128, 1, MAX_CHANNELS),
            patch_size=s.integer("patch_size", 4, 1, 16),
            encoder_blocks=_listed(s, "encoder_blocks"),
            decoder_blocks=_listed(s, "decoder_blocks"),
            encoder_base_channels=s.integer("encoder_base_channels", BASE_CHANNELS, 1, MAX_CHANNELS),
            decoder_base_channels=s.integer("decoder_base_channels", BASE_CHANNELS, 1, MAX_CHANNELS),
            timestep_conditioning=s.flag("timestep_conditioning", False),
        )


def _listed(s: Section, key: str) -> Blocks:
    return read_blocks(s, key if s.values.get(key) is not None or s.values.get("blocks") is None else "blocks")
