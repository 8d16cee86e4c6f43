"""What a family of models is, as data: its networks, its pipelines and its generations. Knows no family.

`models.families` lists those that there are. Whoever works on checkpoints, plans or jobs asks the family that a
checkpoint is of, and imports none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_video.models.section import check_depth
from mlx_video.types import UserError
from mlx_video.types.recipes import Recipe

if TYPE_CHECKING:
    import mlx.nn as nn

MATCHED = "1.2"
"""The version of the reference that is matched number by number."""
Shapes = Mapping[str, tuple[int, ...]]
"""Of a component's tensors, by name."""


class Component(NamedTuple):
    """A network: where its class is, how its config is read, and what it computes in.

    autoencoder: in the autoencoders' type (`platform.autoencoder_dtype`) and not in the transformer's; always_float32:
    in float32 whatever is asked.
    """

    key: str
    """As `COMPONENTS` has it."""
    place: str
    """Module and class, as in "package.module:Class"; imported when it is asked for, so that --help stays fast."""
    read: Callable[..., Any]
    autoencoder: bool = False
    always_float32: bool = False
    optional: bool = False
    """Only some checkpoints have it, and others lack nothing."""
    stacks: str = "stacks"
    """The attribute of its config that says what stands in it so many times in a row; see `section.Stacks`."""
    measured: Callable[[Shapes], dict[str, Any]] | None = None
    """What `read` must be told besides the config, which the tensors' shapes tell; None: nothing."""

    @property
    def network(self) -> type[nn.Module]:
        """The class itself."""
        return _network(self.place)

    @property
    def label(self) -> str:
        """Its name for messages."""
        return self.key.replace("_", " ")

    @property
    def prefixes(self) -> tuple[str, ...]:
        """With what the names of its tensors begin in an official file."""
        return tuple(vars(self.network).get("prefixes", ("",)))

    def build(self, settings: Mapping[str, Any], paths: Collection[str] | None = None, **options: Any) -> nn.Module:
        """The network with unloaded weights, from a checkpoint's config.

        paths: where the checkpoint's tensors belong in it; raises UserError, before anything is built, where they are
        of fewer layers than the config says. None: they are not known.
        """
        found = self.read(settings, **options)
        if paths is not None:
            check_depth(getattr(found, self.stacks, {}), paths, getattr(settings, "whose", "The checkpoint"))
        return self.network(found)


@cache
def _network(place: str) -> type[nn.Module]:
    module, _, name = place.partition(":")
    found: type[nn.Module] = getattr(import_module(module), name)
    return found


class Cost(NamedTuple):
    """Bytes that a call of a network holds at its peak beside the weights, and its floating-point operations."""

    work: float
    flops: float = 0.0


@dataclass(frozen=True)
class Generation:
    """What changed with one version of a family's checkpoints."""

    since: tuple[int, ...]
    """The first version that is of it."""
    defaults: Mapping[str, Any]
    """Of a run, by option; a recipe's own go before them."""
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """Pipelines that are another's with it, whole, by name."""
    later: Mapping[str, Mapping[str, Recipe]] = field(default_factory=dict)
    """By a later version of the reference, which is matched only as others describe it: its pipelines that differ."""
    config: Callable[[], Mapping[str, Any]] | None = None
    """Of its published checkpoint, for packs that do not carry one."""
    configs: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    """The same of components whose files state their own, by component."""
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Where it is published in several: a component's file by its name, and its bytes."""
    told_by: str = ""
    """Part of a tensor's name that no older generation has, for packs that state no version; empty for the first."""
    whole_with: str = ""
    """A key that a transformer's config has where it is whole; packs leave out some. Empty: they never do."""

    @property
    def name(self) -> str:
        """Such as 2.3."""
        return ".".join(map(str, self.since))

    def recipe(self, recipe: Recipe, reference: str | None = None) -> Recipe:
        """A pipeline as it is with this generation, and in a later version of the reference if one is asked for.

        Raises UserError where that changes nothing.
        """
        if reference is None or reference == MATCHED:
            return self.recipes.get(recipe.name, recipe)
        found = self.later.get(reference, {})
        if recipe.name not in found:
            users = f"only {', '.join(found)} differ" if found else "no pipeline differs"
            raise UserError(
                f"--reference-version {reference} has no effect in the {recipe.name} pipeline of LTX-{self.name}, "
                f"where {users}; leave it out."
            )
        return found[recipe.name]


class Facts(NamedTuple):
    """What jobs must know of a checkpoint besides its components."""

    blocks: int
    """Of the transformer."""
    width: int
    """Of its stream for video."""
    reflects_encoding: bool
    """Whether the video encoder pads by reflection, and has nothing to reflect in a single latent row or column."""
    reflects_decoding: bool
    keyframes: bool
    """Whether the transformer can make keyframes beside the clip."""


@dataclass(frozen=True)
class Family:
    """Models that share their networks."""

    name: str
    components: Mapping[str, Component]
    recipes: Mapping[str, Recipe]
    generations: Sequence[Generation]
    """From the oldest on."""
    refining: Mapping[str, Recipe]
    """How an upscaled video is refined, by the checkpoint's variant."""
    negative_prompt: str
    """What guided pipelines steer away from unless the user says otherwise."""
    facts: Callable[[Mapping[str, Any]], Facts]
    """What jobs must know of a checkpoint's config."""
    costs: Callable[[], Any]
    """What a call of each network costs: the module, such as `models.ltx_2.costs`, imported when it is asked for."""
    text: Callable[[], Any]
    """Its text encoder: the module, such as `models.ltx_2.text_encoder.offer`."""
    trial: Callable[[], Any]
    """One block of its transformer, tried by itself: the module, such as `models.ltx_2.trial`."""
    check_geometry: Callable[..., None]
    """(component's key, its config's settings, whose they are, **options of its reader): raises UserError where a
    network's sizes are not those that pipelines work in."""

    def generation(self, version: str) -> Generation:
        """The newest that is not above `version`; files without one are of the first, as the reference has it."""
        numbers = numbers_of(version)
        return next((one for one in reversed(self.generations) if one.since <= numbers), self.generations[0])

    def generation_of(self, names: Collection[str]) -> Generation:
        """By the names of the transformer's tensors."""
        return next(one for one in reversed(self.generations) if any(one.told_by in name for name in names))

    def knows(self, version: str) -> bool:
        """Whether a version is one of the generations' own, or none is stated."""
        numbers = numbers_of(version)
        return not version or any(numbers in (one.since, (*one.since, 0)) for one in self.generations)


def numbers_of(version: str) -> tuple[int, ...]:
    """The first two numbers of a version such as "2.3.0"; empty where there are none."""
    found = re.fullmatch(r"(\d{1,6})(?:\.(\d{1,6})(?:[.-].*)?|-.*)?", version, re.ASCII | re.DOTALL)
    return tuple(int(number) for number in found.groups() if number is not None) if found else ()
