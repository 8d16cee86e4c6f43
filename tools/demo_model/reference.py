"""The reference's networks (ltx_core 1.0.0), built from the demo's configs, and two adaptations for training on a CPU.

1. `ltx_core` imports torchaudio for a mel-spectrogram and a resampler. Neither is used here, so an empty module answers
   when torchaudio is not installed.
2. `use_plain_attention`: torch's fused attention is slow backwards in bfloat16 on a CPU; two matrix products are not.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import torch
import transformers

try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):
    for _name in ("torchaudio", "torchaudio.transforms", "torchaudio.functional"):
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__spec__ = importlib.machinery.ModuleSpec(_name, None)
    sys.modules["torchaudio"].transforms = sys.modules["torchaudio.transforms"]
    sys.modules["torchaudio"].functional = sys.modules["torchaudio.functional"]

from ltx_core.model.audio_vae import (
    AudioDecoderConfigurator,
    AudioEncoderConfigurator,
    VocoderConfigurator,
)
from ltx_core.model.transformer import LTXModelConfigurator
from ltx_core.model.upsampler import LatentUpsamplerConfigurator
from ltx_core.model.video_vae import VideoDecoderConfigurator, VideoEncoderConfigurator
from ltx_core.text_encoders.gemma.embeddings_connector import (
    AudioEmbeddings1DConnectorConfigurator,
    Embeddings1DConnectorConfigurator,
)
from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV2

from . import configs

_CONFIGURATORS = {
    "transformer": LTXModelConfigurator,
    "video_connector": Embeddings1DConnectorConfigurator,
    "audio_connector": AudioEmbeddings1DConnectorConfigurator,
    "video_encoder": VideoEncoderConfigurator,
    "video_decoder": VideoDecoderConfigurator,
    "audio_encoder": AudioEncoderConfigurator,
    "audio_decoder": AudioDecoderConfigurator,
    "vocoder": VocoderConfigurator,
}


def build(name: str) -> torch.nn.Module:
    """One network of the reference with the demo's sizes and torch's initial weights."""
    if name == "upsampler":
        return LatentUpsamplerConfigurator.from_config(configs.UPSAMPLER)
    return _CONFIGURATORS[name].from_config(configs.checkpoint_config())


def build_feature_extractor() -> FeatureExtractorV2:
    width = configs.GEMMA_TEXT["hidden_size"]
    states = width * (configs.GEMMA_TEXT["num_hidden_layers"] + 1)
    return FeatureExtractorV2(
        torch.nn.Linear(states, configs.VIDEO_WIDTH), width, torch.nn.Linear(states, configs.AUDIO_WIDTH)
    )


def build_gemma() -> torch.nn.Module:
    config = transformers.Gemma3TextConfig(**{**configs.GEMMA_TEXT, "use_cache": False})
    config._attn_implementation = "sdpa"
    gemma = transformers.Gemma3TextModel(config)
    torch.nn.init.normal_(gemma.embed_tokens.weight, 0, 0.15)
    return gemma


def set_statistics(network, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Fill the latent statistics of a VAE half."""
    with torch.no_grad():
        network.per_channel_statistics.get_buffer("mean-of-means").copy_(mean)
        network.per_channel_statistics.get_buffer("std-of-means").copy_(scale)


def _plain_attention(q, k, v, heads, mask=None):
    b, t, _ = q.shape
    s = k.shape[1]
    q, k, v = (
        x.view(b, -1, heads, x.shape[-1] // heads).transpose(1, 2).reshape(b * heads, x.shape[1], -1) for x in (q, k, v)
    )
    scores = torch.bmm(q, k.transpose(1, 2) * q.shape[-1] ** -0.5)
    if mask is not None:
        scores = (scores.view(b, heads, t, s) + mask).view(b * heads, t, s)
    return torch.bmm(torch.softmax(scores, -1), v).view(b, heads, t, -1).transpose(1, 2).reshape(b, t, -1)


def use_plain_attention(network: torch.nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "attention_function"):
            module.attention_function = _plain_attention
