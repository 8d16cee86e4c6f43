"""Compares the networks of an official LTX-2.5 pack with recorded outputs of the reference, all opened as a run opens
them. Not collected by pytest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.checkpoints.layouts.neighbours import Place
from mlx_video.diffusion.samplers import ancestral_euler
from mlx_video.lending.loader import load
from mlx_video.types import Pass
from mlx_video.weights import lora
from tests.parity.oracle_transformer import STG, inputs
from tests.support.loras import fuse

LIMIT = 2e-5
EXACT = 1e-6
PASSES: dict[str, Pass] = {
    "plain": Pass(), "plain_sigma1": Pass(), "plain_unmarked": Pass(), "per_token": Pass(),
    "last_frame_marked_too": Pass(), "stg_block2": Pass(skip_self_attention=STG),
    "isolated_modalities": Pass(cross_modal=False), "video_only": Pass(), "audio_only": Pass(),
}  # fmt: skip
"""Attention masks are not covered: no pipeline here makes any."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (relative error, limit)."""
    found: dict[str, tuple[float, float]] = {}
    for part in (_transformer, _lora, _video, _sound, _upsamplers):
        for case, ours, theirs, limit in part(folder, reference):
            found[case] = _error(ours, theirs), limit
    found.update(_steps(reference))
    return found


Cases = Iterator[tuple[str, mx.array, np.ndarray, float]]


def _transformer(folder: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    network = load("transformer", folder)
    for case, one in PASSES.items():
        x, sigma, prepared = inputs(network, reference, case)
        [velocity] = network(x, sigma, prepared, (one,))
        for m in x:
            yield f"transformer/{case}/{m}", velocity[m], reference[f"transformer/{case}/out/{m}_velocity"], LIMIT


def _lora(folder: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    [path] = folder.glob("loras/*.safetensors")
    adapter = lora.read(path)
    for strength in (1.0, 0.25):
        network = load("transformer", folder)
        fuse(network, [(adapter, strength)])
        ours = dict(tree_flatten(network.parameters()))
        start = f"lora/strength{strength:g}/"
        for key in (key for key in reference if key.startswith(start)):
            yield key, ours[key.removeprefix(start)], reference[key], EXACT


def _video(folder: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    encoder, decoder = load("video_encoder", folder), load("video_decoder", folder)
    case = "conv_vae/encode/f9"
    latent, video = (_channels_last(reference[f"{case}/{what}"]) for what in ("latent", "video"))
    yield case, encoder(video), np.array(latent), LIMIT
    case = "conv_vae/decode/f2_tall"
    latent, video = (_channels_last(reference[f"{case}/{what}"]) for what in ("latent", "video"))
    yield case, decoder(latent), np.array(video), LIMIT


def _sound(folder: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    decoder, vocoder, encoder = (load(name, folder) for name in ("audio_decoder", "vocoder", "audio_encoder"))
    mel = decoder(mx.array(reference["audio/decode/t4/latent"]))
    yield "audio/decode/t4/mel", mel, reference["audio/decode/t4/mel"], LIMIT
    yield "audio/decode/t4/waveform", vocoder(mel), reference["audio/decode/t4/waveform"], LIMIT
    heard = encoder.hear(reference["audio/wav/waveform"][0], int(reference["audio/wav/sampling_rate"]))
    yield "audio/wav/latent", encoder(mx.array(heard)[None]), reference["audio/wav/latent"], LIMIT


def _upsamplers(folder: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    statistics = load("latent_statistics", folder)
    for kind, part in Place(folder).own.upsamplers().items():
        network, name = load("upsampler", part.tensors.paths[0]), kind.replace(" ", "_")
        for case in ("f3", "f1"):
            start = f"upsamplers/{name}/{case}"
            raw = statistics.denormalize(_channels_last(reference[f"{start}/latent"]))
            yield start, statistics.normalize(network(raw)), _moved(reference[f"{start}/upsampled"]), LIMIT


def _steps(reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """The ancestral step at every sigma of the distilled schedule, on one sample and one draw."""
    sigmas = [float(sigma) for sigma in reference["steps/distilled_sigmas"]]
    sample, x0, noise = (mx.array(reference[f"steps/{name}"]) for name in ("sample", "denoised", "noise"))
    found = {}
    for eta in (1.0, 0.5, 0.0):
        for index, pair in enumerate(pairwise(sigmas)):
            run = ancestral_euler(
                {"video": sample}, pair, lambda x, sigma, step: {"video": x0}, draw=lambda k, m: noise, eta=eta
            )
            name = f"steps/ancestral/eta{eta:g}/step{index}"
            found[name] = _error(next(run).x["video"], reference[name]), EXACT
    return found


def _moved(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def _channels_last(array: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(_moved(array), np.float32))


def _error(ours: mx.array, theirs: np.ndarray) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else math.inf
