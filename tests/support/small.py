"""Small official-style checkpoints for tests, made without torch: the real structure, names and metadata, random weights.

Names and shapes were recorded from the reference's own classes built from CONFIGS (tests/parity/record.py writes
tests/fixtures/small_names.json); values depend only on a tensor's name and the seed, so the reference can be given the
very same weights. Knows nothing of our networks.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = {"2": "ltx-2-19b-{}.safetensors", "2.3": "ltx-2.3-22b-{}.safetensors"}
UPSAMPLERS = {"2": "ltx-2-spatial-upscaler-x2-1.0.safetensors", "2.3": "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"}
LORAS = {"2": "ltx-2-19b-distilled-lora-384.safetensors", "2.3": "ltx-2.3-22b-distilled-lora-384.safetensors"}
VERSIONS = {"2": None, "2.3": "2.3.0"}
DIT = "model.diffusion_model."
TEXT_WIDTH, TEXT_LAYERS = 32, 3
"""Of the Gemma stand-in: hidden width, and blocks (hidden states are one more)."""

_TRANSFORMER: dict[str, Any] = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 16, "num_attention_heads": 2,
    "cross_attention_dim": 32, "caption_channels": TEXT_WIDTH, "double_self_attention": False, "dropout": 0.0,
    "in_channels": 128, "out_channels": 128, "norm_elementwise_affine": False, "norm_eps": 1e-06, "num_embeds_ada_norm": 1000,
    "num_layers": 3, "num_vector_embeds": None, "only_cross_attention": False, "cross_attention_norm": True,
    "upcast_attention": False, "use_linear_projection": False, "qk_norm": "rms_norm", "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0, "audio_num_attention_heads": 2, "audio_attention_head_dim": 8,
    "use_audio_video_cross_attention": True, "share_ff": False, "audio_out_channels": 128, "audio_cross_attention_dim": 16,
    "audio_positional_embedding_max_pos": [20], "av_cross_ada_norm": True, "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 2, "connector_num_layers": 1, "connector_positional_embedding_max_pos": [4096],
    "connector_num_learnable_registers": 128, "use_middle_indices_grid": True, "rope_type": "split",
    "frequencies_precision": "float64",
}  # fmt: skip
_TRANSFORMER_23 = {
    "apply_gated_attention": True, "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
    "caption_projection_second_linear": False, "caption_proj_input_norm": False, "caption_proj_before_connector": True,
    "audio_connector_attention_head_dim": 8, "audio_connector_num_attention_heads": 2, "cross_attention_adaln": True,
}  # fmt: skip
_VAE: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "encoder_blocks": [
        ["compress_space_res", {"multiplier": 1}], ["compress_time_res", {"multiplier": 1}],
        ["compress_all_res", {"multiplier": 1}], ["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 1}],
    ],
    "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform", "causal_decoder": False,
    "timestep_conditioning": False, "encoder_base_channels": 128, "decoder_base_channels": 4,
}  # fmt: skip
_DECODERS = {
    "2": [
        ["res_x", {"num_layers": 1, "inject_noise": False}], ["compress_all", {"residual": True, "multiplier": 2}],
        ["compress_all", {"residual": True, "multiplier": 2}], ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1, "inject_noise": False}],
    ],
    "2.3": [
        ["res_x", {"num_layers": 1}], ["compress_space", {"multiplier": 2}], ["compress_time", {"multiplier": 2}],
        ["compress_all", {"multiplier": 1}], ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 1}],
    ],
}  # fmt: skip
_AUDIO_VAE = {
    "model": {"params": {"sampling_rate": 16000, "ddconfig": {
        "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "in_channels": 2, "out_ch": 2, "ch": 128,
        "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, "mid_block_add_attention": False,
        "norm_type": "pixel", "causality_axis": "height"}}},
    "preprocessing": {
        "audio": {"sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": True, "causal_padding": 3},
        "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
        "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000}},
}  # fmt: skip
_VOCODERS = {
    "2": {
        "upsample_initial_channel": 32, "resblock": "1", "upsample_rates": [6, 5, 2, 2, 2], "resblock_kernel_sizes": [3, 7],
        "upsample_kernel_sizes": [16, 15, 8, 4, 4], "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "stereo": True,
    },
    "2.3": {
        "vocoder": {
            "upsample_initial_channel": 64, "resblock": "AMP1", "upsample_rates": [5, 2, 2, 2, 2, 2],
            "resblock_kernel_sizes": [3, 7], "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "stereo": True, "use_tanh_at_final": False,
            "activation": "snakebeta", "use_bias_at_final": False},
        "bwe": {
            "upsample_initial_channel": 32, "resblock": "AMP1", "upsample_rates": [6, 5, 2, 2, 2],
            "resblock_kernel_sizes": [3, 7], "upsample_kernel_sizes": [12, 11, 4, 4, 4],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "stereo": True, "use_tanh_at_final": False,
            "activation": "snakebeta", "use_bias_at_final": False, "apply_final_activation": False,
            "input_sampling_rate": 16000, "output_sampling_rate": 48000, "hop_length": 80, "n_fft": 512, "win_size": 512,
            "num_mels": 64}},
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "2": {
        "transformer": _TRANSFORMER,
        "vae": {**_VAE, "decoder_blocks": _DECODERS["2"]},
        "audio_vae": _AUDIO_VAE,
        "vocoder": _VOCODERS["2"],
    },
    "2.3": {
        "transformer": {**_TRANSFORMER, **_TRANSFORMER_23},
        "vae": {**_VAE, "decoder_blocks": _DECODERS["2.3"], "spatial_padding_mode": "zeros"},
        "audio_vae": _AUDIO_VAE,
        "vocoder": _VOCODERS["2.3"],
    },
}
UPSAMPLER_CONFIGS: dict[str, dict[str, Any]] = {
    generation: {
        "_class_name": "LatentUpsampler", "in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3,
        "spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": generation == "2",
    }
    for generation in CONFIGS
}  # fmt: skip

OTHER_UPSAMPLERS: dict[str, dict[str, Any]] = {
    "spatial x1.5": {**UPSAMPLER_CONFIGS["2"], "spatial_scale": 1.5},
    "temporal x2": {**UPSAMPLER_CONFIGS["2.3"], "spatial_upsample": False, "temporal_upsample": True},
}
"""Configs of the kinds that only upscaling uses; in both generations, so that all can be tried with each."""


def config(generation: str) -> dict[str, Any]:
    """A copy of the small config of one generation."""
    return copy.deepcopy(CONFIGS[generation])


@cache
def recorded() -> dict[str, dict[str, dict[str, list[int]]]]:
    """{generation: {"checkpoint" | "upsampler" | ...: {name: shape}}} as the reference's classes have them."""
    return json.loads((FIXTURES / "small_names.json").read_text())


