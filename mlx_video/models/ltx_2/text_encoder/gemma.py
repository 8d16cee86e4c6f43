"""Gemma 3 as a text encoder: the hidden states of all layers for a prompt's real tokens.

The layers are mlx-vlm's. Four things are done here instead, because mlx-vlm's own way gives other numbers than the
reference's (transformers): the embeddings' scale (mlx-vlm rounds it to bfloat16 in every precision), the norms (it adds
the 1 of 1 + weight in the weight's precision), the rotary positions (it counts from the first token, the reference from
the first pad, and the frequencies differ in the last bit), and which layers slide (the file may list them one by one).
Knows no files: names and shapes meet in `weights.names`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.text_encoder.language_model import Hidden, LanguageModel, TextRotation
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


class Gemma(LanguageModel):
    """Gemma 3's language model without its head: token ids to the hidden states of all layers."""

    ignored = (r"^model\.(vision_tower|multi_modal_projector)\.", r"rotary_emb\.inv_freq$")

    def __init__(self, config: GemmaConfig, names: Collection[str] = ()):
        """The network with unloaded weights. `names` are the file's tensors, by which quantized layers are known."""
        from mlx_vlm.models.gemma3.language import Gemma3Model, RMSNorm

        super().__init__(config)
        self.model = Gemma3Model(config.as_mlx_vlm())
        self.model.update_modules(
            tree_map(
                lambda m: Norm(m.weight.size, m.eps) if isinstance(m, RMSNorm) else m,
                self.model.leaf_modules(),
                is_leaf=nn.Module.is_module,
            )
        )
        near, far = (
            TextRotation(config.head_dim, config.local_rotary),
            TextRotation(config.head_dim, config.global_rotary),
        )
        for layer, sliding in zip(self.model.layers, config.sliding, strict=True):
            layer.self_attn.rope = near if sliding else far
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
