"""Predicts what each phase of a run holds at its peak and how much work it is, from headers, configs and sizes alone.

Weights are counted tensor by tensor. What is computed on the way is estimated by a few rates, which were fitted to
MLX's own peaks on the CPU backend in float32 (`python -m bench.run --only memory` shows prediction beside measurement);
for a GPU they are the same but for attention, whose scores it does not keep. Decides nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_video import platform
from mlx_video.diffusion import guidance
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.schedules import SCHEDULES
from mlx_video.models.ltx_2 import COMPONENTS
from mlx_video.models.ltx_2.config import (
    CONTEXT_TOKENS,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
)
from mlx_video.models.ltx_2.text_encoder.connectors import feature_width
from mlx_video.models.ltx_2.upsampler import WHOLE_BYTES
from mlx_video.models.ltx_2.video_vae import plan_tiles
from mlx_video.models.ltx_2.video_vae.convolution import COLUMNS_LIMIT
from mlx_video.models.ltx_2.video_vae.tiling import BLEND_BYTES, BYTES_PER_PIXEL_FRAME, Tiling
from mlx_video.pipelines.checkpoint import Checkpoint
from mlx_video.pipelines.settings import Settings
from mlx_video.pipelines.streaming import Ways, parts_of
from mlx_video.types import AUDIO_LATENTS_PER_SECOND, AudioShape, Stage
from mlx_video.weights import quantize
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors

TOKEN_WIDTHS = 13.6
"""Values of a stream's width that a block holds for each token, work that MLX has queued included."""
SCORES_HELD = 1.45
"""Times the scores of one attention, on the CPU backend, which keeps them."""
TEXT_WIDTHS, TEXT_ADALN_WIDTHS = 3.0, 2.9
"""The same as TOKEN_WIDTHS for each token of a text; and what more it takes where the noise level modulates the text."""
INTERLEAVED = 0.5
"""How much more a guided step holds because pieces of several passes are on their way at once; not where blocks are
read from disk, because each ends with an evaluation."""
STATE_VALUES = 10 * 128
"""Float32 values for each token that samplers, guidance and conditioning hold."""
LORA_LAYERS = 1.5
"""Times the largest layer in float32: what adding a LoRA holds beside the weights."""
DECODER_BYTES, DECODER_BYTES_LESS = 245, 45
"""Of the video decoder for each pixel of each frame on its way, float32 on the CPU: by its width (as a share of the
published one), and whatever its width."""
COLUMNS_BYTES = 1560
"""The same for small pictures, whose convolutions copy each input 27 times on the CPU, up to COLUMNS_HELD in all."""
COLUMNS_HELD = 285 << 20
UPSAMPLER_HELD = 12
"""Activations of an upsampler that are alive at once."""
ENCODER_BYTES = 300
"""Of the video encoder for each pixel of a picture."""
SOUND_BYTES = 64 << 20
"""What the vocoder holds beside weights and result: it works in tiles."""
CHARACTERS_PER_TOKEN = 3
"""Of a prompt, estimated low; English has four to five."""
DECODER_FLOPS = 2.9e6
"""Of the published video decoder for each pixel of each frame."""


class Weights(NamedTuple):
    """Bytes of a network's weights: all, those outside its parts, and its largest part as it is used and on disk."""

    whole: int
    rest: int = 0
    part: int = 0
    raw: int = 0

    def held(self, streamed: bool) -> int:
        """What is in memory at a time. Where parts are read from disk, the next one is there as the file has it."""
        return self.rest + self.part + self.raw if streamed else self.whole


class Phase(NamedTuple):
    """One phase: bytes of weights and of everything else at its peak, floating-point operations, bytes read."""

    name: str
    weights: int
    work: int
    flops: float
    read: int

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        return self.weights + self.work


