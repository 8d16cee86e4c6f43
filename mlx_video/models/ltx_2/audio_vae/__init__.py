"""Sound as the transformer sees it: log-mel spectrograms to latents and back, and the waveform's way to a log-mel."""

from mlx_video.models.ltx_2.audio_vae.decoder import AudioDecoder
from mlx_video.models.ltx_2.audio_vae.encoder import AudioEncoder
from mlx_video.models.ltx_2.audio_vae.mel import log_mel

__all__ = ["AudioDecoder", "AudioEncoder", "log_mel"]
