"""The diffusion transformer of one stream."""

from mlx_video.models.ltx_video.transformer.block import Perturbation
from mlx_video.models.ltx_video.transformer.network import Transformer
from mlx_video.models.ltx_video.transformer.passes import Pass
from mlx_video.models.ltx_video.transformer.prepared import Prepared, corners

__all__ = ["Pass", "Perturbation", "Prepared", "Transformer", "corners"]
