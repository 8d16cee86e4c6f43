"""One block of the transformer: two streams that attend to themselves, to their text, and to each other.

A block is told everything that holds for the whole call (`BlockInputs`) and what it leaves out for the samples at hand
(`Skips`). It knows no passes, no guidance and no other block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.layers import Attention, FeedForward, KeysValues, Rotation, rms_norm
from mlx_video.models.ltx_2.config import StreamConfig, TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import Modulation, add_gated, modulate
from mlx_video.types import MODALITIES, Modality, Tree

PREFIX: dict[str, str] = {"video": "", "audio": "audio_"}
"""How the checkpoint names a modality's parts."""
SELF_SHIFT, SELF_SCALE, SELF_GATE, FEED_SHIFT, FEED_SCALE, FEED_GATE, TEXT_SHIFT, TEXT_SCALE, TEXT_GATE = range(9)
"""Rows of a stream's table."""
CROSS_ROWS = 4
"""Rows of an audio-video table before its gate: (scale, shift) for audio-to-video, then for video-to-audio."""
_DIRECTIONS: tuple[tuple[Modality, Modality, int], ...] = (("audio", "video", 0), ("video", "audio", 2))
"""Of audio-video attention: from, to, and the first of the direction's rows in both tables."""


class Crossing(NamedTuple):
    """One modality in audio-video attention: 4 rows of modulation, 1 row that gates what it takes in, and positions."""

    rows: Modulation
    gate: Modulation
    rotation: Rotation


class BlockInputs(NamedTuple):
    """What a block's tokens find around them, by modality.

    modulation: 6 rows, or 9 with text AdaLN, before the block adds its table; rotation: of self-attention;
    text: what text cross-attention reads; crossing: empty where there is one modality.
    """

    modulation: Mapping[str, Modulation]
    rotation: Mapping[str, Rotation]
    text: Mapping[str, KeysValues]
    crossing: Mapping[str, Crossing]


class Skips(NamedTuple):
    """What a block leaves out.

    bypassed: modalities whose self-attention gives the value projection instead; cross_modal: whether the streams see
    each other; still: modalities that are not computed at all, only seen by the other.
    """

    bypassed: frozenset[str] = frozenset()
    cross_modal: bool = True
    still: frozenset[str] = frozenset()


class _Stream(NamedTuple):
    attn1: Attention
    attn2: Attention
    ff: FeedForward
    scale_shift_table: mx.array
    prompt_scale_shift_table: mx.array | None


