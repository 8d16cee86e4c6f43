"""What a checkpoint says of its diffusion transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.section import MAX_LAYERS, MAX_POSITION, Section, Stacks, heads_of, section
from mlx_video.types import Modality


@dataclass(frozen=True)
class StreamConfig:
    """The geometry of one modality's stream through the transformer."""

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    context_dim: int
    max_positions: tuple[int, ...]
    feed_forward_bias: bool

    @property
    def dim(self) -> int:
        """Width of the stream."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The two-stream diffusion transformer. `audio` of None builds the video stream alone."""

    layers: int
    video: StreamConfig
    audio: StreamConfig | None
    norm_eps: float
    theta: float
    timestep_scale: float
    cross_timestep_scale: float
    gated_attention: bool
    text_adaln: bool
    """Text cross-attention with AdaLN on queries and prompt (LTX-2.3)."""
    caption_channels: int | None
    """Width of the connectors' output where the transformer projects captions itself (LTX-2), else None."""
    rope_float64: bool
    keyframe_embedding: bool
    """A learned vector is added to the tokens of keyframes (LTX-2.5)."""

    @property
    def streams(self) -> dict[Modality, StreamConfig]:
        """The streams that there are, video first."""
        return {"video": self.video} if self.audio is None else {"video": self.video, "audio": self.audio}

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        return {"transformer_blocks": ("transformer.num_layers", self.layers)}

    @property
    def rows(self) -> int:
        """AdaLN vectors of a stream in a block: shift, scale, gate of self-attention, feed-forward and perhaps text."""
        return 9 if self.text_adaln else 6

    @classmethod
    def read(cls, config: Mapping[str, Any], *, audio: bool = True) -> TransformerConfig:
        """From a checkpoint's config; `audio` False leaves the audio stream out."""
        s = section(config, "transformer")
        for key, value in (
            ("activation_fn", "gelu-approximate"), ("attention_bias", True), ("av_cross_ada_norm", True),
            ("cross_attention_norm", True), ("double_self_attention", False), ("dropout", 0.0),
            ("norm_elementwise_affine", False), ("num_embeds_ada_norm", 1000), ("num_vector_embeds", None),
            ("only_cross_attention", False), ("positional_embedding_type", "rope"), ("qk_norm", "rms_norm"),
            ("rope_type", "split"), ("share_ff", False), ("standardization_norm", "rms_norm"),
            ("upcast_attention", False), ("use_audio_video_cross_attention", True),
            ("use_linear_projection", False),
            ("use_middle_indices_grid", True), ("use_prompt_adaln_single", True),
        ):  # fmt: skip
            s.only(key, value)
        early = s.flag("caption_proj_before_connector", False)
        return cls(
            layers=s.integer("num_layers", 48, 1, MAX_LAYERS),
            video=_stream(s, "", 32, 128, 4096, (20, 2048, 2048), "ff_bias"),
            audio=_stream(s, "audio_", 32, 64, 2048, (20,), "audio_ff_bias") if audio else None,
            norm_eps=s.number("norm_eps", 1e-6, 1e-12, 1e-2),
            theta=s.number("positional_embedding_theta", 10000.0, 10, 1e8),
            timestep_scale=s.number("timestep_scale_multiplier", 1000, 1, 1e5),
            cross_timestep_scale=s.number("av_ca_timestep_scale_multiplier", 1, 1e-3, 1e5),
            gated_attention=s.flag("apply_gated_attention", False),
            text_adaln=s.flag("cross_attention_adaln", False),
            caption_channels=None if early else s.integer("caption_channels", 3840),
            rope_float64=s.only("frequencies_precision", "float32", "float64") == "float64",
            keyframe_embedding=s.flag("use_keyframes_abs_pos_embedding", False),
        )


def _stream(
    s: Section, prefix: str, heads: int, head_dim: int, context: int, positions: tuple[int, ...], bias: str
) -> StreamConfig:
    heads, head_dim = heads_of(s, f"{prefix}num_attention_heads", heads, f"{prefix}attention_head_dim", head_dim)
    return StreamConfig(
        heads=heads,
        head_dim=head_dim,
        in_channels=s.integer(f"{prefix}in_channels", 128),
        out_channels=s.integer(f"{prefix}out_channels", 128),
        context_dim=s.integer(f"{prefix}cross_attention_dim", context),
        max_positions=s.integers(
            f"{prefix}positional_embedding_max_pos", positions, 1, MAX_POSITION, count=len(positions)
        ),
        feed_forward_bias=s.flag(bias, True),
    )
