"""What LTX-2.5's checkpoint says of its diffusion video decoder; the encoder in the same file is `VideoVAEConfig`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from mlx_video.models.ltx_2.config.video import DIFFUSION, MAX_CHANNELS
from mlx_video.models.section import MAX_HEADS, MAX_LAYERS, Section, Stacks, are_integers, section
from mlx_video.reading import shown
from mlx_video.types import UserError

Triple = tuple[int, int, int]
"""Of time, rows and columns."""
MAX_WINDOW = 64
"""Along one axis; the widest published has 11."""
MAX_GROWTH = 8
"""Of one axis in one upsampling; the published grow by 2."""
STAGES = 5
"""Four that enlarge the latent, and one that makes pixels of noise."""


class StageConfig(NamedTuple):
    """Blocks in a row that see the same window, and how what they give is enlarged."""

    channels: int
    depth: int
    window: Triple
    growth: Triple = (1, 1, 1)
    """Of time, rows and columns after the stage."""


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """The decoder that makes pixels of noise in one step, guided by the latent."""

    latent_channels: int
    out_channels: int
    patch_size: int
    head_dim: int
    stages: tuple[StageConfig, ...]
    """The last one is the one that sees noise."""
    timestep_multiplier: float
    gated: bool
    """Whether the file has gates in its diffusion blocks (the published one has none)."""

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        paths = [*(f"det_stages.{i}" for i in range(STAGES - 1)), "diff_blocks"]
        return {path: ("vae.decoder.stage_depths", one.depth) for path, one in zip(paths, self.stages, strict=True)}

    @property
    def growth(self) -> Triple:
        """How many frames, rows and columns of context one of the latent becomes."""
        t, h, w = (prod(one.growth[axis] for one in self.stages) for axis in range(3))
        return t, h, w

    @property
    def appended(self) -> int:
        """Copies of the last latent frame that follow it (reference: trailing_pad_latent_frames)."""
        return self.stages[0].window[0] // 2 * 2

    @property
    def least(self) -> Triple:
        """The smallest latent grid in which every stage has room for its window: 3 x 7 x 7 for the published file."""
        found, scale = [1, 1, 1], [1, 1, 1]
        for one in self.stages:
            found = [max(n, -(-k // s)) for n, k, s in zip(found, one.window, scale, strict=True)]
            scale = [s * g for s, g in zip(scale, one.growth, strict=True)]
        return found[0], found[1], found[2]

    @classmethod
    def read(cls, config: Mapping[str, Any], gated: bool = False) -> DiffusionDecoderConfig:
        """From a checkpoint's config; raises UserError for another decoder, and for what is not supported here.

        gated: as the tensors tell; no config says it.
        """
        vae = section(config, "vae")
        vae.only("_class_name", DIFFUSION)
        vae.only("dims", 3)
        vae.only("model_output_type", "x0")
        s = vae.part("decoder")
        s.only("_class_name", "NADiffusionDecoder")
        s.only("resampler_kind", "linear")
        s.only("default_num_inference_steps", 1)
        head_dim = s.integer("head_dim", 64, 8, 512)
        if head_dim % 8:
            raise UserError(f"{s.whose} says {s.where}.head_dim = {head_dim}; supported: multiples of 8.")
        return cls(
            latent_channels=s.integer("in_channels", 128, 1, MAX_CHANNELS),
            out_channels=s.only("out_channels", 3),
            patch_size=s.integer("patch_size", 4, 1, 16),
            head_dim=head_dim,
            stages=_stages(s, head_dim),
            timestep_multiplier=s.number("timestep_scale_multiplier", 1000.0, 1.0, 1e6),
            gated=gated,
        )


def _stages(s: Section, head_dim: int) -> tuple[StageConfig, ...]:
    channels = _needed(s, "stage_channels", lambda v: are_integers(v, 1, MAX_CHANNELS, STAGES), "5 whole numbers")
    depths = _needed(s, "stage_depths", lambda v: are_integers(v, 1, MAX_LAYERS, STAGES), "5 whole numbers")
    windows = _needed(
        s, "stage_kernels",
        lambda v: isinstance(v, list | tuple) and len(v) == STAGES and all(_is_window(one) for one in v),
        f"5 lists of 3 whole numbers from 1 to {MAX_WINDOW}",
    )  # fmt: skip
    upsamples = _needed(
        s, "upsamples",
        lambda v: isinstance(v, list | tuple) and len(v) == STAGES - 1 and all(map(_is_upsample, v)),
        f"4 pairs of 3 whole numbers from 1 to {MAX_GROWTH} and one more",
    )  # fmt: skip
    last = s.integers("stage5_kernel", windows[-1], 1, MAX_WINDOW, count=3)
    if any(wide % head_dim or wide // head_dim > MAX_HEADS for wide in channels):
        raise UserError(
            f"{s.whose} says {s.where}.stage_channels = {shown(channels)}; each should be a multiple of head_dim = "
            f"{head_dim}, {MAX_HEADS} times it at most."
        )
    found = []
    for i, wide in enumerate(channels):
        if i == STAGES - 1:
            found.append(StageConfig(wide, depths[i], _triple(last)))
            continue
        growth, divisor = upsamples[i]
        if wide % divisor or wide // divisor != channels[i + 1]:
            raise UserError(
                f"{s.whose} says {s.where}.upsamples[{i}] divides {wide} channels by {divisor}; the next stage has "
                f"{channels[i + 1]}."
            )
        found.append(StageConfig(wide, depths[i], _triple(windows[i]), _triple(growth)))
    return tuple(found)


def _needed(s: Section, key: str, fits: Any, rule: str) -> Any:
    value = s.values.get(key)
    if not fits(value):
        raise UserError(f"{s.whose} says {s.where}.{key} = {shown(value)}; it should be: {rule}.")
    return value


def _is_window(value: object) -> bool:
    return are_integers(value, 1, MAX_WINDOW, 3)


def _is_upsample(value: object) -> bool:
    match value:
        case [list() | tuple() as growth, int() as divisor]:
            fits = are_integers(growth, 1, MAX_GROWTH, 3) and growth[0] <= 2
            return fits and type(divisor) is int and divisor >= 1
    return False


def _triple(values: Any) -> Triple:
    t, h, w = values
    return t, h, w
