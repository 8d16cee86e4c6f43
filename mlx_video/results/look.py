"""How latents are decoded and shown, in plain values. Knows no file and no decoder."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from mlx_video.models.families import RECIPES
from mlx_video.request import Request, kinds
from mlx_video.types import SPACE_SCALE, TILINGS, TIME_SCALE, VIDEO_DECODERS, Tree, UserError, VideoShape

Heard = Literal["latents", "given", "source"] | None
Sound = tuple[np.ndarray, int]


@dataclass(frozen=True)
class Look:
    """How latents are decoded and shown, in plain values."""

    shape: VideoShape
    """What is shown, cut out of what is decoded."""
    top: int = 0
    left: int = 0
    """Rows and columns that are cut off."""
    rate: Fraction | None = None
    """Frames a second where they are known as a fraction."""
    tiling: str = "auto"
    stream: bool = False
    decoder: str = "conv"
    seed: int = 0
    """Of the noise that a diffusion decoder makes pictures of."""
    sound: Heard = None
    """Decoded, as the user gave it, as it is in the source, or none."""
    source: str | None = None
    """The picture or film that this was made of."""
    still: bool = False
    """A picture."""

    @classmethod
    def cut(cls, shown: VideoShape, made: VideoShape, latents: Tree, given: Sound | None, **how: Any) -> Look:
        """Of `shown`, cut out of the middle of what is `made`; given: the sound, where the user gave it."""
        top, left = made.margins(shown.height, shown.width)
        sound: Heard = "given" if given is not None else "latents" if "audio" in latents else None
        return cls(shown, top, left, sound=sound, **how)

    def check(self, latents: Tree) -> None:
        """Raises ValueError where this cannot be shown of `latents`."""
        for name, hint in kinds.hints_of(Look).items():
            if not kinds.fits(getattr(self, name), hint):
                raise ValueError(f"{name} {getattr(self, name)!r}")
        frames, rows, columns = latents["video"].shape[2:]
        have = ((frames - 1) * TIME_SCALE + 1, rows * SPACE_SCALE, columns * SPACE_SCALE)
        most = (self.shape.frames, self.top + self.shape.height, self.left + self.shape.width)
        if min(self.top, self.left) < 0 or min(self.shape[:3]) < 1 or any(map(operator.gt, most, have)):
            raise ValueError(f"shape {list(self.shape)}")
        if self.tiling not in TILINGS:
            raise ValueError(f"tiling {self.tiling!r}")
        if self.decoder not in VIDEO_DECODERS:
            raise ValueError(f"decoder {self.decoder!r}")
        if self.sound == "latents" and "audio" not in latents:
            raise ValueError("sound")

    def otherwise(
        self,
        *,
        tiling: str | None = None,
        stream: bool | None = None,
        video_decoder: str | None = None,
        fps: float | None = None,
        audio: bool | None = None,
    ) -> Look:
        """The same with what is given; audio: False for no sound. Raises UserError for what does not go together."""
        decoder = self.decoder if video_decoder is None else video_decoder
        asked = Request(
            prompt="-", tiling=self.tiling if tiling is None else tiling,
            stream=(self.stream and decoder != "diffusion") if stream is None else stream,
            video_decoder=decoder, fps=self.shape.fps if fps is None else fps,
        )  # fmt: skip
        asked.check(RECIPES)
        if audio and self.sound is None:
            raise UserError("--audio has no effect on a clip that was made without sound.")
        sound = None if audio is False else self.sound
        if fps is not None and sound is not None and fps != float(self.fps):
            raise UserError(
                f"--fps {fps:g} would part the pictures from their sound, which is of {float(self.fps):g} frames a "
                f"second; add --no-audio."
            )
        shape, rate = (self.shape, self.rate) if fps is None else (self.shape._replace(fps=fps), None)
        return replace(
            self, tiling=asked.tiling, stream=asked.stream, decoder=decoder, sound=sound, shape=shape, rate=rate
        )

    @property
    def fps(self) -> float | Fraction:
        """Frames a second."""
        return self.shape.fps if self.rate is None else self.rate

    def __str__(self) -> str:
        """Size, length and sound in a few words."""
        s = self.shape
        if self.still:
            return f"{s.width}x{s.height}"
        sound = {None: "silent", "source": "with its sound"}.get(self.sound, "with sound")
        length = "" if self.source else f" ({s.seconds:.2f} s)"
        return f"{s.width}x{s.height}, {s.frames} frames at {s.fps:g} fps{length}, {sound}"