class Footprint:
    """What the phases of runs on one checkpoint take; networks are measured once, without allocating them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoder: EncoderSize | None,
        dtype: mx.Dtype,
        quantization: Quantization | None = None,
        loras: Sequence[int] = (),
    ):
        """encoder: None where the texts are encoded already; loras: bytes of the user's own LoRA files."""
        self._checkpoint, self._encoder, self._dtype = checkpoint, encoder, dtype
        self._quantization, self._loras = quantization, loras
        self._transformer = TransformerConfig.read(checkpoint.config)

    def phases(self, settings: Settings, ways: Ways) -> tuple[Phase, ...]:
        """The phases in order, with the names that a run reports them by; sound is decoded last, or first of all."""
        request, found = settings.request, []
        if self._encoder is not None:
            found.append(self._text(settings, ways))
        if request.image:
            found.append(self._simple("images", "video_encoder", ENCODER_BYTES * request.height * request.width))
        if request.audio_file is not None:
            found.append(self._simple("sound", "audio_encoder", SOUND_BYTES))
        scale = None
        for number, stage in enumerate(settings.recipe.stages, 1):
            if scale is not None and scale != stage.scale:
                found.append(self._upsample(settings, ways))
            found.append(self._stage(f"stage {number}", stage, settings, ways))
            scale = stage.scale
        if "audio_decoder" in settings.components:
            seconds = AudioShape.of(request.shape).frames / AUDIO_LATENTS_PER_SECOND
            found.append(self._simple("waveform", "vocoder", SOUND_BYTES + round(4 * 2 * 48_000 * 4 * seconds)))
        found.append(self._decode(settings, ways))
        return tuple(found)

    # ------------------------------------------------------------------------------------------------ phases

    def _text(self, settings: Settings, ways: Ways) -> Phase:
        encoder = self._encoder
        assert encoder is not None
        texts = [text for text in (settings.request.prompt, settings.negative_prompt) if text is not None]
        tokens = [min(CONTEXT_TOKENS, 2 + len(text) // CHARACTERS_PER_TOKEN) for text in texts]
        size = self._dtype.size
        hidden = sum(tokens) * encoder.width * (encoder.layers + 1) * size
        connectors = self._weights("connectors")
        config = TextConfig.read(self._checkpoint.config, features=encoder.width * (encoder.layers + 1))
        # Hidden states are stacked from a list of them; later they are normalised in float32 and projected.
        first = hidden + max(hidden, self._attending(sum(tokens), encoder.width, encoder.heads, max(tokens)))
        features = max(tokens) * config.features * (8 + size)
        video = config.video
        then = hidden + max(features, self._attending(CONTEXT_TOKENS, video.dim, video.heads, CONTEXT_TOKENS))
        phases = [(encoder.weights.held(ways.stream_text), first), (connectors.held(ways.stream_text), then)]
        weights, work = max(phases, key=sum)
        flops = encoder.flops(tokens)
        return Phase("text", weights, work, flops, encoder.read + self._read("connectors"))

    def _stage(self, name: str, stage: Stage, settings: Settings, ways: Ways) -> Phase:
        shape, config = settings.request.shape.scaled(stage.scale), self._transformer
        tokens = {"video": shape.tokens + sum(shape.tokens // shape.grid[0] for _ in settings.request.image)}
        if "audio" in settings.modalities:
            tokens["audio"] = AudioShape.of(shape).frames
        steered = settings.guidance if stage.guided else {}
        passes = guidance.plan(steered, settings.modalities)
        contexts = len({one.context for one in passes.values()})
        size, streamed = self._dtype.size, ways.stream_transformer
        widths = {m: config.streams[m].dim for m in tokens}
        text = CONTEXT_TOKENS * sum(widths.values()) * size
        work = contexts * text * (TEXT_WIDTHS + (TEXT_ADALN_WIDTHS if config.text_adaln else 0.0))
        block = sum(self._attending(tokens[m], widths[m], config.streams[m].heads, CONTEXT_TOKENS) for m in tokens)
        held = block * (2 if settings.batched and len(passes) > 1 else 1)
        work += held + (0 if streamed or len(passes) < 3 else INTERLEAVED * block)
        streams = sum(tokens[m] * widths[m] for m in tokens) * size
        work += (len(passes) - 1) * streams + sum(tokens.values()) * STATE_VALUES * 4
        # What is made ready for the stage: rotary tables as wide as the streams, and the texts, projected or not.
        work += streams + contexts * text * (1 if config.caption_channels is None else 2)
        if ways.keep_text and not config.text_adaln:
            work += contexts * 2 * text * config.layers
        if self._loras or any(settings.lora_strengths):
            work += self._lora(streamed)
        evaluations = self._evaluations(stage, settings, shape.tokens)
        flops = evaluations * len(passes) * config.layers * _block_flops(tokens, widths)
        read = self._read("transformer") * (evaluations if streamed else 1)
        return Phase(name, self._weights("transformer").held(streamed), round(work), flops, read)

    def _upsample(self, settings: Settings, ways: Ways) -> Phase:
        part = self._checkpoint.upsamplers["spatial x2"]
        config, (frames, rows, columns) = UpsamplerConfig.read(part.settings), settings.request.shape.grid
        one = min(WHOLE_BYTES, 4 * config.mid_channels * frames * rows * columns)
        copies = min(COLUMNS_LIMIT, 27 * one) if platform.is_cpu() else 0
        transformer = self._weights("transformer")
        staying = transformer.rest if ways.stream_transformer else transformer.whole
        weights = staying + _bytes(COMPONENTS["upsampler"].build(part.settings), self._dtype)
        work = UPSAMPLER_HELD * one * self._dtype.size // 4 + copies
        flops = 2.0 * 27 * config.mid_channels**2 * (4 * config.blocks) * frames * rows * columns / 2
        return Phase("upsample", weights, work, flops, part.tensors.nbytes())

    def _decode(self, settings: Settings, ways: Ways) -> Phase:
        weights = self._weights("video_decoder").whole
        config, shape = VideoVAEConfig.read(self._checkpoint.config), settings.request.shape
        limit = ways.decode_bytes or platform.memory_limit() // 2
        tiling = plan_tiles(settings.request.tiling, shape.grid, memory_limit=limit, stream=settings.request.stream)
        share = config.decoder_base_channels / 128
        work = decoding(tiling, shape.grid, share, self._dtype.size)
        flops = DECODER_FLOPS * share**2 * shape.frames * shape.height * shape.width
        return Phase("decode", weights, work, flops, self._read("video_decoder"))

    def _simple(self, name: str, component: str, work: int) -> Phase:
        return Phase(name, self._weights(component).whole, work, 0.0, self._read(component))

    # ------------------------------------------------------------------------------------------------ their parts

    def _attending(self, tokens: int, width: int, heads: int, memory: int) -> float:
        """What a block of a transformer holds for `tokens` that attend to each other and to `memory` tokens."""
        scores = SCORES_HELD * heads * tokens * max(tokens, memory) if platform.is_cpu() else 0
        return TOKEN_WIDTHS * tokens * width * self._dtype.size + scores * 4

    def _lora(self, streamed: bool) -> float:
        layers = [layer.weight.size for layer in self._network("transformer").modules() if isinstance(layer, nn.Linear)]
        files = sum(self._loras)
        if self._checkpoint.distilled_lora is not None:
            files += self._checkpoint.distilled_lora.stat().st_size
        return LORA_LAYERS * 4 * max(layers, default=0) + files / self._transformer.layers * (2 if streamed else 1)

    @staticmethod
    def _evaluations(stage: Stage, settings: Settings, tokens: int) -> int:
        sigmas = SCHEDULES[stage.schedule](
            settings.steps if stage.guided else None, tokens if stage.shift_by_size else 4096
        )
        return SAMPLERS[stage.sampler].count(sigmas)

    @functools.cache  # noqa: B019 - lives as long as one plan
    def _network(self, component: str) -> nn.Module:
        return self._checkpoint.build(component)

    @functools.cache  # noqa: B019
    def _weights(self, component: str) -> Weights:
        network = self._network(component)
        dtype = mx.float32 if COMPONENTS[component].always_float32 else self._dtype
        making = self._quantization if component == "transformer" and quantize.used(network) is None else None
        return weigh(network, dtype, self._read(component), making)

    def _read(self, component: str) -> int:
        part = self._checkpoint.part(component)
        return part.tensors.nbytes(part.prefixes(component))
