"""The blocks that a video autoencoder's config names, and the lists of them that make up its two halves.

Every block takes (B, F, H, W, C) and the stream that the clip comes in. Blocks of other kinds (attention, injected
noise) stand in no released checkpoint and are refused by name. Knows no pixels and no latent statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_video import platform
from mlx_video.models.layers import rms_norm, silu
from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.config.video import MAX_CHANNELS
from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae.convolution import Convolution
from mlx_video.models.ltx_2.video_vae.patches import Factors, depth_to_space, space_to_depth
from mlx_video.types import UserError

PIXEL_NORM_EPS = 1e-8
SHORTCUT_NORM_EPS = 1e-6

Described = Iterable[tuple[str, Mapping[str, Any]]]
"""A config's block list: kinds with their settings."""


class Scale(NamedTuple):
    """Pixel frames, rows and columns per latent one (the first latent frame stands for one pixel frame)."""

    time: int
    height: int
    width: int


def scale(blocks: Described, patch_size: int) -> Scale:
    """How much an encoder or decoder of these blocks changes sizes (reference: `SpatioTemporalScaleFactors`)."""
    growth = [_factors(kind) for kind, _ in blocks]
    return Scale(
        prod(t for t, _, _ in growth),
        patch_size * prod(h for _, h, _ in growth),
        patch_size * prod(w for _, _, w in growth),
    )


def _factors(kind: str) -> Factors:
    starts = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}
    return next((factors for start, factors in starts.items() if kind.startswith(start)), (1, 1, 1))


def activate(x: mx.array) -> mx.array:
    """Divides each pixel by the root mean square of its channels, then SiLU (reference: `PixelNorm`, `SiLU`)."""
    return silu(rms_norm(x, PIXEL_NORM_EPS))


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and convolution, beside a path that is normed and projected where channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: str, causal: bool):
        """Between channel counts (reference: `ResnetBlock3D`)."""
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, padding=padding, causal=causal)
        self.conv2 = Convolution(out_channels, out_channels, padding=padding, causal=causal)
        if in_channels != out_channels:
            self.norm3 = nn.GroupNorm(1, in_channels, eps=SHORTCUT_NORM_EPS, pytorch_compatible=True)
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, I) -> (B, F, H, W, O)."""
        y = self.conv1(activate(x), stream)
        if y.shape[1]:
            y = self.conv2(activate(y), stream)
        x = stream.delayed(self, x, y.shape[1])
        return y + (self.conv_shortcut(self.norm3(x)) if "norm3" in self else x)


class ResidualStack(nn.Module):
    """Residual blocks one after the other (reference: `UNetMidBlock3D`)."""

    def __init__(self, channels: int, count: int, *, padding: str, causal: bool):
        super().__init__()
        self.res_blocks = [ResidualBlock(channels, channels, padding=padding, causal=causal) for _ in range(count)]

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, C) -> (B, F, H, W, C); evaluated block by block, which bounds the graph and its memory."""
        for block in self.res_blocks:
            if not x.shape[1]:
                break
            x = block(x, stream)
            stream.evaluate(x)
        return x


