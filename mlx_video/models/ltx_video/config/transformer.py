"""What a checkpoint says of its diffusion transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.section import MAX_LAYERS, MAX_POSITION, Stacks, heads_of, section
from mlx_video.types import UserError


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer of one stream."""

    layers: int
    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    caption_channels: int
    """Width of T5's states, which the transformer projects itself."""
    norm_eps: float
    theta: float
    timestep_scale: float
    max_positions: tuple[int, ...]
    """Seconds, rows and columns that rotary positions cover."""
    causal_positions: bool
    """The first latent frame stands for one frame of pixels in its positions, too (from 0.9.5 on)."""

    @property
    def dim(self) -> int:
        """Width of the stream."""
        return self.heads * self.head_dim

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        return {"transformer_blocks": ("transformer.num_layers", self.layers)}

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> TransformerConfig:
        """From a checkpoint's config, in the official form."""
        s = section(config, "transformer")
        for key, value in (
            ("_class_name", "Transformer3DModel"), ("activation_fn", "gelu-approximate"), ("attention_bias", True),
            ("attention_type", "default"), ("double_self_attention", False), ("dropout", 0.0),
            ("norm_elementwise_affine", False), ("num_vector_embeds", None), ("only_cross_attention", False),
            ("positional_embedding_type", "rope"), ("qk_norm", "rms_norm"), ("standardization_norm", "rms_norm"),
            ("upcast_attention", False), ("use_linear_projection", False),
        ):  # fmt: skip
            s.only(key, value)
        heads, head_dim = heads_of(s, "num_attention_heads", 32, "attention_head_dim", 64)
        found = cls(
            layers=s.integer("num_layers", 28, 1, MAX_LAYERS),
            heads=heads,
            head_dim=head_dim,
            in_channels=s.integer("in_channels", 128),
            out_channels=s.integer("out_channels", 128),
            caption_channels=s.integer("caption_channels", 4096),
            norm_eps=s.number("norm_eps", 1e-6, 1e-12, 1e-2),
            theta=s.number("positional_embedding_theta", 10000.0, 10, 1e8),
            timestep_scale=s.number("timestep_scale_multiplier", 1000, 1, 1e5),
            max_positions=s.integers("positional_embedding_max_pos", (20, 2048, 2048), 1, MAX_POSITION, count=3),
            causal_positions=s.flag("causal_temporal_positioning", False),
        )
        width = s.integer("cross_attention_dim", found.dim)
        if width != found.dim:
            raise UserError(
                f"{s.whose} says {s.where}.cross_attention_dim = {width}; supported here: its own width, {found.dim}."
            )
        return found
