"""What each phase of a run holds at its peak and how much work it is, predicted from headers, configs and the request.

Puts the byte model of `planning.estimates` together for one checkpoint; the phases are those that a run reports.
Decides nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.diffusion import guidance
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.lending.visits import Ways
from mlx_video.models.ltx_2.config import (
    CONTEXT_TOKENS,
    AudioVAEConfig,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
)
from mlx_video.models.ltx_2.transformer.block import step_operations
from mlx_video.models.ltx_2.video_vae import Tiling, plan_tiles
from mlx_video.planning import estimates
from mlx_video.planning.estimates import EncoderSize, Weights
from mlx_video.planning.settings import Settings
from mlx_video.types import SPACE_SCALE, TIME_SCALE, AudioShape, Modality, Stage
from mlx_video.weights import quantize
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import size_of

if TYPE_CHECKING:
    from mlx_video.lending.loader import Loader

INTERLEAVED = 0.5
"""How much more a guided step holds because several passes are on their way at once."""
STATE_VALUES = 10 * 128
"""Float32 values for each token that samplers, guidance and conditioning hold."""
ENCODED_BYTES = 128
"""For each pixel: some 25 pictures, with what x264 makes of them, that it looks ahead and works on."""
LORA_LAYERS = 1.5
"""Times the largest layer in float32: what adding a LoRA holds beside the weights."""
UPSAMPLE_LEFT = 1 << 19
"""Bytes that are left of a stage when its result is upsampled; they count in small networks alone."""
CHARACTERS_PER_TOKEN = 3
"""Of a prompt, estimated low; English has four to five."""
CONVERSATION = 1024
"""Tokens of an idea with the instructions and a picture, estimated high."""
ENHANCED = 512
"""Tokens of an enhanced prompt at most, unless the user says otherwise."""
PASSED_FASTER = 50
"""Memory passes weights so many times as fast as the disk, taken low: 100 GB/s."""


class Phase(NamedTuple):
    """Bytes of weights and of everything else at a phase's peak, floating-point operations, and bytes read."""

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
    """What the phases of runs on one checkpoint take. Networks are weighed once, without allocating them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoder: EncoderSize | None,
        dtype: mx.Dtype,
        quantization: Quantization | None = None,
        loras: Sequence[int] = (),
        vae_dtype: mx.Dtype = mx.float32,
        process: int = 0,
    ):
        """encoder: None where the texts are encoded already; quantization: to be made while loading; loras: bytes of
        the user's own LoRA files; vae_dtype: of autoencoders and upsamplers; process: bytes that are to be counted in
        every phase for the process itself.
        """
        self.process = process
        self.checkpoint, self.encoder, self.dtype, self.vae_dtype = checkpoint, encoder, dtype, vae_dtype
        self._quantization, self._loras = quantization, loras

    @classmethod
    def of(cls, loader: Loader, folder: Path | None, loras: Sequence[int] = ()) -> Footprint:
        """Of the runs that `loader` lends networks to, with the text encoder in `folder`."""
        encoder = None if folder is None else EncoderSize.of_folder(folder, loader.text_dtype)
        return cls(loader.checkpoint, encoder, loader.dtype, loader.quantization, loras, loader.vae_dtype)

    def phases(self, settings: Settings, ways: Ways) -> tuple[Phase, ...]:
        """The phases in the order of a run."""
        return *map(self._with_process, self._phases(settings, ways)), self._last(settings, ways)

    def text(self, texts: Sequence[str], ways: Ways) -> Phase:
        """Encoding `texts`."""
        return self._with_process(self._text(texts, ways))

    def decode(self, grid: tuple[int, int, int], tiling: str, ways: Ways, stream: bool = False) -> Phase:
        """Decoding a video of latent `grid` (F, H, W)."""
        phase = self._with_process(self._decode(grid, tiling, ways, stream))
        if not self.process:
            return phase
        return phase._replace(work=phase.work + ENCODED_BYTES * grid[1] * grid[2] * SPACE_SCALE**2)

    def beside(self, process: int) -> Footprint:
        """The same with `process` bytes counted in every phase."""
        return Footprint(
            self.checkpoint, self.encoder, self.dtype, self._quantization, self._loras, self.vae_dtype, process
        )

    def _with_process(self, phase: Phase) -> Phase:
        return phase._replace(work=phase.work + self.process)

    def _phases(self, settings: Settings, ways: Ways) -> tuple[Phase, ...]:
        request, used = settings.request, settings.components
        found = []
        if self.encoder is not None:
            if request.enhance_prompt:
                found.append(self._enhance(self.encoder, settings))
            longest = (request.max_tokens or ENHANCED) if request.enhance_prompt else 0
            found.append(self._text(list(settings.prompts.values()), ways, longest))
        if "video_encoder" in used:
            config = VideoVAEConfig.read(self.checkpoint.config)
            work = estimates.encoding(config, settings.shape.height, settings.shape.width, self.vae_dtype.size)
            found.append(self._simple("images", "video_encoder", work))
        latents = AudioShape.of(request.shape).frames
        if "audio_encoder" in used:
            found.append(self._simple("sound", "audio_encoder", self._sounding(latents, 0)))
        before = settings.recipe.stages[0]
        for number, stage in enumerate(settings.recipe.stages, 1):
            if stage.scale != before.scale:
                found.append(self._upsample(settings, ways))
            found.append(self._stage(number, stage, settings, ways))
            before = stage
        if "vocoder" in used:
            network = self.weights("vocoder").whole
            work = round(estimates.VOCODER_HELD * network + estimates.VOCODER_LATENT * latents)
            one_by_one = [self._simple("waveform", "audio_decoder", self._sounding(latents, 1))]
            one_by_one.append(self._simple("waveform", "vocoder", work))
            found.append(max(one_by_one, key=lambda phase: phase.peak))
        return tuple(found)

    def _last(self, settings: Settings, ways: Ways) -> Phase:
        request = settings.request
        return self.decode(settings.shape.grid, request.tiling, ways, request.stream)

    def _text(self, texts: Sequence[str], ways: Ways, longest: int = 0) -> Phase:
        # The first of the texts may become as many tokens as `longest`.
        assert self.encoder is not None
        gemma, size = self.encoder.config, self.dtype.size
        tokens = [min(CONTEXT_TOKENS, 2 + len(text) // CHARACTERS_PER_TOKEN) for text in texts]
        tokens[0] = max(tokens[0], min(CONTEXT_TOKENS, longest))
        config = TextConfig.read(self.checkpoint.config, features=gemma.width * (gemma.layers + 1))
        hidden = sum(tokens) * config.features * size
        # First the text encoder, whose hidden states are stacked in the end; then, for each text, the connectors.
        layer = estimates.attending(sum(tokens), gemma.width, gemma.heads, max(tokens), size)
        first = (self.encoder.weights.held(ways.stream_text), hidden + max(hidden, layer))
        features = max(tokens) * config.features * (8 + size)
        layer = estimates.connecting(config.video.dim, config.video.heads, size)
        connectors = self.weights("connectors")
        then = (connectors.held(ways.stream_text), hidden + max(features, layer))
        weights, work = max(first, then, key=sum)
        flops = gemma.layers * sum(gemma.layer_flops(count) for count in tokens)
        read = self.encoder.weights.read + connectors.read * (len(tokens) if ways.stream_text else 1)
        return Phase("text", weights, round(work), flops, read)

    def _decode(self, grid: tuple[int, int, int], tiling: str, ways: Ways, stream: bool) -> Phase:
        weights, channels = self.weights("video_decoder"), self._decoder_channels
        tiles, size = self._tiles(grid, tiling, ways, stream), self.vae_dtype.size
        work = estimates.decoding(tiles, grid, channels, size)
        each = estimates.DECODER_FLOPS * (channels / estimates.PUBLISHED_CHANNELS) ** 2
        flops = each * TIME_SCALE * SPACE_SCALE**2 * math.prod(grid)
        return Phase("decode", weights.whole, work, flops, weights.read)

    def tiled(self, settings: Settings, ways: Ways) -> bool:
        """Whether the video is decoded in tiles."""
        request = settings.request
        return self._tiles(settings.shape.grid, request.tiling, ways, request.stream).tiled

    def weights(self, component: str, audio: bool = True) -> Weights:
        """The weights of a component; `audio` of False: of the transformer without its stream for sound."""
        how = self._quantization if component == "transformer" else None
        known, key = self.checkpoint.weighed, (component, audio, self._dtype_of(component), how)
        if key not in known:
            known[key] = self._weigh(component, audio)
        return known[key]

    @property
    def keeps_text(self) -> bool:
        """Whether there are keys and values of texts that a stage can keep from step to step (LTX-2)."""
        return not self._transformer.text_adaln

    def with_encoder(self, bits: int) -> Footprint:
        """The same with a text encoder of so many bits, as quantizers make them; itself where there is none to make."""
        if self.encoder is None or self.encoder.config.quantization is not None:
            return self
        encoder = self.encoder.quantized(Quantization.of(bits))
        return Footprint(
            self.checkpoint, encoder, self.dtype, self._quantization, self._loras, self.vae_dtype, self.process
        )

    def quantized(self, how: Quantization) -> Footprint | None:
        """The same with the transformer's blocks quantized while loading; None where they are quantized already."""
        if self._quantization is not None or quantize.used(self.checkpoint.build("transformer")) is not None:
            return None
        return Footprint(self.checkpoint, self.encoder, self.dtype, how, self._loras, self.vae_dtype, self.process)

    # ------------------------------------------------------------------------------------------------ phases

    def _enhance(self, encoder: EncoderSize, settings: Settings) -> Phase:
        # Whole, for it is gone through once for each token that is written.
        gemma, size = encoder.config, platform.compute_dtype(wide_range=True).size
        weights = encoder.weights.whole * size // encoder.dtype.size
        read, written = CONVERSATION, settings.request.max_tokens or ENHANCED
        work = 2 * gemma.layers * gemma.key_heads * gemma.head_dim * (read + written) * size
        work += round(estimates.attending(read, gemma.width, gemma.heads, read, size)) + 4 * gemma.vocabulary * size
        flops = gemma.layers * (gemma.layer_flops(read) + written * gemma.layer_flops(1))
        return Phase("enhance", weights, work, flops, encoder.weights.read + written * weights // PASSED_FASTER)

    def _stage(self, number: int, stage: Stage, settings: Settings, ways: Ways) -> Phase:
        shape, config, size = settings.shape.scaled(stage.scale), self._transformer, self.dtype.size
        tokens: dict[Modality, int] = {
            "video": shape.tokens + len(settings.request.image) * shape.tokens // shape.grid[0]
        }
        if "audio" in settings.modalities:
            tokens["audio"] = AudioShape.of(shape).frames
        widths = {m: config.streams[m].dim for m in tokens}
        passes = guidance.plan(settings.guidance if stage.guided else {}, settings.modalities)
        contexts = len({one.context for one in passes.values()})
        streamed = ways.stream_transformer
        block = sum(
            estimates.attending(tokens[m], widths[m], config.streams[m].heads, CONTEXT_TOKENS, size) for m in tokens
        )
        work = block * (2 if settings.batched and len(passes) > 1 else 1)
        work += INTERLEAVED * block if len(passes) > 2 else 0
        text = contexts * CONTEXT_TOKENS * sum(widths.values()) * size
        work += text * (estimates.TEXT_WIDTHS + (estimates.TEXT_ADALN_WIDTHS if config.text_adaln else 0.0))
        # What is ready before the stage begins: texts, projected or not, and rotary tables as wide as the streams.
        streams = sum(tokens[m] * widths[m] for m in tokens) * size
        work += text * (1 if config.caption_channels is None else 2) + streams * len(passes)
        work += sum(tokens.values()) * STATE_VALUES * 4
        if ways.keep_text and not config.text_adaln:
            work += 2 * text * config.layers
        weights = self.weights("transformer", "audio" in tokens)
        calls = self._calls(stage, settings, shape.tokens)
        texts = dict.fromkeys(tokens, CONTEXT_TOKENS)
        flops = calls * len(passes) * config.layers * sum(step_operations(tokens, widths, texts, cross_modal=True))
        held = weights.held(streamed) + self._lora(settings.lora_strengths[number - 1] != 0, streamed)
        return Phase(f"stage {number}", held, round(work), flops, weights.read * (calls if streamed else 1))

    def _upsample(self, settings: Settings, ways: Ways) -> Phase:
        part, size, own = self.checkpoint.upsamplers["spatial x2"], self.dtype.size, self._upsampler
        transformer = self.weights("transformer", "audio" in settings.modalities)
        weights = own.whole + (transformer.rest if ways.stream_transformer else transformer.whole)
        # The texts stay for the next stage.
        widths = sum(stream.dim for stream in self._transformer.streams.values())
        work = len(settings.prompts) * CONTEXT_TOKENS * widths * size + UPSAMPLE_LEFT
        config = UpsamplerConfig.read(part.settings)
        work += estimates.upsampling(config, settings.shape.grid, self.vae_dtype.size)
        return Phase("upsample", weights, work, 0.0, own.read)

    def _sounding(self, latents: int, more: int) -> int:
        # The decoder has a block more in each level than the encoder.
        config = AudioVAEConfig.read(self.checkpoint.config)
        return estimates.sounding(config, latents, self.vae_dtype.size, config.res_blocks + more)

    def _simple(self, name: str, component: str, work: int) -> Phase:
        weights = self.weights(component)
        return Phase(name, weights.whole, work, 0.0, weights.read)

    # ------------------------------------------------------------------------------------------------ their parts

    @functools.cached_property
    def _upsampler(self) -> Weights:
        part = self.checkpoint.upsamplers["spatial x2"]
        return estimates.weigh(part.tensors.entries, lambda name: name, (), self.vae_dtype)

    @functools.cached_property
    def _decoder_channels(self) -> int:
        return VideoVAEConfig.read(self.checkpoint.config).decoder_base_channels

    @functools.cached_property
    def _transformer(self) -> TransformerConfig:
        return TransformerConfig.read(self.checkpoint.config)

    @staticmethod
    def _calls(stage: Stage, settings: Settings, tokens: int) -> int:
        return SAMPLERS[stage.sampler].count(settings.sigmas(stage, tokens))

    def _lora(self, distilled: bool, streamed: bool) -> int:
        file = self.checkpoint.distilled_lora
        size = sum(self._loras) + (size_of(file) if distilled and file is not None else 0)
        if not size:
            return 0
        largest = 4 * 4 * self._transformer.video.dim**2
        return round(LORA_LAYERS * largest + size / self._transformer.layers * (2 if streamed else 1))

    def _weigh(self, component: str, audio: bool) -> Weights:
        part = self.checkpoint.part(component)
        options = {"audio": False} if component == "transformer" and not audio else {}
        network = self.checkpoint.build(component, **options)
        how = self._quantization if component == "transformer" and quantize.used(network) is None else None
        chosen = quantize.chosen([network.transformer_blocks[0]], how)[0] if how else ()

        def packed(path: str) -> float | None:
            layer, _, leaf = path.partition("transformer_blocks.")[2].partition(".")[2].rpartition(".")
            if how is None or leaf != "weight" or layer not in chosen:
                return None
            return how.bytes_each(self.dtype.size)

        entries = {n: e for n, e in part.tensors.entries.items() if n.startswith(part.prefixes)}
        visited, path_of = getattr(network, "visited", ()), functools.partial(part.path_of, network)
        return estimates.weigh(entries, path_of, visited, self._dtype_of(component), packed)

    def _dtype_of(self, component: str) -> mx.Dtype:
        kind = self.checkpoint.family.components[component]
        if kind.always_float32:
            return mx.float32
        return self.vae_dtype if kind.autoencoder else self.dtype

    def _tiles(self, grid: tuple[int, int, int], tiling: str, ways: Ways, stream: bool) -> Tiling:
        return plan_tiles(tiling, grid, memory_limit=ways.tile_bytes, stream=stream, size=self.vae_dtype.size)
