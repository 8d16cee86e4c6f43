"""Named draws: every random number of a run is asked for by name, so that adding a draw changes no other.

Names and shapes (the same for audio with (B, 8, T, 16)):
    stageN/video                    (B, 128, F, H, W)   the noise that stage N starts from (N from 1)
    stageN/sde/K/video              (B, 128, F, H, W)   the K-th injection of a stochastic sampler (K from 0; res_2s:
                                                        substep, step, substep, step, ...), before any normalising
    stageN/I/video                                      the same two of the I-th part (from 0) of a stage that takes a
                                                        video in parts
    decode/video                    (B, 3, frames, height, width)   what a diffusion decoder makes pictures of; as
                                                        large as its least canvas where the clip is smaller
    .../appended                    (B, tokens, 128)    the same draw for tokens that conditioning appended
Knows no sampler and no network.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.diffusion.tokens import count, latent_shape, patchify
from mlx_video.types import AudioShape, Noise, UserError, VideoShape

DECODING = "decode/video"


class NamedNoise:
    """A `Noise`: `noise(name, shape)` gives a standard normal float32 array. See `seeded` and `given`."""

    def __init__(
        self,
        draw: Callable[[str, tuple[int, ...]], Any],
        names: frozenset[str] = frozenset(),
        *,
        must_be_finite: bool = False,
    ):
        """`draw` makes the arrays; `names` are those that `finish` expects to have been asked for."""
        self._draw, self._must_be_finite = draw, must_be_finite
        self._unused = set(names)
        self.drawn: set[str] = set()

    def __call__(self, name: str, shape: tuple[int, ...]) -> mx.array:
        """The draw called `name`; UserError if what comes has another shape, or is not finite where it must be."""
        value = self._draw(name, tuple(shape))
        try:
            array = value if isinstance(value, mx.array) else mx.array(np.asarray(value, np.float32))
        except (TypeError, ValueError):
            raise UserError(f"Noise {name!r} is not an array of numbers but {type(value).__name__}.") from None
        if array.shape != tuple(shape):
            raise UserError(f"Noise {name!r} has shape {array.shape}; this run needs {tuple(shape)}.")
        if self._must_be_finite and not mx.isfinite(array).all().item():
            raise UserError(f"Noise {name!r} has numbers that are not finite; give it anew.")
        self.passed([name])
        return array.astype(mx.float32)

    def passed(self, names: Iterable[str]) -> None:
        """These were drawn, here or by the run that this one goes on from; `drawn` has them all."""
        self.drawn.update(names)
        self._unused.difference_update(self.drawn)

    def finish(self) -> None:
        """Call after the last draw: UserError if a mapping held names that the run did not ask for."""
        if self._unused:
            raise UserError(f"Noise was given for {', '.join(sorted(self._unused))}, which this run does not draw.")


def seeded(seed: int) -> NamedNoise:
    """Draws that follow from `seed` and their name alone: one random key for each name."""

    def draw(name: str, shape: tuple[int, ...]) -> mx.array:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        return mx.random.normal(shape, dtype=mx.float32, key=mx.random.key(int.from_bytes(digest, "little")))

    return NamedNoise(draw)


def given(noise: Noise | Mapping[str, Any]) -> NamedNoise:
    """Draws handed in: a callable `(name, shape) -> array`, or a mapping from name to array.

    A name that a mapping lacks is a UserError when it is asked for, one that it has too many when `finish` is called.
    """
    if callable(noise):
        return NamedNoise(noise, must_be_finite=True)
    arrays = dict(noise)

    def draw(name: str, shape: tuple[int, ...]) -> Any:
        if name not in arrays:
            near = difflib.get_close_matches(name, arrays, n=2) or sorted(arrays)[:2]
            known = ", ".join(near) or "nothing"
            raise UserError(f"This run draws noise {name!r} {shape}, which was not given (given: {known}).")
        return arrays[name]

    return NamedNoise(draw, frozenset(arrays), must_be_finite=True)


def draws(seed: int, noise: Noise | Mapping[str, Any] | None) -> NamedNoise:
    """Those handed in, as `given` has them, else those of `seed`."""
    return seeded(seed) if noise is None else given(noise)


def draw_tokens(noise: Noise, name: str, shape: VideoShape | AudioShape, tokens: int, batch: int = 1) -> mx.array:
    """The draw called `name` as tokens (B, `tokens`, 128).

    The clip's own tokens come from `name` on the latent grid; those that conditioning appended, if any, from
    `name`/appended.
    """
    own = patchify(noise(name, latent_shape(shape, batch)))
    appended = tokens - count(shape)
    if appended == 0:
        return own
    return mx.concatenate([own, noise(f"{name}/appended", (batch, appended, own.shape[-1]))], axis=1)
