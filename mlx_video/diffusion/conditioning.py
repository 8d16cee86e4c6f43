"""What a run starts from: the state of each modality, what the user wants kept in it, and the first noise.

A condition is anything with `apply(state, shape) -> state`. It may write into `clean` and `mask`, and append tokens
after those that are there; it never looks at noise. `unpatchify` drops appended tokens at the end. Knows no sampler, no
network and no file: pictures and sound come as latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_video.diffusion.noise import draw_tokens
from mlx_video.diffusion.tokens import latent_shape, patchify, positions, video_positions
from mlx_video.types import AudioShape, Noise, State, VideoShape


class Condition(Protocol):
    """Something that the result has to follow."""

    def apply(self, state: State, shape: Any) -> State:
        """`state` with the condition in it; `shape` is the clip's VideoShape or its sound's AudioShape."""


class ReplaceFrame(NamedTuple):
    """Keeps latent frames at a picture's: `latent` (B, 128, n, H, W) from `latent_frame` on.

    `strength` 1 keeps them as they are, 0 has no effect. Reference: VideoConditionByLatentIndex.
    """

    latent: mx.array
    latent_frame: int = 0
    strength: float = 1.0

    def apply(self, state: State, shape: VideoShape) -> State:
        """Writes the frames into `clean` and 1 - strength into `mask`."""
        frames, rows, columns = shape.grid
        expected = (state.latent.shape[0], state.latent.shape[2], self.latent.shape[2], rows, columns)
        if self.latent.shape != expected or not 0 <= self.latent_frame <= frames - self.latent.shape[2]:
            raise ValueError(
                f"A latent {self.latent.shape} at frame {self.latent_frame} does not fit {frames} frames of {expected}"
            )
        tokens = patchify(self.latent)
        start = self.latent_frame * rows * columns
        stop = start + tokens.shape[1]
        kept = mx.full((*tokens.shape[:2], 1), 1.0 - self.strength, dtype=mx.float32)
        return state._replace(
            clean=_write(state.clean, tokens, start, stop), mask=_write(state.mask, kept, start, stop)
        )


class AppendKeyframe(NamedTuple):
    """Guides the clip by a picture at pixel frame `frame`: `latent` (B, 128, n, H, W) becomes tokens of its own.

    They start from nothing, stay at the picture by `strength`, and are dropped at the end. `single`: the picture is one
    pixel frame and so spans one; otherwise latent frames span what the VAE gives them, with the causal first frame only
    at `frame` 0. Reference: VideoConditionByKeyframeIndex (the single-frame rule is since April 2026).
    """

    latent: mx.array
    frame: int
    strength: float = 1.0
    single: bool = True

    def apply(self, state: State, shape: VideoShape) -> State:
        """Appends the tokens, with zeros for `latent`."""
        tokens = patchify(self.latent)
        batch, _, frames, rows, columns = self.latent.shape
        place: dict[str, Any] = {"first": self.frame, "causal": self.frame == 0, "single": self.single}
        where = video_positions((frames, rows, columns), shape.fps, **place, batch=batch)
        free = mx.full((*tokens.shape[:2], 1), 1.0 - self.strength, dtype=mx.float32)
        return State(
            latent=mx.concatenate([state.latent, mx.zeros(tokens.shape, mx.float32)], axis=1),
            clean=mx.concatenate([state.clean, tokens.astype(mx.float32)], axis=1),
            mask=mx.concatenate([state.mask, free], axis=1),
            positions=mx.concatenate([state.positions, where], axis=2),
            keyframes=_marks(state, tokens.shape[1], 0.0),
        )


class GenerateKeyframe(NamedTuple):
    """Has the picture at pixel frame `frame` made beside the clip: a latent frame of its own, for a single pixel frame.

    The video is drawn towards it, so that much can happen within eight frames. It starts from noise alone, or with as
    much of `latent` (1, 128, 1, H, W) in it as the video has of its own; it is marked, and is dropped at the end.
    Reference: VideoGeneratedKeyframeSlots (v1.2.0).
    """

    frame: int
    latent: mx.array | None = None

    def apply(self, state: State, shape: VideoShape) -> State:
        """Appends a latent frame's tokens, with nothing wanted of them."""
        where = video_positions((1, *shape.grid[1:]), shape.fps, first=self.frame, causal=False, single=True)
        empty = mx.zeros((1, where.shape[2], state.latent.shape[2]), mx.float32)
        seed = empty if self.latent is None else patchify(self.latent).astype(mx.float32)
        if seed.shape != empty.shape:
            raise ValueError(f"A latent {seed.shape} cannot stand for a keyframe of {empty.shape}")
        return State(
            latent=mx.concatenate([state.latent, seed], axis=1),
            clean=mx.concatenate([state.clean, empty], axis=1),
            mask=mx.concatenate([state.mask, mx.ones((1, where.shape[2], 1), mx.float32)], axis=1),
            positions=mx.concatenate([state.positions, where], axis=2),
            keyframes=_marks(state, where.shape[2], 1.0),
        )


