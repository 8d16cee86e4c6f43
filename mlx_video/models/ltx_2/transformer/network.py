"""The two-stream diffusion transformer of LTX-2, 2.3 and 2.5: tokens, noise levels and text in, velocities out.

The generations differ by what the config says (gated attention, text AdaLN, captions projected here or before, biases,
an embedding of keyframes).
Knows no schedule, no guidance formula and no latent grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.models.bounded import go_through
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.adaln import AdaLN, Modulation, TwoLinear, modulate
from mlx_video.models.ltx_2.transformer.block import CROSS_ROWS, PREFIX, Block, Crossing
from mlx_video.models.ltx_2.transformer.passes import Timing, Visits
from mlx_video.models.ltx_2.transformer.prepared import Prepared, distinct_levels, place
from mlx_video.types import MODALITIES, Context, Modality, Pass, Tree

_GATE_TOWARDS = {"video": "av_ca_a2v_gate_adaln_single", "audio": "av_ca_v2a_gate_adaln_single"}
_AUDIO = r"(^|\.)audio_|^av_ca_|_a2v_ca_|\.video_to_audio_attn\."
"""Tensors of a full checkpoint that a video-only network leaves where they are."""


class Transformer(nn.Module):
    """Predicts the velocity, noise minus clean latent, of the tokens of one modality or both.

    Parameters carry the checkpoint's names. Source: ltx_core model.LTXModel.
    """

    prefixes: Mapping[str, str] = {"model.diffusion_model.": ""}
    ignored: Collection[str] = (r"^(video_|audio_)?embeddings_connector\.",)
    visited = ("transformer_blocks",)
    """Paths of what `parts` gives."""
    keep_text = True
    """Whether each block's keys and values of a text are kept where they do not depend on the noise level (LTX-2), from
    their first use on; at full size they take 1.2 GB for each context in 16 bit."""

    def __init__(self, config: TransformerConfig):
        """`config.audio` of None builds the video stream alone; it passes over a full checkpoint's audio tensors."""
        super().__init__()
        self.config = config
        if config.audio is None:
            # Not a tuple: a module takes that for a container of parameters, and the class's own would win.
            self.ignored = frozenset({*type(self).ignored, _AUDIO})
        for modality, c in config.streams.items():
            name = PREFIX[modality]
            self[f"{name}patchify_proj"] = nn.Linear(c.in_channels, c.dim)
            self[f"{name}adaln_single"] = AdaLN(c.dim, config.rows)
            if config.text_adaln:
                self[f"{name}prompt_adaln_single"] = AdaLN(c.dim, 2)
            if config.caption_channels is not None:
                self[f"{name}caption_projection"] = TwoLinear(config.caption_channels, c.dim, "gelu")
            if config.audio is not None:
                self[f"av_ca_{modality}_scale_shift_adaln_single"] = AdaLN(c.dim, CROSS_ROWS)
                self[_GATE_TOWARDS[modality]] = AdaLN(c.dim, 1)
            self[f"{name}scale_shift_table"] = mx.zeros((2, c.dim))
            self[f"{name}proj_out"] = nn.Linear(c.dim, c.out_channels)
        if config.keyframe_embedding:
            self.keyframes_abs_pos_embedding = mx.zeros((1, config.video.dim))
        self.transformer_blocks = [Block(config) for _ in range(config.layers)]

    @property
    def dtype(self) -> mx.Dtype:
        """What the network computes in: the precision of its weights."""
        return self.patchify_proj.bias.dtype

    def prepare(
        self,
        contexts: Mapping[str, Context],
        positions: Tree,
        masks: Tree | None = None,
        keyframes: mx.array | None = None,
    ) -> Prepared:
        """Works out what all calls of a stage share.

        contexts: by name, the connectors' output (1 or B, L, D) for each modality; positions: (1 or B, axes, T, 2) as
        in `State`, whose keys say which modalities there are; masks: (1 or B, T, 1), 1 = free, all free if missing;
        keyframes: (1 or B, T, 1) of the video, as in `State`; a network without an embedding of them passes over it.
        For gradients, prepare inside the function that is differentiated.
        """
        modalities = [m for m in MODALITIES if m in positions]
        own, cross = place(self.config, positions, self.dtype)
        return Prepared(
            rotation=own,
            cross_rotation=cross,
            levels={m: distinct_levels((masks or {}).get(m)) for m in modalities},
            contexts={name: {m: self._caption(m, getattr(c, m)) for m in modalities} for name, c in contexts.items()},
            text={} if self.keep_text and not self.config.text_adaln else None,
            keyframes=keyframes if self.config.keyframe_embedding else None,
        )

    def __call__(
        self,
        x: Tree,
        sigma: Mapping[Modality, float | mx.array],
        prepared: Prepared,
        passes: Sequence[Pass] = (Pass(),),
        *,
        batched: bool = False,
        still: Collection[Modality] = (),
        flops_limit: float | None = None,
    ) -> list[Tree]:
        """The velocity of every pass, in their order: (B, T, out_channels) by modality, in the network's dtype.

        x: (B, T, in_channels) noisy tokens of the modalities present; sigma: noise level of each, a number or (B,).
        A token's own level is mask * sigma; sigma itself goes to the text and to the gate of the other stream.
        batched: passes that a block treats alike go through it as one batch rather than one after another.
        still: modalities that this call does not compute: their tokens stay as embedded, the other stream sees them.
        flops_limit: operations after which the streams are evaluated, so that no graph grows without bound; None takes
        the platform's.
        """
        embedded = {m: self[f"{PREFIX[m]}patchify_proj"](x[m].astype(self.dtype)) for m in MODALITIES if m in x}
        if prepared.keyframes is not None and "video" in embedded:
            # Reference: apply_keyframes_absolute_embedding.
            added = prepared.keyframes.astype(self.dtype) * self.keyframes_abs_pos_embedding.astype(self.dtype)
            embedded["video"] = embedded["video"] + added
        timing, output = self._time({m: _samples_first(sigma[m]) for m in embedded}, prepared)
        visits = Visits(embedded, passes, timing, prepared, still=frozenset(still), batched=batched)
        limit = platform.flops_per_evaluation(self.dtype) if flops_limit is None else flops_limit
        go_through(self.parts(visits.streams), visits, limit)
        done: dict[int, mx.array] = {}
        for m, stream in (pair for streams in visits.streams for pair in streams.items()):
            if id(stream) not in done:
                done[id(stream)] = self._velocity(m, stream, output[m])
        return [{m: done[id(stream)] for m, stream in streams.items()} for streams in visits.streams]

    def parts(self, results: object) -> Iterator[Block]:
        """The blocks in order, each visited once per call. Replace it to bring weights in and out.

        results: what the blocks visited so far have left; it is to be evaluated before a block's weights go.
        """
        yield from self.transformer_blocks

    def _caption(self, modality: str, context: mx.array) -> mx.array:
        context = context.astype(self.dtype)
        projection = self.get(f"{PREFIX[modality]}caption_projection")
        return context if projection is None else projection(context)

    def _time(self, sigma: Mapping[str, mx.array], prepared: Prepared) -> tuple[Timing, dict[str, Modulation]]:
        # sigma: (1 or B, 1) by modality. Also returns the bare embedding, which the output is modulated with.
        dtype, scale = self.dtype, self.config.timestep_scale
        timing, output = Timing({}, {}, {}), {}
        for m in sigma:
            name, (values, tokens) = PREFIX[m], prepared.levels[m]
            timesteps = sigma[m] * values * scale
            rows, embedded = self[f"{name}adaln_single"](timesteps, dtype)
            timing.modulation[m], output[m] = Modulation.of(rows, tokens), Modulation.of(embedded, tokens)
            if self.config.text_adaln:
                timing.prompt[m], _ = self[f"{name}prompt_adaln_single"](sigma[m] * scale, dtype)
            for other in sigma.keys() - {m}:
                rows, _ = self[f"av_ca_{m}_scale_shift_adaln_single"](timesteps, dtype)
                level = sigma[other] * scale * (self.config.cross_timestep_scale / scale)
                gate, _ = self[_GATE_TOWARDS[m]](level, dtype)
                crossing = Modulation.of(rows, tokens), Modulation.of(gate, None), prepared.cross_rotation[m]
                timing.crossing[m] = Crossing(*crossing)
        return timing, output

    def _velocity(self, modality: str, x: mx.array, embedded: Modulation) -> mx.array:
        name = PREFIX[modality]
        # Both rows of the table are added to the one embedding.
        rows = embedded.plus(self[f"{name}scale_shift_table"])
        y = mx.fast.layer_norm(x, None, None, self.config.norm_eps)
        found: mx.array = self[f"{name}proj_out"](modulate(y, rows.row(1), rows.row(0)))
        return found


def _samples_first(sigma: float | mx.array) -> mx.array:
    return mx.array(sigma, dtype=mx.float32).reshape(-1, 1)
