"""The stage loop over what stands in for the transformer, without a checkpoint. Knows recipes and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlx_video.diffusion.noise import NamedNoise
from mlx_video.jobs.settings import Settings
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.models.ltx_2.recipes import REFINING
from mlx_video.request import Request
from mlx_video.types import Context, Progress, Watch


def refine(
    network: Any,
    latent: mx.array,
    contexts: Mapping[str, Context],
    noise: NamedNoise,
    report: Callable[[Progress], None],
) -> mx.array:
    """A video latent (1, 128, F, H, W), refined as an upscaled film is, at 24 frames a second."""
    frames, rows, columns = latent.shape[2:]
    size = {"num_frames": (frames - 1) * 8 + 1, "height": rows * 32, "width": columns * 32}
    request = Request(prompt="a red ball", audio=False, **size)
    settings = Settings(request, REFINING["distilled"], None, {}, None, False, (0.0,), 0, ("video",))
    inputs = Inputs(contexts, latents={"video": latent})
    *_, made = Denoising(
        settings, None, network, lambda transformer: lambda strengths: None, inputs, noise, Watch(report)
    ).run()
    return made["video"]
