"""How long the clip should be that a prompt asks for: LTX-2.5's duration head, and the number of frames that follows.

It reads the connectors' outputs for the positive prompt, of one modality or both, all tokens and no mask. Knows no
text encoder and no file.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import gelu
from mlx_video.models.ltx_2.config import DurationConfig
from mlx_video.types import TIME_SCALE

WIDTH, HEADS = 256, 4
"""Neither is in any config; reference: class defaults of `DurationPredictor`. Shapes tell a wrong width, and nothing
a wrong number of heads."""
BOUNDS = (1.0, 20.0)
"""Seconds; reference: `--auto-duration`."""


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
        return own.out_proj(found.reshape(len(tokens), WIDTH))


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


def frames_of(seconds: float, fps: float, bounds: tuple[float, float] = BOUNDS) -> int:
    """A clip of about so many seconds, in frames: 1 + 8k of them, within `bounds` (seconds) as far as those have any.

    Rounded, kept within the rounded bounds, then down to the next 1 + 8k; up instead where that is below the least,
    and the most itself where that is above it. Halves are rounded to even. Source: ltx_core duration_head.
    """
    least, most = (round(bound * fps) for bound in bounds)
    frames = max(least, min(round(seconds * fps), most))
    below = (frames - 1) // TIME_SCALE * TIME_SCALE + 1
    return below if below >= least else min(math.ceil((least - 1) / TIME_SCALE) * TIME_SCALE + 1, most)
