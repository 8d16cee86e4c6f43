"""Reads one part of a checkpoint's config; a value that is not what it should be raises, naming key, value and rule.

Every reader says what kind a value is of and between what it lies: a config is a stranger's text, and a number in it
becomes so many layers. The bounds leave room for models many times as large as the published ones. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from mlx_video.reading import shown
from mlx_video.types import UserError

MAX_WIDTH = 1 << 16
"""Of any layer, in values; the widest published has 16,384."""
MAX_LAYERS = 512
"""In a row; the published have 48."""
MAX_BLOCKS = 64
"""In a list of different ones; the published have 9."""
MAX_POSITION = 1 << 20
"""Of rotary positions; the published go to 4,096."""
MAX_HEADS = 1024
Stacks = Mapping[str, tuple[str, int]]
"""What a config says of layers in a row: the path of their list in the network -> the config's key, and how many. A
checkpoint must have tensors of so many before they are built: a line of config would otherwise fill the memory."""
Default = TypeVar("Default")


class Stated(dict[str, Any]):
    """A config that knows whose it is: the file that states it, for messages."""

    def __init__(self, values: Mapping[str, Any], whose: str):
        super().__init__(values)
        self.whose = whose


class Section:
    """One part of a config with its name, so that an error can say where a value stands.

    Readers take the default of an absent key; a null in the file is an absent key.
    """

    def __init__(self, values: Mapping[str, Any], where: str, whose: str | None = None):
        """`values` is the part itself; `where` its path in the config, such as "transformer"; `whose`: the file's name.

        Where `whose` is None, a `Stated` says it itself.
        """
        self.values, self.where = values, where
        self.whose = whose or getattr(values, "whose", "The checkpoint")

    def integer(self, key: str, default: int | Default, least: int = 1, most: int = MAX_WIDTH) -> int | Default:
        """The whole number under `key`, from `least` to `most`."""
        rule = f"a whole number from {least:,} to {most:,}"
        found: int | Default = self._read(
            key, default, lambda value: type(value) is int and least <= value <= most, rule
        )
        return found

    def number(self, key: str, default: float, least: float, most: float) -> float:
        """The number under `key`, from `least` to `most`."""
        rule = f"a number from {least:g} to {most:g}"
        found: float = self._read(
            key, default, lambda value: type(value) in (int, float) and least <= value <= most, rule
        )
        return found

    def flag(self, key: str, default: bool | Default) -> bool | Default:
        """The true or false under `key`."""
        found: bool | Default = self._read(key, default, lambda value: type(value) is bool, "true or false")
        return found

    def integers(
        self, key: str, default: Sequence[int], least: int, most: int, *, count: int | None = None
    ) -> tuple[int, ...]:
        """The list of whole numbers under `key`, each from `least` to `most`; `count` of them, or 1 to MAX_BLOCKS."""
        rule = f"a list of {count or f'1 to {MAX_BLOCKS}'} whole numbers from {least:,} to {most:,}"
        return tuple(self._read(key, default, lambda value: are_integers(value, least, most, count), rule))

    def _read(self, key: str, default: Any, fits: Callable[[Any], bool], rule: str) -> Any:
        value = self.values.get(key)
        if value is not None and not fits(value):
            self._refuse(key, value, rule)
        return default if value is None else value

    def only(self, key: str, *supported: Any) -> Any:
        """The value of `key`, which must be one of `supported`; the first is what an absent key means."""
        value = self.values.get(key, supported[0])
        # True equals 1, and a file that says one for the other is not of our making.
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in supported):
            self._refuse(key, value, ", ".join(map(repr, supported)), "supported here")
        return value

    def part(self, key: str, *, optional: bool = False) -> Section:
        """The section under `key`, which must be there; where it is `optional`, an empty one may stand for it."""
        value = self.values.get(key)
        if value is None and optional:
            value = {}
        if value is None:
            raise UserError(f"{self.whose} lacks {self.where}.{key} in its config.")
        if not isinstance(value, Mapping):
            self._refuse(key, value, "a section")
        return Section(value, f"{self.where}.{key}", self.whose)

    def _refuse(self, key: str, value: object, rule: str, verb: str = "it should be") -> None:
        raise UserError(f"{self.whose} says {self.where}.{key} = {shown(value)}; {verb}: {rule}.")


def heads_of(s: Section, heads: str, many: int, head_dim: str, wide: int) -> tuple[int, int]:
    """How many heads an attention has and how wide each is, under the keys `heads` and `head_dim`."""
    found = s.integer(heads, many, 1, MAX_HEADS), s.integer(head_dim, wide, 2, MAX_WIDTH)
    if found[1] % 2 or found[0] * found[1] > MAX_WIDTH:
        raise UserError(
            f"{s.whose} says {s.where}.{heads} = {found[0]} and {head_dim} = {found[1]}; the second must be even "
            f"(positions turn pairs), and the two together give a width of {MAX_WIDTH:,} at most."
        )
    return found


def are_integers(value: object, least: int, most: int, count: int | None = None) -> bool:
    """Whether `value` is a list of whole numbers from `least` to `most`; `count` of them, or 1 to MAX_BLOCKS."""
    return (
        isinstance(value, list | tuple)
        and (len(value) == count if count else 1 <= len(value) <= MAX_BLOCKS)
        and all(type(one) is int and least <= one <= most for one in value)
    )


def check_depth(stacks: Stacks, paths: Collection[str], whose: str) -> None:
    """Raises UserError where a config says more layers in a row than there are tensors of; `whose`: as in `Section`.

    paths: where the tensors belong in the network.
    """
    for stack, (key, count) in stacks.items():
        start = f"{stack}."
        found = len({path[len(start) :].partition(".")[0] for path in paths if path.startswith(start)})
        if count > found:
            raise UserError(
                f"{whose} says {key} = {count}, but has tensors of {found} ({stack}); it is not whole, or its config "
                f"belongs to another."
            )


def section(config: Mapping[str, Any], key: str) -> Section:
    """The top-level section `key` of a checkpoint's config."""
    return Section(config, "config").part(key)
