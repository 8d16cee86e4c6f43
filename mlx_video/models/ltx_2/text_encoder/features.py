"""Hidden states of all layers to features: normalise, flatten, project. Knows neither Gemma nor connectors.

The layer is the fastest axis of a flattened token: value 0 of all layers, value 1 of all layers, and so on. Statistics
are taken in float32 over real tokens only, because no padding gets here.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.config import TextConfig

_EPS = 1e-6


def normalise_by_range(hidden: mx.array) -> mx.array:
    """(T, width, states) -> (T, width * states) float32: 8 (x - mean) / (max - min), each state over the whole prompt.

    Source: ltx_core feature_extractor._norm_and_concat_padded_batch.
    """
    x = hidden.astype(mx.float32)
    span = x.max(axis=(0, 1)) - x.min(axis=(0, 1))
    return (8 * (x - x.mean(axis=(0, 1))) / (span + _EPS)).reshape(x.shape[0], -1)


def normalise_by_token(hidden: mx.array) -> mx.array:
    """(T, width, states) -> (T, width * states) float32: each state of each token divided by its root mean square.

    Source: ltx_core feature_extractor.norm_and_concat_per_token_rms.
    """
    x = hidden.astype(mx.float32)
    return (x * mx.rsqrt(mx.square(x).mean(axis=1, keepdims=True) + _EPS)).reshape(x.shape[0], -1)


class FeatureExtractor(nn.Module):
    """Hidden states to the features of both modalities.

    LTX-2: one projection for both (aggregate_embed). LTX-2.3: one each (video_ and audio_aggregate_embed), whose input
    is scaled by sqrt(output width / the text encoder's width). Source: ltx_core FeatureExtractorV1, FeatureExtractorV2.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.per_token = config.per_token_norm
        if self.per_token:
            self.video_aggregate_embed = nn.Linear(config.features, config.video.dim)
            self.audio_aggregate_embed = nn.Linear(config.features, config.audio.dim)
        else:
            self.aggregate_embed = nn.Linear(config.features, config.video.dim, bias=False)

    def __call__(self, hidden: mx.array, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """hidden (T, width, states) -> video features (T, D), audio features (T, D), projected in `dtype`."""
        if not self.per_token:
            features = self.aggregate_embed(normalise_by_range(hidden).astype(dtype))
            return features, features
        x, width = normalise_by_token(hidden).astype(dtype), hidden.shape[1]
        video, audio = self.video_aggregate_embed, self.audio_aggregate_embed
        return (
            video(x * math.sqrt(video.weight.shape[0] / width)),
            audio(x * math.sqrt(audio.weight.shape[0] / width)),
        )
