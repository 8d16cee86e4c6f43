"""Compares the transformer with recorded outputs of the reference for an oracle folder. Not collected by pytest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.layers import rotary_frequencies, rotary_table
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer import Prepared, Transformer
from mlx_video.models.ltx_2.transformer.prepared import middles
from mlx_video.types import MODALITIES, Context, Pass, Tree
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

LIMIT = 2e-5
ROPE_LIMIT = 1e-6
STG = (("video", frozenset({2})), ("audio", frozenset({2})))
CASES: dict[str, tuple[Pass, tuple[str, ...]]] = {
    "plain": (Pass(), ()),
    "plain_sigma1": (Pass(), ()),
    "per_token": (Pass(), ()),
    "stg_block2": (Pass(skip_self_attention=STG), ()),
    "stg_video_only_blocks_1_3": (Pass(skip_self_attention=(("video", frozenset({1, 3})),)), ()),
    "isolated_modalities": (Pass(cross_modal=False), ()),
    "video_only": (Pass(), ()),
    "audio_only": (Pass(), ()),
    "audio_disabled": (Pass(), ("audio",)),
    "video_disabled": (Pass(), ("video",)),
}
"""Case -> the pass and the modalities left still. Attention masks are not covered: no pipeline here makes any."""


def load(folder: Path) -> Transformer:
    """The transformer of the one checkpoint in an oracle folder, in float32, by the same road as a pipeline."""
    [path] = [p for p in folder.glob("*.safetensors") if "lora" not in p.name and "upscaler" not in p.name]
    tensors = Tensors([path])
    network = Transformer(TransformerConfig.read(tensors.metadata["config"]))
    names.assign(network, tensors.load(network.prefixes), "transformer", dtype=mx.float32)
    return network


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (relative error, limit)."""
    network = load(folder)
    found = {}
    for case, (one, still) in CASES.items():
        for name, ours, theirs in _velocities(network, reference, case, one, still):
            found[f"{case}/{name}"] = (_error(ours, theirs), LIMIT)
    found.update(_batch(network, reference))
    found.update(_fused(network, reference))
    found.update(_rope(reference))
    return found


def _error(ours: mx.array | np.ndarray, theirs: np.ndarray) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"ours is {a.shape}, the reference {b.shape}")
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def inputs(network: Transformer, reference: Mapping[str, np.ndarray], case: str) -> tuple[Tree, dict, Prepared]:
    at = {
        m: {
            k: mx.array(reference[f"transformer/{case}/in/{m}_{k}"])
            for k in ("latent", "sigma", "timesteps", "positions", "context")
        }
        for m in MODALITIES
        if f"transformer/{case}/in/{m}_latent" in reference
    }
    # The mask is not recorded, only mask * sigma; it holds few and simple values.
    masks = {m: mx.round(v["timesteps"] / v["sigma"].reshape(-1, 1, 1) * 64) / 64 for m, v in at.items()}
    sigma = {m: v["sigma"] if v["sigma"].ndim else v["sigma"].item() for m, v in at.items()}
    empty = mx.zeros((1, 1, 1))
    context = Context(*(at[m]["context"] if m in at else empty for m in MODALITIES))
    marked = reference.get(f"transformer/{case}/in/keyframes_mask")
    keyframes = None if marked is None else mx.array(marked).reshape(*marked.shape[:2], 1)
    prepared = network.prepare({"positive": context}, {m: v["positions"] for m, v in at.items()}, masks, keyframes)
    return {m: v["latent"] for m, v in at.items()}, sigma, prepared


def _velocities(
    network: Transformer, reference: Mapping[str, np.ndarray], case: str, one: Pass, still: tuple[str, ...]
) -> Iterator[tuple[str, mx.array, np.ndarray]]:
    x, sigma, prepared = inputs(network, reference, case)
    [velocity] = network(x, sigma, prepared, (one,), still=still)
    # Where the reference at hand feeds audio-video AdaLN otherwise, what it does under the newest rule is recorded too.
    out = (
        "out_cross_timestep_mixed"
        if f"transformer/{case}/out_cross_timestep_mixed/video_velocity" in reference
        else "out"
    )
    for m in x:
        yield m, velocity[m], reference[f"transformer/{case}/{out}/{m}_velocity"]


def _batch(network: Transformer, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    # Two samples with noise levels of their own; the second alone is perturbed. The rule for cross-attention timesteps
    # differs between versions of the reference where a batch has masks, so this needs a recording of the newest.
    case = "batch2_stg_in_second"
    version = reference["transformer/per_token/out/video_velocity"]
    if not np.array_equal(version, reference["transformer/per_token/out_cross_timestep_mixed/video_velocity"]):
        return {}
    x, sigma, prepared = inputs(network, reference, case)
    plain, perturbed = network(x, sigma, prepared, (Pass(), Pass(skip_self_attention=STG)))
    found = {}
    for m in x:
        ours = mx.stack([plain[m][0], perturbed[m][1]])
        found[f"{case}/{m}"] = (_error(ours, reference[f"transformer/{case}/out/{m}_velocity"]), LIMIT)
    return found


def _fused(network: Transformer, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    # Three recorded cases share their inputs: one call gives them all.
    cases = ("plain", "stg_block2", "isolated_modalities")
    found = {}
    for batched in (False, True):
        x, sigma, prepared = inputs(network, reference, "plain")
        results = network(x, sigma, prepared, [CASES[case][0] for case in cases], batched=batched)
        for case, result in zip(cases, results, strict=True):
            for m in x:
                label = f"together{'_batched' if batched else ''}/{case}/{m}"
                found[label] = (_error(result[m], reference[f"transformer/{case}/out/{m}_velocity"]), LIMIT)
    return found


def _rope(reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    real = {
        "video": (128, (20, 2048, 2048)), "audio": (64, (20,)), "cross_video": (64, (20,)), "cross_audio": (64, (20,)),
    }  # fmt: skip
    found = {}
    for name, (head_dim, longest) in real.items():
        middle = middles(mx.array(reference[f"rope/{name.removeprefix('cross_')}_positions"]))[:, : len(longest)]
        table = rotary_table(middle, 32, head_dim, longest)
        for kind, ours in table._asdict().items():
            theirs = reference[f"rope/real/{name}_{kind}_every7th_token"]
            found[f"rope/{name}_{kind}"] = (_error(ours[:, :, ::7], theirs), ROPE_LIMIT)
    for dim, axes in ((4096, 3), (2048, 1), (3840, 1)):
        for bits in (64, 32):
            ours = rotary_frequencies(dim, axes, float64=bits == 64)
            found[f"rope/frequencies_{dim}_{axes}d_float{bits}"] = (
                _error(ours, reference[f"rope/frequencies/{dim}_{axes}d_float{bits}"]),
                ROPE_LIMIT,
            )
    return found
