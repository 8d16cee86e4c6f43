"""Files with the mark of an embedding and other contents."""

from __future__ import annotations

import json
from pathlib import Path

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import (
    changed,
    poisoned,
    used,
)
from tests.trials.material import Material, put_together, take_apart

EMBEDDINGS = (
    "lost", "renamed", "dtype", "transposed", "no tokens", "longer", "NaN", "inf", "no mark", "other mark",
    "other connectors", "no connectors", "prompts",
    "extra", "all lost", "narrow", "batch", "negative lost", "flips", "swap", "huge", "misspelt prompts",
)  # fmt: skip


def embedding(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A file with the mark of an embedding and other contents."""
    draw = source(seed, "embedding", number)
    kind = nth(EMBEDDINGS, number, seed)
    path = material.embedding
    tree, data = take_apart(path)
    metadata = tree["__metadata__"]
    name, other = draw.sample([key for key in tree if key != "__metadata__"], 2)
    entry = tree[name]
    start, end = entry["data_offsets"]
    mine, shape, expect = data[start:end], entry["shape"], "refused"
    made = b""
    width = len(mine) // max(1, _size(shape))
    if kind in ("lost", "renamed"):
        made = changed(path, name, None if kind == "lost" else {}, mine, name + "x")
    elif kind == "dtype":
        made = changed(path, name, {"dtype": "I32" if width == 4 else "I16"}, mine)
    elif kind in ("transposed", "narrow", "batch", "no tokens", "longer"):
        new = {
            "transposed": shape[::-1], "narrow": [*shape[:-1], shape[-1] // 2], "batch": [2, *shape[1:]],
            "no tokens": [*shape[:-2], 0, shape[-1]], "longer": [*shape[:-2], shape[-2] + 1, shape[-1]],
        }[kind]  # fmt: skip
        made = changed(path, name, {"shape": new}, (mine * 2)[: _size(new) * width])
        expect = "same"
    elif kind in ("NaN", "inf", "huge"):
        made = changed(path, name, {}, poisoned(entry, mine, kind, draw))
        expect = "valid" if kind == "huge" else "same"
    elif kind in ("no mark", "other mark", "other connectors", "no connectors", "prompts", "misspelt prompts"):
        key = {"no mark": "format", "other mark": "format", "prompts": "prompts", "misspelt prompts": "prompts"}.get(
            kind, "connectors"
        )
        value = draw.choice(("", "text", "[]", "[" * 9000, "1", "null", '{"positive": 1}', "{"))
        metadata.pop(key) if kind.startswith("no ") else metadata.update({key: value})
        expect = "same" if key == "prompts" else "refused"
    elif kind in ("extra", "all lost"):
        kept = tree if kind == "extra" else {"__metadata__": metadata}
        made = put_together(
            {**kept, "extra.video": {**entry, "shape": [0], "data_offsets": [len(data)] * 2}},
            data if kind == "extra" else b"",
        )
        expect = "same" if kind == "extra" else "refused"
        if kind == "all lost":
            made = put_together({"__metadata__": metadata}, b"")
    elif kind == "swap":
        tree[name], tree[other], expect = tree[other], tree[name], "valid"
    elif kind == "flips":
        made, expect = put_together(spoil.byte_flips(json.dumps(tree).encode(), draw), data), "right"
    elif kind == "negative lost":
        names = [key for key in tree if key.startswith("negative")]
        made = changed(path, names[0], None, b"") if names else b"x"
    line, twin, names = used("embedding", made or put_together(tree, data), material, folder)
    return Case("embedding", f"{kind} {name}", "generate", line, (*names, name, "embedding"), expect, twin)


def _size(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
