"""Gemma 3 as a text encoder: the hidden states of all layers for a prompt's real tokens.

The layers are written here and not mlx-vlm's, which takes more than a second to import and gives other numbers than the
reference (transformers): its embeddings' scale is rounded to bfloat16 in every precision, its norms add the 1 of
1 + weight in the weight's precision, its rotary positions count from the first token, the reference's from the first
pad, and its frequencies differ in the last bit. Knows no files: names and shapes meet in `weights.names`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.text_encoder.language_model import FeedForward, Hidden, LanguageModel, TextRotation
from mlx_video.models.ltx_2.text_encoder.tokens import Tokenizer
from mlx_video.types import UserError


class Norm(nn.Module):
    """RMS norm times 1 + weight, in float32 and rounded once. Source: transformers Gemma3RMSNorm."""

    def __init__(self, width: int, eps: float):
        """Over a last axis of `width`."""
        super().__init__()
        self.weight = mx.zeros((width,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Keeps shape and dtype."""
        scale = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x.astype(mx.float32), scale, self.eps).astype(x.dtype)


class Attention(nn.Module):
    """Grouped queries with normalised queries and keys. Source: Gemma3Attention."""

    def __init__(self, config: GemmaConfig, rope: TextRotation):
        """rope: shared by all layers of a kind."""
        super().__init__()
        self.rope, self.head_dim, self.scale = rope, config.head_dim, config.query_scale**-0.5
        self.q_proj = nn.Linear(config.width, config.heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, config.key_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, config.key_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        self.q_norm, self.k_norm = Norm(config.head_dim, config.norm_eps), Norm(config.head_dim, config.norm_eps)

    def __call__(self, x: mx.array, mask: Any) -> mx.array:
        """x (1, T, D) -> (1, T, D); mask: as in `mx.fast.scaled_dot_product_attention`."""
        q, k, v = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.rope(self.q_norm(q)), self.rope(self.k_norm(k))
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=mask)
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def _heads(self, x: mx.array) -> mx.array:
        """(1, T, heads * head_dim) -> (1, heads, T, head_dim)."""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(0, 2, 1, 3)


class Layer(nn.Module):
    """Attention and feed-forward, with norms before and after each. Source: Gemma3DecoderLayer."""

    def __init__(self, config: GemmaConfig, rope: TextRotation):
        super().__init__()
        self.self_attn = Attention(config, rope)
        self.mlp = FeedForward(config.width, config.feed_forward)
        self.input_layernorm = Norm(config.width, config.norm_eps)
        self.post_attention_layernorm = Norm(config.width, config.norm_eps)
        self.pre_feedforward_layernorm = Norm(config.width, config.norm_eps)
        self.post_feedforward_layernorm = Norm(config.width, config.norm_eps)

    def __call__(self, x: mx.array, mask: Any) -> mx.array:
        """x (1, T, D) -> (1, T, D)."""
        x = _bounded(x)
        x = _bounded(x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), mask)))
        return _bounded(x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))))


def _bounded(x: mx.array) -> mx.array:
    """In float16, whose range Gemma's activations leave, cut at its largest number; else as it is."""
    most = mx.finfo(mx.float16).max
    return mx.clip(x, -most, most) if x.dtype == mx.float16 else x


class Body(nn.Module):
    """The parts by the names that files have for them."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        near, far = (TextRotation(config.head_dim, kind) for kind in (config.local_rotary, config.global_rotary))
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = [Layer(config, near if sliding else far) for sliding in config.sliding]
        self.norm = Norm(config.width, config.norm_eps)


class Gemma(LanguageModel):
    """Gemma 3's language model without its head: token ids to the hidden states of all layers."""

    ignored = (r"^model\.(vision_tower|multi_modal_projector)\.", r"rotary_emb\.inv_freq$")

    def __init__(self, config: GemmaConfig, names: Collection[str] = ()):
        """The network with unloaded weights. `names` are the file's tensors, by which quantized layers are known."""
        super().__init__(config)
        self.model = Body(config)
        if config.quantization is not None:
            self.quantize(config.quantization, names)


class TextEncoder:
    """Prompts to hidden states: a tokenizer and a language model, Gemma 3 or 4.

    `open` builds one of Gemma 3 without weights; then `names.assign(encoder.network, ...)` loads them. `close` lets
    them go.
    """

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer):
        """From its two parts."""
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def open(cls, folder: Path, names: Collection[str]) -> TextEncoder:
        """From a folder of Hugging Face's form, whose safetensors files hold tensors of these `names`.

        Takes bf16 and float32 folders and those that mlx quantized. Raises UserError for what is not a Gemma 3 text
        encoder, with what was found.
        """
        folder = Path(folder)
        config = GemmaConfig.of_folder(folder)
        config.check_names(names, folder)
        return cls(Gemma(config, names), Tokenizer(folder))

    @property
    def layers(self) -> int:
        """Transformer layers; there is one hidden state more."""
        return self.network.config.layers  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """Width of a hidden state."""
        return self.network.config.width  # type: ignore[no-any-return]

    def encode(self, prompts: Sequence[str]) -> list[Hidden]:
        """Evaluated hidden states (tokens, width, layers + 1) of each prompt, for its real tokens, in order.

        Source: ltx_core LTXGemmaTextEncoder.encode, whose rows of padding are left out.
        """
        ids = [self.tokenizer.encode(prompt) for prompt in prompts]
        strange = [i for prompt in ids for i in prompt if i >= self.network.config.vocabulary]
        if strange:
            raise UserError(
                f"The text encoder's tokenizer.json gives token {strange[0]}, but its model knows "
                f"{self.network.config.vocabulary}: the two are not of one model."
            )
        hidden = self.network(ids)
        mx.eval(hidden)
        return hidden

    def close(self) -> None:
        """Lets go of the weights, whoever still holds the encoder."""
        self.network.clear()
