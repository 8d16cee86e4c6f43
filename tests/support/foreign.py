"""Small checkpoints as other MLX converters write them, made from the official tensors of tests/small.py by the rules
that those converters follow (names, order of axes, files). Knows nothing of how ours reads them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from tests.support import small

Tensors = dict[str, mx.array]
CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")


def channels_last(array: mx.array, transposed: bool = False) -> mx.array:
    if array.ndim < 3:
        return array
    axes = (1, 2, 0) if transposed and array.ndim == 3 else (0, *range(2, array.ndim), 1)
    return mx.contiguous(array.transpose(axes))


def under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def shorter(name: str) -> str:
    for old, new in ((".to_out.0.", ".to_out."), ("ff.net.0.proj.", "ff.proj_in."), ("ff.net.2.", "ff.proj_out.")):
        name = name.replace(old, new)
    return name


def transformer(tensors: Tensors, connectors: bool = False) -> Tensors:
    bare = under(tensors, small.DIT)
    return {
        shorter(name).replace(".linear_1.", ".linear1.").replace(".linear_2.", ".linear2."): array
        for name, array in bare.items()
        if connectors or not name.startswith(CONNECTORS)
    }


def connectors(tensors: Tensors) -> Tensors:
    return {name: array for name, array in under(tensors, small.DIT).items() if name.startswith(CONNECTORS)}


def autoencoder(tensors: Tensors, half: str, mean: str, std: str) -> Tensors:
    statistics = {"mean-of-means": mean, "std-of-means": std}
    found = {name: channels_last(array) for name, array in under(tensors, f"vae.{half}.").items()}
    for name, new in statistics.items():
        found[f"per_channel_statistics.{new}"] = tensors[f"vae.per_channel_statistics.{name}"]
    return found


def audio(tensors: Tensors, half: str, mean: str, std: str) -> Tensors:
    found = {name: channels_last(array) for name, array in under(tensors, f"audio_vae.{half}.").items()}
    found[f"per_channel_statistics.{mean}"] = tensors["audio_vae.per_channel_statistics.mean-of-means"]
    found[f"per_channel_statistics.{std}"] = tensors["audio_vae.per_channel_statistics.std-of-means"]
    return found


def vocoder(tensors: Tensors, name_of: Callable[[str], str], buffers: bool) -> Tensors:
    """`buffers`: whether filters and bases are turned too, not weights alone."""
    found = {}
    for name, array in under(tensors, "vocoder.").items():
        turned = name.endswith(".weight") or (buffers and name.endswith(("filter", "_basis")))
        found[name_of(name)] = channels_last(array, ".ups." in f".{name}") if turned else array
    return found


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: array for name, array in tensors.items()}


def save(path: Path, tensors: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), tensors)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def upsampler_of(official: Path, generation: str) -> Tensors:
    return mx.load(str(official / small.UPSAMPLERS[generation]))


# ------------------------------------------------------------------------------------------------ the layouts


def forge(folder: Path, official: Path, generation: str, variant: str = "distilled") -> Path:
    """mlx-forge: a file for each part, every name with the part in front, everything turned, the config kept."""
    tensors = small.tensors(generation, variant)
    statistics = ("_mean_of_means", "_std_of_means")
    sound = audio(tensors, "decoder", *statistics)
    both = {n if n.startswith("per_channel") else f"decoder.{n}": array for n, array in sound.items()}
    encoder = {n: a for n, a in audio(tensors, "encoder", *statistics).items() if not n.startswith("per_channel")}
    projection = {name: array for name, array in tensors.items() if name.startswith("text_embedding_projection.")}
    parts = {
        "connector": connectors(tensors) | projection,
        "vae_decoder": autoencoder(tensors, "decoder", "mean", "std"),
        "vae_encoder": autoencoder(tensors, "encoder", *statistics),
        "audio_vae": both | prefixed("encoder.", encoder),
        "vocoder": vocoder(tensors, lambda name: name.replace("vocoder.", ""), buffers=True),
    }
    for part, found in parts.items():
        save(folder / f"{part}.safetensors", prefixed(f"{part}.", found))
    save(folder / f"transformer-{variant}.safetensors", prefixed("transformer.", transformer(tensors)))
    up = "spatial_upscaler_x2_v1_1"
    turned = {name: channels_last(array) for name, array in upsampler_of(official, generation).items()}
    save(folder / f"{up}.safetensors", prefixed(f"{up}.", turned))
    write_json(folder / f"{up}_config.json", {"config": small.UPSAMPLER_CONFIGS[generation]})
    write_json(folder / "embedded_config.json", small.config(generation))
    write_json(folder / "config.json", {"model_version": small.VERSIONS[generation], "is_v2": True})
    write_json(folder / "split_model.json", {"format": "split", "transformer_variants": [variant]})
    shutil.copytree(official / "gemma", folder / "gemma")
    return folder


def _unified_parts(official: Path, generation: str, variant: str) -> dict[str, Tensors]:
    tensors = small.tensors(generation, variant)
    return {
        "transformer": transformer(tensors, connectors=True),
        "connector": connectors(tensors),
        "text_embedding_projection": under(tensors, "text_embedding_projection."),
        "vae_decoder": autoencoder(tensors, "decoder", "mean", "std"),
        "vae_encoder": autoencoder(tensors, "encoder", "_mean_of_means", "_std_of_means"),
        "audio_vae": audio(tensors, "decoder", "_mean_of_means", "_std_of_means"),
        "vocoder": vocoder(tensors, lambda name: name.replace("vocoder.", ""), buffers=False),
        "upsampler": dict(upsampler_of(official, generation)),
    }


def _unified_configs(folder: Path, generation: str) -> None:
    # LTX-2 gets no nested config; that of LTX-2.3 is written by hand and lacks keys.
    write_json(folder / "config.json", {"model_type": "AudioVideo", "caption_channels": None})
    if generation == "2.3":
        config = small.config(generation)
        for key in ("caption_proj_before_connector", "caption_proj_input_norm"):
            del config["transformer"][key]
        del config["vae"]["latent_log_var"]
        write_json(folder / "embedded_config.json", config)


def unified(folder: Path, official: Path, generation: str, variant: str = "distilled") -> Path:
    """mlx-video-with-audio: one file; no audio encoder, the connectors twice, upsampler and filters not turned."""
    parts = _unified_parts(official, generation, variant)
    save(folder / "model.safetensors", {f"{p}.{n}": array for p, found in parts.items() for n, array in found.items()})
    _unified_configs(folder, generation)
    shutil.copytree(official / "gemma", folder / "gemma")
    return folder


def split(folder: Path, official: Path, generation: str, variant: str = "distilled") -> Path:
    """The same in a file for each part, whose names do not say the part again."""
    parts = _unified_parts(official, generation, variant)
    parts["connector"] |= prefixed("text_embedding_projection.", parts.pop("text_embedding_projection"))
    for part, found in parts.items():
        save(folder / f"{part}.safetensors", found)
    _unified_configs(folder, generation)
    write_json(folder / "split_model.json", {"format": "split", "variant": variant, "components": list(parts)})
    shutil.copytree(official / "gemma", folder / "gemma")
    return folder


def folders(folder: Path, official: Path, generation: str, variant: str = "distilled") -> Path:
    """Blaizzy's mlx-video: a folder for each component, bare names, the transformer in shards with an index."""
    tensors = small.tensors(generation, variant)
    text = {shorter(name): array for name, array in connectors(tensors).items()}
    decoder = {}
    for name, array in autoencoder(tensors, "decoder", "mean", "std").items():
        wrapped = ".conv.conv." not in name and name.endswith((".conv.weight", ".conv.bias"))
        decoder[name.replace(".conv.", ".conv.conv.") if wrapped else name] = array
    statistics = ("mean_of_means", "std_of_means")
    for place, found in {
        "vae/decoder": decoder,
        "vae/encoder": autoencoder(tensors, "encoder", "mean", "std"),
        "audio_vae/decoder": audio(tensors, "decoder", *statistics),
        "audio_vae/encoder": audio(tensors, "encoder", *statistics),
        "vocoder": vocoder(tensors, str, buffers=False),
        "text_projections": text | under(tensors, "text_embedding_projection."),
    }.items():
        save(folder / place / "model.safetensors", found)
    blocks, index = sorted(transformer(tensors).items()), {}
    for number, some in enumerate((blocks[::2], blocks[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save(folder / "transformer" / file, dict(some))
        index |= dict.fromkeys(dict(some), file)
    write_json(folder / "transformer/model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    own = {"has_prompt_adaln": generation == "2.3", "model_type": "ltx av model"}
    write_json(folder / "transformer/config.json", {**small.config(generation)["transformer"], **own})
    vae = small.config(generation)["vae"]
    write_json(folder / "vae/encoder/config.json", {"encoder_blocks": vae["encoder_blocks"], "out_channels": 128})
    write_json(folder / "vae/decoder/config.json", {"ch": 128, "spatial_padding_mode": "zeros"})
    shutil.copyfile(official / small.UPSAMPLERS[generation], folder / small.UPSAMPLERS[generation])
    shutil.copytree(official / "gemma", folder / "text_encoder")
    return folder
