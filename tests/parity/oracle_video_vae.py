"""Compares the video autoencoder with an oracle folder's recorded outputs; called by one command for all parts.

Knows the oracle's case names and our public classes. Not collected by pytest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.video_vae import (
    Span,
    Tiling,
    VideoDecoder,
    VideoEncoder,
    decode_frames,
    encode_frames,
)
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

LIMIT = 2e-5


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (relative error, limit) for encoding, decoding and both tiled."""
    checkpoint = next(
        path for path in sorted(folder.glob("ltx-*.safetensors")) if not re.search("lora|upscaler", path.name)
    )
    tensors = Tensors([checkpoint])
    config = VideoVAEConfig.read(tensors.metadata["config"])
    decoder, encoder = VideoDecoder(config), VideoEncoder(config)
    for network in (decoder, encoder):
        names.assign(network, tensors.load(network.prefixes), type(network).__name__, dtype=mx.float32)
    results = {}
    cases = sorted({key.rsplit("/", 1)[0] for key in reference if re.fullmatch(r"video_vae/\w+/\w+/latent", key)})
    for case in cases:
        latent, video = (_channels_last(reference[f"{case}/{what}"]) for what in ("latent", "video"))
        kind = case.split("/")[1]
        if kind == "decode":
            results[case] = _error(decoder(latent), video), LIMIT
            pieces = mx.concatenate(list(decoder.pieces(latent, 1)), axis=1)
            results[f"{case} in pieces"] = _error(pieces, video), LIMIT
        elif kind == "encode":
            results[case] = _error(encoder(video), latent), LIMIT
            results[f"{case} in pieces"] = _error(encode_frames(encoder, video, Tiling(piece=1)), latent), LIMIT
        elif kind == "tiled_decode":
            chunks = list(decode_frames(decoder, latent, _tiling(case.split("/")[2], latent.shape)))
            same = [chunk.shape[0] for chunk in chunks] == list(reference[f"{case}/frames_per_chunk"])
            results[case] = _error(mx.concatenate(chunks)[None], video) if same else float("inf"), LIMIT
        elif kind == "tiled_encode":
            # 1.0.0 cuts the borders of tiles off, 1.2.0 blends them: only the clip as a whole is the same in both.
            results[f"{case} untiled"] = (
                _error(encoder(video), _channels_last(reference[f"{case}/untiled_latent"])),
                LIMIT,
            )
    return results


def _tiling(name: str, shape: tuple[int, ...]) -> Tiling:
    """The tiles of a case called spatial<size>_<overlap>, the longer side's, or temporal<size>_<overlap>, or both."""
    numbers = {key: Span(int(a), int(b)) for key, a, b in re.findall(r"(spatial|temporal)(\d+)_(\d+)", name)}
    if name == "default":
        numbers = {"spatial": Span(512, 64), "temporal": Span(64, 24)}
    sides = []
    for length in shape[2:4]:
        span = numbers.get("spatial")
        least = span and max(64, span.overlap + 32)
        sides.append(span and Span(max(least, round(span.size // 32 * length / max(shape[2:4])) * 32), span.overlap))
    return Tiling(numbers.get("temporal"), *sides, piece=2)


def _channels_last(array: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(np.moveaxis(array, 1, -1), np.float32))


def _error(ours: mx.array, reference: mx.array) -> float:
    a, b = np.array(ours, np.float64), np.array(reference, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else float("inf")
