"""Compares LoRAs, fused and beside the weights, with recorded numbers of the reference. Not collected by pytest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.text_encoder.connectors import Connectors
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.types import Pass
from mlx_video.weights import lora
from tests.parity.oracle_transformer import _error, _inputs, load

WEIGHT_LIMIT = 1e-6
LIMIT = 2e-5
BESIDE_LIMIT = 1e-5
"""Fused against beside the weights, both ours."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (relative error, limit)."""
    [path] = folder.glob("*lora*.safetensors")
    adapter = lora.read(path)
    _check_names(adapter)
    found = {}
    for strength in (1.0, 0.5):
        network = load(folder)
        lora.fuse(network, [(adapter, strength)])
        ours = dict(tree_flatten(network.parameters()))
        start = f"lora/strength{strength:g}/"
        for key in (key for key in reference if key.startswith(start) and key.endswith("/float32")):
            name = key.removeprefix(start).removesuffix("/float32")
            found[f"strength{strength:g}/{name}"] = (_error(ours[name], reference[key]), WEIGHT_LIMIT)
    fused, beside = load(folder), load(folder)
    lora.fuse(fused, [(adapter, 1.0)])
    lora.attach(beside, [(adapter, 1.0)])
    outputs = [_velocity(network, reference) for network in (fused, beside)]
    for modality in outputs[0]:
        wanted = reference[f"lora/transformer_plain_strength1/{modality}_velocity"]
        found[f"velocity/fused/{modality}"] = (_error(outputs[0][modality], wanted), LIMIT)
        found[f"velocity/beside/{modality}"] = (_error(outputs[1][modality], wanted), LIMIT)
        same = _error(outputs[1][modality], np.array(outputs[0][modality]))
        found[f"beside_against_fused/{modality}"] = (same, BESIDE_LIMIT)
    return found


def _velocity(network: Transformer, reference: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
    x, sigma, prepared = _inputs(network, reference, "plain")
    [velocity] = network(x, sigma, prepared, (Pass(),))
    return velocity


def _check_names(adapter: lora.Adapter) -> None:
    # Every pair of an official file belongs to the transformer, but for LTX-2's text projection.
    text = [name for name in adapter.pairs if not name.startswith(lora.NETWORK)]
    prefixes = tuple(Connectors.prefixes)
    if adapter.unread or not all(name.startswith(prefixes) for name in text):
        raise ValueError(f"{adapter.path} has names that belong nowhere: {text} {adapter.unread}")
