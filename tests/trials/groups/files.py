"""Which safetensors files are disturbed, the runs that read them, and the ways to change one of their tensors."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trials.material import Material, clip, put_together, take_apart

TARGETS = ("checkpoint", "checkpoint", "checkpoint", "gemma", "upsampler", "lora", "embedding", "converted")
"""Which file is disturbed; the checkpoint more often, as most of what can be wrong is in it."""

COMPONENTS = (
    "model.diffusion_model.transformer_blocks.", "model.diffusion_model.", "vae.decoder.", "vae.encoder.",
    "audio_vae.", "vocoder.",
    "text_embedding_projection.", "vae.per_channel_statistics.", "model.diffusion_model.video_embeddings_connector.",
)  # fmt: skip

WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
}

BAD_VALUES = {"NaN": 0x7FC0, "inf": 0x7F80, "-inf": 0xFF80, "huge": 0x7F7F, "negative NaN": 0xFFFF}
"""Patterns of bfloat16, and so the upper halves of float32."""


def original(target: str, material: Material) -> Path:
    """The file of that name."""
    return {
        "checkpoint": material.checkpoint, "gemma": material.gemma / "model.safetensors",
        "upsampler": material.upsampler,
        "lora": material.lora, "embedding": material.embedding,
        "converted": sorted(material.converted.rglob("*.safetensors"))[0],
    }[target]  # fmt: skip


def used(target: str, data: bytes | Callable[[Path], object], material: Material, folder: Path, *more: Any) -> tuple:
    """(command line, undisturbed line, names) of a run that reads `data` (or what a function makes) as the target."""
    path = original(target, material)
    if target in ("lora", "embedding"):
        file = folder / path.name
        lines = [_given(target, place, material, *more) for place in (file, path)]
    elif target == "converted":
        shutil.copytree(material.converted, folder / "model")
        file = folder / "model" / path.relative_to(material.converted)
        gemma = ("--text-encoder-repo", material.gemma)
        lines = [clip(place, *gemma, *more) for place in (folder / "model", material.converted)]
    else:
        model, file = material.model_with(folder / "model", path, b"")
        lines = [clip(place, *more) for place in (model, material.model)]
    file.unlink(missing_ok=True)
    if callable(data):
        data(file)
    else:
        file.write_bytes(data)
    return lines[0], lines[1], (file.name, file.parent.name if file.parent != folder else file.stem)


def _given(target: str, place: Path, material: Material, *more: Any) -> tuple[str, ...]:
    if target == "lora":
        return clip(material.model, "--lora", place, *more)
    return (*clip(material.model, *more)[2:], "--embedding", str(place))


def changed(path: Path, name: str, entry: dict[str, Any] | None, payload: bytes, new_name: str | None = None) -> bytes:
    """The file with one tensor's entry (dtype, shape) and bytes replaced, well described; None leaves it out."""
    tree, data = take_apart(path)
    made, pieces, at = {"__metadata__": tree.pop("__metadata__", {})}, [], 0
    for key, old in sorted(tree.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = old["data_offsets"]
        piece, said = data[start:end], old
        if key == name:
            if entry is None:
                continue
            key, piece, said = new_name or key, payload, {**old, **entry}
        made[key] = {**said, "data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    return put_together(made, b"".join(pieces))


def drawn_tensor(path: Path, draw: random.Random, number: int) -> tuple[str, dict[str, Any], bytes]:
    """(name, entry, bytes) of one tensor, of the official checkpoint from one component after the other."""
    tree, data = take_apart(path)
    names = [key for key in tree if key != "__metadata__"]
    prefix = COMPONENTS[number % len(COMPONENTS)]
    names = [key for key in names if key.startswith(prefix)] or names
    name = draw.choice(names)
    start, end = tree[name]["data_offsets"]
    return name, tree[name], data[start:end]


def poisoned(entry: dict[str, Any], data: bytes, kind: str, draw: random.Random) -> bytes:
    """The tensor with one value, some, or all of them replaced by one that no weight has."""
    width = WIDTHS[entry["dtype"]]
    pattern = (
        struct.pack("<H", BAD_VALUES[kind])
        if width == 2
        else struct.pack("<HH", 0xFFFF if kind == "huge" else 0, BAD_VALUES[kind])
    )
    count = len(data) // width
    where = draw.choice(([draw.randrange(count)], range(0, count, 7), range(count)))
    made = bytearray(data)
    for i in where:
        made[i * width : (i + 1) * width] = pattern
    return bytes(made)
