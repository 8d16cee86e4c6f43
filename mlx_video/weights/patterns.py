"""Patterns of names, as PEFT's settings write them, matched in a time that a file cannot stretch.

A pattern is a regular expression there, and one from a stranger's file may never end. Here it is made of names, `.`,
`\\d` or `[0-9]`, each perhaps with `*` or `+`, and of alternatives (`to_q|to_k`, `attn(1|2)`); a name is gone through
once, character by character, whatever the pattern. Knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_LENGTH, MAX_ALTERNATIVES = 512, 64
"""Of a pattern."""
_ATOM = re.compile(r"(?:(?P<digit>\\d|\[0-9\])|\\(?P<escaped>[^\w\s])|(?P<plain>[\w./-]))(?P<times>[*+]?)")
_GROUP = re.compile(r"\((?:\?:)?(?P<inside>[^()]*)\)(?![*+?{])")
_LITERAL = re.compile(r"(?:[\w/-]|\\?\.)+")


class _Atom(NamedTuple):
    """One character of a pattern: itself, "digit" or "any", and how often: once, "*" or "+"."""

    what: str
    times: str

    def takes(self, character: str) -> bool:
        """Whether it stands for `character`."""
        return self.what == "any" or (character.isdigit() if self.what == "digit" else character == self.what)


class Pattern:
    """What a name may end in, from its beginning or behind a dot on."""

    def __init__(self, text: str):
        """From PEFT's spelling; raises ValueError where it is none of the kinds that are known."""
        self._literal = text.replace("\\.", ".") if _LITERAL.fullmatch(text) else None
        self.is_name = self._literal is not None
        """Whether it is nothing but a name, which costs next to nothing to compare."""
        self._forms = [] if self._literal is not None else [_atoms(form) for form in _alternatives(text)]

    def matches(self, name: str) -> bool:
        """Whether `name` ends so. Source: PEFT's get_pattern_key, `(.*\\.)?(pattern)$`."""
        if self._literal is not None:
            return name == self._literal or name.endswith(f".{self._literal}")
        return any(_ends_in(name, atoms, anchored) for atoms, anchored in self._forms)


def _alternatives(text: str) -> list[str]:
    """The pattern without `|` and groups, spelt out."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a pattern of {len(text)} characters is too long")
    forms = [text]
    while any("(" in form for form in forms):
        forms = [spelt for form in forms for spelt in _without_group(form)]
        if len(forms) > MAX_ALTERNATIVES:
            raise ValueError(f"the pattern {text[:60]!r} has too many alternatives")
    return [part for form in forms for part in form.split("|")]


def _without_group(form: str) -> Iterator[str]:
    found = _GROUP.search(form)
    if found is None:
        if "(" in form:
            raise ValueError(f"the pattern {form[:60]!r} has a group that is not known here")
        yield form
        return
    for inside in found["inside"].split("|"):
        yield form[: found.start()] + inside + form[found.end() :]


def _atoms(form: str) -> tuple[list[_Atom], bool]:
    """The characters of a pattern without alternatives, and whether it begins where the name does."""
    anchored, form = form.startswith("^"), form.removeprefix("^")
    if form.endswith("$") and not form.endswith("\\$"):
        form = form[:-1]
    atoms, end = [], 0
    for found in _ATOM.finditer(form):
        if found.start() != end:
            break
        what = "digit" if found["digit"] else found["escaped"] or ("any" if found["plain"] == "." else found["plain"])
        atoms.append(_Atom(what, found["times"]))
        end = found.end()
    if end != len(form) or not atoms:
        raise ValueError(f"the pattern {form[:60]!r} is more than names, dots, digits, * and + and alternatives")
    return atoms, anchored


def _ends_in(name: str, atoms: list[_Atom], anchored: bool) -> bool:
    # All ways through the pattern at once: the atoms that may take the next character.
    waiting: set[int] = set()
    for i, character in enumerate(name):
        if i == 0 or (name[i - 1] == "." and not anchored):
            waiting |= _onward(0, atoms)
        after: set[int] = set()
        for place in waiting:
            if place < len(atoms) and atoms[place].takes(character):
                after |= _onward(place + 1, atoms)
                if atoms[place].times:
                    after |= _onward(place, atoms) if atoms[place].times == "*" else {place}
        waiting = after
    return len(atoms) in waiting


def _onward(place: int, atoms: list[_Atom]) -> set[int]:
    """The places that `place` leads to without a character: itself, and those behind what may be left out."""
    found = {place}
    while place < len(atoms) and atoms[place].times == "*":
        place += 1
        found.add(place)
    return found
