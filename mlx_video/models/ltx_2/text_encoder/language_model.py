"""What Gemma 3 and Gemma 4 do alike as text encoders: the walk through the layers, positions, masks, feed-forward,
packed weights.

The reference runs 1024 tokens, pads on the left and masked. Here only the prompt's own tokens run, at the positions
that they would have. Knows no files: names and shapes meet in `weights.names`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.models.ltx_2.text_encoder.gemma_config import Rotary
from mlx_video.types import CONTEXT_TOKENS, UserError

Hidden = mx.array
"""One prompt's hidden states: (tokens, width, layers + 1), embeddings first, the last one after the final norm."""


class TextRotation:
    """Turns queries and keys at the positions that a left-padded prompt has.

    One object serves all layers of a kind. Angles are rounded to float32 where transformers rounds them; sines are
    taken on the host, because an angle of 1023 rad is too large for a GPU's fast sine. Source: Gemma3RotaryEmbedding;
    where a part of the pairs is turned, transformers' rope of the type "proportional".
    """

    def __init__(self, head_dim: int, rotary: Rotary):
        """For heads of `head_dim`."""
        powers = np.power(
            rotary.base, np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim), dtype=np.float64
        )
        self._frequencies = np.float32(1) / powers.astype(np.float32) / np.float32(rotary.divisor)
        # A pair of frequency zero stays as it is, to the bit.
        self._frequencies[int(rotary.share * head_dim // 2) :] = 0
        self._tables: dict[tuple[int, mx.Dtype], tuple[mx.array, mx.array]] = {}

    def __call__(self, x: mx.array) -> mx.array:
        """Turns x (B, heads, T, head_dim), T <= CONTEXT_TOKENS: element i is paired with element i + head_dim / 2."""
        cos, sin = self._table(x.shape[-2], x.dtype)
        first, second = mx.split(x, 2, axis=-1)
        return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _table(self, tokens: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        if (tokens, dtype) not in self._tables:
            positions = np.arange(CONTEXT_TOKENS - tokens, CONTEXT_TOKENS, dtype=np.float32)
            angles = (positions[:, None] * self._frequencies).astype(np.float64)
            cos, sin = (mx.array(f(angles).astype(np.float32)).astype(dtype) for f in (np.cos, np.sin))
            self._tables[tokens, dtype] = cos, sin
        return self._tables[tokens, dtype]


class FeedForward(nn.Module):
    """Source: Gemma3MLP, Gemma4UnifiedTextMLP."""

    def __init__(self, width: int, inside: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inside, bias=False)
        self.up_proj = nn.Linear(width, inside, bias=False)
        self.down_proj = nn.Linear(inside, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(1, T, D) -> (1, T, D)."""
        return self.down_proj(nn.gelu_approx(self.gate_proj(x)) * self.up_proj(x))


class LanguageModel(nn.Module):
    """A language model without its head: token ids to the hidden states of all layers.

    A subclass builds `model`, with `embed_tokens`, `layers` (each called with x and a mask) and `norm`.
    """

    prefixes = {"language_model.model.": "model.", "model.language_model.": "model.", "model.": "model."}
    visited = ("model.embed_tokens", "model.layers")
    """Paths of what `parts` gives."""
    model: Any

    def __init__(self, config: Any):
        """config: GemmaConfig or Gemma4Config."""
        super().__init__()
        self.config = config

    def quantize(self, settings: Mapping[str, Any], names: Collection[str]) -> None:
        """Makes those layers quantized whose scales are among `names`, with the bits that the config gives them."""
        general = {key: settings[key] for key in ("bits", "group_size", "mode") if key in settings}
        given = {}
        for name in names:
            for prefix, path in self.prefixes.items():
                if name.startswith(prefix) and name.endswith(".scales"):
                    layer = name.removesuffix(".scales")
                    own = settings.get(layer)
                    given[path + layer.removeprefix(prefix)] = own if isinstance(own, dict) else general
        try:
            nn.quantize(self, class_predicate=lambda path, layer: given.get(path, False))
        except ValueError as error:
            raise UserError(
                f"The text encoder's config and tensors say packed weights that there cannot be: {error}."
            ) from error

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[Hidden]:
        """Hidden states (tokens, width, layers + 1) of each prompt's ids; computed when evaluated, in part before.

        Layers outside, prompts inside: weights that come from disk are read once for all prompts.
        """
        states: list[list[mx.array]] = [[] for _ in prompts]
        parts = self.parts(states)
        embedding = next(parts)
        for seen, ids in zip(states, prompts, strict=True):
            seen.append(self._embed(embedding, ids))
        a_layer, limit = sum(self.config.layer_flops(len(ids)) for ids in prompts), platform.flops_per_evaluation()
        work = 0.0
        for layer, sliding in zip(parts, self.config.sliding, strict=True):
            work += a_layer
            if work > limit:
                mx.eval(states)
                work = a_layer
            for seen in states:
                seen.append(layer(seen[-1], self._mask(seen[-1].shape[1], sliding)))
        for seen in states:
            seen[-1] = self.model.norm(seen[-1])
        return [mx.stack([state[0] for state in seen], axis=-1) for seen in states]

    def parts(self, results: object) -> Iterator[nn.Module]:
        """The table of embeddings, then the layers in order, each visited once per call.

        Replace it to bring weights in and out. results: what the parts visited so far have left; it is to be evaluated
        before a part's weights go.
        """
        yield self.model.embed_tokens
        yield from self.model.layers

    def _embed(self, embedding: nn.Module, ids: Sequence[int]) -> mx.array:
        x = embedding(mx.array([list(ids)]))
        found: mx.array = x * mx.array(math.sqrt(self.config.width), x.dtype)
        return found

    def _mask(self, tokens: int, sliding: bool) -> Any:
        if not sliding or tokens <= self.config.window:
            return "causal"
        i = mx.arange(tokens)
        back = i[:, None] - i[None]
        return (back >= 0) & (back < self.config.window)
