"""Writes the trained parts as a model folder in the official form: one checkpoint file with all networks, the upsampler,
the distilled LoRA and a Gemma folder.

bfloat16, every `*scale_shift_table*` float32, configs in the metadata. Every file is read back through the reference's
own key filters: no tensor may be missing or left over. It knows layouts and names, no training.
"""

from __future__ import annotations

import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import configs, device
from .bank import newest
from .pack_gemma import write_gemma
from .reference import build, build_feature_extractor
from .train_lora import merged

STREAM = 64.0
DIT = "model.diffusion_model."
PREFIX = {
    "transformer": DIT,
    "video_connector": DIT + "video_embeddings_connector.",
    "audio_connector": DIT + "audio_embeddings_connector.",
    "features": "text_embedding_projection.",
    "video_encoder": "vae.encoder.",
    "video_decoder": "vae.decoder.",
    "audio_encoder": "audio_vae.encoder.",
    "audio_decoder": "audio_vae.decoder.",
    "vocoder": "vocoder.",
}
LICENSE = "Weights of the mlx-video demo model, trained from nothing on drawn clips; same licence as the package."


def _read(folder: str, name: str):
    return device.read(newest(folder, name))


def below(state: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def collect(folder: str, network: dict) -> dict:
    """Name of a part -> its state dict. `network` holds the weights of network.Network."""
    parts = {"transformer": below(network, "transformer.")}
    for name in ("video_connector", "audio_connector", "features"):
        parts[name] = below(network, f"text.{name}.")
    codec, audio = _read(folder, "codec"), _read(folder, "bank-audio")
    for half in ("video_encoder", "video_decoder"):
        polished = half == "video_decoder" and os.path.exists(os.path.join(folder, "polish.pt"))
        parts[half] = dict(_read(folder, "polish" if polished else half)["averaged"])
    parts["video_decoder"] = tame(parts["video_decoder"])
    parts["audio_encoder"] = below(_read(folder, "autoencoder")["networks"], "audio_encoder.")
    parts["audio_decoder"] = below(_read(folder, "audio_decoder")["networks"], "audio_decoder.")
    parts["vocoder"] = below(_read(folder, "vocoder")["networks"], "vocoder.")
    for kind, statistics in (("video", codec), ("audio", audio)):
        for half in ("encoder", "decoder"):
            parts[f"{kind}_{half}"]["per_channel_statistics.mean-of-means"] = statistics["mean"]
            parts[f"{kind}_{half}"]["per_channel_statistics.std-of-means"] = statistics["scale"]
    return parts


def _stored(key: str, value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.float32 if "scale_shift_table" in key else torch.bfloat16).contiguous()


def tame(decoder: dict) -> dict:
    """The video decoder with smaller numbers inside, and exactly the same pictures.

    What runs from block to block is normalised wherever it is used, so its scale is free, and training lets it grow: to
    97,000 in one convolution, where half precision ends at 65,504. A power of two changes no bit of any other weight.
    """
    out = dict(decoder)
    for key, value in decoder.items():
        if (
            key.startswith("conv_in.")
            or ".conv2." in key
            or (".conv.conv.bias" in key and key.startswith("up_blocks."))
        ):
            out[key] = value / STREAM
    return out


def checkpoint(parts: dict) -> dict:
    out = {}
    for name, state in parts.items():
        for key, value in state.items():
            if key.startswith("per_channel_statistics."):
                full = PREFIX[name].split(".")[0] + "." + key
            else:
                full = PREFIX[name] + key
            out[full] = _stored(full, value)
    return out


def lora(folder: str) -> dict:
    state = _read(folder, "distilled")["average"]
    name = lambda key: "diffusion_model." + key.split("|")[0].removesuffix(".weight")
    return {f"{name(k)}.lora_{k[-1]}.weight": v.to(torch.bfloat16).contiguous() for k, v in state.items()}


def verify(path: str) -> None:
    """Read a checkpoint back through the reference's filters into the reference's modules."""
    from ltx_core.loader.sft_loader import SafetensorsModelStateDictLoader
    from ltx_core.model import audio_vae, video_vae
    from ltx_core.model.transformer import LTXV_MODEL_COMFY_RENAMING_MAP
    from ltx_core.text_encoders.gemma import EMBEDDINGS_PROCESSOR_KEY_OPS

    loader, used = SafetensorsModelStateDictLoader(), 0
    if loader.metadata(path) != configs.checkpoint_config():
        raise ValueError(f"{path}: the config does not come back as it was written")
    embeddings = {"feature_extractor." + k: v for k, v in build_feature_extractor().state_dict().items()}
    for name in ("video_connector", "audio_connector"):
        embeddings.update({f"{name}.{k}": v for k, v in build(name).state_dict().items()})
    expected = {
        LTXV_MODEL_COMFY_RENAMING_MAP: build("transformer").state_dict(),
        EMBEDDINGS_PROCESSOR_KEY_OPS: embeddings,
        video_vae.VAE_ENCODER_COMFY_KEYS_FILTER: build("video_encoder").state_dict(),
        video_vae.VAE_DECODER_COMFY_KEYS_FILTER: build("video_decoder").state_dict(),
        audio_vae.AUDIO_VAE_ENCODER_COMFY_KEYS_FILTER: build("audio_encoder").state_dict(),
        audio_vae.AUDIO_VAE_DECODER_COMFY_KEYS_FILTER: build("audio_decoder").state_dict(),
        audio_vae.VOCODER_COMFY_KEYS_FILTER: build("vocoder").state_dict(),
    }
    for filters, wanted in expected.items():
        got = loader.load(path, sd_ops=filters, device=torch.device("cpu")).sd
        connectors = "_embeddings_connector." if filters is LTXV_MODEL_COMFY_RENAMING_MAP else "\0"
        got = {k: v for k, v in got.items() if connectors not in k}
        wrong = [k for k in wanted if k not in got or got[k].shape != wanted[k].shape] + [
            k for k in got if k not in wanted
        ]
        if wrong:
            raise ValueError(f"{path}: missing, misshapen or left over: {wrong[:5]}")
        used += len(got)
    with safe_open(path, "pt") as file:
        shared = 4  # both halves of both VAEs read the same statistics
        if used - shared != len(file.keys()):
            raise ValueError(f"{path}: {len(file.keys())} tensors, of which {used - shared} are read")


def pack(folder: str, out: str, *, single: str | None = None) -> None:
    """The model folder `out`; `single` writes one more checkpoint there, dev + LoRA in one file (for comparisons)."""
    os.makedirs(out, exist_ok=True)
    metadata = {
        "config": json.dumps(configs.checkpoint_config()),
        "license": LICENSE,
        "model_version": configs.MODEL_VERSION,
    }
    network = _read(folder, "transformer")["average"]
    target = lambda key: os.path.join(out, configs.FILES[key])
    # The package runs the distilled pipeline on this file with the LoRA beside it at strength 1.
    save_file(checkpoint(collect(folder, network)), target("dev"), metadata={**metadata, "distilled_by": "lora"})
    verify(target("dev"))
    if os.path.exists(newest(folder, "distilled")):
        save_file(lora(folder), target("lora"), metadata={"format": "pt"})
        if single:
            save_file(checkpoint(collect(folder, merged(folder))), single, metadata=metadata)
            verify(single)
    state = _read(folder, "upsampler")["network"]
    save_file(
        {k: _stored(k, v) for k, v in state.items()},
        target("upsampler"),
        metadata={"config": json.dumps(configs.UPSAMPLER)},
    )
    build("upsampler").load_state_dict({k: v.float() for k, v in load_file(target("upsampler")).items()})
    write_gemma(target("gemma"), below(network, "text.gemma."))
    total = 0
    for root, _, files in os.walk(out):
        for file in files:
            size = os.path.getsize(os.path.join(root, file))
            total += size
            print(f"{size / 1e6:8.3f} MB  {os.path.relpath(os.path.join(root, file), out)}")
    print(f"{total / 1e6:8.3f} MB altogether", flush=True)
