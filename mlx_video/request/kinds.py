"""Whether values are of the kinds that a dataclass's fields say, brought to one form, and the sentence where not.

Callers of the Python API hand in what they like: a wrong kind is told here, before it ends as an error from deep down.
Knows types and no rule about a value.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from numbers import Integral, Rational, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlx_video.types import UserError

LARGEST = 1 << 64
"""Beyond this no whole number means anything here, and Python refuses to print those that are much longer."""
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", types.NoneType: "None"}
_TOLD = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset)
"""Kinds whose values are repeated in a message; of others, such as arrays, the kind alone is told."""


def check_fields(value: Any, prefix: str = "") -> None:
    """Raises UserError for the first field of a dataclass whose value is not of the field's kind, nested ones too."""
    kind: Any = type(value)
    for name, hint in hints_of(kind).items():
        check(prefix + name, getattr(value, name), hint)


def check(name: str, value: Any, hint: Any) -> None:
    """Raises UserError, naming the keyword, the value's kind and what it may be, where `value` is not of `hint`."""
    if _huge(value):
        raise UserError(f"{name} is out of range: a number beyond 64 bits.")
    items = value if isinstance(value, tuple) else (value,)
    kind: Any = item_of(hint) or members(hint)[0]
    if not fits(value, hint):
        for item in items:
            if is_dataclass(kind) and not isinstance(item, (kind, str)):  # type: ignore[arg-type]
                wanted = f"give a path, {named(kind)}, or a tuple that starts with a path"
                raise UserError(f"{name} is given as {named(type(item))}; {wanted}.")
        told = {str: "text", types.NoneType: "None"}.get(type(value)) or named(type(value))
        raise UserError(f"{name}{shown(value)} is {told}; it must be {_wanted(hint)}.")
    for item in items:
        if is_dataclass(item):
            check_fields(item, f"{name}: ")


def taken(name: str, value: Any, hint: Any) -> Any:
    """`value` in the form that `hint` has, as `plain` brings it there; raises UserError as `check` does."""
    value = plain(value, hint)
    check(name, value, hint)
    return value


def plain(value: Any, hint: Any) -> Any:
    """`value` as `hint` has it where that is only another spelling: NumPy's numbers, lists for tuples, paths for text.

    Of a dataclass that begins with a path, the path alone and a tuple that begins with one are taken; of a tuple of
    such, one by itself and None, too. Anything else comes back as it is, for `check` to tell of.
    """
    for one in members(hint):
        item = item_of(one)
        if one is int and isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
        if one is float and isinstance(value, Real) and not isinstance(value, bool) and not _huge(value):
            return float(value)
        if one is str and isinstance(value, PathLike):
            return fspath(value)
        if is_dataclass(one) and value is not None:
            return _made(value, one)
        if is_dataclass(item):
            return tuple(_made(each, item) for each in _several(value, item))
        if item and isinstance(value, (list, tuple)):
            return tuple(plain(each, item) for each in value)
    return value


def _several(given: Any, kind: Any) -> list[Any]:
    """One thing or several: a tuple that starts with a path and goes on with a number is one."""
    if given is None:
        return []
    paths = [isinstance(one, (str, Path)) for one in given[:2]] if isinstance(given, tuple) else []
    one = isinstance(given, (str, Path, kind)) or paths == [True, False]
    return list(given) if isinstance(given, Sequence) and not one else [given]


def _made(given: Any, kind: Any) -> Any:
    values = (given,) if isinstance(given, (str, Path)) else given
    hints = list(hints_of(kind).values())
    paths = isinstance(values, (tuple, list)) and values and isinstance(values[0], (str, Path))
    if not paths or len(values) > len(hints):
        return given
    return kind(*(plain(value, hint) for value, hint in zip(values, hints[: len(values)], strict=True)))


def known(call: str, given: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError, with the nearest names, where `given` has a keyword that is not one of `names`."""
    names = list(names)
    for name in given:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names[:5])} and {len(names) - 5} others."
            raise UserError(f"{call}() has no keyword {str(name)!r}; {hint}")


def _huge(value: Any) -> bool:
    return isinstance(value, Rational) and not -LARGEST < value < LARGEST  # type: ignore[operator]


@cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """The kinds of a dataclass's fields by name."""
    return get_type_hints(kind)


def members(hint: Any) -> tuple[Any, ...]:
    """The kinds of which a value may be one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def item_of(hint: Any) -> Any:
    """The kind of what a tuple holds that a value may be; None where it may be none."""
    return next((get_args(one)[0] for one in members(hint) if get_origin(one) is tuple), None)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a kind."""
    if len(members(hint)) > 1:
        return any(fits(value, one) for one in members(hint))
    if get_origin(hint) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(hint))
    if item := item_of(hint):
        return isinstance(value, tuple) and all(fits(each, item) for each in value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        # A Fraction is a number, too, but one that Python 3.11 cannot print as such; `plain` makes it a float.
        return isinstance(value, Real) and not isinstance(value, (bool, Fraction))
    return hint is Any or isinstance(value, hint)


def shown(value: Any) -> str:
    """A value after its name for a message, such as `='64'`; empty for what is no plain value."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return f"={short.repr(value)}" if isinstance(value, _TOLD) else ""


def named(kind: Any) -> str:
    """A kind's name with its article."""
    name = kind.__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _wanted(hint: Any) -> str:
    *most, last = members(hint)
    if most:
        return f"{', '.join(map(_wanted, most))} or {_wanted(last)}"
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if item := item_of(hint):
        return f"a tuple of {'whole numbers' if item is int else item.__name__}"
    return _WORDS.get(hint) or hint.__name__
