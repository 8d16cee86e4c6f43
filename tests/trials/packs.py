"""LTX-2.5's split pack, and another converter's pack of it, with one file that is not what it should be."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import changed
from tests.trials.material import Material, clip, put_together, take_apart

FILES = ("transformer", "text encoder", "text encoder", "video", "diffusion", "sound", "upsampler")
KINDS = (
    "metadata", "metadata", "metadata", "number", "number", "tokenizer", "no asset", "shape", "dtype", "gone", "empty",
    "truncated", "alone", "no file", "swapped", "mixed",
)  # fmt: skip
ASSETS = ("tokenizer_json", "hf_asset__tokenizer_config.json")
JSONS = ("embedded_config.json", "text_encoder_config.json", "split_model.json", "tokenizer.json",
         "tokenizer_config.json", "text_encoder_config.json")  # fmt: skip
FOREIGN = ("json", "json", "json", "shape", "dtype", "gone", "empty", "truncated", "no file", "no json", "swapped",
           "half packed")  # fmt: skip
FOREIGN_FILES = ("transformer-distilled", "connector", "text_encoder", "vae_decoder_conv", "vae_encoder_conv",
                 "audio_vae", "vocoder", "spatial_upscaler_x2_v1_0", "vae_decoder_av", "duration_head")  # fmt: skip
HUGE = (10**6, 10**9, 2**63, 10**30, 1e308, -1)


def official(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Files of the published form."""
    from tests.support import small_pack

    draw = source(seed, "pack", number)
    kind = nth(KINDS, number, seed)
    paths = {
        "transformer": small_pack.TRANSFORMER.format("distilled"), "text encoder": small_pack.TEXT_ENCODER,
        "video": small_pack.VIDEO, "diffusion": small_pack.DIFFUSION, "sound": small_pack.SOUND,
        "upsampler": small_pack.UPSAMPLER,
    }  # fmt: skip
    target = "text encoder" if kind in ("tokenizer", "no asset") else draw.choice(FILES)
    model = folder / "model"
    if kind == "mixed":
        return _mixed(material, model, draw)
    if kind == "alone":
        return _alone(material, model, paths["transformer"], target, paths[target])
    file = _linked(material.pack, model, paths[target])
    whole = material.pack / paths[target]
    data, what, named, expect = _disturbed(kind, whole, draw)
    if kind == "swapped":
        data = (material.pack / paths[draw.choice([name for name in paths if name != target])]).read_bytes()
    if data is not None:
        file.write_bytes(data)
    return _case("pack", f"{target}: {kind} {what}", model, material.pack, (file.name, target, *named), expect)


