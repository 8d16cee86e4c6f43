"""The residual blocks of this family's video autoencoder: told the timestep, with injected noise, with a layer norm
beside; and the lists of blocks that make up its two halves.

What changes sizes is LTX-2's (`Upsample`, `Downsample`, `Convolution`). Every block takes (B, F, H, W, C) and the
stream that the clip comes in. Knows no pixels and no latent statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import rms_norm, silu
from mlx_video.models.ltx_2.config.video import MAX_CHANNELS
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.transformer.adaln import TIMESTEP_FEATURES, TwoLinear, modulate
from mlx_video.models.ltx_2.video_vae.blocks import PIXEL_NORM_EPS, Downsample, Upsample, scale
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import Factors
from mlx_video.models.ltx_video.config import VideoVAEConfig
from mlx_video.types import UserError

SHORTCUT_NORM_EPS = 1e-6
ROWS = 4
"""Of a residual block's table: shift and scale after its first norm, then after its second."""
_KINDS = {
    "decoder_blocks": ("res_x", "res_x_y", "compress_time", "compress_space", "compress_all"),
    "encoder_blocks": (
        "res_x", "res_x_y", "compress_time", "compress_space", "compress_all",
        "compress_time_res", "compress_space_res", "compress_all_res",
    ),
}  # fmt: skip
_NO_PADDING: Mapping[str, Any] = {"padding": "zeros"}


class Beside(NamedTuple):
    """What a residual block is given beside its input.

    rows: (4, C) of the timestep, before the block adds its table, or None; planes: two of noise (rows, columns), each
    the same for all frames and channels, or none.
    """

    rows: mx.array | None = None
    planes: Sequence[mx.array] = ()


NOTHING = Beside()


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and convolution, beside a path that is normed and projected where channels change.

    Source: Lightricks' ResnetBlock3D, diffusers' LTXVideoResnetBlock3d.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, causal: bool, timestep: bool = False, noise: bool = False
    ):
        """timestep: with a table of its own; noise: with a scale for each channel of injected noise."""
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, padding="zeros", causal=causal)
        self.conv2 = Convolution(out_channels, out_channels, padding="zeros", causal=causal)
        if in_channels != out_channels:
            self.norm3 = nn.Module()
            self.norm3.norm = nn.LayerNorm(in_channels, SHORTCUT_NORM_EPS)
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)
        if timestep:
            self.scale_shift_table = mx.zeros((ROWS, in_channels))
        if noise:
            self.per_channel_scale1 = mx.zeros((out_channels, 1, 1))
            self.per_channel_scale2 = mx.zeros((out_channels, 1, 1))

    def __call__(self, x: mx.array, stream: Stream, beside: Beside = NOTHING) -> mx.array:
        """(B, F, H, W, I) -> (B, F, H, W, O)."""
        rows = None if beside.rows is None else beside.rows + self.scale_shift_table.astype(beside.rows.dtype)
        y = self.conv1(_activate(x, None if rows is None else rows[:2]), stream)
        if y.shape[1]:
            if beside.planes:
                y = _disturb(y, beside.planes[0], self.per_channel_scale1)
            y = self.conv2(_activate(y, None if rows is None else rows[2:]), stream)
            if beside.planes:
                y = _disturb(y, beside.planes[1], self.per_channel_scale2)
        x = stream.delayed(self, x, y.shape[1])
        if "norm3" not in self:
            return y + x
        return y + self._project(x) if y.shape[1] else y

    def _project(self, x: mx.array) -> mx.array:
        # A convolution that looks at one place is a matrix product.
        matrix = self.conv_shortcut.weight.reshape(self.conv_shortcut.weight.shape[0], -1)
        found: mx.array = self.norm3.norm(x) @ matrix.T + self.conv_shortcut.bias
        return found


def _activate(x: mx.array, rows: mx.array | None) -> mx.array:
    y = rms_norm(x, PIXEL_NORM_EPS)
    return silu(y if rows is None else modulate(y, rows[1], rows[0]))


def _disturb(x: mx.array, plane: mx.array, by_channel: mx.array) -> mx.array:
    return x + plane.astype(x.dtype)[..., None] * by_channel.reshape(-1)


class TimeEmbedder(nn.Module):
    """From a timestep's features to a vector (PixArtAlphaCombinedTimestepSizeEmbeddings without sizes)."""

    def __init__(self, width: int):
        super().__init__()
        self.timestep_embedder = TwoLinear(TIMESTEP_FEATURES, width, "silu")

    def __call__(self, features: mx.array) -> mx.array:
        """(256,) as `timestep_features` gives them -> (width,)."""
        return self.timestep_embedder(features[None])[0]


