"""What a checkpoint says of its video autoencoder, and an upsampler file of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.section import MAX_BLOCKS, MAX_LAYERS, Section, Stacks, section
from mlx_video.reading import shown
from mlx_video.types import UserError

MAX_CHANNELS = 1 << 14
"""Of any convolution; the widest published has 4,096."""
DIFFUSION = "CausalDiffusionVAE"
"""An autoencoder whose decoder is of another kind (`DiffusionDecoderConfig`); its encoder is the convolutional one."""


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

    @property
    def encoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        return stacks_of("vae.encoder_blocks", "down_blocks", self.encoder_blocks)

    @property
    def decoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        # Configs list them from the pixels' side.
        return stacks_of("vae.decoder_blocks", "up_blocks", tuple(reversed(self.decoder_blocks)))

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VideoVAEConfig:
        """From a checkpoint's config; timestep conditioning is refused by name.

        Where the decoder is a diffusion one (LTX-2.5), the encoder is of this kind all the same, and `decoder_blocks`
        is empty.
        """
        s = section(config, "vae")
        if s.only("_class_name", "CausalVideoAutoencoder", DIFFUSION) == DIFFUSION:
            return cls._read_encoder(s)
        s.only("dims", 3)
        s.only("norm_layer", "pixel_norm")
        s.only("latent_log_var", "uniform")
        if s.flag("timestep_conditioning", True):
            raise UserError(f"{s.whose} says vae.timestep_conditioning = True; supported here: False.")
        own = s.only("encoder_spatial_padding_mode", "zeros", "reflect")
        return cls(
            in_channels=s.only("in_channels", 3),
            out_channels=s.only("out_channels", 3),
            latent_channels=s.integer("latent_channels", 128, 1, MAX_CHANNELS),
            patch_size=s.integer("patch_size", 4, 1, 16),
            encoder_blocks=read_blocks(s, "encoder_blocks"),
            decoder_blocks=read_blocks(s, "decoder_blocks"),
            decoder_base_channels=s.integer("decoder_base_channels", 128, 1, MAX_CHANNELS),
            causal_decoder=s.flag("causal_decoder", False),
            # Where both are said the encoder, too, follows the plain key, as in the reference.
            encoder_padding=s.only("spatial_padding_mode", own, "zeros", "reflect"),
            decoder_padding=s.only("spatial_padding_mode", "reflect", "zeros"),
        )

    @classmethod
    def _read_encoder(cls, whole: Section) -> VideoVAEConfig:
        whole.only("dims", 3)
        s = whole.part("encoder")
        s.only("_class_name", "Encoder")
        s.only("dims", 3)
        s.only("norm_layer", "pixel_norm")
        # One channel more than the mean in either form, and nobody reads it.
        s.only("latent_log_var", "uniform", "constant")
        padding = s.only("spatial_padding_mode", "zeros", "reflect")
        return cls(
            in_channels=s.only("in_channels", 3),
            out_channels=3,
            latent_channels=s.integer("out_channels", 128, 1, MAX_CHANNELS),
            patch_size=s.integer("patch_size", 4, 1, 16),
            encoder_blocks=read_blocks(s, "blocks"),
            decoder_blocks=(),
            decoder_base_channels=s.integer("base_channels", 128, 1, MAX_CHANNELS),
            causal_decoder=False,
            encoder_padding=padding,
            decoder_padding="zeros",
        )


def stacks_of(key: str, path: str, blocks: tuple[tuple[str, Mapping[str, Any]], ...]) -> Stacks:
    """Of the blocks at `path` in a network, which the config lists under `key`; see `Stacks`."""
    return {
        f"{path}.{i}.res_blocks": (f"{key}: num_layers", settings["num_layers"])
        for i, (kind, settings) in enumerate(blocks)
        if kind == "res_x"
    }


def read_blocks(s: Section, key: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """The blocks that a config lists under `key`: their kinds and settings. Raises UserError for what is no list."""
    listed = s.values.get(key)
    if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= MAX_BLOCKS or not all(map(_is_block, listed)):
        raise UserError(
            f"{s.whose} says {s.where}.{key} = {shown(listed)}; it should be a list of 1 to {MAX_BLOCKS} pairs, "
            f"each of a block's kind and its settings."
        )
    return tuple(_block(s, key, i, *pair) for i, pair in enumerate(listed))


def _is_block(pair: object) -> bool:
    match pair:
        case [str(), int() | Mapping() as settings]:
            return not isinstance(settings, bool)
    return False


def _block(s: Section, key: str, index: int, kind: str, given: Any) -> tuple[str, Mapping[str, Any]]:
    # A bare number stands for {"num_layers": number}.
    own = Section({"num_layers": given} if isinstance(given, int) else given, f"{s.where}.{key}[{index}]", s.whose)
    settings: dict[str, Any] = {
        "num_layers": own.integer("num_layers", None, 1, MAX_LAYERS),
        "multiplier": own.integer("multiplier", None, 1, 64),
        "residual": own.flag("residual", None),
        "inject_noise": own.flag("inject_noise", None),
    }
    if kind == "res_x" and settings["num_layers"] is None:
        raise UserError(f"{s.whose} lacks {own.where}.num_layers in its config.")
    return kind, {name: value for name, value in settings.items() if value is not None}


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
        spatial, temporal = s.flag("spatial_upsample", True), s.flag("temporal_upsample", False)
        if not spatial and not temporal:
            raise UserError(
                "The upsampler's config has spatial_upsample and temporal_upsample both off; one must be on."
            )
        channels = s.integer("mid_channels", 512, UPSAMPLER_GROUPS, MAX_CHANNELS)
        if channels % UPSAMPLER_GROUPS:
            raise UserError(
                f"{s.whose} says config.mid_channels = {channels}; supported: multiples of {UPSAMPLER_GROUPS}."
            )
        rational = s.flag("rational_resampler", False) and spatial and not temporal
        # The plain resampler doubles whatever spatial_scale says, so the key is read for the rational one alone.
        scale = float(s.only("spatial_scale", *UPSAMPLER_RATIOS)) if rational else 2.0 if spatial else 1.0
        return cls(
            s.integer("in_channels", 128, 1, MAX_CHANNELS), channels,
            s.integer("num_blocks_per_stage", 4, 0, MAX_LAYERS), spatial, temporal, scale, rational,
        )  # fmt: skip

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        paths = "res_blocks", "post_upsample_res_blocks"
        return dict.fromkeys(paths, ("config.num_blocks_per_stage", self.blocks))

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
