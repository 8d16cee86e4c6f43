"""What a `--model-repo` offers, as plain descriptions: where each component's tensors are and how they are written.

Only headers are read. `checkpoints.layouts` makes a `Checkpoint` from whatever lies on the disk, and the loader reads
from it. Knows names of components; knows no file layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.family import Component, Facts, Family, Generation
from mlx_video.reading import shown
from mlx_video.types import UserError, amount
from mlx_video.weights import fp8, names, quantize, widen
from mlx_video.weights.names import Form
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors


def version_of(stated: object) -> str:
    """What a file states as its `model_version`, as a text; empty where it states none."""
    return "" if stated is None else stated if isinstance(stated, str) else shown(stated)


class Part(NamedTuple):
    """One component's tensors, and how they are named and laid out."""

    component: Component
    tensors: Tensors
    form: Form
    settings: Mapping[str, Any]

    @property
    def prefixes(self) -> tuple[str, ...]:
        """With what the names of the component's own tensors begin."""
        return ("",) if self.form == "native" else self.component.prefixes

    @property
    def what(self) -> str:
        """For messages: the component and its file."""
        return f"{self.component.label} of {self.tensors.paths[0].name}"

    def load(self, float8_as: mx.Dtype = mx.float32) -> dict[str, mx.array]:
        """The component's tensors by name, lazily; 8-bit floats and whole numbers as what they stand for.

        Raises UserError for tensors of kinds that no weights are of, and for scales that are no numbers.
        """
        self.shapes()
        arrays = self.tensors.load(self.prefixes)
        fp8.check_scales(arrays, self.tensors.entries, self.tensors.paths[0])
        return widen.widen(arrays, self.tensors.entries, float8_as)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what `load` gives, from the headers alone."""
        found = widen.shapes(self.tensors.under(self.prefixes), self.tensors.entries, self.tensors.paths[0])
        self.tensors.check_floats(found)
        return found

    def path_of(self, network: type[nn.Module] | nn.Module, name: str) -> str | None:
        """Where a tensor belongs in the component's network; None where it is not the network's."""
        return name if self.form == "native" else names.module_path(network, name)

    @property
    def measured(self) -> dict[str, Any]:
        """What the config's reader must be told of the tensors."""
        ask = self.component.measured
        return {} if ask is None else ask({name: entry.shape for name, entry in self.tensors.entries.items()})

    def build(self, **options: Any) -> nn.Module:
        """The component's network without weights, nothing allocated; `options` go to the reader of its config.

        Raises UserError where the config is not sound, or says more layers than there are tensors of.
        """
        network = self.component.network
        own = (self.path_of(network, name) for name in self.tensors.under(self.prefixes))
        paths = {path for path in own if path is not None}
        return self.component.build(self.settings, paths, **self.measured, **options)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that one `--model-repo` offers, by where it lies."""

    family: Family
    source: Path
    config: Mapping[str, Any]
    version: str
    variant: str | None
    """"distilled" or "dev" where the marker or the file's name tells."""
    parts: Mapping[str, Part]
    layout: str = "official file"
    """For the user: which of the known ways of writing a checkpoint this is."""
    upsamplers: Mapping[str, Part] = field(default_factory=dict)
    """Latent upsamplers by kind: "spatial x2", "spatial x1.5", "temporal x2"."""
    distilled_lora: Path | None = None
    distilled_by_lora: bool = False
    """One file is both variants: itself the dev model and, with the distilled LoRA at strength 1, the distilled one."""
    text_encoder: str | None = None
    stated: Quantization | None = None
    """How the transformer's blocks are quantized by the pack's own account; None where it gives none."""
    faults: tuple[UserError, ...] = field(default=())
    """Files beside the checkpoint that could not be read; they matter only if something is missing."""
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What has been found out of it by headers alone, each once, by what was asked: headers have five thousand tensors.
    """
    skeletons: dict[tuple[Any, ...], nn.Module] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Networks that were built to be looked at and have not been taken yet. No array of them is ever evaluated."""

    @property
    def generation(self) -> Generation:
        """The family's newest that is not above the version."""
        return self.family.generation(self.version)

    @property
    def facts(self) -> Facts:
        """What jobs must know of its config; raises UserError where that is not sound."""
        return self.family.facts(self.config)

    @property
    def doubt(self) -> str | None:
        """For the user: that this version is not known, and as what it is read; None where it is known."""
        if self.family.knows(self.version):
            return None
        *most, last = (one.name for one in self.family.generations)
        known = f"{', '.join(most)} and {last}"
        return (
            f"{self.source.name} says it is version {shown(self.version)}; this package knows {known}, and reads it "
            f"as {self.generation.name}."
        )

    @property
    def upsampler(self) -> Part | None:
        """The spatial x2 upsampler, which two-stage pipelines use."""
        return self.upsamplers.get("spatial x2")

    def part(self, component: str) -> Part:
        """The tensors of `component`; raises UserError where the checkpoint has none."""
        if component not in self.parts:
            noun, (file, size) = component.replace("_", " "), self.generation.files.get(component, ("", 0))
            if file:
                raise UserError(
                    f"{self.source} has no {noun} beside it; LTX-{self.generation.name}'s is the file {file} "
                    f"({amount(size, disk=True)}): put it there."
                )
            raise UserError(f"{self.source} has no {noun}; it has {', '.join(self.parts) or 'no component'}.")
        return self.parts[component]

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that it is read from, the text encoder apart."""
        parts = (*self.parts.values(), *self.upsamplers.values())
        lora = () if self.distilled_lora is None else (self.distilled_lora,)
        return (*(file for part in parts for file in part.tensors.paths), *lora)

    @property
    def audio(self) -> bool:
        """Whether there is everything for sound."""
        return {"audio_decoder", "vocoder"} <= set(self.parts)

    def build(self, component: str, **options: Any) -> nn.Module:
        """The network of `component` without weights, nothing allocated; `options` go to the reader of its config.

        Layers that the checkpoint has quantized are so in the network.
        """
        part = self.part(component)
        network, entries = part.build(**options), part.tensors.entries
        quantize.adopt(network, entries, lambda name: part.path_of(network, name), str(self.source), self.stated)
        return network

    def skeleton(self, component: str, **options: Any) -> nn.Module:
        """As `build`, for looking at and nothing else: built once, until it is taken."""
        key = (component, *options.items())
        if key not in self.skeletons:
            self.skeletons[key] = self.build(component, **options)
        return self.skeletons[key]

    def take(self, component: str, **options: Any) -> nn.Module:
        """As `build`; what was built as a skeleton is the caller's from now on."""
        # One step, because a clip may be decoded in another thread.
        found = self.skeletons.pop((component, *options.items()), None)
        return self.build(component, **options) if found is None else found

    def need(self, what: str, found: Any, advice: str) -> Any:
        """`found`, which must be there; an unreadable neighbour is named before something is called missing."""
        if found is None:
            if self.faults:
                raise self.faults[0]
            raise UserError(f"No {what} was found beside {self.source}; {advice}")
        return found
