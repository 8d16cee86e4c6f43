"""Compares an official LTX-2.5 pack's way from prompts to contexts with recorded numbers of the torch reference. Not
collected by pytest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints.text_source import TextSource
from mlx_video.lending.loader import load, read_text_encoder
from mlx_video.models.families import DEFAULT

LIMIT = 5e-5


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (largest difference / largest value, of each hidden state by itself; limit). For token ids the share that
    differs, which must be 0. Through the path of a run, whole and layer by layer.
    """
    (file,) = sorted((folder / "text_encoders").glob("gemma4-*.safetensors"))
    source = TextSource.open(DEFAULT, file)
    encoders = {way: read_text_encoder(source, mx.float32, way == "streamed") for way in ("whole", "streamed")}
    connectors = load("connectors", folder)
    found = [key.split("/")[1] for key in reference if key.startswith("text/") and key.endswith("/prompt")]
    prompts = {case: str(reference[f"text/{case}/prompt"]) for case in found}
    result = {}
    for case, prompt in prompts.items():
        ids = encoders["whole"].tokenizer.encode(prompt)
        wanted = reference[f"text/{case}/token_ids"][0].tolist()
        wrong = abs(len(ids) - len(wanted)) + sum(a != b for a, b in zip(ids, wanted, strict=False))
        result[f"text/{case}/token_ids"] = (wrong / len(wanted), 0.0)
    cases = [case for case in prompts if f"text/{case}/hidden_states" in reference]
    for way, encoder in encoders.items():
        for case, hidden in zip(cases, encoder.encode([prompts[case] for case in cases]), strict=True):
            start = f"text/{case}/"
            for i, state in enumerate(reference[f"{start}hidden_states"]):
                result[f"{start}hidden_states/{i} {way}"] = (_error(hidden[..., i], state), LIMIT)
            video, audio = connectors.projection(hidden, mx.float32)
            context = connectors(hidden)
            ours = {"video_features": video[None], "audio_features": audio[None]}
            ours |= {"video_embeddings": context.video, "audio_embeddings": context.audio}
            result |= {f"{start}{name} {way}": (_error(x, reference[start + name]), LIMIT) for name, x in ours.items()}
    return result


def _error(ours: mx.array, wanted: np.ndarray) -> float:
    found = np.array(ours, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