def keyframe_places(count: int, frames: int) -> list[int]:
    """Pixel frames of `count` generated keyframes in a clip: evenly between its first and its last frame.

    Rounded half to even, of places counted in float32 from the nearer end, as torch.linspace counts them. Reference:
    evenly_spaced_keyframe_positions.
    """
    last, index = np.float32(frames - 1), np.arange(count + 2, dtype=np.float32)
    step = last / np.float32(count + 1)
    places = np.where(index < (count + 2) // 2, step * index, last - step * (np.float32(count + 1) - index))
    return [int(place) for place in places.round()[1:-1]]


class Freeze(NamedTuple):
    """Holds a whole modality at `latent` (sound that the video follows): mask 0, so no sampler moves it."""

    latent: mx.array

    def apply(self, state: State, shape: VideoShape | AudioShape) -> State:
        """Makes `latent` both what is there and what is wanted."""
        expected = latent_shape(shape, state.latent.shape[0])
        if self.latent.shape != expected:
            raise ValueError(f"A latent {self.latent.shape} cannot stand for one of {expected}")
        tokens = patchify(self.latent).astype(mx.float32)
        return state._replace(latent=tokens, clean=tokens, mask=mx.zeros_like(state.mask))


def initial_state(shape: VideoShape | AudioShape, latent: mx.array | None = None, batch: int = 1) -> State:
    """A state with nothing kept, from `latent` (as `latent_shape` has it; zeros where None). All float32."""
    if latent is None:
        latent = mx.zeros(latent_shape(shape, batch), mx.float32)
    elif latent.shape != latent_shape(shape, batch):
        raise ValueError(f"An initial latent {latent.shape} for a run of {latent_shape(shape, batch)}")
    tokens = patchify(latent).astype(mx.float32)
    mask = mx.ones((*tokens.shape[:2], 1), mx.float32)
    return State(tokens, tokens, mask, positions(shape, batch), _first_frame(shape))


def noised(state: State, noise: mx.array, scale: float = 1.0) -> State:
    """`state` with `noise` (B, T, 128) in it: `scale` of the way from the latent to noise, then, by mask, from clean.

    Reference: GaussianNoiser since June 2026 (before, the two steps were one lerp by mask * scale).
    """
    mixed = _lerp(state.latent, noise, mx.array(scale, mx.float32))
    return state._replace(latent=_lerp(state.clean, mixed, state.mask))


def start(
    shape: VideoShape | AudioShape,
    noise: Noise,
    name: str,
    *,
    conditions: Sequence[Condition] = (),
    latent: mx.array | None = None,
    scale: float = 1.0,
) -> State:
    """The state that a stage denoises: from `latent` or nothing, with `conditions`, and the draw called `name`.

    `scale` is how much of the latent the noise replaces: the stage's first sigma where `latent` is given. A frozen
    modality asks for its draw too, as the reference does, and takes nothing from it.
    """
    state = initial_state(shape, latent)
    for condition in conditions:
        state = condition.apply(state, shape)
    return noised(state, draw_tokens(noise, name, shape, state.latent.shape[1]), scale)


def _first_frame(shape: VideoShape | AudioShape) -> mx.array | None:
    """The marks of a clip's keyframes, where nothing is appended: its first latent frame stands for a single one."""
    if not isinstance(shape, VideoShape):
        return None
    frames, rows, columns = shape.grid
    return mx.repeat(mx.array([[1.0] + [0.0] * (frames - 1)]), rows * columns, axis=1)[..., None]


def _marks(state: State, tokens: int, mark: float) -> mx.array | None:
    """The marks of a state with so many tokens more."""
    if state.keyframes is None:
        return None
    return mx.concatenate([state.keyframes, mx.full((1, tokens, 1), mark)], axis=1)


def _write(array: mx.array, rows: mx.array, start: int, stop: int) -> mx.array:
    return mx.concatenate([array[:, :start], rows.astype(array.dtype), array[:, stop:]], axis=1)


def _lerp(start: mx.array, end: mx.array, weight: mx.array) -> mx.array:
    """From `start` to `end`, exact at both weights 0 and 1, as torch.lerp: counted from the nearer one."""
    way = end - start
    return mx.where(weight < 0.5, start + weight * way, end - way * (1.0 - weight))
