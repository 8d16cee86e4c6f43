"""Hidden states to contexts: the feature extractor and, for each modality, a connector. Knows no text encoder.

A connector is a small transformer over 1024 tokens: the prompt's own first, learned registers after them. A register is
known by its place: place i of the context takes register i mod 128, whatever the prompt's length. No mask leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.layers import Attention, FeedForward, Rotation, rms_norm, rotary_table
from mlx_video.models.ltx_2.config import ConnectorConfig, TextConfig
from mlx_video.models.ltx_2.text_encoder.features import FeatureExtractor
from mlx_video.types import CONTEXT_TOKENS, Context

THETA = 10_000.0
"""Base of the connectors' rotary frequencies; no key of a checkpoint changes it (ltx_core Embeddings1DConnector)."""


class ConnectorBlock(nn.Module):
    """Self-attention and feed-forward, each on weightless-normalised input. Source: _BasicTransformerBlock1D."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.attn1 = Attention(config.dim, config.heads, config.head_dim, gated=config.gated_attention)
        self.ff = FeedForward(config.dim, bias=config.feed_forward_bias)

    def __call__(self, x: mx.array, rotation: Rotation) -> mx.array:
        """x (1, T, D) -> (1, T, D)."""
        x = x + self.attn1(rms_norm(x), rotation=rotation)
        return x + self.ff(rms_norm(x))


class Connector(nn.Module):
    """One modality's features, filled up with registers, through the blocks. Source: ltx_core Embeddings1DConnector."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.transformer_1d_blocks = [ConnectorBlock(config) for _ in range(config.layers)]
        self.learnable_registers = mx.zeros((config.registers, config.dim))
        self._rotation: Rotation | None = None

    def __call__(self, features: mx.array, blocks: Iterable[nn.Module] | None = None) -> mx.array:
        """features (T, D), T <= 1024 -> context (1, 1024, D); `blocks` stand in for its own.

        A block of 1024 tokens is work enough for one evaluation, and its weights may be gone after it.
        """
        c = self.config
        fill = mx.tile(self.learnable_registers, (CONTEXT_TOKENS // c.registers, 1))[features.shape[0] :]
        x = mx.concatenate([features, fill.astype(features.dtype)])[None]
        if self._rotation is None:
            positions = np.arange(CONTEXT_TOKENS, dtype=np.float32)[None, None]
            self._rotation = rotary_table(
                positions, c.heads, c.head_dim, (c.max_position,), theta=THETA, float64=c.rope_float64, dtype=x.dtype
            )
        for block in self.transformer_1d_blocks if blocks is None else blocks:
            x = block(x, self._rotation)
            mx.eval(x)
        return rms_norm(x)


class Connectors(nn.Module):
    """Hidden states of one prompt to the contexts of both modalities. Source: ltx_core EmbeddingsProcessor."""

    prefixes = {
        "model.diffusion_model.video_embeddings_connector.": "video.",
        "model.diffusion_model.audio_embeddings_connector.": "audio.",
        "text_embedding_projection.": "projection.",
    }
    visited = ("projection", "video.transformer_1d_blocks", "audio.transformer_1d_blocks")
    """Paths of what `parts` gives."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.projection = FeatureExtractor(config)
        self.video = Connector(config.video)
        self.audio = Connector(config.audio)

    def __call__(self, hidden: mx.array) -> Context:
        """hidden (T, width, layers + 1) as `TextEncoder.encode` gives it -> video (1, 1024, D), audio (1, 1024, D).

        Raises UserError where the hidden states are not those of the text encoder that the checkpoint belongs to.
        """
        self.config.check_encoder(hidden.shape[1], hidden.shape[2] - 1)
        parts = self.parts([])
        features = next(parts)(hidden, self.video.learnable_registers.dtype)
        mx.eval(features)
        connectors = (self.video, self.audio)
        contexts = [c(x, islice(parts, c.config.layers)) for c, x in zip(connectors, features, strict=True)]
        next(parts, None)
        return Context(*contexts)

    def parts(self, results: object) -> Iterator[nn.Module]:
        """The projection, then the blocks of the video's and of the sound's connector, each visited once per call.

        Replace it to bring weights in and out; what a part leaves is evaluated before the next one is asked for.
        """
        yield self.projection
        yield from self.video.transformer_1d_blocks
        yield from self.audio.transformer_1d_blocks