def value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The weight called `name`: keeps activations near 1, leaves nothing at zero, depends on nothing else."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    draw = np.random.Generator(np.random.Philox(key=key))
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("filter", "kernel") or "mel_stft" in name:
        return _fixed(name, shape)
    if leaf == "std-of-means":
        return draw.uniform(0.6, 1.4, shape)
    if leaf in ("alpha", "beta", "mean-of-means"):
        return draw.normal(0, 0.3, shape)
    if leaf == "learnable_registers":
        return draw.uniform(-1, 1, shape)
    if leaf.startswith("scale_shift_table") or leaf.endswith("scale_shift_table"):
        return draw.normal(0.1, 0.3, shape)
    if leaf == "bias":
        return draw.normal(0, 0.1, shape)
    if len(shape) == 1:
        return draw.normal(1.2, 0.2, shape)
    fan_in = shape[0] * 2.5 if ".ups." in name else math.prod(shape[1:])
    gain = 0.3 if "conv_post" in name or "bwe_generator.conv_pre" in name else 0.55 if "resblocks" in name else 1.0
    return draw.normal(0, gain / math.sqrt(fan_in), shape)


def _fixed(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Filters and bases that are computed, not learned: smoothing filters, and the STFT and mel of bandwidth extension."""
    if name.endswith("mel_basis"):
        edges = np.linspace(0, shape[1], shape[0] + 2)
        bins = np.arange(shape[1])[None]
        rise, fall = (bins - edges[:-2, None]) / (edges[1] - edges[0]), (edges[2:, None] - bins) / (edges[1] - edges[0])
        return np.maximum(0, np.minimum(rise, fall)) * 0.02
    if name.endswith("_basis"):
        count, size = shape[0] // 2, shape[-1]
        angle = 2 * np.pi * np.arange(count)[:, None] * np.arange(size)[None] / size
        window = np.hanning(size + 1)[:-1]
        return (np.concatenate([np.cos(angle), -np.sin(angle)]) * window)[:, None]
    if shape[-2] > 1:
        row = np.array([math.comb(shape[-1] - 1, i) for i in range(shape[-1])], float)
        return np.broadcast_to(np.outer(row, row) / row.sum() ** 2, shape).copy()
    taps = np.sinc((np.arange(shape[-1]) - (shape[-1] - 1) / 2) / 2) * np.hamming(shape[-1])
    return np.broadcast_to(taps / taps.sum(), shape).copy()


def _rounded(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    return mx.array(array.astype(np.float32)).astype(dtype)


def tensors(generation: str, variant: str, seed: int = 0) -> dict[str, mx.array]:
    """The checkpoint's tensors: bfloat16, tables float32; only the transformer's part differs between variants.

    Drawn once, and kept as NumPy's, so that nothing of them is in the memory that tests measure.
    """
    result = {}
    for name, shape in recorded()[generation]["checkpoint"].items():
        own = f"{variant}/" if name.startswith((DIT, "text_embedding_projection.")) else ""
        array = _drawn(f"{generation}/{own}{name}", tuple(shape), seed)
        result[name] = mx.array(array).astype(mx.float32 if "scale_shift_table" in name else mx.bfloat16)
    return result


@cache
def _drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return value(name, shape, seed).astype(np.float32)


def lora_tensors(generation: str, seed: int = 0, rank: int = 4) -> dict[str, mx.array]:
    """A LoRA over every Linear of the transformer, in the official spelling."""
    result = {}
    for name, shape in recorded()[generation]["checkpoint"].items():
        if not (name.startswith(DIT) and name.endswith(".weight") and len(shape) == 2) or "_connector." in name:
            continue
        base, (rows, columns) = "diffusion_model." + name[len(DIT) : -len(".weight")], shape
        for part, size in (("lora_A", (rank, columns)), ("lora_B", (rows, rank))):
            array = value(f"{generation}/{part}/{name}", size, seed) * 0.5
            result[f"{base}.{part}.weight"] = _rounded(array, mx.bfloat16)
    return result


def make(folder: Path, generation: str = "2", variants: tuple[str, ...] = ("distilled",), seed: int = 0) -> Path:
    """Writes a whole small folder: checkpoint(s), upsampler, distilled LoRA and gemma/; returns the folder."""
    from tests.support.small_gemma import make_gemma

    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps(config(generation)), "license": "random weights, made for tests"}
    if VERSIONS[generation]:
        metadata["model_version"] = VERSIONS[generation]
    for variant in variants:
        mx.save_safetensors(
            str(folder / NAMES[generation].format(variant)), tensors(generation, variant, seed), metadata
        )
    up = {
        name: _rounded(value(f"{generation}/upsampler/{name}", tuple(shape), seed), mx.bfloat16)
        for name, shape in recorded()[generation]["upsampler"].items()
    }
    mx.save_safetensors(str(folder / UPSAMPLERS[generation]), up, {"config": json.dumps(UPSAMPLER_CONFIGS[generation])})
    mx.save_safetensors(str(folder / LORAS[generation]), lora_tensors(generation, seed), {"format": "pt"})
    make_gemma(folder / "gemma", seed)
    return folder


def add_upsamplers(folder: Path, generation: str = "2", seed: int = 0) -> Path:
    """Puts the other upsamplers beside a checkpoint that `make` wrote; returns the folder."""
    for kind, settings in OTHER_UPSAMPLERS.items():
        arrays = {
            name: _rounded(value(f"{generation}/{kind}/{name}", tuple(shape), seed), mx.bfloat16)
            for name, shape in recorded()[generation][kind].items()
        }
        file = folder / f"ltx-{generation}-{kind.replace(' ', '-upscaler-')}-1.0.safetensors"
        mx.save_safetensors(str(file), arrays, {"config": json.dumps(settings)})
    return folder
