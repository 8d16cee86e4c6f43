"""Tensors of another shape, type or name, and tensors with numbers that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import (
    BAD_VALUES,
    TARGETS,
    WIDTHS,
    changed,
    drawn_tensor,
    original,
    poisoned,
    used,
)
from tests.trials.material import Material

SHAPES = (
    "transposed",
    "longer",
    "shorter",
    "flat",
    "one axis more",
    "one axis less",
    "empty",
    "lost",
    "renamed",
    "dtype",
    "dtype",
    "dtype",
    "twice",
)


def tensors(number: int, seed: int, material: Material, folder: Path) -> Case:
    """One tensor of another shape, another type, another name, or none, in a file that describes it rightly."""
    draw = source(seed, "tensors", number)
    kind, target = nth(SHAPES, number, seed), draw.choice(TARGETS)
    path = original(target, material)
    name, entry, data = drawn_tensor(path, draw, number)
    shape, width = list(entry["shape"]), WIDTHS[entry["dtype"]]
    new: dict[str, Any] | None = {}
    new_name, detail = None, ""
    if kind == "transposed":
        new = {"shape": shape[::-1]}
    elif kind == "longer":
        new, data = {"shape": [shape[0] + 1, *shape[1:]]}, data + data[: len(data) // shape[0]]
    elif kind == "shorter":
        new, data = {"shape": [shape[0] - 1, *shape[1:]]}, data[: len(data) // shape[0] * (shape[0] - 1)]
    elif kind == "flat":
        new = {"shape": [len(data) // width]}
    elif kind == "one axis more":
        new = {"shape": [*shape, 1] if draw.random() < 0.5 else [1, *shape]}
    elif kind == "one axis less":
        new = {"shape": [shape[0] * shape[1], *shape[2:]] if len(shape) > 1 else []}
        data = data if len(shape) > 1 else data[:width]
    elif kind == "empty":
        new, data = {"shape": [0, *shape[1:]]}, b""
    elif kind == "lost":
        new = None
    elif kind == "renamed":
        new_name = draw.choice((name + "_", name.upper(), name.replace(".", "/"), "x." + name, name[:-1]))
    elif kind == "dtype":
        detail = draw.choice([dtype for dtype in WIDTHS if dtype not in ("F16", "F32", "BF16")] + ["F64", "I64"])
        wide = WIDTHS.get(detail, 8)
        new, data = {"dtype": detail}, (data * 8)[: len(data) // width * wide]
    made = changed(path, name, new, data, new_name)
    line, twin, names = used(target, made, material, folder)
    # Weights of 8 bit are read as such: nobody can see that they were others.
    expect = "valid" if detail.startswith("F8") else "same"
    words = (*names, name, *name.rsplit(".", 1)[:1])
    return Case("tensors", f"{target}: {name} {kind} {detail}", "generate", line, words, expect, twin)


def values(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Numbers that are not finite, or so large that what follows is not."""
    draw = source(seed, "values", number)
    kind = nth(tuple(BAD_VALUES), number, seed)
    target = draw.choice(("checkpoint", "checkpoint", "checkpoint", "gemma", "upsampler", "lora", "embedding"))
    path = original(target, material)
    name, entry, data = drawn_tensor(path, draw, number)
    more = ("--no-audio",) if draw.random() < 0.4 else ()
    if name.startswith("vae.encoder."):
        more = ("--image", material.picture, *more)
    elif name.startswith("audio_vae.encoder."):
        more = ("--audio-file", material.sound)
    made = changed(path, name, {}, poisoned(entry, data, kind, draw))
    line, twin, names = used(target, made, material, folder, *more)
    expect = {"huge": "valid", "inf": "right", "-inf": "right"}.get(kind, "same")
    return Case(
        "values", f"{target}: {kind} in {name} {' '.join(map(str, more[:1]))}", "generate", line, (*names, name,
        "finite", "NaN"),
        expect, twin, fault=True,
    )  # fmt: skip
