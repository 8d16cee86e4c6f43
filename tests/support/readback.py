"""Reads a finished video back: what tests ask of it, in plain values."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av


class Film(NamedTuple):
    """A video file: frames, height and width, frames a second, what its colours are tagged as, its sound, its settings.

    colours: FFmpeg's numbers for primaries, transfer, matrix (1 is BT.709) and range (1 is limited); sound: samples and
    their rate, or None.
    """

    frames: int
    size: tuple[int, int]
    fps: Fraction
    codec: tuple[str, str]
    colours: tuple[int, int, int, int]
    sound: tuple[int, int] | None
    metadata: dict[str, Any]


def read(path: Path) -> Film:
    """Decodes the whole file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        stream = container.streams.video[0]
        context = stream.codec_context
        film = Film(
            frames=len(frames),
            size=(frames[0].height, frames[0].width),
            fps=Fraction(stream.average_rate or 0),
            codec=(context.name, str(context.pix_fmt)),
            colours=(context.color_primaries, context.color_trc, context.colorspace, context.color_range),
            sound=None,
            metadata=json.loads(container.metadata["mlx_video"]),
        )
        if not container.streams.audio:
            return film
        rate = container.streams.audio[0].rate
        # The container says where the last block's padding begins.
        length = (container.streams.audio[0].duration or 0) * container.streams.audio[0].time_base
        return film._replace(sound=(round(length * rate), rate))
