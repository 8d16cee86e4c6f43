"""One network of a family that pipelines do not know yet, with its weights, by the road that a run's networks take.

It is handed the family (`checkpoints.alone.Alone`), and imports none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import alone, locate
from mlx_video.lending.loader import give_weights, stream_weights
from mlx_video.types import UserError

STREAMED = ("transformer", "text_encoder")
"""Components whose parts can be read one at a time."""


def load(family: alone.Alone, component: str, path: str | Path, dtype: mx.Dtype | None, *, streamed: bool) -> Any:
    """As `models.ltx_video.load` says; a text encoder comes with its tokenizer."""
    if component not in family.COMPONENTS:
        raise UserError(f"There is no component {component!r}; there are {', '.join(family.COMPONENTS)}.")
    if streamed and component not in STREAMED:
        raise UserError(f"A {component.replace('_', ' ')} is not read part by part; {' and '.join(STREAMED)} are.")
    where = locate.existing(str(path), "path")
    platform.prepare()
    with platform.computing():
        part = alone.part_of(family, component, where)
        network = part.build()
        # Before the weights: without it they would be read for nothing.
        found = (
            family.text_encoder(network, where if where.is_dir() else where.parent)
            if component == "text_encoder"
            else network
        )
        (stream_weights if streamed else give_weights)(network, part, dtype or mx.float32)
        return found
