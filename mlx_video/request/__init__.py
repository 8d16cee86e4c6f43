"""What may be asked, as plain values: one table of options, of which parsers, keywords and checks are made."""

from mlx_video.request.generating import Request, RequestOptions
from mlx_video.request.upscaling import Upscaling

__all__ = ["Request", "RequestOptions", "Upscaling"]
