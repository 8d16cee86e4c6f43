"""Folders that are not what they seem: indexes, converted folders, pickles, links, strange neighbours."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.material import Material, clip, put_together, take_apart

SHARDS = 3
INDEXES = (
    "parent", "absolute", "missing", "extra name", "other shard", "number", "list", "null", "no map", "empty map",
    "duplicate",
    "fifo", "directory", "link out", "backslash", "dot", "self", "device", "misspelt", "flips", "percent",
    "upper case", "many",
)  # fmt: skip


def split(source_file: Path, folder: Path) -> dict:
    """Writes a safetensors file's tensors as shards with an index, and returns the index."""
    header, data = take_apart(source_file)
    metadata = header.pop("__metadata__", {})
    names = list(header)
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for part in range(SHARDS):
        mine, piece = {"__metadata__": metadata}, b""
        for name in names[part::SHARDS]:
            start, end = header[name]["data_offsets"]
            mine[name] = {**header[name], "data_offsets": [len(piece), len(piece) + end - start]}
            piece += data[start:end]
            weight_map[name] = shard_name(part)
        (folder / shard_name(part)).write_bytes(put_together(mine, piece))
    return {"metadata": {"total_size": len(data)}, "weight_map": weight_map}


def shard_name(part: int) -> str:
    """As Hugging Face names them."""
    return f"model-{part + 1:05}-of-{SHARDS:05}.safetensors"


def _strange(kind: str, tree: dict, gemma: Path, outside: Path, draw) -> bytes:
    weights = tree["weight_map"]
    name = draw.choice(list(weights))
    moved = shard_name(0)
    values = {
        "parent": f"../../{outside.name}/{moved}", "absolute": str(outside / moved),
        "missing": "model-00009.safetensors",
        "other shard": shard_name(2 if weights[name] != shard_name(2) else 1), "number": 1, "list": [moved],
        "null": None,
        "backslash": f"..\\{moved}", "dot": ".", "self": "model.safetensors.index.json", "device": "/dev/zero",
        "percent": "%2e%2e%2fmodel.safetensors", "upper case": moved.upper(), "fifo": "fifo.safetensors",
        "directory": "d.safetensors",
        "link out": "link.safetensors",
    }  # fmt: skip
    if kind in ("parent", "absolute"):
        for key, value in weights.items():
            weights[key] = values[kind] if value == moved else value
    elif kind in values:
        weights[name] = values[kind]
    if kind == "fifo":
        os.mkfifo(gemma / "fifo.safetensors")
    elif kind == "directory":
        (gemma / "d.safetensors").mkdir()
    elif kind == "link out":
        (gemma / "link.safetensors").symlink_to("/etc/passwd")
    elif kind == "extra name":
        weights["not.there.weight"] = moved
    elif kind == "no map":
        del tree["weight_map"]
    elif kind == "empty map":
        tree["weight_map"] = {}
    elif kind == "many":
        weights.update({f"x{i}": moved for i in range(20_000)})
    if kind == "duplicate":
        return json.dumps(tree)[:-1].encode() + b', "weight_map": {"a": "../x"}}'
    if kind == "misspelt":
        return spoil.misspelt(tree, draw.choice(spoil.SPELLINGS), draw)
    return spoil.byte_flips(json.dumps(tree).encode(), draw) if kind == "flips" else json.dumps(tree).encode()


