"""How a clip is decoded within so much memory: frames at a time, and parts of the picture. And what that costs.

Peaks follow from what `passage.py` keeps; the rest was fitted to MLX's on the CPU backend in float32. Knows configs
and sizes, no arrays.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

from mlx_video.models.ltx_2.config.diffusion_decoder import DiffusionDecoderConfig, StageConfig, Triple
from mlx_video.models.ltx_2.diffusion_decoder import blocks, neighbourhood
from mlx_video.models.ltx_2.diffusion_decoder.canvas import Canvas
from mlx_video.models.ltx_2.diffusion_decoder.parts import Part, parts

STEPS = (8, 4, 2, 1)
"""Frames of the last stage at a time, from the best on: keys and values of 10 frames more are computed with them."""
MOST_PARTS = 6
"""Along one side."""
PIECES_HELD = 3.0
"""Of a stage's frames that came at once, copies that are alive: what a linear layer gives, spread, and laid out."""

KEPT = 1.2
"""Times what is kept between steps: a piece that is cut off keeps all of the array alive that it was cut from."""


class Pieces(NamedTuple):
    """How much is decoded at a time."""

    step: int = STEPS[0]
    """Frames of the last stage."""
    rows: int = 1
    columns: int = 1
    """Parts of the picture."""


def plan_pieces(config: DiffusionDecoderConfig, grid: Triple, room: float, size: int) -> Pieces:
    """The pieces that are decoded soonest of those whose work takes `room` bytes at most; the smallest if none does.

    grid: of the latent (F, H, W); size: bytes of a value.
    """
    sides = range(1, MOST_PARTS + 1)
    choices = [Pieces(step, rows, columns) for rows, columns, step in product(sides, sides, STEPS)]
    peaks = {pieces: peak_bytes(config, grid, pieces, size) for pieces in choices}
    fitting = [pieces for pieces, peak in peaks.items() if peak <= room]
    if not fitting:
        return min(choices, key=lambda pieces: peaks[pieces])
    return min(fitting, key=lambda pieces: operations(config, grid, pieces))


def peak_bytes(config: DiffusionDecoderConfig, grid: Triple, pieces: Pieces, size: int) -> int:
    """Bytes that decoding a latent of `grid` holds at its peak beside the weights, its noise in float32 included."""
    canvas = Canvas.of(config, grid)
    cut = parts(config, canvas, pieces.rows, pieces.columns)
    noise = 4 * config.out_channels * prod(canvas.size)
    collected = size * config.out_channels * canvas.frames * canvas.height * canvas.width if len(cut) > 1 else 0
    return round(noise + collected + max(_stream(config, canvas, part, pieces.step, size) for part in cut))


def _stream(config: DiffusionDecoderConfig, canvas: Canvas, part: Part, step: int, size: int) -> float:
    """What one part's stream holds."""
    *stages, last = config.stages
    scale, held, steps = (1, 1, 1), 0.0, []
    frames = canvas.padded_grid[0] + config.appended
    for i, stage in enumerate(stages):
        rows, columns = (side * scale[axis + 1] for axis, side in enumerate(canvas.padded_grid[1:]))
        if i == len(stages) - 1:
            rows, columns = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
        one = rows * columns * stage.channels * size
        came = min(scale[0], frames)
        held += one * (stage.depth * min(stage.window[0], frames) + came)
        growth = prod(stage.growth) * config.stages[i + 1].channels / stage.channels
        steps.append(one * came * PIECES_HELD * growth)
        steps.append(_step(stage, config.head_dim, (came, rows, columns), frames, size))
        t, h, w = (a * b for a, b in zip(scale, stage.growth, strict=True))
        scale, frames = (t, h, w), frames * stage.growth[0]
    frames = canvas.size[0]
    rows, columns = rows * stages[-1].growth[1], columns * stages[-1].growth[2]
    one = rows * columns * last.channels * size
    lag = last.window[0] - last.window[0] // 2 - 1
    # What blocks keep, contexts from the first block to the last, and what has come at once and waits.
    held += one * last.depth * min(last.window[0], frames)
    held += one * (min((last.depth - 1) * lag + step, frames) + 2 * min(scale[0] + lag, frames))
    steps.append(_step(last, config.head_dim, (min(step, frames), rows, columns), frames, size))
    return KEPT * held + max(steps)


def _step(stage: StageConfig, head_dim: int, sides: Triple, frames: int, size: int) -> float:
    """Bytes of one step of a block over `sides` (frames, rows, columns): its slab and result, a band, and two lots."""
    step, rows, columns = sides
    one = rows * columns * stage.channels * size
    seen = min(frames, step + stage.window[0] - 1)
    keys, own = blocks.row_bytes(stage.channels, head_dim, size)
    row = columns * (keys * seen + own * step)
    block = [min(b, s) for b, s in zip(neighbourhood.BLOCK, sides, strict=True)]
    slab = prod(b + w - 1 for b, w in zip(block, stage.window, strict=True))
    each = neighbourhood.block_bytes(stage.channels // head_dim, prod(block), slab, head_dim, size)
    count = prod(-(-s // b) for s, b in zip(sides, block, strict=True))
    lots = min(each * count, 2 * max(neighbourhood.LOT_BYTES, each))
    return one * (seen + 2 * step) + min(row * rows, blocks.BAND_BYTES + row) + lots


def operations(config: DiffusionDecoderConfig, grid: Triple, pieces: Pieces) -> float:
    """Floating-point operations of decoding a latent of `grid`, margins of parts and repeated keys included."""
    canvas = Canvas.of(config, grid)
    total = 0.0
    for part in parts(config, canvas, pieces.rows, pieces.columns):
        time, scale = canvas.padded_grid[0] + config.appended, (1, 1, 1)
        tokens = float(prod(canvas.padded_grid[1:]))
        for i, stage in enumerate(config.stages):
            if i == len(config.stages) - 2:
                tokens = float((part.rows.stop - part.rows.start) * (part.columns.stop - part.columns.start))
            last = i == len(config.stages) - 1
            step = pieces.step if last else scale[0]
            frames = canvas.size[0] if last else time * scale[0]
            dim, window = stage.channels, stage.window
            block = [min(b, s) for b, s in zip(neighbourhood.BLOCK, (step, *neighbourhood.BLOCK[1:]), strict=True)]
            slab = prod(b + w - 1 for b, w in zip(block, window, strict=True))
            repeated = 4 * dim**2 * (window[0] - 1) / step
            each = blocks.TOKEN_FLOPS * dim**2 + repeated + 4 * slab * dim
            total += stage.depth * frames * tokens * each
            tokens *= stage.growth[1] * stage.growth[2]
            t, h, w = (a * b for a, b in zip(scale, stage.growth, strict=True))
            scale = (t, h, w)
    return total