class ResidualStack(nn.Module):
    """Residual blocks one after the other, all told the same timestep (Lightricks' UNetMidBlock3D)."""

    def __init__(self, channels: int, count: int, *, causal: bool, timestep: bool = False, noise: bool = False):
        """timestep, noise: as `ResidualBlock` has them."""
        super().__init__()
        options = {"causal": causal, "timestep": timestep, "noise": noise}
        self.res_blocks = [ResidualBlock(channels, channels, **options) for _ in range(count)]
        self.draws = 2 * count if noise else 0
        """Planes of noise that it takes, two for each block."""
        if timestep:
            self.time_embedder = TimeEmbedder(ROWS * channels)

    def rows(self, features: mx.array | None) -> mx.array | None:
        """(4, C) for its blocks, from a timestep's features; None where it is told no timestep."""
        if features is None or "time_embedder" not in self:
            return None
        return self.time_embedder(features).reshape(ROWS, -1)

    def __call__(self, x: mx.array, stream: Stream, beside: Beside = NOTHING) -> mx.array:
        """(B, F, H, W, C) -> (B, F, H, W, C); evaluated block by block, which bounds the graph and its memory.

        beside: its rows, and the planes of all its blocks in order.
        """
        for i, block in enumerate(self.res_blocks):
            if not x.shape[1]:
                break
            x = block(x, stream, Beside(beside.rows, beside.planes[2 * i : 2 * i + 2]))
            stream.evaluate(x)
        return x


# ------------------------------------------------------------------------------------------------ both halves


def decoder_blocks(config: VideoVAEConfig) -> tuple[list[nn.Module], int, int]:
    """The decoder's blocks from the latent side on, the channels that go in, and those that come out.

    Configs list them from the pixels' side. Raises UserError for a kind that is not supported.
    """
    listed = list(reversed(config.decoder_blocks))
    channels = first = config.decoder_base_channels * prod(_factor(kind, settings) for kind, settings in listed)
    if first > MAX_CHANNELS:
        raise UserError(f"The checkpoint's vae.decoder_blocks begin with {first:,} channels; at most {MAX_CHANNELS:,}.")
    blocks: list[nn.Module] = []
    for kind, settings in listed:
        _check_kind("decoder_blocks", kind)
        divisor, residual = _factor(kind, settings), kind == "compress_all" and bool(settings.get("residual"))
        if channels % divisor or (residual and prod(growth_of(kind)) % divisor):
            _refuse_channels("decoder_blocks", kind, divisor, channels)
        before, channels = channels, channels // divisor
        if kind == "res_x":
            told = {"timestep": config.timestep_conditioning, "noise": bool(settings.get("inject_noise"))}
            blocks.append(ResidualStack(channels, settings["num_layers"], causal=False, **told))
        elif kind == "res_x_y":
            blocks.append(ResidualBlock(before, channels, causal=False))
        else:
            options = {"residual": residual, "causal": False, **_NO_PADDING}
            blocks.append(Upsample(before, growth_of(kind), divisor, **options))
    return blocks, first, channels


def encoder_blocks(config: VideoVAEConfig) -> tuple[list[nn.Module], int]:
    """The encoder's blocks from the pixels' side on, and the channels that come out.

    Raises UserError for a kind that is not supported.
    """
    channels = config.encoder_base_channels
    blocks: list[nn.Module] = []
    for kind, settings in config.encoder_blocks:
        _check_kind("encoder_blocks", kind)
        before, growth = channels, growth_of(kind)
        if kind.endswith(("_res", "_x_y")):
            factor = settings.get("multiplier", 2)
            channels *= factor
            uneven = kind.endswith("_res") and (channels % prod(growth) or prod(growth) % factor)
            if channels > MAX_CHANNELS or uneven:
                _refuse_channels("encoder_blocks", kind, factor, before)
        if kind == "res_x":
            blocks.append(ResidualStack(channels, settings["num_layers"], causal=True))
        elif kind == "res_x_y":
            blocks.append(ResidualBlock(before, channels, causal=True))
        elif kind.endswith("_res"):
            blocks.append(Downsample(before, channels, growth, **_NO_PADDING))
        else:
            blocks.append(Convolution(before, channels, causal=True, stride=growth, **_NO_PADDING))
    return blocks, channels


def growth_of(kind: str) -> Factors:
    """How much a block of this kind changes time, rows and columns."""
    return scale([(kind, {})], 1)


def _factor(kind: str, settings: Mapping[str, Any]) -> int:
    return 1 if kind == "res_x" else settings.get("multiplier", 2 if kind == "res_x_y" else 1)


def _check_kind(key: str, kind: str) -> None:
    if kind not in _KINDS[key]:
        raise UserError(f"The checkpoint's vae.{key} names a block {kind!r}; supported here: {', '.join(_KINDS[key])}.")


def _refuse_channels(key: str, kind: str, multiplier: int, channels: int) -> None:
    raise UserError(
        f"The checkpoint's vae.{key} names a block {kind!r} with multiplier = {multiplier} at {channels:,} channels; "
        f"they cannot be shared out so, or become more than {MAX_CHANNELS:,}."
    )
