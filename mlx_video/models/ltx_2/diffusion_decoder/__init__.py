"""LTX-2.5's diffusion decoder: latents and noise to pixels, whole, in pieces of time or in parts of the picture."""

from mlx_video.models.ltx_2.diffusion_decoder.network import DiffusionDecoder

__all__ = ["DiffusionDecoder"]
