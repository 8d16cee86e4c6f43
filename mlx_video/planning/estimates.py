"""The byte model: what weights take, counted from headers, and what computing takes, estimated by a few rates.

The rates were fitted to MLX's own peaks on the CPU backend in float32, on transformers 32, 1024 and 4096 wide and video
decoders of 4 to 128 channels (`python -m bench.run --only memory` prints prediction beside measurement). They hold for
a GPU as far as its kernels keep the same arrays; those of attention keep no scores. Knows sizes; knows no
checkpoint and no request.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from mlx_video import platform
from mlx_video.cpu.forms import COLUMNS_LIMIT
from mlx_video.models.ltx_2.audio_vae.blocks import TILE_ELEMENTS
from mlx_video.models.ltx_2.config import CONTEXT_TOKENS, AudioVAEConfig, UpsamplerConfig, VideoVAEConfig
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.upsampler import WHOLE_BYTES
from mlx_video.models.ltx_2.video_vae.convolution import TAPS
from mlx_video.models.ltx_2.video_vae.tiling import BLEND_BYTES, BYTES_PER_PIXEL_FRAME, KEPT_VALUES, Tiling
from mlx_video.types import AUDIO_TIME_SCALE, SPACE_SCALE, TIME_SCALE
from mlx_video.weights import names
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import DTYPE_BYTES, Entry, Tensors

TOKEN_WIDTHS = 13.6
"""Values of a stream's width that a block holds for each token, work that MLX has queued included."""
SCORES_HELD = 1.45
"""Times the scores of one attention of a transformer's block, on the CPU backend, which keeps them."""
CONNECTOR_WIDTHS, CONNECTOR_SCORES_HELD = 24.0, {4: 2.1, 2: 1.8}
"""The same two of a connector's block, which is evaluated at once; of scores by bytes of a value."""
TEXT_WIDTHS, TEXT_ADALN_WIDTHS = 3.0, 2.9
"""As TOKEN_WIDTHS, for each token of a text; and what more it takes where the noise level modulates the text."""
PUBLISHED_CHANNELS = 128
"""Of the video decoder before its last layer."""
DECODER_BYTES, PIXEL_BYTES = 320, 36
"""Of the video decoder for each pixel of each frame on its way, float32 on the CPU, in proportion to its width; and of
pixels that are ready: three colours and what makes bytes of them."""
UPSAMPLER_HELD, UPSAMPLER_COLUMNS = 12, 2 * 27
"""Activations of an upsampler that are alive at once, and copies for the CPU's convolutions of small ones."""
ENCODER_BYTES = 430
"""Of the video encoder for each pixel of a picture, float32: once, and for each residual layer before it compresses."""
COPIES = 9
"""Of its input that a convolution of 3 x 3 makes on the CPU."""
SOUND_CONVOLUTIONS_HELD, SOUND_ARRAYS = 1.5, 2.5
"""Of the convolutions at the audio decoder's last level, how many have their copies at once; and arrays of that level,
whole, that are alive beside its tiles."""
VOCODER_HELD, VOCODER_LATENT = 0.65, 1 << 20
"""Of the vocoder's weights, those that are laid out anew at once; and bytes for each latent."""
DECODER_FLOPS = 2.9e6
"""Of the published video decoder for each pixel of each frame."""

_FLOATS = {"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"}


# ---------------------------------------------------------------------------------------------------- weights


class Weights(NamedTuple):
    """Bytes of a network: all, what lies outside its parts, and what one part takes where parts are read from disk."""

    whole: int
    rest: int
    visit: int
    """At most, for a part as it is used, with itself or the next one as the file has it."""
    read: int
    """Of all on disk."""

    def held(self, streamed: bool) -> int:
        """What is in memory at a time."""
        return self.rest + self.visit if streamed else self.whole


def weigh(
    entries: Mapping[str, Entry],
    path_of: Callable[[str], str | None],
    visited: Sequence[str],
    dtype: mx.Dtype,
    packed: Callable[[str], float | None] = lambda path: None,
) -> Weights:
    """The weights of a network that computes in `dtype`.

    path_of: name of a tensor -> path in the network, None where it is not the network's. visited: as the network's
    class states it. packed: path -> bytes for each value of a tensor that is quantized while loading, None for others.
    """
    used: Counter[str] = Counter()
    raw: Counter[str] = Counter()
    for name, entry in entries.items():
        path = path_of(name)
        if path is None:
            continue
        each = packed(path) or (dtype.size if entry.dtype in _FLOATS else DTYPE_BYTES[entry.dtype])
        owner = _owner(path, visited)
        used[owner] += round(math.prod(entry.shape) * each)
        raw[owner] += entry.nbytes
    order = sorted((owner for owner in used if owner), key=lambda owner: _place(owner, visited))
    # What is used as the file has it is there once.
    itself = [0 if used[owner] == raw[owner] else raw[owner] for owner in order]
    following = [*(raw[owner] for owner in order), 0][1:]
    visit = max((used[o] + max(both) for o, *both in zip(order, itself, following, strict=True)), default=0)
    return Weights(used.total(), used[""], visit, raw.total())


def _place(owner: str, visited: Sequence[str]) -> tuple[int, int]:
    """Sorts parts in the order in which they are visited."""
    start = next(start for start in visited if owner == start or owner.startswith(f"{start}."))
    return visited.index(start), int(owner[len(start) + 1 :] or 0)


