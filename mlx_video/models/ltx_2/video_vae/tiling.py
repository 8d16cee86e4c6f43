"""How a clip is cut into overlapping tiles and how much each tile counts where they overlap: whole numbers and weights.

The geometry and the weights are the reference's (ltx_core.tiling): tiles are laid out on the latent grid, weights rise
and fall linearly over an overlap, and a later tile in time starts one latent frame early, because the first latent
frame of a tile stands for one pixel frame only. Knows no network and no arrays of MLX.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np

from mlx_video import platform
from mlx_video.models.ltx_2.video_vae.blocks import Scale
from mlx_video.models.ltx_2.video_vae.convolution import TAPS
from mlx_video.types import SPACE_SCALE, TIME_SCALE, UserError

SCALE = Scale(TIME_SCALE, SPACE_SCALE, SPACE_SCALE)

GPU_BYTES = 750
"""Peak of the convolutional decoder for each pixel of each frame on its way, in float32; published for another port on
Metal. What Metal's Winograd convolutions transform comes on top: 64/36 of the last level's 8 values a pixel, in and
out, 114."""
CPU_BYTES, PIXEL_BYTES = 320, 36
"""The same on the CPU, measured; and of pixels that are ready: three colours and what makes bytes of them."""
PUBLISHED_CHANNELS = 128
"""Of the decoder before its last layer (`decoder_base_channels`): what the rates above were taken at."""
BLEND_BYTES = 24
"""For each pixel of each frame of a tile in time: two float32 sums of three colours."""
KEPT_VALUES = 500
"""For each pixel: what the published decoder's convolutions keep of a tile's last frames while the others have their
turn: about 6 frames of each residual block, 5 blocks of 128 channels at a 16th of the pixels, of 256 at a 64th, ...
"""
PIECES = (4, 2, 1)
"""Latent frames on their way at a time. More are 2 % faster than 1, and cost memory in proportion."""
SHARE_OF_MORE = 0.25
"""Of the memory that there is, what more than one latent frame at a time may take: 2 % are not worth more."""
ENCODE_OVERLAP = (16, 64)
"""Least overlap in frames and in pixels when encoding (reference: `prepare_tiles_for_encoding`)."""


class Span(NamedTuple):
    """Size and overlap of tiles along one axis: in pixels, or in pixel frames."""

    size: int
    overlap: int


@dataclass(frozen=True)
class Tiling:
    """Tiles along time, rows and columns; None leaves an axis whole. `piece`: latent frames on their way at a time.

    The piece changes memory and never the numbers (None: all at once); tiles change both.
    """

    frames: Span | None = None
    height: Span | None = None
    width: Span | None = None
    piece: int | None = PIECES[0]

    @property
    def tiled(self) -> bool:
        """Whether any axis is cut."""
        return any((self.frames, self.height, self.width))


PRESETS = {"conservative": Span(768, 64), "default": Span(512, 64), "aggressive": Span(256, 64)}
"""Tiles along the longer side of the picture. The reference (1.2.0) has 768 and 64, too; it also cuts time, into 80
frames with an overlap of 24, where a decoder that looks farther leaves seams. Tiles here go through time side by side.
"""
MODES = ("auto", "none", *PRESETS)


def plan_tiles(
    mode: str,
    grid: tuple[int, int, int],
    *,
    memory_limit: int | None = None,
    stream: bool = False,
    channels: int = PUBLISHED_CHANNELS,
    size: int = 4,
) -> Tiling:
    """The tiling of a clip of latent `grid` (F, H, W), for decoding or encoding.

    mode: "none" cuts nothing; a preset's name cuts as it says; "auto" cuts nothing where pictures of that size, one
    latent frame at a time, fit into `memory_limit` (bytes that the work may take), else as the reference cuts pictures,
    else smaller; the smallest where nothing fits. stream: frames are to come as early, and as few at a time, as can be;
    channels, size: as `peak_bytes` takes them. Raises UserError for an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"There is no tiling {mode!r}; there are {', '.join(MODES)}.")
    pieces = PIECES[-1:] if stream else PIECES
    if mode in PRESETS:
        candidates = [_cut(PRESETS[mode], grid)]
    elif mode == "none" or memory_limit is None:
        candidates = [Tiling()]
    else:
        candidates = [Tiling(), *(_cut(preset, grid) for preset in PRESETS.values())]
    plans = [replace(tiling, piece=piece) for tiling in candidates for piece in pieces]
    if memory_limit is None:
        return plans[0]

    def fits(plan: Tiling) -> bool:
        share = 1.0 if plan.piece == PIECES[-1] else SHARE_OF_MORE
        return peak_bytes(plan, grid, channels, size) <= memory_limit * share

    return next(filter(fits, plans), min(plans, key=lambda plan: peak_bytes(plan, grid, channels, size)))


