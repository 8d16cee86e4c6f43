"""Small LTX-Video checkpoints: configs in diffusers' words, weights by seed and name, whole files and folders.

What diffusers says is kept, because the reference at hand is diffusers'; the official form follows by our own rules, and
the real files' lists (`keys_ltx_video.json.gz`) hold those. Knows no torch.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_video.config import T5Config, TransformerConfig, VideoVAEConfig, diffusers
from mlx_video.models.ltx_video.text_encoder.t5 import T5
from mlx_video.models.ltx_video.transformer import Transformer
from mlx_video.models.ltx_video.video_vae import VideoDecoder, VideoEncoder
from mlx_video.weights import names

VERSIONS = ("0.9.0", "0.9.1", "0.9.5")
TRANSFORMER = {
    "_class_name": diffusers.TRANSFORMER, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 3,
    "in_channels": 8, "out_channels": 8, "cross_attention_dim": 20, "caption_channels": 6, "patch_size": 1,
    "patch_size_t": 1, "qk_norm": "rms_norm_across_heads", "attention_bias": True, "attention_out_bias": True,
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "activation_fn": "gelu-approximate",
}  # fmt: skip
"""20 wide over 3 axes leaves 2 values that no axis fills, as the real 2048 does."""
_COMMON = {"_class_name": diffusers.VIDEO_VAE, "latent_channels": 8, "patch_size": 4, "resnet_norm_eps": 1e-6}
_OLDER = {
    "block_out_channels": [4, 8, 16, 16], "spatio_temporal_scaling": [True, True, True, False],
    "layers_per_block": [1, 1, 2, 1, 1],
}  # fmt: skip
_NEWER_DECODER = {
    "decoder_block_out_channels": [8, 16, 32], "decoder_layers_per_block": [1, 2, 1, 1], "timestep_conditioning": True,
    "decoder_spatio_temporal_scaling": [True] * 3, "upsample_residual": [True] * 3, "upsample_factor": [2] * 3,
}  # fmt: skip
VAE: dict[str, dict[str, Any]] = {
    "0.9.0": {
        **_COMMON, **_OLDER, "decoder_block_out_channels": [4, 8, 16, 16], "decoder_layers_per_block": [1, 1, 2, 1, 1],
        "decoder_spatio_temporal_scaling": [True, True, True, False], "decoder_inject_noise": [False] * 5,
        "upsample_residual": [False] * 4, "upsample_factor": [1] * 4, "timestep_conditioning": False,
    },
    "0.9.1": {**_COMMON, **_OLDER, **_NEWER_DECODER, "decoder_inject_noise": [True, True, True, False]},
    "0.9.5": {
        **_COMMON, **_NEWER_DECODER, "decoder_inject_noise": [False] * 4, "block_out_channels": [4, 8, 16, 32, 64],
        "layers_per_block": [1, 1, 1, 2, 1], "spatio_temporal_scaling": [True] * 4,
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    },
}  # fmt: skip
T5_CONFIG = {
    "model_type": "t5", "d_model": 24, "d_kv": 4, "num_heads": 3, "d_ff": 40, "num_layers": 2, "vocab_size": 160,
    "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
}  # fmt: skip


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights by name that keep activations near 1, float32."""
    rng = np.random.default_rng([17, zlib.crc32(name.encode())])
    if name == "timestep_scale_multiplier":
        return np.array(1000.0, np.float32)
    if name == "statistics.std" or ("norm" in name and name.endswith("weight")):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    spread = len(shape) == 1 or "table" in name or "per_channel" in name
    scale = 0.3 if spread else 1 / math.sqrt(math.prod(shape[1:]))
    return rng.normal(0, scale, shape).astype(np.float32)


def config(version: str = "0.9.5") -> dict[str, Any]:
    """The config of an official file with the autoencoder of that version."""
    vae = diffusers.video_vae(VAE[version], "small")
    return {"transformer": diffusers.transformer(TRANSFORMER, VAE[version], "small"), "vae": vae}


def networks(version: str = "0.9.5") -> dict[str, nn.Module]:
    """The networks without weights, by component."""
    said = config(version)
    vae = VideoVAEConfig.read(said)
    return {
        "transformer": Transformer(TransformerConfig.read(said)), "video_encoder": VideoEncoder(vae),
        "video_decoder": VideoDecoder(vae), "text_encoder": T5(T5Config.read(T5_CONFIG)),
    }  # fmt: skip


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    """By path in the network, in the checkpoint's axis order."""
    return {path: seeded(path, shape) for path, shape in names.shapes(network).items()}


