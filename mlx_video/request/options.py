"""One thing that may be asked: how it is told of, which values it takes, and what it has an effect with.

A frozen dataclass is a table of options: its fields say name, kind and default, and each carries an Option. Parsers,
keywords, checks and forms are made of such tables; knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from mlx_video.request import kinds
from mlx_video.types import UserError
from mlx_video.types.recipes import Recipe

DITTO = "that of the option before"


@dataclass(frozen=True)
class Option:
    """What a face shows of an option, and its rules."""

    default: Any
    words: str
    """What `--help` shows beside the name: other spellings, then what it takes."""
    help: str
    """`{default}` stands for the default, `{recipes}` for those of the recipes that use it."""
    also: tuple[Option, ...] = ()
    """Flags of commands that say the same otherwise, or a part of it."""
    group: str = DITTO
    choices: tuple[Any, ...] = ()
    limits: tuple[float, float] | None = None
    rule: str = ""
    """The limits in words, where "from 0 to 5" does not say it."""
    needs: str = ""
    """The switch without which it has no effect."""
    used: Callable[[Recipe], bool] | None = None
    """Whether it has an effect in a recipe; None: in all."""
    commands: tuple[str, ...] = ()
    """Those that have it, of the commands that take its table; none: all."""
    several: bool = False
    """Commands take it more than once, for a request each."""
    name: str = ""
    hint: Any = None

    @property
    def flag(self) -> str:
        """As commands spell it."""
        return flag(self.name)

    def check(self, value: Any) -> None:
        """Raises UserError for a value that is none of the choices, or beyond the limits."""
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        if self.choices and value not in self.choices:
            *most, last = (f"{one:g}" if isinstance(one, float) else str(one) for one in self.choices)
            raise UserError(f"{self.flag} {shown} is not known; there are {', '.join(most)} and {last}.")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            rule = self.rule or "from {:g} to {:g}".format(*self.limits)
            raise UserError(f"{self.flag} {shown} is out of range; it must be {rule}.")


def flag(name: str) -> str:
    """The name of an option as commands spell it."""
    return "--" + name.replace("_", "-")


def option(default: Any, words: str, help: str, *also: Option, **rules: Any) -> Any:
    """A field of a table, with the fields of Option; MISSING for a default that there is not."""
    return field(default=default, metadata={"option": Option(default, words, help, also, **rules)})


@cache
def options_of(table: Any) -> tuple[Option, ...]:
    """The options of a table in their order, with their names, kinds and groups."""
    found, group = [], ""
    for one in fields(table):
        row = one.metadata["option"]
        group = group if row.group == DITTO else row.group
        also = tuple(replace(part, group=group) for part in row.also)
        found.append(replace(row, name=one.name, hint=kinds.hints_of(table)[one.name], group=group, also=also))
    return tuple(found)


def check(asked: Any) -> None:
    """Raises UserError for the first value of a table that is of a wrong kind, out of its rules or without effect."""
    kinds.check_fields(asked)
    table: Any = type(asked)
    for one in options_of(table):
        value = getattr(asked, one.name)
        if value is None or value == one.default:
            continue
        if one.needs and not getattr(asked, one.needs):
            raise UserError(f"{one.flag} has no effect without {flag(one.needs)}.")
        one.check(value)


def taken(call: str, table: Any, given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a caller of `call` gave for a table, each in the one form that the table has; `check` tells wrong kinds.

    names: the keywords of the call. Raises UserError for another.
    """
    kinds.known(call, given, names)
    hints = kinds.hints_of(table)
    return {name: kinds.plain(value, hints[name]) for name, value in given.items()}
