"""Prompts to contexts against recorded numbers of the torch reference, on its small checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_2.config import TextConfig, feature_width
from mlx_video.models.ltx_2.text_encoder.connectors import Connectors
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma, TextEncoder
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

LIMIT = 5e-5
PROMPTS = ("short", "long", "empty")


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (||ours - ref|| / ||ref||, limit); for token ids the share that differs, which must be 0."""
    encoder, connectors = _encoder(folder / "gemma"), _connectors(folder)
    prompts = [str(reference[f"text/{case}/prompt"]) for case in PROMPTS]
    result = {}
    for case, prompt, hidden in zip(PROMPTS, prompts, encoder.encode(prompts), strict=True):
        ids, wanted = encoder.tokenizer.encode(prompt), reference[f"text/{case}/token_ids"][0].tolist()
        wrong = abs(len(ids) - len(wanted)) + sum(a != b for a, b in zip(ids, wanted, strict=False))
        result[f"text/{case}/token_ids"] = (wrong / len(wanted), 0.0)
        video, audio = connectors.projection(hidden, mx.float32)
        context = connectors(hidden)
        for name, ours in {
            "hidden_states": hidden.transpose(2, 0, 1),
            "video_features": video[None],
            "audio_features": audio[None],
            "video_embeddings": context.video,
            "audio_embeddings": context.audio,
        }.items():
            result[f"text/{case}/{name}"] = (_error(ours, reference[f"text/{case}/{name}"]), LIMIT)
    return result


def _encoder(folder: Path) -> TextEncoder:
    tensors = Tensors.of_folder(folder)
    encoder = TextEncoder.open(folder, tensors.entries)
    names.assign(encoder.network, tensors.load(Gemma.prefixes), "text encoder", dtype=mx.float32)
    return encoder


def _connectors(folder: Path) -> Connectors:
    for path in sorted(folder.glob("*.safetensors")):
        tensors = Tensors([path])
        parts = tensors.load(Connectors.prefixes)
        if any(name.endswith("learnable_registers") for name in parts):
            shapes = {name: array.shape for name, array in parts.items()}
            network = Connectors(TextConfig.read(tensors.metadata["config"], features=feature_width(shapes)))
            names.assign(network, parts, "connectors", dtype=mx.float32)
            return network
    raise FileNotFoundError(f"no file in {folder} holds connectors")


def _error(ours: mx.array, wanted: np.ndarray) -> float:
    ours = np.array(ours, np.float64)
    assert ours.shape == wanted.shape, (ours.shape, wanted.shape)
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))
