"""Reads one part of a checkpoint's config; a value that the code does not implement raises, naming key and value.

Knows no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_video.types import UserError


class Section:
    """One part of a config with its name, so that an error can say where a value stands."""

    def __init__(self, values: Mapping[str, Any], where: str):
        """`values` is the part itself; `where` its path in the config, such as "transformer"."""
        self.values, self.where = values, where

    def get(self, key: str, default: Any) -> Any:
        """The value of `key`, or `default` where the file does not have it."""
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        """The value of `key`, which must be there."""
        if self.values.get(key) is None:
            raise UserError(f"The checkpoint's config lacks {self.where}.{key}.")
        return self.values[key]

    def only(self, key: str, *supported: Any) -> Any:
        """The value of `key`, which must be one of `supported`; the first is what an absent key means."""
        value = self.values.get(key, supported[0])
        if value not in supported:
            listed = ", ".join(map(repr, supported))
            raise UserError(f"The checkpoint says {self.where}.{key} = {value!r}; supported here: {listed}.")
        return value

    def part(self, key: str) -> Section:
        """The section under `key`, which must be there."""
        value = self.need(key)
        if not isinstance(value, Mapping):
            raise UserError(f"The checkpoint's config has {self.where}.{key} = {value!r}, which should be a section.")
        return Section(value, f"{self.where}.{key}")


def section(config: Mapping[str, Any], key: str) -> Section:
    """The top-level section `key` of a checkpoint's config."""
    return Section(config, "config").part(key)
