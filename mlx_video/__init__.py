"""Video with sound on your own Mac: Lightricks' LTX-2 models on Apple's MLX.

The public names; nothing is imported until one of them is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer to import than all else here, before a command can hear a signal
if TYPE_CHECKING:
    from mlx_video.api import LTXPipeline
    from mlx_video.lending.loader import load
    from mlx_video.request import Request
    from mlx_video.results.clip import Clip
    from mlx_video.types import AudioIn, ImageAt, Lora, UserError

__version__ = "0.1.0"
__all__ = ["AudioIn", "Clip", "ImageAt", "LTXPipeline", "Lora", "Request", "UserError", "__version__", "load"]

_PLACES = {
    "LTXPipeline": "mlx_video.api",
    "Clip": "mlx_video.results.clip",
    "Request": "mlx_video.request",
    "load": "mlx_video.lending.loader",
    **dict.fromkeys(("AudioIn", "ImageAt", "Lora", "UserError"), "mlx_video.types"),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'mlx_video' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
