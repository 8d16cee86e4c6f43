"""How long the clip should be that a prompt asks for: LTX-2.5's duration head. `types.frames_of` makes frames of it.

It reads the connectors' outputs for the positive prompt, of one modality or both, all tokens and no mask. Knows no
text encoder and no file.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import gelu
from mlx_video.models.ltx_2.config import DurationConfig

WIDTH, HEADS = 256, 4
"""Neither is in any config; reference: class defaults of `DurationPredictor`. Shapes tell a wrong width, and nothing
a wrong number of heads."""


class Pooler(nn.Module):
    """One learned query that attends to all tokens (reference: `AttentionPooler`, torch's MultiheadAttention)."""

    def __init__(self, apart: bool = False) -> None:
        """apart: with three projections in place of the one that holds them all."""
        super().__init__()
        self.query_tokens = mx.zeros((1, WIDTH))
        self.cross_attn = nn.Module()
        if apart:
            for name in ("q_proj", "k_proj", "v_proj"):
                self.cross_attn[name] = nn.Linear(WIDTH, WIDTH)
        else:
            self.cross_attn.in_proj_weight = mx.zeros((3 * WIDTH, WIDTH))
            self.cross_attn.in_proj_bias = mx.zeros((3 * WIDTH,))
        self.cross_attn.out_proj = nn.Linear(WIDTH, WIDTH)

    def __call__(self, tokens: mx.array) -> mx.array:
        """(B, T, 256) -> (B, 256)."""
        own = self.cross_attn
        if "q_proj" in own:
            layers = own.q_proj, own.k_proj, own.v_proj
            projections = [(layer.weight, layer.bias) for layer in layers]
        else:
            projections = list(zip(mx.split(own.in_proj_weight, 3), mx.split(own.in_proj_bias, 3), strict=True))
        query = mx.broadcast_to(self.query_tokens, (len(tokens), 1, WIDTH))
        q, k, v = (
            (x @ weight.T + bias).reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)
            for x, (weight, bias) in zip((query, tokens, tokens), projections, strict=True)
        )
        found = mx.fast.scaled_dot_product_attention(q, k, v, scale=(WIDTH // HEADS) ** -0.5)
        result: mx.array = own.out_proj(found.reshape(len(tokens), WIDTH))
        return result


class DurationHead(nn.Module):
    """Contexts to seconds (reference: `DurationPredictor`)."""

    prefixes = {"duration_head.": ""}

    def __init__(self, config: DurationConfig):
        super().__init__()
        self.video_input_proj = nn.Linear(config.video_dim, WIDTH)
        self.audio_input_proj = nn.Linear(config.audio_dim, WIDTH)
        self.video_modality_emb = mx.zeros((WIDTH,))
        self.audio_modality_emb = mx.zeros((WIDTH,))
        self.attention_pooler = Pooler(config.apart)
        self.mlp_hidden = nn.Linear(WIDTH, WIDTH)
        self.mlp_out = nn.Linear(WIDTH, 1)

    def __call__(self, video: mx.array | None, audio: mx.array | None) -> mx.array:
        """Contexts (B, tokens, D) of video and audio -> seconds (B,).

        Raises ValueError where there is neither.
        """
        tokens = []
        if video is not None:
            tokens.append(self.video_input_proj(video) + self.video_modality_emb)
        if audio is not None:
            tokens.append(self.audio_input_proj(audio) + self.audio_modality_emb)
        if not tokens:
            raise ValueError("a duration is told from a context of video, audio or both; there is neither")
        pooled = self.attention_pooler(mx.concatenate(tokens, axis=1))
        return mx.exp(self.mlp_out(gelu(self.mlp_hidden(pooled))))[:, 0]

    def seconds(self, video: mx.array | None, audio: mx.array | None) -> float:
        """Of the first sample."""
        return float(self(video, audio)[0].item())
