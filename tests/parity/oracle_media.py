"""Pictures and latent upsamplers against recorded numbers of the torch reference, on its small checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_2.config import UpsamplerConfig
from mlx_video.models.ltx_2.upsampler import Upsampler
from mlx_video.weights import names
from mlx_video.weights.store import Tensors
from tests.support.cases import load_image

UPSAMPLERS = {
    "spatial_x2": "*spatial-upscaler-x2*.safetensors",
    "spatial_x1_5": "*spatial-upscaler-x1.5*.safetensors",
    "temporal_x2": "*temporal-upscaler-x2*.safetensors",
}
UPSAMPLER_LIMIT = 2e-5
LEVEL = 1 / 127.5
"""One level of 8 bits in the range -1 to 1."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (error, limit). Upsamplers: ||ours - ref|| / ||ref||; pictures: the largest difference of any sample."""
    return {**_upsamplers(folder, reference), **_images(folder, reference)}


def _upsamplers(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    result = {}
    statistics = _statistics(folder)
    for key, pattern in UPSAMPLERS.items():
        files = sorted(folder.glob(pattern))
        if not files:
            continue
        tensors = Tensors(files)
        network = Upsampler(UpsamplerConfig.read(tensors.metadata["config"]))
        names.assign(network, tensors.load(), "upsampler", dtype=mx.float32)
        for case in ("f3", "f1"):
            where = f"upsamplers/{key}/{case}"
            ours = _upsample(network, reference[f"{where}/latent"], statistics)
            result[where] = (_error(ours, reference[f"{where}/upsampled"]), UPSAMPLER_LIMIT)
        raw = _upsample(network, reference[f"upsamplers/{key}/f3/latent"], (0.0, 1.0))
        result[f"upsamplers/{key}/raw"] = (_error(raw, reference[f"upsamplers/{key}/f3/raw"]), UPSAMPLER_LIMIT)
    return result


def _statistics(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    # Mean and deviation of each latent channel, from the one file that carries them.
    prefix = "vae.per_channel_statistics."
    for path in sorted(folder.glob("*.safetensors")):
        found = Tensors([path]).load([prefix])
        if found:
            pair = (found[prefix + name].astype(mx.float32) for name in ("mean-of-means", "std-of-means"))
            mean, deviation = (np.array(array) for array in pair)
            return mean, deviation
    raise FileNotFoundError(f"no file in {folder} holds {prefix}*")


def _upsample(network: Upsampler, latent: np.ndarray, statistics: tuple) -> np.ndarray:
    mean, deviation = statistics
    channels_last = np.moveaxis(latent, 1, -1) * deviation + mean
    result = np.array(network(mx.array(channels_last.astype(np.float32))))
    return np.moveaxis((result - mean) / deviation, -1, 1)


def _images(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    result = {}
    path = folder / "inputs" / "image.png"
    for key in reference:
        section, _, case = key.partition("/")
        if section != "images":
            continue
        crf, height, width = (int(part.strip("crfhw")) for part in case.split("_"))
        ours = load_image(path, height, width, crf)
        wanted = np.moveaxis(reference[key][0, :, 0], 0, -1)
        result[key] = (float(np.abs(ours - wanted).max()), LEVEL)
    return result


def _error(ours: np.ndarray, wanted: np.ndarray) -> float:
    if ours.shape != wanted.shape:
        raise ValueError(f"shape {ours.shape}, expected {wanted.shape}")
    return float(np.linalg.norm(ours.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64)))