class Upsample(nn.Module):
    """A convolution to more channels, spread over time and space (reference: `DepthToSpaceUpsample`).

    Where time doubles the clip's first frame is dropped: F frames give 2F - 1.
    """

    def __init__(self, channels: int, factors: Factors, divisor: int, *, residual: bool, padding: str, causal: bool):
        """C channels give C / divisor; `residual` adds the input itself, spread and repeated."""
        super().__init__()
        self.conv = Convolution(channels, channels * prod(factors) // divisor, padding=padding, causal=causal)
        self.factors = factors
        self._repeats = prod(factors) // divisor if residual else 0

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, C) -> (B, F * t (- 1), H * h, W * w, C / divisor)."""
        y = self.conv(x, stream)
        count = y.shape[1]
        y = depth_to_space(y, self.factors)
        if self._repeats:
            spread = depth_to_space(stream.delayed(self, x, count), self.factors)
            y = y + mx.concatenate([spread] * self._repeats, axis=-1)
        return y[:, 1:] if self.factors[0] == 2 and stream.begins(self, count) else y


class Downsample(nn.Module):
    """Time and space gathered into channels: of a convolution, plus the mean over groups of the input's own
    (reference: `SpaceToDepthDownsample`). Where time halves the clip's first frame is doubled before.
    """

    def __init__(self, in_channels: int, out_channels: int, factors: Factors, *, padding: str):
        super().__init__()
        self.conv = Convolution(in_channels, out_channels // prod(factors), padding=padding, causal=True)
        self._factors = factors
        self._groups = out_channels

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        """(B, F, H, W, I) -> (B, (F + 1) // t, H / h, W / w, O); a later piece holds a multiple of t frames."""
        if self._factors[0] == 2 and stream.begins(self, x.shape[1]):
            x = mx.concatenate([x[:, :1], x], axis=1)
        y = space_to_depth(self.conv(x, stream), self._factors)
        x = space_to_depth(x, self._factors)
        return y + x.reshape(*x.shape[:-1], self._groups, x.shape[-1] // self._groups).mean(axis=-1)


def spans_time(blocks: Iterable[nn.Module]) -> bool:
    """Whether a block mixes all frames of a clip, so that a piece alone would come out otherwise."""
    return any(isinstance(block, ResidualBlock) and "norm3" in block for block in blocks)


def frames_at_once(layers: nn.Module, places: int) -> int:
    """How many frames of `places` pixels a group of convolutions may take in one evaluation; at least 1."""
    arrays: list[mx.array] = list(dict(tree_flatten(layers.parameters())).values())
    weights = sum(array.size for array in arrays)
    return max(1, int(platform.flops_per_evaluation(arrays[0].dtype) / (2 * weights * places)))


def decoder_blocks(config: VideoVAEConfig) -> tuple[list[nn.Module], int, int]:
    """The decoder's blocks from the latent side on, the channels that go in, and those that come out.

    Configs list them from the pixels' side. Raises UserError for a kind that is not supported.
    """
    options = {"padding": config.decoder_padding, "causal": config.causal_decoder}
    if not config.decoder_blocks:
        raise UserError("This checkpoint's video autoencoder has a diffusion decoder, and no convolutional one.")
    listed = list(reversed(config.decoder_blocks))
    channels = first = config.decoder_base_channels * prod(_divisor(kind, settings) for kind, settings in listed)
    if first > MAX_CHANNELS:
        raise UserError(f"The checkpoint's vae.decoder_blocks begin with {first:,} channels; at most {MAX_CHANNELS:,}.")
    blocks: list[nn.Module] = []
    for kind, settings in listed:
        if settings.get("inject_noise"):
            raise UserError(
                f"The checkpoint says vae.decoder_blocks {kind}.inject_noise = True; supported here: False."
            )
        divisor = _divisor(kind, settings)
        residual = kind == "compress_all" and bool(settings.get("residual"))
        if channels % divisor or (residual and prod(_factors(kind)) % divisor):
            _refuse_channels("decoder_blocks", kind, divisor, channels)
        before, channels = channels, channels // divisor
        if kind == "res_x":
            blocks.append(ResidualStack(channels, settings["num_layers"], **options))
        elif kind == "res_x_y":
            blocks.append(ResidualBlock(before, channels, **options))
        elif kind in ("compress_time", "compress_space", "compress_all"):
            blocks.append(Upsample(before, _factors(kind), divisor, residual=residual, **options))
        else:
            _refuse("decoder_blocks", kind, "res_x, res_x_y, compress_time, compress_space, compress_all")
    return blocks, first, channels


def _divisor(kind: str, settings: Mapping[str, Any]) -> int:
    return 1 if kind == "res_x" else settings.get("multiplier", 2 if kind == "res_x_y" else 1)


def encoder_blocks(config: VideoVAEConfig) -> tuple[list[nn.Module], int]:
    """The encoder's blocks from the pixels' side on, which take `latent_channels`, and the channels that come out.

    Raises UserError for a kind that is not supported.
    """
    options = {"padding": config.encoder_padding}
    channels = config.latent_channels
    blocks: list[nn.Module] = []
    for kind, settings in config.encoder_blocks:
        before = channels
        if kind.endswith(("_res", "_x_y")):
            factor = settings.get("multiplier", 2)
            channels *= factor
            uneven = kind.endswith("_res") and (channels % prod(_factors(kind)) or prod(_factors(kind)) % factor)
            if channels > MAX_CHANNELS or uneven:
                _refuse_channels("encoder_blocks", kind, factor, before)
        if kind == "res_x":
            blocks.append(ResidualStack(channels, settings["num_layers"], causal=True, **options))
        elif kind == "res_x_y":
            blocks.append(ResidualBlock(before, channels, causal=True, **options))
        elif kind in ("compress_time_res", "compress_space_res", "compress_all_res"):
            blocks.append(Downsample(before, channels, _factors(kind), **options))
        elif kind in ("compress_time", "compress_space", "compress_all", "compress_all_x_y"):
            blocks.append(Convolution(before, channels, causal=True, stride=_factors(kind), **options))
        else:
            kinds = "res_x, res_x_y, compress_time, compress_space, compress_all, the same with _res, compress_all_x_y"
            _refuse("encoder_blocks", kind, kinds)
    return blocks, channels


def _refuse_channels(key: str, kind: str, multiplier: int, channels: int) -> None:
    raise UserError(
        f"The checkpoint's vae.{key} names a block {kind!r} with multiplier = {multiplier} at {channels:,} channels; "
        f"they cannot be shared out so, or become more than {MAX_CHANNELS:,}."
    )


def _refuse(key: str, kind: str, supported: str) -> None:
    raise UserError(f"The checkpoint's vae.{key} names a block {kind!r}; supported here: {supported}.")
