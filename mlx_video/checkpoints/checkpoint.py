"""What a `--model-repo` offers, as plain descriptions: where each component's tensors are and how they are written.

Only headers are read. `checkpoints.layouts` makes a `Checkpoint` from whatever lies on the disk, and the loader reads
from it. Knows names of components; knows no file layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.ltx_2 import COMPONENTS
from mlx_video.models.ltx_2.text_encoder.connectors import feature_width
from mlx_video.reading import shown
from mlx_video.types import UserError
from mlx_video.weights import fp8, names, quantize
from mlx_video.weights.names import Form
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors


def version_of(stated: object) -> str:
    """What a file states as its `model_version`, as a text; empty where it states none."""
    return "" if stated is None else stated if isinstance(stated, str) else shown(stated)


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version such as "2.3.0"; empty where there are none."""
    found = re.fullmatch(r"(\d{1,6})(?:\.(\d{1,6})(?:[.-].*)?|-.*)?", version, re.ASCII | re.DOTALL)
    return tuple(int(number) for number in found.groups() if number is not None) if found else ()


class Part(NamedTuple):
    """One component's tensors, and how they are named and laid out."""

    tensors: Tensors
    form: Form
    settings: Mapping[str, Any]

    def prefixes(self, component: str) -> tuple[str, ...]:
        """With what the names of the component's own tensors begin."""
        return ("",) if self.form == "native" else COMPONENTS[component].prefixes

    def load(self, component: str, float8_as: mx.Dtype = mx.float32) -> dict[str, mx.array]:
        """The component's tensors by name, lazily; 8-bit floats with their scales multiplied in.

        Raises UserError for tensors of kinds that no weights are of, and for scales that are no numbers.
        """
        self.shapes(component)
        arrays = self.tensors.load(self.prefixes(component))
        fp8.check_scales(arrays, self.tensors.entries, self.tensors.paths[0])
        return fp8.widen(arrays, self.tensors.entries, float8_as)

    def shapes(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what `load` gives, from the headers alone."""
        prefixes, entries = self.prefixes(component), self.tensors.entries
        own = [name for name in entries if name.startswith(prefixes)]
        found = fp8.shapes(own, entries)
        self.tensors.check_floats(found)
        return found

    def path_of(self, network: type[nn.Module] | nn.Module, name: str) -> str | None:
        """Where a tensor belongs in the component's network; None where it is not the network's."""
        return name if self.form == "native" else names.module_path(network, name)

    def build(self, component: str, **options: Any) -> nn.Module:
        """The component's network without weights, nothing allocated; `options` go to the reader of its config.

        Raises UserError where the config is not sound, or says more layers than there are tensors of.
        """
        found, prefixes = COMPONENTS[component], self.prefixes(component)
        own = (self.path_of(found.network, name) for name in self.tensors.entries if name.startswith(prefixes))
        return found.build(self.settings, {path for path in own if path is not None}, **options)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that one `--model-repo` offers, by where it lies."""

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
    weighed: dict[tuple, Any] = field(default_factory=dict, compare=False, repr=False)
    """What `lending.weighing` has weighed: headers of five thousand tensors are gone through once."""

    @property
    def generation(self) -> str:
        """Key of the generation's defaults: files without a version are LTX-2, as the reference has it."""
        return "2.3" if _numbers(self.version) >= (2, 3) else "2"

    @property
    def doubt(self) -> str | None:
        """For the user: that this version is not known, and as what it is read; None where it is known."""
        if not self.version or _numbers(self.version) in ((2,), (2, 0), (2, 3)):
            return None
        return (
            f"{self.source.name} says it is version {shown(self.version)}; this package knows 2 and 2.3, and reads it "
            f"as {self.generation}."
        )

    @property
    def upsampler(self) -> Part | None:
        """The spatial x2 upsampler, which two-stage pipelines use."""
        return self.upsamplers.get("spatial x2")

    def part(self, component: str) -> Part:
        """The tensors of `component`; raises UserError where the checkpoint has none."""
        if component not in self.parts:
            raise UserError(
                f"{self.source} has no {component.replace('_', ' ')}; it has {', '.join(self.parts) or 'no component'}."
            )
        return self.parts[component]

    @property
    def audio(self) -> bool:
        """Whether there is everything for sound."""
        return {"audio_decoder", "vocoder"} <= set(self.parts)

    def build(self, component: str, **options: Any) -> nn.Module:
        """The network of `component` without weights, nothing allocated; `options` go to the reader of its config.

        Layers that the checkpoint has quantized are so in the network.
        """
        part = self.part(component)
        entries = part.tensors.entries
        if component == "connectors":
            options["features"] = feature_width({name: entry.shape for name, entry in entries.items()})
        network = part.build(component, **options)
        quantize.adopt(network, entries, lambda name: part.path_of(network, name), str(self.source), self.stated)
        return network

    def need(self, what: str, found: Any, advice: str) -> Any:
        """`found`, which must be there; an unreadable neighbour is named before something is called missing."""
        if found is None:
            if self.faults:
                raise self.faults[0]
            raise UserError(f"No {what} was found beside {self.source}; {advice}")
        return found