def network(component: str, version: str = "0.9.5", dtype: mx.Dtype = mx.float32) -> Any:
    """One of them with its weights."""
    found = networks(version)[component]
    kind = type(found)
    plain = type("Plain", (kind,), {"prefixes": {"": ""}, "renames": (), "ignored": ()})
    found.__class__ = plain
    names.assign(found, {path: mx.array(value) for path, value in weights(found).items()}, component, dtype=dtype)
    found.__class__ = kind
    return found


def write_official(path: Path, version: str = "0.9.5", *, metadata: bool = True) -> Path:
    """An official file: transformer and autoencoder under official names."""
    built = networks(version)
    tensors = {f"model.diffusion_model.{path}": value for path, value in weights(built["transformer"]).items()}
    for half in ("encoder", "decoder"):
        rename = official_vae(built[f"video_{half}"])
        tensors |= {rename(half, path): value for path, value in weights(built[f"video_{half}"]).items()}
    tensors["vae.per_channel_statistics.channel"] = np.arange(8, dtype=np.float32)
    said = {"config": json.dumps(config(version))} if metadata else None
    mx.save_safetensors(str(path), {name: mx.array(value) for name, value in tensors.items()}, metadata=said)
    return path


def official_vae(network: nn.Module):
    """A function of half and path in the network to the official name."""
    convolutions = {path for path, module in network.named_modules() if isinstance(module, nn.Conv3d)}

    def official(half: str, path: str) -> str:
        if path.startswith("statistics."):
            return f"vae.per_channel_statistics.{path.removeprefix('statistics.')}-of-means"
        owner, _, leaf = path.rpartition(".")
        inner = ".conv" if owner in convolutions and not owner.endswith("conv_shortcut") else ""
        return f"vae.{half}.{owner}{inner}.{leaf}" if owner else f"vae.{half}.{leaf}"

    return official


# ------------------------------------------------------------------------------------------------ a tokenizer

PIECES: list[tuple[str, float, int]] = [
    ("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁", -3.0, 1), ("▁a", -2.5, 1), ("▁red", -4.0, 1),
    ("▁fox", -4.5, 1), ("f", -6.0, 1), ("o", -6.0, 1), ("x", -6.5, 1), ("r", -6.0, 1), ("e", -5.0, 1), ("d", -6.0, 1),
    ("s", -5.5, 1), ("a", -5.0, 1), ("es", -5.2, 1),
]  # fmt: skip
"""Text, score, kind (1 normal, 2 unknown, 3 control)."""


def spiece(pieces: list[tuple[str, float, int]] = PIECES, characters: bytes = b"", model_type: int = 1) -> bytes:
    """A sentencepiece model with these pieces."""
    content = b""
    for text, score, kind in pieces:
        piece = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        content += _field(1, piece + (b"" if kind == 1 else b"\x18" + bytes([kind])))
    content += _field(2, b"\x18" + bytes([model_type]))
    return content + _field(3, _field(1, b"identity") + (_field(2, characters) if characters else b""))


def _field(number: int, content: bytes) -> bytes:
    size, head = len(content), b""
    while size >= 0x80:
        head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + head + bytes([size]) + content


def write_diffusers(folder: Path, version: str) -> Path:
    """The folders transformer and vae of a diffusers pipeline."""
    built = networks(version)
    rename = diffusers.vae_names(VideoVAEConfig.read(config(version)))
    halves = [(half, name) for half in ("encoder", "decoder") for name in diffusers_vae(version, half)]
    for part, said, owners in (
        (
            "transformer",
            TRANSFORMER,
            [("transformer", name, diffusers.transformer_name) for name in diffusers_transformer()],
        ),
        ("vae", VAE[version], [(f"video_{half}", name, rename) for half, name in halves]),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(said))
        own = {component: weights(built[component]) for component, _, _ in owners}
        tensors = {}
        for component, name, official in owners:
            tensors[name] = mx.array(own[component][names.module_path(built[component], official(name))])
        mx.save_safetensors(str(folder / part / "diffusion_pytorch_model.safetensors"), tensors)
    return folder


