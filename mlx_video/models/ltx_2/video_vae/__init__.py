"""The convolutional video autoencoder: pixels to latents and back, whole, in pieces or in tiles."""

from mlx_video.models.ltx_2.video_vae.decoder import VideoDecoder
from mlx_video.models.ltx_2.video_vae.encoder import VideoEncoder
from mlx_video.models.ltx_2.video_vae.statistics import LatentStatistics
from mlx_video.models.ltx_2.video_vae.tiles import decode_frames, encode_frames
from mlx_video.models.ltx_2.video_vae.tiling import MODES, Span, Tiling, peak_bytes, plan_tiles

__all__ = [
    "MODES",
    "LatentStatistics",
    "Span",
    "Tiling",
    "VideoDecoder",
    "VideoEncoder",
    "decode_frames",
    "encode_frames",
    "peak_bytes",
    "plan_tiles",
]
