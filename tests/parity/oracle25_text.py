"""Prompts to Gemma 4's hidden states against recorded numbers of the torch reference, on its small LTX-2.5 pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints.text_source import TextSource
from mlx_video.lending.loader import read_text_encoder
from mlx_video.models.families import DEFAULT

LIMIT = 5e-5


def compare25_text(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (largest difference / largest value of each state, limit); for token ids the share that differs, which
    must be 0. Through the path of a run, whole and layer by layer.
    """
    (file,) = sorted((folder / "text_encoders").glob("gemma4-*.safetensors"))
    source = TextSource.open(DEFAULT, file)
    encoders = {way: read_text_encoder(source, mx.float32, way == "streamed") for way in ("whole", "streamed")}
    prompts = {
        key.split("/")[1]: str(value)
        for key, value in reference.items()
        if key.startswith("text/") and key.endswith("/prompt")
    }
    result = {}
    for case, prompt in prompts.items():
        ids = encoders["whole"].tokenizer.encode(prompt)
        wanted = reference[f"text/{case}/token_ids"][0].tolist()
        wrong = abs(len(ids) - len(wanted)) + sum(a != b for a, b in zip(ids, wanted, strict=False))
        result[f"text/{case}/token_ids"] = (wrong / len(wanted), 0.0)
    cases = [case for case in prompts if f"text/{case}/hidden_states" in reference]
    for way, encoder in encoders.items():
        for case, hidden in zip(cases, encoder.encode([prompts[case] for case in cases]), strict=True):
            found = np.array(hidden.transpose(2, 0, 1), np.float64)
            states = reference[f"text/{case}/hidden_states"]
            assert found.shape == states.shape, (found.shape, states.shape)
            for i, (ours, state) in enumerate(zip(found, states, strict=True)):
                result[f"text/{case}/hidden_states/{i} {way}"] = (
                    float(np.abs(ours - state).max() / np.abs(state).max()),
                    LIMIT,
                )
    return result
