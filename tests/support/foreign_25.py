"""The small LTX-2.5 pack as other MLX converters write it, made from the official files by the rules that mlx-forge's
code states (names, order of axes, files). Knows nothing of how ours reads them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from tests.support import small_pack
from tests.support.foreign import CONNECTORS, Tensors, channels_last, prefixed, shorter, under, vocoder, write_json

UPSCALERS = {"spatial_upscaler_x2_v1_0": small_pack.UPSAMPLER, "temporal_upscaler_x2_v1_0": small_pack.TEMPORAL}
ASSETS = {"tokenizer_json": "tokenizer.json", "hf_asset__tokenizer_config.json": "tokenizer_config.json"}
DIT = "model.diffusion_model."
TEXT_LAYERS = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$")
BLOCKS = re.compile(r"transformer_blocks\.\d+\..*\.weight$")


def forge(
    folder: Path,
    official: Path,
    *,
    variants: tuple[str, ...] = ("distilled",),
    stated: bool = True,
    bare: bool = False,
    bits: int | None = None,
    gates: bool = False,
) -> Path:
    """mlx-forge's pack. stated: with the metadata that newer versions copy into every file; bare: names without their
    file's; bits: the blocks and the text encoder's layers in so many, groups of 32; gates: those of heads, too."""

    def write(name: str, tensors: Tensors, metadata: dict[str, str], part: str | None = None) -> None:
        own = {key: metadata[key] for key in ("config", "model_version") if stated and key in metadata}
        tensors = tensors if bare else prefixed(f"{part or name}.", tensors)
        mx.eval(tensors)
        mx.save_safetensors(str(folder / f"{name}.safetensors"), tensors, own)

    folder.mkdir(parents=True)
    for suffix, file in (("conv", small_pack.VIDEO), ("av", small_pack.DIFFUSION)):
        tensors, metadata = read(official / file)
        for half, names in (("decoder", ("mean", "std")), ("encoder", ("_mean_of_means", "_std_of_means"))):
            write(f"vae_{half}_{suffix}", _video(tensors, half, names), metadata)
    tensors, metadata = read(official / small_pack.SOUND)
    write("audio_vae", _sound(tensors), metadata)
    write("vocoder", vocoder(tensors, lambda name: name.replace("vocoder.", ""), buffers=True), metadata)
    tensors, metadata = read(official / small_pack.DURATION)
    write("duration_head", under(tensors, "duration_head."), metadata)
    for name, file in UPSCALERS.items():
        tensors, metadata = read(official / file)
        write(name, {leaf: channels_last(array) for leaf, array in tensors.items()}, metadata)
        write_json(folder / f"{name}_config.json", {"config": json.loads(metadata["config"])})
    for variant in variants:
        tensors, metadata = read(official / small_pack.TRANSFORMER.format(variant))
        inside = under(tensors, DIT)
        write("connector", {name: array for name, array in inside.items() if name.startswith(CONNECTORS)}, metadata)
        blocks = {_forged(name): array for name, array in inside.items() if not name.startswith(CONNECTORS)}
        fits = (lambda name: BLOCKS.search(name) and (gates or "gate_logits" not in name)) if bits else None
        write(f"transformer-{variant}", packed(blocks, fits, bits), metadata, "transformer")
        config = {**json.loads(metadata["config"]), **({"model_version": "2.5.0"} if stated else {})}
        write_json(folder / "embedded_config.json", config)
    _text_encoder(folder, official, write, bits)
    write_json(folder / "split_model.json", {"transformer_variants": list(variants), "quantized": bits is not None})
    if bits:
        quantization = {"bits": bits, "group_size": 32, "components": {"transformer": "", "text_encoder": ""}}
        write_json(folder / "quantize_config.json", {"quantization": quantization})
    shutil.copyfile(official / small_pack.LORA, folder / Path(small_pack.LORA).name)
    return folder


def read(file: Path) -> tuple[Tensors, dict[str, str]]:
    tensors, metadata = mx.load(str(file), return_metadata=True)
    return dict(tensors), dict(metadata)


def packed(tensors: Tensors, fits: Callable[[str], object] | None, bits: int | None, group: int = 32) -> Tensors:
    """`tensors` with the matrices whose names fit as mx.quantize gives them."""
    found: Tensors = {}
    for name, array in tensors.items():
        if fits and fits(name) and array.ndim == 2 and array.shape[-1] % group == 0:
            layer = name.removesuffix("weight")
            parts = mx.quantize(array, group_size=group, bits=bits)
            found |= dict(zip((name, f"{layer}scales", f"{layer}biases"), parts, strict=True))
        else:
            found[name] = array
    return found


def apart(folder: Path) -> None:
    """The duration head of a pack with its one projection as three, as mlx-community has it."""
    file = folder / "duration_head.safetensors"
    tensors, metadata = read(file)
    start = "duration_head.attention_pooler.cross_attn."
    for leaf in ("weight", "bias"):
        for name, piece in zip("qkv", mx.split(tensors.pop(f"{start}in_proj_{leaf}"), 3), strict=True):
            tensors[f"{start}{name}_proj.{leaf}"] = mx.contiguous(piece)
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors, metadata)


def text_folder(folder: Path, name: str, kind: str) -> None:
    """The text encoder of a pack as a folder `name` of its own with its config's model_type = `kind`."""
    place = folder / name
    place.mkdir()
    tensors, _ = read(folder / "text_encoder.safetensors")
    (folder / "text_encoder.safetensors").unlink()
    bare = {n.removeprefix("text_encoder."): array for n, array in tensors.items()}
    found = {n.replace("model.", "language_model.model.", 1) if n.startswith("model.") else n: bare[n] for n in bare}
    mx.eval(found)
    mx.save_safetensors(str(place / "model.safetensors"), found, {"format": "mlx"})
    config = json.loads((folder / "text_encoder_config.json").read_text()) | {"model_type": kind}
    write_json(place / "config.json", config)
    (folder / "text_encoder_config.json").unlink()
    for file in ASSETS.values():
        (folder / file).rename(place / file)


def _forged(name: str) -> str:
    return shorter(name).replace(".linear_1.", ".linear1.").replace(".linear_2.", ".linear2.")


def _video(tensors: Tensors, half: str, names: tuple[str, str]) -> Tensors:
    found = {name: channels_last(array) for name, array in under(tensors, f"{half}.").items()}
    for old, new in zip(("mean", "std"), names, strict=True):
        found[f"per_channel_statistics.{new}"] = tensors[f"per_channel_statistics.{old}-of-means"]
    return found


def _sound(tensors: Tensors) -> Tensors:
    found = {
        name: channels_last(array)
        for name, array in under(tensors, "audio_vae.").items()
        if name.startswith(("decoder.", "encoder."))
    }
    for old in ("mean", "std"):
        own = tensors[f"audio_vae.per_channel_statistics.{old}-of-means"]
        found[f"per_channel_statistics._{old}_of_means"] = own
    return found


def _text_encoder(folder: Path, official: Path, write: Callable[..., None], bits: int | None) -> None:
    tensors, metadata = read(official / small_pack.TEXT_ENCODER)
    for name, file in ASSETS.items():
        (folder / file).write_bytes(bytes(memoryview(tensors.pop(name))))
    write("text_encoder", packed(tensors, TEXT_LAYERS.search if bits else None, bits), {})
    write_json(folder / "text_encoder_config.json", json.loads(metadata["gemma_config"]))
