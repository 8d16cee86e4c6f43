"""The encoder of T5 v1.1: a prompt's own token ids to the hidden states that the transformer attends to.

The reference runs 256 tokens, padded at the end and masked; here only the prompt's own run, which are at the same
places and see the same. Knows no files: names and shapes meet in `weights.names`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.models.layers import gelu
from mlx_video.models.ltx_video.config import T5Config
from mlx_video.models.ltx_video.text_encoder.tokens import Tokenizer
from mlx_video.types import UserError


def buckets(tokens: int, config: T5Config) -> np.ndarray:
    """(tokens, tokens) int32: for a query (row) and a key (column) which of the learned biases their distance has.

    Half of them are for keys ahead. In each half the near distances have one each, the others share them by logarithm,
    in float32 as the reference's. Source: transformers T5Attention._relative_position_bucket.
    """
    half = config.buckets // 2
    near = half // 2
    ahead = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    distance = np.abs(ahead)
    octaves = np.log(np.maximum(distance, near).astype(np.float32) / np.float32(near))
    far = near + (octaves / np.float32(math.log(config.max_distance / near)) * (half - near)).astype(np.int32)
    found: np.ndarray = np.where(distance < near, distance, np.minimum(far, half - 1)) + half * (ahead > 0)
    return found.astype(np.int32)


class Attention(nn.Module):
    """Heads whose scores are not scaled, with a bias by distance. Source: transformers T5Attention."""

    def __init__(self, config: T5Config):
        super().__init__()
        inner = config.heads * config.head_dim
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.width, inner, bias=False)
        self.k = nn.Linear(config.width, inner, bias=False)
        self.v = nn.Linear(config.width, inner, bias=False)
        self.o = nn.Linear(inner, config.width, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """x (1, T, D), bias (1, heads, T, T) -> (1, T, D)."""
        q, k, v = (self._heads(project(x)) for project in (self.q, self.k, self.v))
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias)
        return self.o(y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def _heads(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(0, 2, 1, 3)


class FeedForward(nn.Module):
    """Source: transformers T5DenseGatedActDense."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.wi_0 = nn.Linear(config.width, config.feed_forward, bias=False)
        self.wi_1 = nn.Linear(config.width, config.feed_forward, bias=False)
        self.wo = nn.Linear(config.feed_forward, config.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(1, T, D) -> (1, T, D), from float16 in float32: what comes together in `wo` leaves float16's range."""
        gate, value = gelu(self.wi_0(x)), self.wi_1(x)
        if x.dtype != mx.float16:
            return self.wo(gate * value)
        wide = gate.astype(mx.float32) * value.astype(mx.float32)
        if isinstance(self.wo, nn.QuantizedLinear):
            return self.wo(wide)
        return wide @ self.wo.weight.astype(mx.float32).T


class Layer(nn.Module):
    """Attention and feed-forward, a norm before each. Source: transformers T5Block."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """x (1, T, D), bias (1, heads, T, T) -> (1, T, D), in x's dtype."""
        x = x + self.attention(_normed(self.attention_norm, x), bias).astype(x.dtype)
        return x + self.feed_forward(_normed(self.feed_forward_norm, x)).astype(x.dtype)


def _normed(norm: nn.RMSNorm, x: mx.array) -> mx.array:
    """In the precision of the weights; taken in float32 and rounded once."""
    found: mx.array = norm(x).astype(norm.weight.dtype)
    return found


class T5(nn.Module):
    """T5's encoder: token ids to its last hidden states."""

    prefixes = {"": ""}
    renames = (
        (r"^encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.", "distances."),
        (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.", r"layers.\1.attention."),
        (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"layers.\1.attention_norm."),
        (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.", r"layers.\1.feed_forward."),
        (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"layers.\1.feed_forward_norm."),
        (r"^encoder\.final_layer_norm\.", "norm."),
    )
    ignored = (r"^encoder\.embed_tokens\.", r"^scaled_fp8$", r"^spiece_model$")
    """A second copy of the table, and what converters to 8 bit leave behind."""
    visited = ("shared", "layers")
    """Paths of what `parts` gives."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocabulary, config.width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.layers = [Layer(config) for _ in range(config.layers)]
        self.norm = nn.RMSNorm(config.width, config.norm_eps)

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[mx.array]:
        """The last hidden states (1, tokens, width) of each prompt's ids; computed when evaluated, in part before.

        Layers outside, prompts inside: weights that come from disk are read once for all prompts.
        """
        states: list[mx.array] = []
        parts = self.parts(states)
        embedding = next(parts)
        # Sums of many layers leave float16's range.
        wide = self.norm.weight.dtype == mx.float16
        for ids in prompts:
            x = embedding(mx.array([list(ids)]))
            states.append(x.astype(mx.float32) if wide else x)
        biases = {len(ids): self._bias(len(ids)) for ids in prompts}
        a_layer, limit = sum(self.config.layer_flops(len(ids)) for ids in prompts), platform.flops_per_evaluation()
        work = 0.0
        for layer in parts:
            work += a_layer
            if work > limit:
                mx.eval(states)
                work = a_layer
            states[:] = [layer(x, biases[x.shape[1]]) for x in states]
        return [_normed(self.norm, x) for x in states]

    def parts(self, results: object) -> Iterator[nn.Module]:
        """The table of embeddings, then the layers in order, each visited once per call.

        Replace it to bring weights in and out. results: what the parts visited so far have left; it is to be evaluated
        before a part's weights go.
        """
        yield self.shared
        yield from self.layers

    def _bias(self, tokens: int) -> mx.array:
        found: mx.array = self.distances(mx.array(buckets(tokens, self.config))).transpose(2, 0, 1)[None]
        return found


class TextEncoder:
    """Prompts to hidden states: a tokenizer and T5. `close` lets the weights go."""

    def __init__(self, network: T5, tokenizer: Tokenizer):
        """From its two parts."""
        self.network, self.tokenizer = network, tokenizer

    def encode(self, prompts: Sequence[str]) -> list[mx.array]:
        """Evaluated hidden states (1, tokens, width) of each prompt, for its own tokens, in order.

        Source: Lightricks' LTXVideoPipeline.encode_prompt, whose rows of padding are left out. Raises UserError for
        text that is not Unicode, and where the tokenizer gives tokens that the model does not know.
        """
        ids = [self.tokenizer.encode(prompt) for prompt in prompts]
        strange = [i for prompt in ids for i in prompt if i >= self.network.config.vocabulary]
        if strange:
            raise UserError(
                f"The text encoder's tokenizer gives token {strange[0]}, but its model knows "
                f"{self.network.config.vocabulary}: the two are not of one model."
            )
        hidden: list[Any] = self.network(ids)
        mx.eval(hidden)
        return hidden

    def close(self) -> None:
        """Lets go of the weights, whoever still holds the encoder."""
        self.network.clear()
