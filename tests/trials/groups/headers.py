"""Safetensors files that are cut, or whose header says other things than their data are."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import (
    TARGETS,
    original,
    used,
)
from tests.trials.material import Material, put_together, take_apart

DTYPES = (
    "BOOL",
    "U8",
    "I8",
    "F8_E4M3",
    "F8_E5M2",
    "U16",
    "I16",
    "F16",
    "U32",
    "I32",
    "F32",
    "U64",
    "I64",
    "F64",
    "C64",
    "F4",
    "f32",
    "",
)


def truncated(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A file cut anywhere: in its first bytes, its header, its data, or of nothing but its last byte."""
    draw = source(seed, "truncated", number)
    target = nth(TARGETS, number, seed)
    data = original(target, material).read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    cut = draw.choice(
        (0, 1, 7, 8, 9, header - 1, header, len(data) - 1, draw.randrange(header), draw.randrange(len(data)))
    )
    line, twin, names = used(target, data[:cut], material, folder)
    return Case("truncated", f"{target} cut to {cut} of {len(data)} bytes", "generate", line, names, "refused", twin)


HEADERS = (
    "flips", "flips", "flips", "misspelt", "misspelt", "length", "dtype", "shape", "offsets", "entry", "metadata",
    "version", "tail", "swap",
    "extra", "lost", "odd name", "zero size", "numbers as text", "negative", "fraction", "two at one place",
)  # fmt: skip

VERSIONS = (
    "",
    "abc",
    "9.9.9",
    "-1",
    "2",
    "2.3.0.0.0",
    "9" * 400,
    "nan",
    "².3",
    "2.³",
    " 2.3 ",
    "2,3",
    "0.9.8",
    "2.3-dev",
    "v2.3",
    "null",
)


def header(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A header that says other things than the data are."""
    draw = source(seed, "header", number)
    kind, target = nth(HEADERS, number, seed), draw.choice(TARGETS)
    tree, data = take_apart(original(target, material))
    raw, name, tail = _misdescribed(kind, tree, draw)
    # Two tensors of one shape that are swapped, or another 16-bit format: nobody can see that.
    unseen = kind == "swap" or (kind == "dtype" and tree[name].get("dtype") in ("F16", "F8_E4M3", "F8_E5M2"))
    expect = "right" if kind == "flips" else "valid" if kind == "version" or unseen else "same"
    if kind == "length":
        made = (
            struct.pack("<Q", draw.choice((0, 1, 2**63, 2**64 - 1, 10**8, 10**9, len(raw) - 1, len(raw) + 1)))
            + raw
            + data
        )
    else:
        made = put_together(raw, data + tail)
    line, twin, names = used(target, made, material, folder)
    return Case("header", f"{target}: {kind} {name}", "generate", line, (*names, name), expect, twin)


def _misdescribed(kind: str, tree: dict[str, Any], draw: random.Random) -> tuple[bytes, str, bytes]:
    """(header, name of the tensor concerned, bytes after the data)."""
    names = [key for key in tree if key != "__metadata__"]
    name, other = draw.sample(names, 2)
    entry, tail = tree[name], b""
    huge = draw.choice((2**31, 2**40, 2**63, 10**30))
    if kind == "flips":
        return spoil.byte_flips(json.dumps(tree).encode(), draw), "", tail
    if kind == "misspelt":
        how = draw.choice(spoil.SPELLINGS)
        return spoil.misspelt(tree, how, draw), how, tail
    if kind == "dtype":
        entry["dtype"] = draw.choice((*DTYPES, None, 1, []))
    elif kind == "shape":
        entry["shape"] = draw.choice(
            ([], [0], [-1], [huge], [huge, 0], [1] * 1000, [1.0], ["1"], None, {}, [None], [True], [[1]])
        )
    elif kind == "offsets":
        start, end = entry["data_offsets"]
        entry["data_offsets"] = draw.choice(
            ([end, start], [start], [], [start - 1, end], [start, end + 1], [start, huge], [-huge, end], [0, 0], None,
            "0", [start, end, end],
             [start + 0.0, end], [str(start), str(end)], [True, end], [start + 2, end + 2])
        )  # fmt: skip
    elif kind == "entry":
        tree[name] = draw.choice((None, [], 1, "F32", {}, {"dtype": "F32"}, {**entry, "more": 1}))
    elif kind == "metadata":
        wrong = draw.choice(
            (None, [], 1, "text", {"config": 1}, {"config": None}, {"config": ["x"]}, {"config": "text"}, {"a": {}})
        )
        tree["__metadata__"] = wrong
    elif kind == "version":
        tree.setdefault("__metadata__", {})["model_version"] = name = draw.choice(VERSIONS)
    elif kind == "tail":
        tail = draw.randbytes(draw.choice((1, 8, 1000)))
    elif kind == "swap":
        tree[name], tree[other] = tree[other], tree[name]
    elif kind == "extra":
        tree["extra.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [entry["data_offsets"][1]] * 2}
    elif kind == "lost":
        del tree[name]
    elif kind == "odd name":
        tree[draw.choice(("", " ", "a\nb", "\0", "x" * 100_000, "../x", "\ud800", name + "\u200b"))] = tree.pop(name)
    elif kind == "zero size":
        entry.update(shape=[0, *entry["shape"]], data_offsets=[entry["data_offsets"][0]] * 2)
    elif kind == "numbers as text":
        entry["shape"] = [str(side) for side in entry["shape"]]
    elif kind == "negative":
        entry["shape"] = [-side for side in entry["shape"]]
    elif kind == "fraction":
        entry["shape"] = [side + 0.5 for side in entry["shape"]]
    elif kind == "two at one place":
        entry["data_offsets"] = tree[other]["data_offsets"]
    return json.dumps(tree).encode(), name, tail
