"""Compares fused LoRAs with recorded numbers of the reference. Not collected by pytest."""

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
from tests.parity.oracle_transformer import _error, inputs, load
from tests.support.loras import fuse

WEIGHT_LIMIT = 1e-6
LIMIT = 2e-5


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (relative error, limit)."""
    [path] = folder.glob("*lora*.safetensors")
    adapter = lora.read(path)
    _check_names(adapter)
    found = {}
    for strength in (1.0, 0.5):
        network = load(folder)
        fuse(network, [(adapter, strength)])
        ours = dict(tree_flatten(network.parameters()))
        start = f"lora/strength{strength:g}/"
        for key in (key for key in reference if key.startswith(start) and key.endswith("/float32")):
            name = key.removeprefix(start).removesuffix("/float32")
            found[f"strength{strength:g}/{name}"] = (_error(ours[name], reference[key]), WEIGHT_LIMIT)
    network = load(folder)
    fuse(network, [(adapter, 1.0)])
    for modality, velocity in _velocity(network, reference).items():
        wanted = reference[f"lora/transformer_plain_strength1/{modality}_velocity"]
        found[f"velocity/fused/{modality}"] = (_error(velocity, wanted), LIMIT)
    return found


def _velocity(network: Transformer, reference: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
    x, sigma, prepared = inputs(network, reference, "plain")
    [velocity] = network(x, sigma, prepared, (Pass(),))
    return velocity


def _check_names(adapter: lora.Adapter) -> None:
    # Every pair of an official file belongs to the transformer, but for LTX-2's text projection.
    text = [name for name in adapter.pairs if not name.startswith(lora.NETWORK)]
    prefixes = tuple(Connectors.prefixes)
    if adapter.unread or not all(name.startswith(prefixes) for name in text):
        raise ValueError(f"{adapter.path} has names that belong nowhere: {text} {adapter.unread}")
