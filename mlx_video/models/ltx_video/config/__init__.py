"""What a checkpoint says of each network, in the official form.

Files of the official form carry it in their metadata (`read`); diffusers' folders say the same in other words
(`diffusers`), and for files that say nothing it is told by their tensors (`told`). Knows no files and no arrays.
"""

from mlx_video.models.ltx_video.config.text import T5Config
from mlx_video.models.ltx_video.config.transformer import TransformerConfig
from mlx_video.models.ltx_video.config.video import VideoVAEConfig

__all__ = ["T5Config", "TransformerConfig", "VideoVAEConfig"]