def peak_bytes(tiling: Tiling, grid: tuple[int, int, int], channels: int = PUBLISHED_CHANNELS, size: int = 4) -> int:
    """Estimated peak of decoding or encoding a clip of latent `grid`, without the weights and without the result.

    channels: `decoder_base_channels`, to which the work is in proportion; size: bytes of a value.
    """
    frames, rows, columns = (
        min(length * factor, span.size if span else length * factor)
        for length, factor, span in zip(grid, SCALE, (tiling.frames, tiling.height, tiling.width), strict=True)
    )
    frames = min(frames, TIME_SCALE * (grid[0] - 1) + 1)
    piece = min(frames, TIME_SCALE * (tiling.piece or grid[0]))
    share = channels / PUBLISHED_CHANNELS * size / 4
    held = 0.0
    if tiling.tiled:
        each = BLEND_BYTES * frames if tiling.frames else BLEND_BYTES * piece + KEPT_VALUES * share * 4
        held = each * prod(grid[1:]) * SPACE_SCALE**2
    if not platform.is_cpu():
        return round(GPU_BYTES * share * piece * rows * columns + held)
    # Frames that the convolutions keep for the next piece are about one latent frame more; output lags by that much.
    inside = CPU_BYTES * share * min(frames, piece + TIME_SCALE)
    ready = PIXEL_BYTES * (frames if piece >= frames else max(TIME_SCALE, piece - 1.5 * TIME_SCALE))
    transformed = 4 / 3 * TAPS**3 * (8 * channels) ** 2 * 4
    return round(max(inside, ready) * rows * columns + transformed + held)


def _cut(preset: Span, grid: tuple[int, int, int]) -> Tiling:
    # A picture that is one tile is not cut, and then nothing differs from the whole.
    return Tiling() if max(grid[1:]) * SPACE_SCALE <= preset.size else _coupled(preset, grid)


def _coupled(preset: Span, grid: tuple[int, int, int]) -> Tiling:
    # The shorter side's tile keeps the picture's aspect ratio, on the latent grid (`TileSizeConfig.from_long_side`).
    size, overlap = preset.size // SPACE_SCALE, preset.overlap // SPACE_SCALE
    rows, columns = (max(2, overlap + 1, round(size * side / max(grid[1:]))) * SPACE_SCALE for side in grid[1:])
    return Tiling(None, Span(rows, preset.overlap), Span(columns, preset.overlap))


# ---------------------------------------------------------------------------------------------------- one axis


class TilePart(NamedTuple):
    """One tile along one axis: where it lies in latents and in pixels, and how much each of its outputs counts.

    The weights of all parts of an axis add up to 1 everywhere.
    """

    latents: slice
    pixels: slice
    weights: np.ndarray


Parts = tuple[list[TilePart], list[TilePart], list[TilePart]]
"""Of time, rows and columns; a tile is one of each."""


class _Interval(NamedTuple):
    # In latents; `left` and `right` are the lengths of the ramps.
    start: int
    stop: int
    left: int
    right: int


def decode_parts(tiling: Tiling, grid: tuple[int, int, int], scale: Scale) -> Parts:
    """The parts of time, rows and columns, with weights for pixels. Raises UserError for spans that cannot be used."""
    return _parts(tiling, grid, scale, in_pixels=True)


