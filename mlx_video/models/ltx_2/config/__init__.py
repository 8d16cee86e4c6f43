"""What a checkpoint's own metadata says of each network.

The `config` JSON of an official file is read into one frozen dataclass per network. The defaults here are the ones that
the format itself gives an absent key; generations differ only by what the file says. A value that the code does not
implement raises, naming key, value and what is supported. Knows no files and no arrays.
"""

from mlx_video.models.ltx_2.config.audio import AudioVAEConfig, BandwidthConfig, GeneratorConfig, VocoderConfig
from mlx_video.models.ltx_2.config.diffusion_decoder import DiffusionDecoderConfig
from mlx_video.models.ltx_2.config.text import (
    ConnectorConfig,
    DurationConfig,
    TextConfig,
    feature_width,
)
from mlx_video.models.ltx_2.config.transformer import StreamConfig, TransformerConfig
from mlx_video.models.ltx_2.config.video import UPSAMPLER_GROUPS, UpsamplerConfig, VideoVAEConfig

__all__ = [
    "UPSAMPLER_GROUPS", "AudioVAEConfig", "BandwidthConfig", "ConnectorConfig",
    "DiffusionDecoderConfig", "DurationConfig", "GeneratorConfig", "StreamConfig", "TextConfig", "TransformerConfig",
    "UpsamplerConfig", "VideoVAEConfig", "VocoderConfig", "feature_width",
]  # fmt: skip
