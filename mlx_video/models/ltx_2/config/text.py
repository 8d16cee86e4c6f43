"""What a checkpoint says of the way from the text encoder's hidden states to both contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_video.models.section import MAX_LAYERS, MAX_POSITION, MAX_WIDTH, Stacks, heads_of, section
from mlx_video.types import CONTEXT_TOKENS, UserError


@dataclass(frozen=True)
class ConnectorConfig:
    """One modality's connector: a small transformer over text features and learned registers."""

    heads: int
    head_dim: int
    layers: int
    max_position: int
    gated_attention: bool
    feed_forward_bias: bool
    registers: int
    rope_float64: bool

    @property
    def dim(self) -> int:
        """Width of the features it takes and gives."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TextConfig:
    """From the text encoder's hidden states to both contexts."""

    per_token_norm: bool
    """LTX-2.3: RMS per token and two projections; LTX-2: range per layer and one projection."""
    features: int
    """Values of one token over all hidden states: width x (layers + 1) of the text encoder that belongs to it."""
    video: ConnectorConfig
    audio: ConnectorConfig

    @classmethod
    def read(cls, config: Mapping[str, Any], *, features: int) -> TextConfig:
        """From a checkpoint's config; the feature extractor follows from which caption keys are present.

        features: the only size that no config states; `connectors.feature_width` reads it from the tensors' shapes.
        """
        s = section(config, "transformer")
        s.only("rope_type", "split")
        captions = (
            "caption_proj_before_connector", "caption_projection_first_linear",
            "caption_proj_input_norm", "caption_projection_second_linear",
        )  # fmt: skip
        said = tuple(s.flag(key, None) for key in captions)
        if said not in ((None,) * 4, (True, False, False, False)):
            raise UserError(
                f"{s.whose} says {dict(zip(captions, said, strict=True))}; supported: all absent (LTX-2) or "
                f"true, false, false, false (LTX-2.3)."
            )
        keys = "connector_num_attention_heads", "connector_attention_head_dim"
        heads, head_dim = heads_of(s, keys[0], 30, keys[1], 128)
        video = ConnectorConfig(
            heads=heads,
            head_dim=head_dim,
            layers=s.integer("connector_num_layers", 2, 0, MAX_LAYERS),
            max_position=s.integers("connector_positional_embedding_max_pos", [1], 1, MAX_POSITION, count=1)[0],
            gated_attention=s.flag("connector_apply_gated_attention", False),
            feed_forward_bias=s.flag("connector_ff_bias", True),
            registers=s.integer("connector_num_learnable_registers", 128, 1, CONTEXT_TOKENS),
            rope_float64=s.only("frequencies_precision", "float32", "float64") == "float64",
        )
        heads, head_dim = heads_of(s, f"audio_{keys[0]}", video.heads, f"audio_{keys[1]}", video.head_dim)
        layers = s.integer("audio_connector_num_layers", video.layers, 0, MAX_LAYERS)
        audio = replace(video, heads=heads, head_dim=head_dim, layers=layers)
        found = cls(said[0] is True, features, video, audio)
        if CONTEXT_TOKENS % video.registers:
            raise UserError(
                f"{s.whose} says transformer.connector_num_learnable_registers = {video.registers}; "
                f"supported: a divisor of {CONTEXT_TOKENS}."
            )
        if not found.per_token_norm and audio.dim != video.dim:
            raise UserError(
                f"The checkpoint's connectors are {video.dim} (video) and {audio.dim} (audio) wide, but "
                f"its one text projection (LTX-2) feeds both; supported: equal widths."
            )
        return found

    @property
    def stacks(self) -> Stacks:
        """See `Stacks`."""
        return {
            "video.transformer_1d_blocks": ("transformer.connector_num_layers", self.video.layers),
            "audio.transformer_1d_blocks": ("transformer.(audio_)connector_num_layers", self.audio.layers),
        }

    def check_encoder(self, width: int, layers: int) -> None:
        """Raises UserError where a text encoder of `layers` layers, `width` wide, is not the checkpoint's own."""
        if not self.features:
            raise UserError(NO_PROJECTION)
        if width * (layers + 1) != self.features:
            raise UserError(
                f"The text encoder has {layers} layers of width {width}, which gives {width * (layers + 1)} features a "
                f"token, but the checkpoint takes {self.features}: use the one that it was trained with "
                f"(LTX-2 and LTX-2.3: Gemma 3 12B, 48 layers of width 3840, 188160 features)."
            )


NO_PROJECTION = "The checkpoint has no text projection (text_embedding_projection.*aggregate_embed.weight)."


def feature_width(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many features a token has that a checkpoint's text projection takes, for `TextConfig.read`.

    shapes: tensor name -> shape, under official names or the module's own. 0 where they have none: those of LTX-2.5
    come with its text encoder.
    """
    found = sorted(name for name, shape in shapes.items() if name.endswith("aggregate_embed.weight") and shape)
    if not found:
        return 0
    shape = shapes[found[0]]
    if len(shape) != 2:
        raise UserError(f"{found[0]} has the shape {tuple(shape)}; a matrix of two axes is needed.")
    return shape[-1]


@dataclass(frozen=True)
class DurationConfig:
    """The duration head: how wide the contexts are that it reads."""

    video_dim: int
    audio_dim: int
    apart: bool = False
    """Whether the file has the projections to queries, keys and values apart, as some converters write them."""

    @classmethod
    def read(cls, config: Mapping[str, Any], apart: bool = False) -> DurationConfig:
        """From the head's own file, which repeats the widths of its transformer's contexts.

        apart: as the tensors tell; no config says it.
        """
        section(config, "duration_head")
        s = section(config, "transformer")
        return cls(
            s.integer("cross_attention_dim", 4096, 1, MAX_WIDTH),
            s.integer("audio_cross_attention_dim", 2048, 1, MAX_WIDTH),
            apart,
        )
