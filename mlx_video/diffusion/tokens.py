"""Latents as the transformer reads them: grids to token rows and back, and where each token lies in time and space.

Knows the geometry of the latent spaces and nothing of noise, masks or networks. Positions are computed in numpy
float32 in the reference's order of operations, because RoPE turns one unit in their last place into a thousandth of a
radian.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_video.types import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_HOP,
    AUDIO_SAMPLE_RATE,
    AUDIO_TIME_SCALE,
    SPACE_SCALE,
    TIME_SCALE,
    VIDEO_CHANNELS,
    AudioShape,
    VideoShape,
)


def latent_shape(shape: VideoShape | AudioShape, batch: int = 1) -> tuple[int, ...]:
    """Axes of the latent of a clip (B, 128, F, H, W) or of its sound (B, 8, T, 16)."""
    if isinstance(shape, VideoShape):
        return (batch, VIDEO_CHANNELS, *shape.grid)
    return (batch, AUDIO_CHANNELS, shape.frames, AUDIO_BINS)


def count(shape: VideoShape | AudioShape) -> int:
    """How many tokens a clip or its sound has, tokens appended by conditioning left out."""
    return shape.tokens if isinstance(shape, VideoShape) else shape.frames


def patchify(latent: mx.array) -> mx.array:
    """Tokens (B, T, 128) of a video latent (B, 128, F, H, W), frame-major, or of an audio latent (B, 8, T, 16).

    An audio token is channel-major: value c * 16 + f is channel c, mel bin f. Reference: VideoLatentPatchifier(1),
    AudioPatchifier.
    """
    if latent.ndim == 5:
        return latent.reshape(*latent.shape[:2], -1).swapaxes(1, 2)
    if latent.ndim == 4:
        return latent.swapaxes(1, 2).reshape(latent.shape[0], latent.shape[2], -1)
    raise ValueError(f"A latent has 5 axes (video) or 4 (audio), not {latent.ndim}: {latent.shape}")


def unpatchify(tokens: mx.array, shape: VideoShape | AudioShape) -> mx.array:
    """The latent (B, 128, F, H, W) or (B, 8, T, 16) of tokens (B, T, 128).

    Tokens after the shape's own, which conditioning appended, are dropped. Reference: clear_conditioning, unpatchify.
    """
    own = tokens[:, : count(shape)]
    target = latent_shape(shape, tokens.shape[0])
    if isinstance(shape, VideoShape):
        return own.swapaxes(1, 2).reshape(target)
    batch, channels, frames, bins = target
    return own.reshape(batch, frames, channels, bins).swapaxes(1, 2)


def positions(shape: VideoShape | AudioShape, batch: int = 1) -> mx.array:
    """[start, end) of each token, float32: video (B, 3, T, 2) in seconds, pixel rows, pixel columns; audio (B, 1, T, 2)
    in seconds.
    """
    if isinstance(shape, VideoShape):
        return video_positions(shape.grid, shape.fps, batch=batch)
    mel = np.arange(shape.frames + 1, dtype=np.float32) * AUDIO_TIME_SCALE
    mel = np.maximum(mel + np.float32(1 - AUDIO_TIME_SCALE), np.float32(0))  # the first latent covers one mel frame
    seconds = mel * np.float32(AUDIO_HOP) / np.float32(AUDIO_SAMPLE_RATE)
    return _batched(np.stack([seconds[:-1], seconds[1:]], axis=-1)[None], batch)


def video_positions(
    grid: tuple[int, int, int],
    fps: float,
    *,
    first: int = 0,
    causal: bool = True,
    single: bool = False,
    batch: int = 1,
) -> mx.array:
    """Positions (B, 3, T, 2) of the tokens of a latent grid (F, H, W) whose time starts at pixel frame `first`.

    `causal`: the first latent frame covers one pixel frame, the others eight. `single`: every token spans one pixel
    frame. Reference: get_patch_grid_bounds, get_pixel_coords.
    """
    index = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij")).reshape(3, -1, 1)
    bounds = (index + np.array([0, 1])) * np.array([TIME_SCALE, SPACE_SCALE, SPACE_SCALE])[:, None, None]
    if causal:
        bounds[0] = np.maximum(bounds[0] + 1 - TIME_SCALE, 0)
    bounds[0] += first
    if single:
        bounds[0, :, 1] = bounds[0, :, 0] + 1
    bounds = bounds.astype(np.float32)
    bounds[0] /= np.float32(fps)
    return _batched(bounds, batch)


def _batched(bounds: np.ndarray, batch: int) -> mx.array:
    return mx.repeat(mx.array(bounds)[None], batch, axis=0)
