"""Video with sound on your own Mac: Lightricks' LTX-2 models on Apple's MLX.

The public names; nothing heavy is imported until one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_video.request import Request
from mlx_video.types import AudioIn, ImageAt, Lora, UserError

if TYPE_CHECKING:
    from mlx_video.pipelines.api import LTXPipeline
    from mlx_video.pipelines.clip import Clip

__version__ = "0.1.0"
__all__ = ["AudioIn", "Clip", "ImageAt", "LTXPipeline", "Lora", "Request", "UserError", "__version__"]


def __getattr__(name: str):
    if name == "LTXPipeline":
        from mlx_video.pipelines.api import LTXPipeline

        return LTXPipeline
    if name == "Clip":
        from mlx_video.pipelines.clip import Clip

        return Clip
    raise AttributeError(f"module 'mlx_video' has no attribute {name!r}")
