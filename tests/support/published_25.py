"""Names, shapes and configs of LTX-2.5's published files that hold one network of their own each.

As in `real_keys`: made without weights, and checked against the published headers. Repeated blocks are folded.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from pathlib import Path

FILE = Path(__file__).parents[1] / "fixtures" / "keys_2.5_parts.json.gz"
_RANGE = re.compile(r"\{(\d+)-(\d+)\}")


@functools.cache
def _read() -> dict:
    with gzip.open(FILE, "rt") as file:
        return json.load(file)


def part(name: str) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """The config in the metadata of the file called `name` (without its ending), and its tensors' shapes."""
    known = json.loads(json.dumps(_read()[name]))
    found = {}
    for folded, shape in known["tensors"].items():
        span = _RANGE.search(folded)
        indices = range(int(span[1]), int(span[2]) + 1) if span else [None]
        for i in indices:
            found[folded if i is None else _RANGE.sub(str(i), folded)] = tuple(shape)
    return known["config"], found
