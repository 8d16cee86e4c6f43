"""What a call of each network costs: bytes at its peak beside the weights, and floating-point operations.

From the checkpoint's own config and the call's sizes, before anything is built. The rates were fitted to MLX's peaks
on the CPU backend in float32, on transformers 32, 1024 and 4096 wide and video decoders of 4 to 128 channels
(`python -m bench.run --only memory` prints prediction beside measurement). They hold for a GPU as far as its kernels
keep the same arrays; those of attention keep no scores. Knows no file, no weights and no request.

`size` is the bytes of a value everywhere. Peaks of the video decoder: `video_vae.tiling`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlx_video import platform
from mlx_video.cpu.forms import COLUMNS_LIMIT
from mlx_video.models.family import Cost
from mlx_video.models.ltx_2.audio_vae.blocks import TILE_ELEMENTS
from mlx_video.models.ltx_2.config import (
    AudioVAEConfig,
    DiffusionDecoderConfig,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
)
from mlx_video.models.ltx_2.diffusion_decoder.canvas import Canvas
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces, operations, plan_pieces
from mlx_video.models.ltx_2.diffusion_decoder.plan import peak_bytes as diffusion_bytes
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.transformer.block import step_operations
from mlx_video.models.ltx_2.upsampler import WHOLE_BYTES
from mlx_video.models.ltx_2.video_vae.tiling import PUBLISHED_CHANNELS, Tiling, peak_bytes, plan_tiles
from mlx_video.types import AUDIO_TIME_SCALE, CONTEXT_TOKENS, SPACE_SCALE, TIME_SCALE, Modality, Pass

TOKEN_WIDTHS = 13.6
"""Values of a stream's width that a block holds for each token, work that MLX has queued included."""
SCORES_HELD = 1.45
"""Times the scores of one attention of a transformer's block, on the CPU backend, which keeps them."""
INTERLEAVED = 0.5
"""How much more a guided step holds because several passes are on their way at once."""
STATE_VALUES = 10 * 128
"""Float32 values for each token that samplers, guidance and conditioning hold."""
TEXT_WIDTHS, TEXT_ADALN_WIDTHS = 3.0, 2.9
"""As TOKEN_WIDTHS, for each token of a text; and what more it takes where the noise level modulates the text."""
CONNECTOR_WIDTHS, CONNECTOR_SCORES_HELD = 24.0, {4: 2.1, 2: 1.8}
"""As TOKEN_WIDTHS and SCORES_HELD of a connector's block, which is evaluated at once; of scores by `size`."""
LORA_LAYERS = 1.5
"""Times the largest layer in float32: what adding a LoRA holds beside the weights."""
UPSAMPLER_HELD, UPSAMPLER_COLUMNS = 12, 2 * 27
"""Activations of an upsampler that are alive at once, and copies for the CPU's convolutions of small ones."""
ENCODER_BYTES = 430
"""Of the video encoder for each pixel of a picture, float32: once, and for each residual layer before it compresses."""
DECODER_FLOPS = 2.9e6
"""Of the published video decoder for each pixel of each frame."""
COPIES = 9
"""Of its input that a convolution of 3 x 3 makes on the CPU."""
SOUND_CONVOLUTIONS_HELD, SOUND_ARRAYS = 1.5, 2.5
"""Of the convolutions at the audio decoder's last level, how many have their copies at once; and arrays of that level,
whole, that are alive beside its tiles."""
VOCODER_HELD, VOCODER_LATENT = 0.65, 1 << 20
"""Of the vocoder's weights, those that are laid out anew at once; and bytes for each latent."""

CHARACTERS_PER_TOKEN = 3
"""Of a prompt, estimated low; English has four to five."""
CONVERSATION = 1024
"""Tokens of an idea with the instructions and a picture, estimated high."""

Config = Mapping[str, Any]
Grid = tuple[int, int, int]


def _attending(tokens: int, width: int, heads: int, memory: int, size: int) -> float:
    """Bytes that a transformer's block holds for `tokens` that attend to each other and to `memory` other tokens."""
    return (TOKEN_WIDTHS * tokens * width + SCORES_HELD * _scores(heads, tokens, max(tokens, memory))) * size


def _scores(heads: int, queries: int, keys: int) -> int:
    return heads * queries * keys if platform.is_cpu() else 0  # a GPU's kernel keeps none