def _owner(path: str, visited: Sequence[str]) -> str:
    """The part that a path leads into: "blocks.3" for "blocks.3.ff.weight"; "" for none."""
    for start in visited:
        if path.startswith(f"{start}."):
            first = path[len(start) + 1 :].partition(".")[0]
            return f"{start}.{first}" if first.isdigit() else start
    return ""


class EncoderSize(NamedTuple):
    """A text encoder by its sizes."""

    config: GemmaConfig
    weights: Weights
    dtype: mx.Dtype

    @classmethod
    def of(cls, config: GemmaConfig, entries: Mapping[str, Entry], dtype: mx.Dtype) -> EncoderSize:
        """From its config and its tensors, computing in `dtype`."""
        return cls(config, weigh(entries, lambda name: names.module_path(Gemma, name), Gemma.visited, dtype), dtype)

    def quantized(self, how: Quantization) -> EncoderSize:
        """What it would be with all of its weights quantized, about."""
        share = how.bytes_each(self.dtype.size) / self.dtype.size
        return self._replace(weights=Weights(*(round(count * share) for count in self.weights)))

    @classmethod
    def of_folder(cls, folder: Path, dtype: mx.Dtype) -> EncoderSize:
        """From a folder in Hugging Face form."""
        return cls.of(GemmaConfig.of_folder(folder), Tensors.of_folder(folder).entries, dtype)


# ---------------------------------------------------------------------------------------------------- computing


def attending(tokens: int, width: int, heads: int, memory: int, size: int) -> float:
    """Bytes that a transformer's block holds for `tokens` that attend to each other and to `memory` other tokens.

    size: bytes of a value.
    """
    return (TOKEN_WIDTHS * tokens * width + SCORES_HELD * _scores(heads, tokens, max(tokens, memory))) * size


def connecting(width: int, heads: int, size: int) -> float:
    """Bytes that a connector's block holds."""
    scores = CONNECTOR_SCORES_HELD[size] * _scores(heads, CONTEXT_TOKENS, CONTEXT_TOKENS)
    return (CONNECTOR_WIDTHS * CONTEXT_TOKENS * width + scores) * size


def _scores(heads: int, queries: int, keys: int) -> int:
    # A GPU's kernel keeps none.
    return heads * queries * keys if platform.is_cpu() else 0


def upsampling(config: UpsamplerConfig, grid: tuple[int, int, int], size: int) -> int:
    """Bytes that the upsampler holds for a result of latent `grid` (F, H, W)."""
    one = min(WHOLE_BYTES, 4 * config.mid_channels * math.prod(grid))
    copies = min(COLUMNS_LIMIT, UPSAMPLER_COLUMNS * one) if platform.is_cpu() else 0
    return UPSAMPLER_HELD * one * size // 4 + copies


def decoding(tiling: Tiling, grid: tuple[int, int, int], channels: int, size: int) -> int:
    """Bytes that the video decoder holds for a clip of latent `grid`; `channels`: decoder_base_channels."""
    frames, height, width = (
        min(length * factor, span.size if span else length * factor)
        for length, factor, span in zip(
            grid, (TIME_SCALE, SPACE_SCALE, SPACE_SCALE), (tiling.frames, tiling.height, tiling.width), strict=True
        )
    )
    frames = min(frames, TIME_SCALE * (grid[0] - 1) + 1)
    share = channels / PUBLISHED_CHANNELS
    piece = min(frames, TIME_SCALE * (tiling.piece or grid[0]))
    blend = 0
    if tiling.tiled:
        each = BLEND_BYTES * frames if tiling.frames else BLEND_BYTES * piece + KEPT_VALUES * share * size
        blend = round(each * grid[1] * grid[2] * SPACE_SCALE**2)
    if not platform.is_cpu():
        return round(BYTES_PER_PIXEL_FRAME * size / 4 * share * piece * height * width) + blend
    # Frames that the convolutions keep for the next piece are about one latent frame more; they are ready that later.
    inside = DECODER_BYTES * share * size / 4 * min(frames, piece + TIME_SCALE)
    ready = PIXEL_BYTES * (frames if piece >= frames else max(TIME_SCALE, piece - 1.5 * TIME_SCALE))
    transformed = 4 / 3 * TAPS**3 * (8 * channels) ** 2 * 4
    return round(max(inside, ready) * height * width + transformed) + blend


def encoding(config: VideoVAEConfig, height: int, width: int, size: int) -> int:
    """Bytes that the video encoder holds for one picture."""
    first = itertools.takewhile(lambda block: block[0] == "res_x", config.encoder_blocks)
    layers = 1 + sum(values["num_layers"] for _, values in first)
    return ENCODER_BYTES * layers * size // 4 * height * width


def sounding(config: AudioVAEConfig, latents: int, size: int, blocks: int) -> int:
    """Bytes that one half of the audio autoencoder holds for a sound of so many latents.

    blocks: residual blocks of a level.
    """
    one = AUDIO_TIME_SCALE * config.mel_bins * config.channels * size
    # The widest arrays, which decide how long a tile is, come out of the last upsampling.
    widest = config.mel_bins * config.channels * config.multipliers[min(1, len(config.multipliers) - 1)]
    # A tile is given the earlier steps that its convolutions see: two for each, two convolutions for each block.
    tile = (TILE_ELEMENTS / widest + 4 * blocks) / AUDIO_TIME_SCALE
    held = SOUND_CONVOLUTIONS_HELD * 2 * blocks * (COPIES if platform.is_cpu() else 1)
    return round(one * (held * min(latents, tile) + SOUND_ARRAYS * latents))