def encode_parts(tiling: Tiling, grid: tuple[int, int, int], scale: Scale) -> Parts:
    """The same with weights for latents; overlaps are raised to ENCODE_OVERLAP, what the encoder needs at a border."""
    frames, pixels = ENCODE_OVERLAP

    def raised(span: Span | None, least: int) -> Span | None:
        return span and Span(span.size, max(span.overlap, least))

    tiling = Tiling(raised(tiling.frames, frames), raised(tiling.height, pixels), raised(tiling.width, pixels))
    return _parts(tiling, grid, scale, in_pixels=False)


def _parts(tiling: Tiling, grid: tuple[int, int, int], scale: Scale, *, in_pixels: bool) -> Parts:
    def along(name: str, length: int, factor: int) -> list[TilePart]:
        time = name == "frames"
        intervals = _split(length, _in_latents(getattr(tiling, name), factor, name), time=time)
        return _weighed(intervals, factor, time=time, in_pixels=in_pixels)

    return (
        along("frames", grid[0], scale.time),
        along("height", grid[1], scale.height),
        along("width", grid[2], scale.width),
    )


def _in_latents(span: Span | None, factor: int, name: str) -> Span | None:
    if span is None:
        return None
    unit = "frames" if name == "frames" else "pixels"
    for what, value, least in (("size", span.size, 2 * factor), ("overlap", span.overlap, 0)):
        if value % factor or value < least:
            below = max(value // factor * factor, least)
            raise UserError(
                f"A tile's {name} {what} must be a multiple of {factor} {unit} from {least} on, not {value}; "
                f"nearest are {below} and {below + factor}."
            )
    if span.overlap >= span.size:
        raise UserError(
            f"Tiles of {span.size} {unit} cannot overlap by {span.overlap}; the most is {span.size - factor}."
        )
    return Span(span.size // factor, span.overlap // factor)


def _split(length: int, span: Span | None, *, time: bool) -> list[_Interval]:
    if span is None or length <= span.size:
        return [_Interval(0, length, 0, 0)]
    size, overlap = span
    step = size - overlap
    count = -(-(length - overlap) // step)
    found = []
    for i in range(count):
        # In time every tile but the first begins one latent frame early, and fades in over it too.
        early = 1 if time and i else 0
        stop = min(i * step + size, length)
        found.append(_Interval(i * step - early, stop, (overlap if i else 0) + early, overlap if i < count - 1 else 0))
    return found


def _weighed(intervals: list[_Interval], factor: int, *, time: bool, in_pixels: bool) -> list[TilePart]:
    parts = []
    for start, stop, left, right in intervals:
        # The first latent frame of a tile stands for one pixel frame; latent rows and columns all stand for `factor`.
        pixels = slice(start * factor, (stop - 1) * factor + 1 if time else stop * factor)
        latents = slice(start, stop)
        if in_pixels:
            fade_in = 1 + (left - 1) * factor if time and left else left * factor
            weights = trapezoid(pixels.stop - pixels.start, fade_in, right * factor, from_zero=time)
        else:
            weights = trapezoid(stop - start, left, right, from_zero=time)
        parts.append(TilePart(latents, pixels, weights))
    places = [part.pixels if in_pixels else part.latents for part in parts]
    total = np.zeros(places[-1].stop)
    for place, part in zip(places, parts, strict=True):
        total[place] += part.weights
    return [
        part._replace(weights=(part.weights / total[place]).astype(np.float32))
        for place, part in zip(places, parts, strict=True)
    ]


def trapezoid(length: int, left: int, right: int, *, from_zero: bool) -> np.ndarray:
    """Weights that rise over `left` places, stay at 1 and fall over `right`, float64.

    The ramps leave out 0 and 1, except that the left one begins with 0 where `from_zero` says so.
    """
    left, right = min(left, length), min(right, length)
    weights = np.ones(length)
    if left:
        weights[:left] *= np.arange(left) / left if from_zero else np.arange(1, left + 1) / (left + 1)
    if right:
        weights[length - right :] *= 1 - np.arange(1, right + 1) / (right + 1)
    return weights