def write_text_encoder(folder: Path, *, single: bool = False) -> Path:
    """A folder of T5 with its tokenizer beside it; single: one file without a config instead."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = weights(networks()["text_encoder"])
    tensors = {official_t5(path): mx.array(value) for path, value in paths.items()}
    if single:
        (folder / "spiece.model").write_bytes(spiece())
        mx.save_safetensors(str(folder / "t5xxl_fp16.safetensors"), tensors)
        return folder / "t5xxl_fp16.safetensors"
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(spiece())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(T5_CONFIG))
    mx.save_safetensors(str(folder / "text_encoder" / "model.safetensors"), tensors)
    return folder


def official_t5(path: str) -> str:
    """The name in files of a path in our T5."""
    if path.startswith("layers."):
        _, i, part, rest = path.split(".", 3)
        place = {
            "attention": "0.SelfAttention", "attention_norm": "0.layer_norm",
            "feed_forward": "1.DenseReluDense", "feed_forward_norm": "1.layer_norm",
        }[part]  # fmt: skip
        return f"encoder.block.{i}.layer.{place}.{rest}"
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    return path.replace("distances", first).replace("norm.", "encoder.final_layer_norm.")


# ------------------------------------------------------------------------------------------------ diffusers' names

_LINEAR = ("weight", "bias")
_EMBEDDER = [f"time_embedder.timestep_embedder.linear_{i}.{leaf}" for i in (1, 2) for leaf in _LINEAR]


def diffusers_transformer() -> list[str]:
    """The names of its transformer's tensors."""
    found = ["scale_shift_table"]
    pairs = ["proj_in", "proj_out", "time_embed.linear"]
    pairs += [
        f"{place}linear_{i}" for place in ("time_embed.emb.timestep_embedder.", "caption_projection.") for i in (1, 2)
    ]
    for i in range(TRANSFORMER["num_layers"]):
        block = f"transformer_blocks.{i}."
        pairs += [f"{block}ff.net.0.proj", f"{block}ff.net.2"]
        found.append(f"{block}scale_shift_table")
        for layer in (f"{block}attn1.", f"{block}attn2."):
            pairs += [layer + name for name in ("to_q", "to_k", "to_v", "to_out.0")]
            found += [f"{layer}norm_{one}.weight" for one in "qk"]
    return found + [f"{name}.{leaf}" for name in pairs for leaf in _LINEAR]


def diffusers_vae(version: str, half: str) -> list[str]:
    """The names of one half of its autoencoder's tensors, the statistics included."""
    said, found = VAE[version], ["latents_mean", "latents_std"]
    newer = "down_block_types" in said

    def convolutions(*places: str) -> None:
        found.extend(f"{half}.{place}.conv.{leaf}" for place in places for leaf in _LINEAR)

    def stack(place: str, count: int, told: bool = False, noisy: bool = False) -> None:
        for j in range(count):
            convolutions(f"{place}.resnets.{j}.conv1", f"{place}.resnets.{j}.conv2")
            extra = ["scale_shift_table"] * told + ["per_channel_scale1", "per_channel_scale2"] * noisy
            found.extend(f"{half}.{place}.resnets.{j}.{name}" for name in extra)
        found.extend(f"{half}.{place}.{name}" for name in _EMBEDDER * told)

    def widening(place: str) -> None:
        convolutions(f"{place}.conv1", f"{place}.conv2", f"{place}.conv_shortcut")
        found.extend(f"{half}.{place}.norm3.{leaf}" for leaf in _LINEAR)

    convolutions("conv_in", "conv_out")
    if half == "encoder":
        layers, widths = said["layers_per_block"], said["block_out_channels"]
        for i, scaled in enumerate(said["spatio_temporal_scaling"]):
            stack(f"down_blocks.{i}", layers[i])
            if scaled:
                convolutions(f"down_blocks.{i}.downsamplers.0{'.conv' if newer else ''}")
            if not newer and widths[min(i + 1, 3)] != widths[i]:
                widening(f"down_blocks.{i}.conv_out")
        stack("mid_block", layers[-1])
        return found
    told, noise = said["timestep_conditioning"], said["decoder_inject_noise"][::-1]
    layers, widths = said["decoder_layers_per_block"][::-1], said["decoder_block_out_channels"][::-1]
    stack("mid_block", layers[0], told, noise[0])
    for i, scaled in enumerate(said["decoder_spatio_temporal_scaling"][::-1]):
        if not told and i and widths[i] != widths[i - 1]:
            widening(f"up_blocks.{i}.conv_in")
        if scaled:
            convolutions(f"up_blocks.{i}.upsamplers.0.conv")
        stack(f"up_blocks.{i}", layers[i + 1], told, noise[i + 1])
    if told:
        found += [f"decoder.{name}" for name in (*_EMBEDDER, "scale_shift_table", "timestep_scale_multiplier")]
    return found