def foreign(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Files of another converter."""
    draw = source(seed, "foreign", number)
    kind, model = nth(FOREIGN, number, seed), folder / "model"
    if kind in ("json", "no json"):
        name = nth(JSONS, number, seed)
        file = _linked(material.foreign, model, name)
        tree = json.loads((material.foreign / name).read_text())
        path = draw.choice(spoil.places(tree))
        how = draw.choice(("value", "spelling", "without"))
        if kind == "json":
            file.write_bytes(
                spoil.misspelt(tree, draw.choice(spoil.SPELLINGS), draw)
                if how == "spelling"
                else json.dumps(
                    spoil.without(tree, path)
                    if how == "without"
                    else spoil.replaced(tree, path, spoil.wrong_value(spoil.at(tree, path), draw))
                ).encode()
            )
        what, names = f"{name} {how} {path}", (name, *map(str, path), "text_encoder", "tokenizer", "text encoder")
        return _case("foreign", f"{kind} {what}", model, material.foreign, names, "valid")
    name = f"{draw.choice(FOREIGN_FILES)}.safetensors"
    file = _linked(material.foreign, model, name)
    data, what, named, expect = _disturbed(kind, material.foreign / name, draw)
    if kind == "swapped":
        data = (material.foreign / f"{draw.choice(FOREIGN_FILES)}.safetensors").read_bytes()
    if data is not None:
        file.write_bytes(data)
    names = (name, *named, name.partition(".")[0].replace("_", " "), *_nouns(name))
    return _case("foreign", f"{name}: {kind} {what}", model, material.foreign, names, expect)


def _case(group: str, what: str, model: Path, whole: Path, names: tuple[str, ...], expect: str) -> Case:
    return Case(group, what, "generate", clip(model), names, expect, twin=clip(whole), fault=True)


def _nouns(name: str) -> tuple[str, ...]:
    return {
        "connector": ("connectors",), "vae_decoder_conv": ("video decoder",), "vae_encoder_conv": ("video encoder",),
        "audio_vae": ("audio",), "spatial_upscaler_x2_v1_0": ("upsampler",), "transformer-distilled": ("transformer",),
    }.get(name.partition(".")[0], ())  # fmt: skip


def _disturbed(kind: str, file: Path, draw: random.Random) -> tuple[bytes | None, str, tuple[str, ...], str]:
    """(content or None for no file, in words, what a refusal may name, what to expect)."""
    tree, data = take_apart(file)
    said = {key: value for key, value in (tree.get("__metadata__") or {}).items() if value.startswith("{")}
    if kind in ("metadata", "number") and said:
        return _metadata(kind, tree, data, draw.choice(sorted(said)), draw)
    if kind in ("tokenizer", "no asset"):
        name = draw.choice(ASSETS)
        start, end = tree[name]["data_offsets"]
        made, how = _bytes(data[start:end], draw)
        entry = None if kind == "no asset" else {"shape": [len(made)]}
        return changed(file, name, entry, made), f"{name} {how}", (name, "tokenizer"), "valid"
    if kind == "empty":
        return b"", "", (), "valid"
    if kind == "truncated":
        whole = file.read_bytes()
        return whole[: draw.randrange(len(whole))], "", (), "valid"
    if kind in ("no file", "swapped"):
        return None, "", (), "valid"
    name = draw.choice([key for key in tree if key != "__metadata__"])
    start, end = tree[name]["data_offsets"]
    shape, piece = tree[name]["shape"], data[start:end]
    if kind in ("gone", "metadata", "number"):
        return changed(file, name, None, b""), name, (name,), "valid"
    if kind == "dtype":
        other = draw.choice([d for d in ("I16", "U16", "F16", "F8_E4M3", "I8", "U8") if d != tree[name]["dtype"]])
        size = 1 if other in ("F8_E4M3", "I8", "U8") else 2
        made = piece[: len(piece) // 2 * size] if tree[name]["dtype"] in ("BF16", "F16") else piece
        entry: dict[str, Any] = {
            "dtype": other,
            "shape": shape if len(made) != len(piece) or size == 2 else [len(made)],
        }
        return changed(file, name, entry, made), f"{name} {other}", (name,), "valid"
    if kind == "half packed":
        return changed(file, name, {}, piece, f"{name.rpartition('.')[0]}.scales"), name, (name,), "valid"
    return changed(file, name, {"shape": [1, *reversed(shape)]}, piece), name, (name,), "valid"


def _metadata(kind: str, tree: dict, data: bytes, key: str, draw: random.Random) -> tuple:
    value = json.loads(tree["__metadata__"][key])
    path = draw.choice(spoil.places(value))
    if kind == "number":
        numbers = [p for p in spoil.places(value) if type(spoil.at(value, p)) in (int, float)]
        path = draw.choice(numbers or [path])
        text = json.dumps(spoil.replaced(value, path, draw.choice(HUGE)))
    elif draw.random() < 0.3:
        text = spoil.misspelt(value, draw.choice(spoil.SPELLINGS), draw).decode("utf-8", "replace")
    else:
        text = json.dumps(spoil.replaced(value, path, spoil.wrong_value(spoil.at(value, path), draw)))
    tree["__metadata__"][key] = text
    return put_together(tree, data), f"{key} {path}", (key, *map(str, path), "config", "metadata"), "valid"


def _bytes(piece: bytes, draw: random.Random) -> tuple[bytes, str]:
    how = draw.choice(("cut", "flipped", "empty", "binary"))
    made = {
        "cut": piece[: draw.randrange(len(piece))], "flipped": spoil.byte_flips(piece, draw), "empty": b"",
        "binary": draw.randbytes(len(piece)),
    }  # fmt: skip
    return made[how], how


def _alone(material: Material, model: Path, transformer: str, target: str, kept: str) -> Case:
    for name in dict.fromkeys((transformer, kept)):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).symlink_to(material.pack / name)
    names = ("text encoder", "video", "audio", "upsampler", "beside it")
    line = clip(model)
    return Case("pack", f"the transformer and {target} alone", "generate", line, names, "refused", twin=None)


def _mixed(material: Material, model: Path, draw: random.Random) -> Case:
    """Files of LTX-2.3 and LTX-2.5 in one folder of ComfyUI's models."""
    _linked(material.pack, model, None)
    places = {"lora": "loras", "upscaler": "latent_upscale_models", "22b": "diffusion_models"}
    for file in material.model.glob("*.safetensors"):
        place = next(place for word, place in places.items() if word in file.name)
        (model / place / file.name).symlink_to(file)
    where: Path = model
    if draw.random() < 0.6:
        where = draw.choice(sorted((model / "diffusion_models").iterdir()))
    what = f"2.3 and 2.5 side by side, {where.name}"
    distilled = "dev" not in where.name
    encoder = ("--text-encoder-repo", material.gemma) if "2.3" in where.name else ()
    line = clip(where, *encoder, *(() if distilled else ("--pipeline", "dev", "--steps", "2")))
    return Case("pack", what, "generate", line, (where.name, "text encoder", "variant", "2.3", "2.5"), "right")


def _linked(whole: Path, model: Path, changed_file: str | None) -> Path:
    """A folder that links to everything of `whole` but one file: where that is to be."""
    for file in whole.rglob("*"):
        inside = file.relative_to(whole)
        if file.is_file() and str(inside) != changed_file and "dev" not in file.name:
            (model / inside).parent.mkdir(parents=True, exist_ok=True)
            (model / inside).symlink_to(file)
    place = model / (changed_file or "")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
