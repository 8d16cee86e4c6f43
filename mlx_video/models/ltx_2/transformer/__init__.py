"""The two-stream diffusion transformer."""

from mlx_video.models.ltx_2.transformer.network import Transformer
from mlx_video.models.ltx_2.transformer.prepared import Prepared

__all__ = ["Prepared", "Transformer"]
