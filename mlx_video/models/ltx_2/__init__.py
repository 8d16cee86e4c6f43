"""LTX-2 and LTX-2.3: the networks, what a checkpoint says of them, and what they are as data (`family`)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx


def load(component: str, path: str | Path, dtype: mx.Dtype | None = None) -> Any:
    """`mlx_video.load` under its older name."""
    return import_module("mlx_video").load(component, path, dtype)
