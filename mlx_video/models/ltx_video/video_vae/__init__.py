"""The convolutional video autoencoder of 0.9.x: pixels to latents and back, whole, in pieces or in tiles."""

from mlx_video.models.ltx_video.video_vae.conditioned import Conditioned
from mlx_video.models.ltx_video.video_vae.decoder import VideoDecoder
from mlx_video.models.ltx_video.video_vae.encoder import VideoEncoder

__all__ = ["Conditioned", "VideoDecoder", "VideoEncoder"]