class Block(nn.Module):
    """Self-attention, text cross-attention, audio-video cross-attention, feed-forward.

    Parameters carry the checkpoint's names: the video stream's bare, the audio stream's with "audio_" in front.
    Source: ltx_core transformer.BasicAVTransformerBlock.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self._eps = config.norm_eps

        def attention(dim: int, context_dim: int, geometry: StreamConfig) -> Attention:
            options = {"gated": config.gated_attention, "eps": config.norm_eps}
            return Attention(dim, geometry.heads, geometry.head_dim, context_dim=context_dim, **options)

        for modality, c in config.streams.items():
            name = PREFIX[modality]
            self[f"{name}attn1"] = attention(c.dim, c.dim, c)
            self[f"{name}attn2"] = attention(c.dim, c.context_dim, c)
            self[f"{name}ff"] = FeedForward(c.dim, bias=c.feed_forward_bias)
            self[f"{name}scale_shift_table"] = mx.zeros((config.rows, c.dim))
            if config.text_adaln:
                self[f"{name}prompt_scale_shift_table"] = mx.zeros((2, c.dim))
        if config.audio is not None:
            video, audio = config.video, config.audio
            # Both directions attend in the audio stream's geometry.
            self.audio_to_video_attn = attention(video.dim, audio.dim, audio)
            self.video_to_audio_attn = attention(audio.dim, video.dim, audio)
            self.scale_shift_table_a2v_ca_video = mx.zeros((CROSS_ROWS + 1, video.dim))
            self.scale_shift_table_a2v_ca_audio = mx.zeros((CROSS_ROWS + 1, audio.dim))

    def __call__(self, x: Tree, around: BlockInputs, skips: Skips) -> Tree:
        """x: (B, T, D) tokens by modality, one or both; returns the same after this block."""
        for step in self.steps(x, around, skips):
            x = step
        return x

    def steps(self, x: Tree, around: BlockInputs, skips: Skips) -> Iterator[Tree]:
        """x after each of four steps: self-attention, attention to the text, to each other, and feed-forward.

        Whoever takes them may evaluate in between: at full size a block is more work than one evaluation should be.
        """
        moving = [m for m in MODALITIES if m in x and m not in skips.still]
        streams = {m: self._stream(m) for m in moving}
        rows = {m: around.modulation[m].plus(streams[m].scale_shift_table) for m in moving}
        bypassed, rotation = skips.bypassed, around.rotation
        yield (x := x | {m: self._attend(streams[m], x[m], rows[m], rotation[m], m in bypassed) for m in moving})
        yield (x := x | {m: self._read(streams[m], x[m], rows[m], around.text[m]) for m in moving})
        if skips.cross_modal and len(x) == len(MODALITIES):
            x = self._exchange(x, around.crossing, skips.still)
        yield x
        yield x | {m: self._feed(streams[m], x[m], rows[m]) for m in moving}

    def read_text(self, modality: str, context: mx.array, prompt: mx.array | None) -> KeysValues:
        """Keys and values of a text (1 or B, L, D) for this block.

        prompt: (1 or B, 1, 2, D) shift and scale of the text, before the block adds its table (LTX-2.3), or None. Where
        it is None, the result depends on the text alone.
        """
        stream = self._stream(modality)
        if prompt is not None and stream.prompt_scale_shift_table is not None:
            rows = prompt + stream.prompt_scale_shift_table.astype(prompt.dtype)
            context = modulate(context, rows[:, :, 1], rows[:, :, 0])
        return stream.attn2.remember(context)

    def _stream(self, modality: str) -> _Stream:
        name = PREFIX[modality]
        parts = (self[name + part] for part in ("attn1", "attn2", "ff", "scale_shift_table"))
        return _Stream(*parts, self.get(f"{name}prompt_scale_shift_table"))

    def _attend(self, stream: _Stream, x: mx.array, rows: Modulation, rotation: Rotation, bypassed: bool) -> mx.array:
        y = modulate(rms_norm(x, self._eps), rows.row(SELF_SCALE), rows.row(SELF_SHIFT))
        y = stream.attn1.bypass(y) if bypassed else stream.attn1(y, rotation=rotation)
        return add_gated(x, y, rows.row(SELF_GATE))

    def _read(self, stream: _Stream, x: mx.array, rows: Modulation, text: KeysValues) -> mx.array:
        y = rms_norm(x, self._eps)
        if stream.prompt_scale_shift_table is None:
            return x + stream.attn2(y, text)
        y = modulate(y, rows.row(TEXT_SCALE), rows.row(TEXT_SHIFT))
        return add_gated(x, stream.attn2(y, text), rows.row(TEXT_GATE))

    def _feed(self, stream: _Stream, x: mx.array, rows: Modulation) -> mx.array:
        y = modulate(rms_norm(x, self._eps), rows.row(FEED_SCALE), rows.row(FEED_SHIFT))
        return add_gated(x, stream.ff(y), rows.row(FEED_GATE))

    def _exchange(self, x: Tree, crossing: Mapping[str, Crossing], still: frozenset[str]) -> Tree:
        # Both directions read the streams as they are before either is changed.
        tables = {m: self[f"scale_shift_table_a2v_ca_{m}"] for m in MODALITIES}
        rows = {m: crossing[m].rows.plus(tables[m][:CROSS_ROWS]) for m in MODALITIES}
        normed = {m: rms_norm(x[m], self._eps) for m in MODALITIES}
        result = dict(x)
        for source, target, first in _DIRECTIONS:
            if target in still:
                continue
            attention = self[f"{source}_to_{target}_attn"]
            seen = modulate(normed[source], rows[source].row(first), rows[source].row(first + 1))
            query = modulate(normed[target], rows[target].row(first), rows[target].row(first + 1))
            memory = attention.remember(seen, crossing[source].rotation)
            gate = crossing[target].gate.plus(tables[target][CROSS_ROWS:]).row(0)
            result[target] = add_gated(x[target], attention(query, memory, rotation=crossing[target].rotation), gate)
        return result


def step_operations(
    tokens: Mapping[Modality, int], widths: Mapping[Modality, int], texts: Mapping[Modality, int], cross_modal: bool
) -> tuple[float, float, float, float]:
    """Floating-point operations of each of `Block.steps` for one sample, from numbers of tokens by modality.

    texts: tokens of the texts whose keys and values are made here, too. Two for each multiplication in the matrix
    products; the rest is small beside them.
    """
    attending = reading = crossing = feeding = 0.0
    for m, count in tokens.items():
        dim, length = widths[m], texts.get(m, 0)
        attending += 8.0 * count * dim**2 + 4 * count**2 * dim
        reading += 4.0 * count * dim**2 + 4 * count * length * dim + 4 * length * dim**2
        feeding += 16.0 * count * dim**2
    if cross_modal and len(tokens) == len(MODALITIES):
        seen, heard, wide, narrow = tokens["video"], tokens["audio"], widths["video"], widths["audio"]
        crossing = 8.0 * narrow * (seen * wide + heard * narrow + seen * heard)
    return attending, reading, crossing, feeding
