"""LoRAs that fit nowhere, contradict themselves or bring patterns that never end."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import (
    changed,
    poisoned,
)
from tests.trials.material import Material, clip, put_together, take_apart

PATTERNS = (
    "(([a-z0-9_.]+)+)+Z",
    "(a|aa)+$",
    ".*" * 30 + "x",
    "(",
    "[",
    "(?P<x>",
    "\\",
    "x" * 100_000,
    "(.*)*" * 20,
    "^(\\w+\\s?)*$",
    "{9999999999}",
)

LORAS = (
    "pattern", "pattern", "rank pattern", "beside", "beside", "alpha", "alpha", "alpha", "half", "rank", "rank zero",
    "axes", "dtype", "NaN", "inf",
    "huge", "other layer", "other size", "extra", "dora", "twice", "settings", "settings", "no pair", "all renamed",
    "strength", "two files", "empty folder",
)  # fmt: skip

ALPHAS = (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0)


def lora(number: int, seed: int, material: Material, folder: Path) -> Case:
    """LoRAs that fit nowhere, contradict themselves or bring patterns that never end."""
    draw = source(seed, "lora", number)
    kind = nth(LORAS, number, seed)
    tree, data = take_apart(material.lora)
    place = folder / "lora"
    place.mkdir()
    file, strength = place / "mine.safetensors", "1"
    made, names, expect = _lora(kind, tree, data, draw, material, place)
    if kind == "strength":
        strength = draw.choice(("nan", "inf", "1e9", "-11", "", "x", "1e400", "1,0", "²", "--"))
        names, expect = (strength, "strength"), "refused"
    if kind != "empty folder":
        file.write_bytes(made)
    given = place if kind in ("beside", "two files", "empty folder") or draw.random() < 0.3 else file
    line, twin = clip(material.model, "--lora", given, strength), clip(material.model, "--lora", material.lora)
    return Case(
        "lora",
        f"{kind} {names[0][:60] if names else ''}",
        "generate",
        line,
        (*names, "lora", "mine.safetensors"),
        expect,
        twin,
        fault=kind == "huge",
    )


Made = tuple[bytes, tuple[str, ...], str]
"""A file, what a refusal may name, what to expect."""


def _lora(kind: str, tree: dict, data: bytes, draw: random.Random, material: Material, place: Path) -> Made:
    key = draw.choice([key for key in tree if key != "__metadata__"])
    names = (key, key.rpartition(".lora_")[0])
    if kind in ("pattern", "rank pattern", "settings", "beside"):
        word = _settings(kind, tree, draw, place)
        return put_together(tree, data), (*word, "alpha", "pattern", "adapter_config.json"), "valid"
    start, end = tree[key]["data_offsets"]
    if kind in ("NaN", "inf", "huge"):
        made = changed(material.lora, key, {}, poisoned(tree[key], data[start:end], kind, draw))
        return made, (*names, "finite"), "refused" if kind != "huge" else "valid"
    rows, columns = tree[key]["shape"]
    other: dict[str, tuple[dict | None, bytes]] = {
        "half": (None, b""), "rank": ({"shape": [columns, rows]}, data[start:end]), "rank zero": ({"shape": [0,
        columns]}, b""),
        "axes": ({"shape": [rows, columns, 1]}, data[start:end]), "other size": ({"shape": [rows, 1]},
        data[start : start + rows * 2]),
    }  # fmt: skip
    if kind in other:
        return changed(material.lora, key, *other[kind]), names, "refused"
    if kind == "alpha":
        value = draw.choice(ALPHAS)
        tree[f"{names[1]}.alpha"] = {"dtype": "F32", "shape": [], "data_offsets": [len(data), len(data) + 4]}
        expect = "valid" if value in (-1.0, 0.0, 1e38) else "refused"
        return put_together(tree, data + struct.pack("<f", value)), (names[1], "alpha", str(value)), expect
    tree, data = _described(kind, tree, data, key, draw)
    if kind == "two files":
        shutil.copy(material.lora, place / "second.safetensors")
    return put_together(tree, data), names, "same" if kind == "strength" else "refused"


def _settings(kind: str, tree: dict, draw: random.Random, place: Path) -> tuple[str, ...]:
    """Gives the LoRA settings, in its metadata or in a file beside it; what a refusal may name."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 4, "alpha_pattern": {}, "use_rslora": False, "use_dora": False}
    word, prefix = draw.choice(PATTERNS), ""
    if kind == "beside":
        how = draw.choice((*spoil.SPELLINGS, "pattern"))
        text = json.dumps(settings | {"alpha_pattern": {word: 1}}).encode()
        (place / "adapter_config.json").write_bytes(text if how == "pattern" else spoil.misspelt(settings, how, draw))
        return (how,)
    if kind == "settings":
        word = draw.choice(list(settings))
        settings[word] = spoil.wrong_value(settings[word], draw)
    else:
        settings["alpha_pattern" if kind == "pattern" else "rank_pattern"] = {word: 8}
        prefix = draw.choice(("", "transformer."))
    metadata = tree.setdefault("__metadata__", {})
    metadata["lora_adapter_metadata"] = json.dumps({prefix + key: value for key, value in settings.items()})
    return (word,)


def _described(kind: str, tree: dict, data: bytes, key: str, draw: random.Random) -> tuple[dict, bytes]:
    """The header with other names or types in it."""
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    if kind == "dtype":
        tree[key]["dtype"] = draw.choice(("I16", "U16"))
    elif kind == "other layer":
        tree["diffusion_model.nowhere.lora_A.weight"] = tree.pop(key)
    elif kind == "extra":
        tree["diffusion_model.nowhere.lora_A.weight"] = nothing
    elif kind == "dora":
        tree[f"{key.rpartition('.lora_')[0]}.dora_scale"] = nothing
    elif kind == "twice":
        tree[key.replace("diffusion_model.", "transformer.")] = nothing
    elif kind == "no pair":
        return {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data[:4]
    elif kind == "all renamed":
        word = draw.choice(("lokr_", "hada_", "LORA_"))
        return {name.replace("lora_", word): value for name, value in tree.items()}, data
    return tree, data
