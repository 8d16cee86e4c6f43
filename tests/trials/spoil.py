"""Spoils JSON: other values, other kinds, other spellings. Knows JSON and nothing of what it means."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

KINDS: tuple[Any, ...] = (
    "text", "", "1", "²", [], [1], [[]], ["text"], {}, {"a": 1}, {"": None}, -1, -(10**9), 10**8, 10**30, 1e30, -1e30,
    1e308, True,
    float("nan"), float("inf"), -float("inf"), 2**31, 2**63, "../../etc/passwd", "nan", [10**9] * 3, 1e-320,
)  # fmt: skip
"""Values that are nonsense nearly everywhere."""


def places(tree: Any, here: tuple = ()) -> list[tuple]:
    """Paths to every value of a JSON tree, containers too."""
    found = [here] if here else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += places(value, (*here, key))
    elif isinstance(tree, list) and len(tree) < 40:
        for index, value in enumerate(tree):
            found += places(value, (*here, index))
    return found


def at(tree: Any, path: tuple) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, path: tuple, value: Any) -> Any:
    """A copy with another value at a path."""
    copied = copy.deepcopy(tree)
    at(copied, path[:-1])[path[-1]] = value
    return copied


def without(tree: Any, path: tuple) -> Any:
    """A copy without the value at a path."""
    copied = copy.deepcopy(tree)
    del at(copied, path[:-1])[path[-1]]
    return copied


def wrong_value(old: Any, draw: random.Random) -> Any:
    """A value that cannot stand where `old` does."""
    while True:
        new = draw.choice((*KINDS, 0)) if not isinstance(old, bool) else draw.choice(KINDS)
        if isinstance(old, (int, float)) and not isinstance(old, bool) and draw.random() < 0.3:
            new = draw.choice((-old, old + 0.5, str(old), [old], 0, old * 10**6 + 1, 10**12))
        if new != old or type(new) is not type(old):
            return new


def written(tree: Any, draw: random.Random) -> bytes:
    """The tree as JSON text, as Python's writer has it."""
    return json.dumps(tree).encode()


SPELLINGS = (
    "BOM", "UTF-16", "UTF-16 without BOM", "UTF-32", "latin-1", "deep lists", "deep objects", "twice", "cut",
    "trailing", "comment",
    "single quotes", "NUL", "empty", "not an object", "bytes", "nested twice", "long number", "surrogate",
    "trailing comma",
)  # fmt: skip


def misspelt(tree: Any, how: str, draw: random.Random) -> bytes:
    """The tree as text that is JSON no more, or that readers take for different things."""
    text = json.dumps(tree)
    depth = draw.choice((900, 5000, 100_000))
    cut = draw.randrange(1, max(2, len(text) - 1))
    first = next(iter(tree)) if isinstance(tree, dict) and tree else "a"
    makers = {
        "BOM": lambda: b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": lambda: text.encode("utf-16"),
        "UTF-16 without BOM": lambda: text.encode("utf-16-le"),
        "UTF-32": lambda: text.encode("utf-32"),
        "latin-1": lambda: (text[:-1] + ', "\xe9": "\xe9"}').encode("latin-1"),
        "deep lists": lambda: (text[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}").encode(),
        "deep objects": lambda: (text[:-1] + ', "deep": ' + '{"a":' * depth + "1" + "}" * depth + "}").encode(),
        "twice": lambda: (text[:-1] + f', {json.dumps(first)}: "again"}}').encode(),
        "cut": lambda: text[:cut].encode(),
        "trailing": lambda: text.encode() + draw.choice((b"}", b"{}", b"x", b"\0\0")),
        "comment": lambda: b"/* */" + text.encode(),
        "single quotes": lambda: text.replace('"', "'").encode(),
        "NUL": lambda: text.replace("a", "\0", 1).encode(),
        "empty": lambda: draw.choice((b"", b" ", b"\n")),
        "not an object": lambda: draw.choice((b"[]", b"1", b"null", b'"text"', b"true", b"[{}]", b"{}")),
        "bytes": lambda: draw.randbytes(200),
        "nested twice": lambda: json.dumps(text).encode(),
        "long number": lambda: (text[:-1] + ', "n": ' + "9" * 5000 + "}").encode(),
        "surrogate": lambda: (text[:-1] + ', "\\ud800": "\\udfff"}').encode(),
        "trailing comma": lambda: (text[:-1] + ",}").encode(),
    }
    return makers[how]()


def byte_flips(data: bytes, draw: random.Random, most: int = 8) -> bytes:
    """Some bytes changed, put in or taken out."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        where = draw.randrange(len(changed))
        kind = draw.random()
        if kind < 0.6:
            changed[where] = draw.randrange(256)
        elif kind < 0.8:
            changed[where:where] = draw.randbytes(draw.randint(1, 4))
        else:
            del changed[where : where + draw.randint(1, 4)]
    return bytes(changed)