# ------------------------------------------------------------------------------------------------ texts


def prompt_tokens(texts: Sequence[str], longest: int = 0) -> list[int]:
    """How many tokens texts are at most, about; the first may become as many as `longest`."""
    tokens = [min(CONTEXT_TOKENS, 2 + len(text) // CHARACTERS_PER_TOKEN) for text in texts]
    return [max(tokens[0], min(CONTEXT_TOKENS, longest)), *tokens[1:]]


def encode_texts(gemma: GemmaConfig, tokens: Sequence[int], size: int) -> Cost:
    """The text encoder over prompts of so many tokens, whose hidden states are stacked in the end."""
    hidden = _hidden(gemma, tokens, size)
    layer = _attending(sum(tokens), gemma.width, gemma.heads, max(tokens), size)
    return Cost(hidden + max(hidden, layer), gemma.layers * sum(map(gemma.layer_flops, tokens)))


def connect_texts(settings: Config, gemma: GemmaConfig, tokens: Sequence[int], size: int) -> Cost:
    """The connectors, one prompt after the other, with the hidden states of all."""
    features = gemma.width * (gemma.layers + 1)
    video = TextConfig.read(settings, features=features).video
    scores = CONNECTOR_SCORES_HELD[size] * _scores(video.heads, CONTEXT_TOKENS, CONTEXT_TOKENS)
    layer = (CONNECTOR_WIDTHS * CONTEXT_TOKENS * video.dim + scores) * size
    return Cost(_hidden(gemma, tokens, size) + max(max(tokens) * features * (8 + size), layer))


def _hidden(gemma: GemmaConfig, tokens: Sequence[int], size: int) -> int:
    return sum(tokens) * gemma.width * (gemma.layers + 1) * size


def write_text(gemma: GemmaConfig, written: int, size: int) -> Cost:
    """The text encoder writing so many tokens."""
    kept = 2 * gemma.layers * gemma.key_heads * gemma.head_dim * (CONVERSATION + written)
    work = _attending(CONVERSATION, gemma.width, gemma.heads, CONVERSATION, size)
    flops = gemma.layers * (gemma.layer_flops(CONVERSATION) + written * gemma.layer_flops(1))
    return Cost((kept + 4 * gemma.vocabulary) * size + work, flops)


def contexts(settings: Config, count: int, size: int) -> int:
    """Bytes of so many encoded texts."""
    return count * CONTEXT_TOKENS * sum(s.dim for s in TransformerConfig.read(settings).streams.values()) * size


# ------------------------------------------------------------------------------------------------ the transformer


def denoise(
    settings: Config,
    tokens: Mapping[Modality, int],
    passes: Collection[Pass],
    calls: int,
    *,
    batched: bool,
    keep_text: bool,
    size: int,
) -> Cost:
    """A stage of so many calls, each of `passes`, over `tokens` by modality. keep_text: as `Ways` has it."""
    config = TransformerConfig.read(settings)
    widths: dict[Modality, int] = {m: config.streams[m].dim for m in tokens}
    texts = len({one.context for one in passes})
    block = sum(_attending(tokens[m], widths[m], config.streams[m].heads, CONTEXT_TOKENS, size) for m in tokens)
    work = block * (2 if batched and len(passes) > 1 else 1)
    work += INTERLEAVED * block if len(passes) > 2 else 0
    text = texts * CONTEXT_TOKENS * sum(widths.values()) * size
    work += text * (TEXT_WIDTHS + (TEXT_ADALN_WIDTHS if config.text_adaln else 0.0))
    # What is ready before the stage begins: texts, projected or not, and rotary tables as wide as the streams.
    streams = sum(tokens[m] * widths[m] for m in tokens) * size
    work += text * (1 if config.caption_channels is None else 2) + streams * len(passes)
    work += sum(tokens.values()) * STATE_VALUES * 4
    if keep_text and not config.text_adaln:
        work += 2 * text * config.layers
    block_flops = sum(step_operations(tokens, widths, dict.fromkeys(tokens, CONTEXT_TOKENS), cross_modal=True))
    return Cost(work, calls * len(passes) * config.layers * block_flops)


def adapt(settings: Config, lora_bytes: int, streamed: bool) -> int:
    """Bytes that adding LoRA files of so many bytes holds beside the transformer's weights."""
    if not lora_bytes:
        return 0
    config = TransformerConfig.read(settings)
    return round(LORA_LAYERS * 4 * 4 * config.video.dim**2 + lora_bytes / config.layers * (2 if streamed else 1))


# ------------------------------------------------------------------------------------------------ pictures


def upsample(settings: Config, grid: Grid, size: int) -> Cost:
    """An upsampler, by its own file's config, for a result of latent `grid` (F, H, W)."""
    one = min(WHOLE_BYTES, 4 * UpsamplerConfig.read(settings).mid_channels * math.prod(grid))
    copies = min(COLUMNS_LIMIT, UPSAMPLER_COLUMNS * one) if platform.is_cpu() else 0
    return Cost(UPSAMPLER_HELD * one * size // 4 + copies)


def encode_picture(settings: Config, height: int, width: int, size: int) -> Cost:
    """The video encoder over one picture."""
    first = itertools.takewhile(lambda block: block[0] == "res_x", VideoVAEConfig.read(settings).encoder_blocks)
    layers = 1 + sum(values["num_layers"] for _, values in first)
    return Cost(ENCODER_BYTES * layers * size // 4 * height * width)


def tiles(
    settings: Config, mode: str, grid: Grid, room: int, *, stream: bool, size: int, encoding: bool = False
) -> Tiling:
    """The tiles in which the video autoencoder takes a clip of latent `grid` where its work may take `room` bytes.

    encoding: by the published encoder's width, which no config states.
    """
    channels = PUBLISHED_CHANNELS if encoding else VideoVAEConfig.read(settings).decoder_base_channels
    return plan_tiles(mode, grid, memory_limit=room, stream=stream, channels=channels, size=size)


def decode_video(settings: Config, tiling: Tiling, grid: Grid, size: int) -> Cost:
    """The video decoder over latents of `grid`."""
    channels = VideoVAEConfig.read(settings).decoder_base_channels
    each = DECODER_FLOPS * (channels / PUBLISHED_CHANNELS) ** 2
    return Cost(peak_bytes(tiling, grid, channels, size), each * TIME_SCALE * SPACE_SCALE**2 * math.prod(grid))


def diffuse_noise(settings: Config, grid: Grid) -> tuple[int, int, int, int, int]:
    """The shape of the noise that the diffusion decoder makes a video of `grid` of, by its own file's config."""
    return 1, 3, *Canvas.of(DiffusionDecoderConfig.read(settings), grid).size


def diffuse_pieces(settings: Config, mode: str, grid: Grid, room: int, size: int) -> Pieces:
    """How much the diffusion decoder makes at a time where it may take `room` bytes; mode "none": as is fastest."""
    if mode == "none":
        return Pieces()
    return plan_pieces(DiffusionDecoderConfig.read(settings), grid, room, size)


def diffuse_video(settings: Config, pieces: Pieces, grid: Grid, size: int) -> Cost:
    """The diffusion decoder over latents of `grid`, its noise included."""
    config = DiffusionDecoderConfig.read(settings)
    return Cost(diffusion_bytes(config, grid, pieces, size), operations(config, grid, pieces))


# ------------------------------------------------------------------------------------------------ sound


def convert_sound(settings: Config, latents: int, size: int, *, decoding: bool) -> Cost:
    """The audio encoder or decoder for a sound of so many latents."""
    config = AudioVAEConfig.read(settings)
    blocks = config.res_blocks + decoding  # the decoder has one more in each level
    one = AUDIO_TIME_SCALE * config.mel_bins * config.channels * size
    # The widest arrays, which decide how long a tile is, come out of the last upsampling.
    widest = config.mel_bins * config.channels * config.multipliers[min(1, len(config.multipliers) - 1)]
    # A tile is given the earlier steps that its convolutions see: two for each, two convolutions for each block.
    tile = (TILE_ELEMENTS / widest + 4 * blocks) / AUDIO_TIME_SCALE
    held = SOUND_CONVOLUTIONS_HELD * 2 * blocks * (COPIES if platform.is_cpu() else 1)
    return Cost(one * (held * min(latents, tile) + SOUND_ARRAYS * latents))


def make_waveform(weights: int, latents: int) -> Cost:
    """The vocoder with `weights` bytes of them."""
    return Cost(VOCODER_HELD * weights + VOCODER_LATENT * latents)
