"""A module that answers otherwise in one place, for recording what another program draws."""

from __future__ import annotations

from typing import Any


class Standing:
    """Stands in one module for another one, with some of its names answered otherwise."""

    def __init__(self, module: Any, **answers: Any):
        self.__dict__.update(answers)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
