"""Adds LoRAs to a network: fused into its weights, or beside them.

A layer's weight W becomes W + strength * scale * up @ down. Where a layer sits in the module is the module's affair
(`weights.names`); how files spell layers is `weights.lora_file`'s. Knows no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.types import UserError
from mlx_video.weights import names
from mlx_video.weights.lora_file import FLAT, NAMED_IN_REPORT, NETWORK, Adapter, Pair, read
from mlx_video.weights.quantize import QuantizedLinear

__all__ = ["NETWORK", "Adapter", "Coverage", "Pair", "Terms", "add", "detach", "match", "read"]

Terms = Mapping[str, Sequence[tuple[Pair, float]]]
"""By path in a module: what is added to the layer there, in order."""


class Coverage(NamedTuple):
    """How much of a LoRA found its place: `matched` of the `total` layers meant for the network; names that did not."""

    path: Path
    matched: int
    total: int
    strangers: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the user."""
        text = f"{self.path.name}: {self.matched} of {self.total} layers matched"
        if not self.strangers:
            return text
        more = ", ..." if len(self.strangers) > NAMED_IN_REPORT else ""
        return f"{text}; not known: {', '.join(self.strangers[:NAMED_IN_REPORT])}{more}"


# ---------------------------------------------------------------------------------------------------- matching


def match(
    module: nn.Module, adapter: Adapter, component: str, *, optional: bool = False
) -> tuple[dict[str, Pair], Coverage]:
    """Pairs by path in `module`, and how many found their place. Names that belong to other networks do not count.

    Raises UserError where a pair does not fit its layer, naming both shapes, and where none matches unless `optional`.
    """
    layers = _layers(module)
    flat = {name.replace(".", "_"): path for path in layers for name in _names_of(module, path)}
    found: dict[str, Pair] = {}
    strangers = list(adapter.unread)
    total = 0
    for name, pair in adapter.pairs.items():
        path = flat.get(unflat["layer"], "") if (unflat := FLAT.fullmatch(name)) else _path(module, name)
        if path is None:
            continue
        total += 1
        if path not in layers:
            strangers.append(pair.key)
            continue
        if path in found:
            raise UserError(f"{adapter.path} names one layer twice: {found[path].key} and {pair.key}.")
        _check_shapes(adapter.path, pair, layers[path], component)
        found[path] = pair
    if not found and not optional:
        first = next(iter(adapter.pairs.values())).key
        raise UserError(
            f"{adapter.path} changes nothing: none of its {len(adapter.pairs)} layers (the first is {first}) is one of "
            f"the {component}'s; it is for another model, or spelled in a way that is not known."
        )
    return found, Coverage(adapter.path, len(found), total, tuple(strangers))


def _layers(module: nn.Module) -> dict[str, nn.Linear | nn.QuantizedLinear]:
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.QuantizedLinear)}


def _path(module: nn.Module, name: str) -> str | None:
    path = names.module_path(module, name + ".weight")
    return path and path.removesuffix(".weight")


def _names_of(module: nn.Module, path: str) -> list[str]:
    """What a checkpoint may call the layer at `path`, without what stands before all of them."""
    prefixes: Mapping[str, str] = getattr(module, "prefixes", {"": ""})
    candidates = [prefix + path.removeprefix(start) for prefix, start in prefixes.items() if path.startswith(start)]
    return [name.removeprefix(NETWORK) for name in candidates if _path(module, name) == path]


def _check_shapes(file: Path, pair: Pair, layer: nn.Linear | nn.QuantizedLinear, component: str) -> None:
    out, wide = layer.weight.shape
    if isinstance(layer, nn.QuantizedLinear):
        wide = wide * 32 // layer.bits
    if (pair.up.shape[0], pair.down.shape[1]) != (out, wide):
        raise UserError(
            f"{file} does not fit the {component}: {pair.key} is for a weight of shape "
            f"[{pair.up.shape[0]}, {pair.down.shape[1]}], but here it is [{out}, {wide}]; "
            f"the LoRA belongs to another generation or size."
        )


# ---------------------------------------------------------------------------------------------------- applying


class AdaptedQuantizedLinear(QuantizedLinear):
    """A quantized layer with LoRAs beside its weight, so that no rounding to few bits takes them away."""

    def __call__(self, x: mx.array) -> mx.array:
        """x W^T + b + (x down^T) up^T: x (..., in) -> (..., out)."""
        found: mx.array = super().__call__(x) + (x @ self._down.T) @ self._up.T
        return found


def add(module: nn.Module, terms: Terms) -> None:
    """Adds `terms` to the weights of `module`, in place, lazily: summed in float32, rounded once to a weight's dtype.

    A quantized layer would round them away: there they are put beside the weight. Source: ltx_core
    fuse_loras.apply_loras, in float32.
    """
    layers = _layers(module)
    for path, some in terms.items():
        layer = layers[path]
        if isinstance(layer, nn.QuantizedLinear):
            _attach(layer, some)
            continue
        weight = layer.weight.astype(mx.float32)
        for pair, strength in some:
            weight = weight + (strength * pair.scale) * (pair.up.astype(mx.float32) @ pair.down.astype(mx.float32))
        layer.weight = weight.astype(layer.weight.dtype)


def detach(module: nn.Module) -> None:
    """Takes LoRAs beside quantized weights away; those added to others stay."""
    for layer in _layers(module).values():
        if isinstance(layer, AdaptedQuantizedLinear):
            layer.__class__ = QuantizedLinear  # type: ignore[assignment]
            del layer._down, layer._up


def _attach(layer: nn.QuantizedLinear, terms: Sequence[tuple[Pair, float]]) -> None:
    downs = [pair.down.astype(mx.float32) for pair, _ in terms]
    ups = [(strength * pair.scale) * pair.up.astype(mx.float32) for pair, strength in terms]
    # All LoRAs of a layer in one pair: ranks concatenated.
    if isinstance(layer, AdaptedQuantizedLinear):
        downs, ups = [layer._down.astype(mx.float32), *downs], [layer._up.astype(mx.float32), *ups]
    else:
        # The layer keeps its place and its parameters, whoever holds it; only what it computes changes.
        layer.__class__ = AdaptedQuantizedLinear
    layer._down = mx.concatenate(downs, axis=0).astype(layer.scales.dtype)
    layer._up = mx.concatenate(ups, axis=1).astype(layer.scales.dtype)
