"""Gemma 4 as a text encoder: the hidden states of all layers for a prompt's real tokens.

What is not as in Gemma 3: norms multiply by their weight, not by 1 + weight; values have a norm, without weight;
attention is not scaled; layers that see everything have wider heads, one for keys that are the values as well, and turn
a quarter of their pairs; a layer's result is multiplied by a number of its own. The layers are written here and not
mlx-vlm's, whose embeddings' scale, positions and masks would have to be replaced. Knows no files: names and shapes meet
in `weights.names`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.text_encoder.gemma4_config import Gemma4Config, Heads
from mlx_video.models.ltx_2.text_encoder.language_model import FeedForward, LanguageModel, TextRotation


class Norm(nn.Module):
    """RMS norm times its weight, in float32 and rounded once. Source: Gemma4UnifiedRMSNorm."""

    def __init__(self, width: int, eps: float):
        """Over a last axis of `width`."""
        super().__init__()
        self.weight = mx.ones((width,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Keeps shape and dtype."""
        return mx.fast.rms_norm(x.astype(mx.float32), self.weight.astype(mx.float32), self.eps).astype(x.dtype)


class BareNorm(nn.Module):
    """RMS norm without a weight. Source: Gemma4UnifiedRMSNorm, with_scale of False."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Keeps shape and dtype."""
        return mx.fast.rms_norm(x.astype(mx.float32), None, self.eps).astype(x.dtype)


class Attention(nn.Module):
    """Source: Gemma4UnifiedTextAttention."""

    def __init__(self, config: Gemma4Config, kind: Heads, rope: TextRotation):
        """rope: shared by all layers of the kind."""
        super().__init__()
        self.rope, self.head_dim, self.shared = rope, kind.head_dim, kind.shared
        self.q_proj = nn.Linear(config.width, config.heads * kind.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, kind.key_heads * kind.head_dim, bias=False)
        if not kind.shared:
            self.v_proj = nn.Linear(config.width, kind.key_heads * kind.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * kind.head_dim, config.width, bias=False)
        self.q_norm, self.k_norm = Norm(kind.head_dim, config.norm_eps), Norm(kind.head_dim, config.norm_eps)
        self.v_norm = BareNorm(config.norm_eps)

    def __call__(self, x: mx.array, mask: Any) -> mx.array:
        """x (1, T, D) -> (1, T, D)."""
        q, k = self._heads(self.q_proj(x)), self._heads(self.k_proj(x))
        v = k if self.shared else self._heads(self.v_proj(x))
        q, k, v = self.rope(self.q_norm(q)), self.rope(self.k_norm(k)), self.v_norm(v)
        # What others divide scores by stands in the weights of k_norm.
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def _heads(self, x: mx.array) -> mx.array:
        """(1, T, heads * head_dim) -> (1, heads, T, head_dim)."""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(0, 2, 1, 3)


class Layer(nn.Module):
    """Attention and feed-forward with norms before and after each, times `layer_scalar`.

    Source: Gemma4UnifiedTextDecoderLayer.
    """

    def __init__(self, config: Gemma4Config, kind: Heads, rope: TextRotation):
        super().__init__()
        self.self_attn = Attention(config, kind, rope)
        self.mlp = FeedForward(config.width, config.feed_forward)
        self.input_layernorm = Norm(config.width, config.norm_eps)
        self.post_attention_layernorm = Norm(config.width, config.norm_eps)
        self.pre_feedforward_layernorm = Norm(config.width, config.norm_eps)
        self.post_feedforward_layernorm = Norm(config.width, config.norm_eps)
        self.layer_scalar = mx.ones((1,))

    def __call__(self, x: mx.array, mask: Any) -> mx.array:
        """x (1, T, D) -> (1, T, D)."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), mask))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * self.layer_scalar


class Body(nn.Module):
    """The parts by the names that files have for them."""

    def __init__(self, config: Gemma4Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        kinds = {kind: TextRotation(kind.head_dim, kind.rotary) for kind in (config.near, config.far)}
        self.layers = [Layer(config, kind, kinds[kind]) for kind in map(config.heads_of, config.sliding)]
        self.norm = Norm(config.width, config.norm_eps)


class Gemma4(LanguageModel):
    """Gemma 4's language model without its head: token ids to the hidden states of all layers.

    Pictures and sounds, which prompts have none of, and the projections of an LTX checkpoint that may stand in the same
    file are left where they are.
    """

    ignored = (
        r"^model\.(vision_tower|vision_embedder|embed_vision|audio_tower|embed_audio|multi_modal_projector)\.",
        r"rotary_emb\.",
    )

    def __init__(self, config: Gemma4Config, names: Collection[str] = ()):
        """The network with unloaded weights. `names` are the file's tensors, by which quantized layers are known."""
        super().__init__(config)
        self.model = Body(config)
        if config.quantization is not None:
            self.quantize(config.quantization, names)

    def _embed(self, embedding: nn.Module, ids: Sequence[int]) -> mx.array:
        """Placeholders get the embedding of padding. Source: Gemma4UnifiedModel.forward."""
        c = self.config
        return super()._embed(embedding, [c.padding if i in c.placeholders else i for i in ids])
