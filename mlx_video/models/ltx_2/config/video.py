"""What a checkpoint says of its video autoencoder, and an upsampler file of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.ltx_2.config.section import Section, section
from mlx_video.types import UserError


@dataclass(frozen=True)
class VideoVAEConfig:
    """The convolutional video autoencoder, both halves."""

    in_channels: int
    out_channels: int
    latent_channels: int
    patch_size: int
    encoder_blocks: tuple[tuple[str, Mapping[str, Any]], ...]
    decoder_blocks: tuple[tuple[str, Mapping[str, Any]], ...]
    decoder_base_channels: int
    causal_decoder: bool
    encoder_padding: str
    decoder_padding: str

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VideoVAEConfig:
        """From a checkpoint's config; LTX-2.5's diffusion decoder and timestep conditioning are refused by name."""
        s = section(config, "vae")
        s.only("_class_name", "CausalVideoAutoencoder")
        s.only("dims", 3)
        s.only("norm_layer", "pixel_norm")
        s.only("latent_log_var", "uniform")
        if s.get("timestep_conditioning", True):
            raise UserError("The checkpoint says vae.timestep_conditioning = True; supported here: False.")
        own = s.only("encoder_spatial_padding_mode", "zeros", "reflect")
        return cls(
            in_channels=s.get("in_channels", 3),
            out_channels=s.get("out_channels", 3),
            latent_channels=s.get("latent_channels", 128),
            patch_size=s.get("patch_size", 4),
            encoder_blocks=_blocks(s, "encoder_blocks"),
            decoder_blocks=_blocks(s, "decoder_blocks"),
            decoder_base_channels=s.get("decoder_base_channels", 128),
            causal_decoder=s.get("causal_decoder", False),
            # Where both are said the encoder, too, follows the plain key, as in the reference.
            encoder_padding=s.only("spatial_padding_mode", own, "zeros", "reflect"),
            decoder_padding=s.only("spatial_padding_mode", "reflect", "zeros"),
        )


def _blocks(s: Section, key: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    # A bare number stands for {"num_layers": number}.
    return tuple((name, {"num_layers": what} if isinstance(what, int) else dict(what)) for name, what in s.need(key))


@dataclass(frozen=True)
class UpsamplerConfig:
    """The latent upsampler: space by 2 (plain), by 1.5, 2, 4 or 0.75 (rational), time by 2, or space and time by 2."""

    in_channels: int
    mid_channels: int
    blocks: int
    """Residual blocks before the resampling, and as many after it."""
    spatial: bool
    temporal: bool
    scale: float
    """Of height and width; 1.0 where only time is upsampled."""
    rational: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UpsamplerConfig:
        """From an upsampler file's own flat config."""
        s = Section(config, "config")
        s.only("dims", 3)
        spatial, temporal = s.get("spatial_upsample", True), s.get("temporal_upsample", False)
        if not spatial and not temporal:
            raise UserError(
                "The upsampler's config has spatial_upsample and temporal_upsample both off; one must be on."
            )
        channels = s.get("mid_channels", 512)
        if channels % UPSAMPLER_GROUPS:
            raise UserError(
                f"The checkpoint says config.mid_channels = {channels}; supported: multiples of {UPSAMPLER_GROUPS}."
            )
        rational = spatial and not temporal and s.get("rational_resampler", False)
        # The plain resampler doubles whatever spatial_scale says, so the key is read for the rational one alone.
        scale = float(s.only("spatial_scale", *UPSAMPLER_RATIOS)) if rational else 2.0 if spatial else 1.0
        return cls(
            s.get("in_channels", 128), channels, s.get("num_blocks_per_stage", 4), spatial, temporal, scale, rational
        )

    @property
    def ratio(self) -> tuple[int, int]:
        """`scale` as a fraction: up by the first, then down by the second."""
        return UPSAMPLER_RATIOS[self.scale] if self.rational else (round(self.scale), 1)

    def grid(self, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns that a latent of the given size is upsampled to."""
        up, down = self.ratio
        return (2 * frames - 1 if self.temporal else frames), -(-rows * up // down), -(-columns * up // down)


UPSAMPLER_RATIOS = {2.0: (2, 1), 1.5: (3, 2), 4.0: (4, 1), 0.75: (3, 4)}
"""Scales of the rational resampler; the first is what an absent key means."""
UPSAMPLER_GROUPS = 32
"""Groups of its normalisation."""
