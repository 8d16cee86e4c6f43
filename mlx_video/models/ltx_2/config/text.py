"""What a checkpoint says of the way from the text encoder's hidden states to both contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_video.models.ltx_2.config.section import section
from mlx_video.types import UserError

CONTEXT_TOKENS = 1024
"""Length of every text context: prompts are cut to it, and registers fill what a prompt leaves free."""


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
        keys = (
            "caption_proj_before_connector", "caption_projection_first_linear",
            "caption_proj_input_norm", "caption_projection_second_linear",
        )  # fmt: skip
        said = tuple(s.values.get(key) for key in keys)
        if said not in ((None,) * 4, (True, False, False, False)):
            raise UserError(
                f"The checkpoint says {dict(zip(keys, said, strict=True))}; supported: all absent (LTX-2) or "
                f"true, false, false, false (LTX-2.3)."
            )
        video = ConnectorConfig(
            heads=s.get("connector_num_attention_heads", 30),
            head_dim=s.get("connector_attention_head_dim", 128),
            layers=s.get("connector_num_layers", 2),
            max_position=s.get("connector_positional_embedding_max_pos", [1])[0],
            gated_attention=s.get("connector_apply_gated_attention", False),
            feed_forward_bias=s.get("connector_ff_bias", True),
            registers=s.get("connector_num_learnable_registers", 128),
            rope_float64=s.get("frequencies_precision", "float32") == "float64",
        )
        audio = replace(
            video,
            heads=s.get("audio_connector_num_attention_heads", video.heads),
            head_dim=s.get("audio_connector_attention_head_dim", video.head_dim),
            layers=s.get("audio_connector_num_layers", video.layers),
        )
        found = cls(said[0] is True, features, video, audio)
        if video.registers < 1 or CONTEXT_TOKENS % video.registers:
            raise UserError(
                f"The checkpoint says transformer.connector_num_learnable_registers = {video.registers}; "
                f"supported: a divisor of {CONTEXT_TOKENS}."
            )
        if not found.per_token_norm and audio.dim != video.dim:
            raise UserError(
                f"The checkpoint's connectors are {video.dim} (video) and {audio.dim} (audio) wide, but "
                f"its one text projection (LTX-2) feeds both; supported: equal widths."
            )
        return found

    def check_encoder(self, width: int, layers: int) -> None:
        """Raises UserError where a text encoder of `layers` layers, `width` wide, is not the checkpoint's own."""
        if width * (layers + 1) != self.features:
            raise UserError(
                f"The text encoder has {layers} layers of width {width}, which gives {width * (layers + 1)} features a "
                f"token, but the checkpoint takes {self.features}: use the one that it was trained with "
                f"(LTX-2 and LTX-2.3: Gemma 3 12B, 48 layers of width 3840, 188160 features)."
            )