def index(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Gemma's weights, or a converted transformer, as shards with an index that says strange things."""
    draw = source(seed, "index", number)
    kind = nth(INDEXES, number, seed)
    outside = folder / "outside"
    outside.mkdir()
    if number % 3 == 2:
        model = folder / "model"
        shutil.copytree(material.converted, model)
        place = model / "transformer"
        tree = split(next(place.glob("*.safetensors")), folder / "parts")
        shutil.rmtree(place)
        shutil.move(folder / "parts", place)
    else:
        model = material.model_without(folder / "model", material.gemma)
        place = model / "gemma"
        shutil.copytree(material.gemma, place, ignore=lambda *_: ["model.safetensors"])
        tree = split(material.gemma / "model.safetensors", place)
    if kind in ("parent", "absolute"):
        shutil.move(place / shard_name(0), outside)
    (place / "model.safetensors.index.json").write_bytes(_strange(kind, tree, place, outside, draw))
    whole = material.converted if number % 3 == 2 else material.model
    names = ("index", place.name, shard_name(0), "model-00009", "weight")
    expect = "refused" if kind in ("parent", "absolute") else "same"
    line, twin = (clip(where, "-n", "1", "--no-audio", *_gemma(where, material)) for where in (model, whole))
    return Case("index", f"{place.name}: {kind}", "generate", line, names, expect, twin=twin)


def _gemma(where: Path, material: Material) -> tuple[object, ...]:
    return () if (where / "gemma").exists() else ("--text-encoder-repo", material.gemma)


class _Touch:
    """Whoever unpickles this leaves a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))


PICKLES = ("plain", "torch zip", "npy object", "npz object", "joblib", "protocol 0")
PLACES = (
    "model", "model folder", "lora", "embedding", "gemma weights", "beside", "text encoder", "upsampler", "image",
    "audio", "upscale",
)  # fmt: skip


def _pickle(kind: str, mark: Path) -> bytes:
    trap = _Touch(mark)
    made = io.BytesIO()
    if kind == "torch zip":
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": trap}))
            archive.writestr("archive/version", "3")
    elif kind == "npy object":
        np.save(made, np.array([trap], dtype=object), allow_pickle=True)
    elif kind == "npz object":
        np.savez(made, prompts=np.array([trap], dtype=object))
    else:
        made.write(pickle.dumps(trap, protocol=0 if kind == "protocol 0" else 4))
    return made.getvalue()


def pickled(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A pickle under a name that is looked at; nothing may ever open it."""
    draw = source(seed, "pickle", number)
    place, kind = nth([(place, kind) for place in PLACES for kind in PICKLES], number, seed)
    # Whatever opens the pickle leaves a file behind, and so is counted with the partial ones.
    mark = folder / "the pickle was opened"
    data = _pickle(kind, mark)
    suffix = draw.choice((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".pkl"))
    file = folder / f"trap{suffix}"
    file.write_bytes(data)
    model = folder / "model"
    if place in ("gemma weights", "beside", "upsampler", "model folder"):
        target = {
            "gemma weights": material.gemma / "model.safetensors", "upsampler": material.upsampler,
            "model folder": material.checkpoint, "beside": material.gemma / "pytorch_model.bin",
        }[place]  # fmt: skip
        material.model_with(model, target, data)
    lines = {
        "model": ("generate", clip(file)), "lora": ("generate", clip(material.model, "--lora", file)),
        "embedding": ("generate", (*clip(material.model)[2:], "--embedding", str(file))),
        "text encoder": ("generate", clip(material.model, "--text-encoder-repo", file)),
        "image": ("generate", clip(material.model, "--image", file)),
        "audio": ("generate", clip(material.model, "--audio-file", file)),
        "upscale": ("upscale", ("-i", str(file), "--model-repo", str(material.model), "-o", "out.mp4")),
    }  # fmt: skip
    command, line = lines.get(place, ("generate", clip(model)))
    expect = "same" if place == "beside" else "refused"
    names = (
        file.name,
        "model.safetensors",
        material.upsampler.name,
        material.checkpoint.name,
        "pytorch_model.bin",
        "trap",
    )
    return Case("pickle", f"{kind} as {place} {suffix}", command, line, names, expect, twin=clip(material.model))


FOLDERS = (
    "marker", "marker", "marker", "marker", "marker", "missing part", "empty part", "two shards twice", "loop",
    "many neighbours", "two checkpoints",
    "odd names", "nested", "file as folder", "fifo beside", "directory named like a file", "broken link",
    "part as link loop",
    "code beside", "unreadable marker", "moved", "hidden files",
)  # fmt: skip


def folder(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A converted folder whose marker or parts are not right, or a checkpoint in strange company."""
    draw = source(seed, "folder", number)
    kind = nth(FOLDERS, number, seed)
    model = folder / "model"
    shutil.copytree(material.converted, model, symlinks=True)
    words, expect, names = _disturbed(kind, model, draw, number, seed)
    gemma = ("--text-encoder-repo", material.gemma)
    line, twin = (clip(where, "-n", "1", *gemma) for where in (model, material.converted))
    names = (*names, "mlx_video.json", "model", "component")
    return Case("folder", words, "generate", line, names, expect, twin=twin)


def _disturbed(kind: str, model: Path, draw, number: int, seed: int) -> tuple[str, str, tuple[str, ...]]:
    marker = model / "mlx_video.json"
    parts = sorted(path for path in model.rglob("*") if path.is_dir() and any(path.glob("*.safetensors")))
    part = draw.choice(parts)
    if kind == "marker":
        tree = json.loads(marker.read_text())
        path = nth(spoil.places(tree), number, seed)
        how = draw.random()
        if how < 0.3:
            spelling = draw.choice(spoil.SPELLINGS)
            marker.write_bytes(spoil.misspelt(tree, spelling, draw))
            return f"marker spelt as {spelling}", "same", ()
        new = spoil.wrong_value(spoil.at(tree, path), draw)
        marker.write_text(json.dumps(spoil.replaced(tree, path, new)))
        return f"marker: {'.'.join(map(str, path))} = {new!r}"[:100], "same", tuple(map(str, path))
    makers = {
        "missing part": lambda: shutil.rmtree(part),
        "empty part": lambda: [file.unlink() for file in part.iterdir()],
        "two shards twice": lambda: shutil.copy(next(part.glob("*.safetensors")), part / "again.safetensors"),
        "loop": lambda: (model / "loop").symlink_to(model),
        "many neighbours": lambda: [(model / f"n{i}.safetensors").touch() for i in range(2000)],
        "two checkpoints": lambda: shutil.copytree(model, model / "other"),
        "odd names": lambda: [(model / name).touch() for name in ("\udcff", "a\nb", "-rf", "\x1b[31m.safetensors")],
        "nested": lambda: shutil.copytree(part, part / "inner"),
        "file as folder": lambda: (shutil.rmtree(part), part.touch()),
        "fifo beside": lambda: os.mkfifo(model / "x.safetensors"),
        "directory named like a file": lambda: (part / "x.safetensors").mkdir(),
        "broken link": lambda: (part / "x.safetensors").symlink_to("nowhere"),
        "part as link loop": lambda: (shutil.rmtree(part), part.symlink_to(part.name)),
        "code beside": lambda: [(model / name).write_text("raise SystemExit(9)") for name in ("evil.py", "__init__.py",
        "setup.py")],
        "unreadable marker": lambda: (marker.unlink(), marker.mkdir()),
        "moved": lambda: None,
        "hidden files": lambda: [(part / name).write_bytes(b"\0" * 100) for name in ("._model.safetensors",
        ".DS_Store")],
    }  # fmt: skip
    makers[kind]()
    return f"{kind} ({part.relative_to(model)})", "same", (part.name, "safetensors")
