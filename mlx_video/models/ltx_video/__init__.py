"""LTX-Video 0.9.x, the family before LTX-2: one stream of video, T5 text; its networks, one by one (`load`)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx


def load(component: str, path: str | Path, dtype: mx.Dtype | None = None, *, streamed: bool = False) -> Any:
    """One network with its weights, from an official file, a diffusers folder or a folder of it, an upscaler, a T5.

    component: "transformer", "video_encoder", "video_decoder", "upsampler" or "text_encoder"; dtype: of the weights and
    the computation, float32 if left out; streamed: the transformer's blocks and T5's layers are read whenever they are
    visited, and only one of them is in memory. The caller keeps the network; `network.clear()` frees it. Axis orders
    are stated by each class. Raises UserError where there is nothing of that kind, or tensors do not fit one to one.
    """
    family = import_module("mlx_video.models.ltx_video.family")
    return import_module("mlx_video.lending.alone").load(family, component, path, dtype, streamed=streamed)
