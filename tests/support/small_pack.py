"""A small LTX-2.5 split pack in the official form, made without torch: ten files, official names, random weights.

Transformer, autoencoders and upsamplers are the small LTX-2.3's with what 2.5 changed; what is new takes its names from
our own networks, which the published names are held against elsewhere.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.config import DiffusionDecoderConfig, DurationConfig
from mlx_video.models.ltx_2.diffusion_decoder import DiffusionDecoder
from mlx_video.models.ltx_2.duration import DurationHead
from tests.support import small, small_gemma4

VERSION = "2.5.0"
TRANSFORMER = "diffusion_models/ltx-2.5-22b-{}-transformer-bf16.safetensors"
TEXT_ENCODER = f"text_encoders/{small_gemma4.NAME}"
VIDEO, DIFFUSION, SOUND = (
    f"vae/ltx-2.5-{name}-bf16.safetensors" for name in ("video-vae-conv", "video-vae", "audio-vae")
)
UPSAMPLER = "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors"
TEMPORAL = "latent_upscale_models/ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0.safetensors"
LORA = "loras/ltx-2.5-22b-distilled-lora-450-bf16.safetensors"
DURATION = "model_patches/ltx-2.5-duration-head-bf16.safetensors"
DECODER = {
    "_class_name": "NADiffusionDecoder", "in_channels": 128, "out_channels": 3, "patch_size": 4, "head_dim": 16,
    "stage_channels": [64, 32, 16, 16, 16], "stage_depths": [1, 1, 1, 1, 1],
    "stage_kernels": [[3, 3, 3], [3, 3, 5], [3, 5, 3], [3, 3, 5], [5, 5, 7]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]], "stage5_kernel": [5, 5, 7],
    "resampler_kind": "linear", "timestep_scale_multiplier": 1000.0, "default_num_inference_steps": 1,
}  # fmt: skip
VARIANTS = ("distilled", "dev")
_VIDEO_BIAS = re.compile(r"transformer_blocks\.\d+\.ff\.net\.\d.*\.bias$")


def make(folder: Path, seed: int = 0, without: tuple[str, ...] = ()) -> Path:
    """Writes the pack into `folder`, but for files whose names begin with one of `without`."""
    config = small.config("2.3")
    transformer = {**config["transformer"], "ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    source = {"ltx_version": VERSION, "gemma_version": small_gemma4.VERSION}
    whole = small.tensors("2.3", "distilled", seed)
    upsamplers = {UPSAMPLER: ("upsampler", small.UPSAMPLER_CONFIGS["2.3"])}
    upsamplers[TEMPORAL] = ("temporal x2", small.OTHER_UPSAMPLERS["temporal x2"])
    video = {name: a for name, a in whole.items() if name.startswith("vae.")}
    bare = {name.removeprefix("vae."): array for name, array in video.items()}
    encoder = {name: array for name, array in bare.items() if not name.startswith("decoder.")}

    def write(name: str, arrays: dict[str, mx.array], versioned: bool = True, **said: Any) -> None:
        if name.startswith(without or ("\0",)):
            return
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {key: json.dumps(value) for key, value in said.items()}
        mx.save_safetensors(str(path), arrays, metadata | ({"model_version": VERSION} if versioned else {}))

    for variant in VARIANTS:
        own = _transformer(variant, seed)
        write(TRANSFORMER.format(variant), own, config={"transformer": transformer}, gemma_source_checkpoint=source)
    write(VIDEO, bare, config={"vae": config["vae"]})
    about = {"_class_name": "CausalDiffusionVAE", "dims": 3, "model_output_type": "x0", "decoder": DECODER}
    about["encoder"] = {
        "_class_name": "Encoder", "dims": 3, "in_channels": 3, "out_channels": 128, "patch_size": 4,
        "blocks": config["vae"]["encoder_blocks"], "base_channels": config["vae"]["encoder_base_channels"],
        "latent_log_var": "constant", "norm_layer": "pixel_norm", "spatial_padding_mode": "zeros",
    }  # fmt: skip
    decoder = DiffusionDecoder(DiffusionDecoderConfig.read({"vae": about}))
    write(DIFFUSION, {**encoder, **_drawn(decoder, "decoder.", seed)}, config={"vae": about})
    sound = {name: array for name, array in whole.items() if name.startswith(("audio_vae.", "vocoder."))}
    write(SOUND, sound, config={key: config[key] for key in ("audio_vae", "vocoder")})
    for name, (kind, settings) in upsamplers.items():
        shapes = small.recorded()["2.3"][kind]
        arrays = {leaf: small.value(f"2.5/{kind}/{leaf}", tuple(shape), seed) for leaf, shape in shapes.items()}
        rounded = {leaf: small._rounded(array, mx.bfloat16) for leaf, array in arrays.items()}
        write(name, rounded, versioned=False, config=settings)
    write(LORA, small.lora_tensors("2.3", seed))
    widths = {key: transformer[key] for key in ("cross_attention_dim", "audio_cross_attention_dim")}
    head = {"transformer": widths, "duration_head": {}}
    write(DURATION, _drawn(DurationHead(DurationConfig.read(head)), "duration_head.", seed), config=head)
    if not TEXT_ENCODER.startswith(without or ("\0",)):
        _text_encoder(folder / TEXT_ENCODER, transformer, seed)
    return folder


def _transformer(variant: str, seed: int) -> dict[str, mx.array]:
    """The small LTX-2.3's without biases of the video's feed-forward, and with the keyframes' embedding."""
    found = small.tensors("2.3", variant, seed)
    found = {n: a for n, a in found.items() if n.startswith(small.DIT) and not _VIDEO_BIAS.search(n)}
    width = found[f"{small.DIT}patchify_proj.bias"].size
    embedding = small.value(f"2.5/{variant}/keyframes", (1, width), seed)
    return {**found, f"{small.DIT}keyframes_abs_pos_embedding": small._rounded(embedding, mx.bfloat16)}


def _text_encoder(path: Path, transformer: dict[str, Any], seed: int) -> None:
    """The small Gemma 4 with projections as wide as the transformer's connectors are."""
    small_gemma4.write_file(path, seed)
    arrays, metadata = mx.load(str(path), return_metadata=True)
    features = small_gemma4.TEXT["hidden_size"] * (small_gemma4.TEXT["num_hidden_layers"] + 1)
    for modality, prefix in (("video", ""), ("audio", "audio_")):
        heads, size = (transformer[f"{prefix}connector_{key}"] for key in ("num_attention_heads", "attention_head_dim"))
        name = f"text_embedding_projection.{modality}_aggregate_embed"
        for leaf, shape in (("weight", (heads * size, features)), ("bias", (heads * size,))):
            arrays[f"{name}.{leaf}"] = small._rounded(small.value(f"2.5/{name}.{leaf}", shape, seed), mx.bfloat16)
    mx.eval(arrays)
    mx.save_safetensors(str(path), arrays, metadata)


def _drawn(network: Any, prefix: str, seed: int) -> dict[str, mx.array]:
    shapes = {name: array.shape for name, array in tree_flatten(network.parameters())}
    arrays = {name: mx.array(small.value(f"2.5/{prefix}{name}", shape, seed)) for name, shape in shapes.items()}
    # The statistics are the encoder's, under names of their own.
    return {prefix + name: array.astype(mx.bfloat16) for name, array in arrays.items() if "statistics" not in name}
