"""What a T5 encoder says of itself: a folder's config.json, or the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.section import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Section, Stacks
from mlx_video.reading import shown
from mlx_video.types import UserError

EXPECTED = "LTX-Video takes T5 v1.1 XXL, such as text_encoder/ of Lightricks/LTX-Video or t5xxl_fp16.safetensors"
MAX_WORDS = 1 << 21
_LAYER = re.compile(r"encoder\.block\.(\d+)\.")


@dataclass(frozen=True)
class T5Config:
    """The encoder of T5 v1.1."""

    width: int
    layers: int
    heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    norm_eps: float
    buckets: int
    """Of relative positions, half of them for each direction."""
    max_distance: int
    """From which on all positions share a bucket."""

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        return {"layers": ("num_layers", self.layers)}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> T5Config:
        """From a config.json's content; raises UserError for what is not a T5 v1.1."""
        where = getattr(values, "whose", "The text encoder")
        if values.get("model_type") != "t5":
            raise UserError(
                f"{where} holds a model of type {shown(values.get('model_type'))}, not T5 (model_type 't5'). "
                f"{EXPECTED}."
            )
        s = Section(values, "config.json", where)
        s.only("feed_forward_proj", "gated-gelu")
        s.only("dense_act_fn", "gelu_new", "gelu_pytorch_tanh")
        buckets = s.integer("relative_attention_num_buckets", 32, 4, 1 << 12)
        return cls(
            width=s.integer("d_model", 512),
            layers=s.integer("num_layers", 6, 1, MAX_LAYERS),
            heads=s.integer("num_heads", 8, 1, MAX_HEADS),
            head_dim=s.integer("d_kv", 64, 1, MAX_WIDTH),
            feed_forward=s.integer("d_ff", 2048, 1, 1 << 18),
            vocabulary=s.integer("vocab_size", 32_128, 1, MAX_WORDS),
            norm_eps=s.number("layer_norm_epsilon", 1e-6, 1e-12, 1e-2),
            buckets=buckets,
            max_distance=s.integer("relative_attention_max_distance", 128, buckets, 1 << 16),
        )

    def layer_flops(self, tokens: int) -> float:
        """Floating-point operations of one layer over a prompt of `tokens`."""
        inner = self.heads * self.head_dim
        return 2.0 * tokens * self.width * (4 * inner + 3 * self.feed_forward) + 4.0 * tokens * tokens * inner


def told_by(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """What a config.json would say of these tensors, for files that say nothing of themselves.

    shapes: name -> shape, under the names of the format. Raises UserError where they are no T5 v1.1's.
    """
    first = "encoder.block.0.layer"
    needed = (
        "shared.weight", f"{first}.0.SelfAttention.q.weight", f"{first}.1.DenseReluDense.wi_0.weight",
        f"{first}.0.SelfAttention.relative_attention_bias.weight",
    )  # fmt: skip
    absent = [name for name in needed if len(shapes.get(name, ())) != 2 or not all(shapes[name])]
    if absent:
        raise UserError(f"{where} is not a T5 v1.1 encoder: it has no {absent[0]}. {EXPECTED}.")
    (words, width), (inner, _), (wide, _), (buckets, heads) = (shapes[name] for name in needed)
    return {
        "model_type": "t5", "d_model": width, "num_heads": heads, "d_kv": inner // heads, "d_ff": wide,
        "num_layers": len({found[1] for found in map(_LAYER.match, shapes) if found}), "vocab_size": words,
        "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": buckets,
    }  # fmt: skip
