"""Weights in few bits: which layers, how they are made while loading, and how layers that arrive so are taken on.

Only linear layers of the network's blocks are quantized; tables, norms, gates of attention heads, AdaLN and everything
outside the blocks keep their 16 or 32 bits. Knows no file layout and no particular network: the caller says which part
is its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map, tree_unflatten

from mlx_video import platform
from mlx_video.cpu import forms
from mlx_video.reading import shown
from mlx_video.types import UserError
from mlx_video.weights.names import cast
from mlx_video.weights.store import Entry

BITS = (4, 8)
"""What we write; packs of others are read with whatever MLX knows."""
READABLE_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
KEPT = ("to_gate_logits",)
"""Linear layers that stay as they are: a gate has one row for each head, so there is little to save."""


class Quantization(NamedTuple):
    """Bits of a weight, and how many neighbours in a row share a scale and a bias."""

    bits: int
    group_size: int = 64

    def __str__(self) -> str:
        """For the user."""
        return f"{self.bits} bit, groups of {self.group_size}"

    def bytes_each(self, size: int) -> float:
        """Bytes that a weight takes, its share of scale and bias of `size` bytes each included."""
        return self.bits / 8 + 2 * size / self.group_size

    @classmethod
    def of(cls, bits: int, group_size: int | None = None) -> Quantization:
        """What a user asks for; raises UserError where it cannot be had."""
        if bits not in BITS:
            raise UserError(f"Quantizing to {bits!r} bits is not supported; there are {_listed(BITS)} bits.")
        if group_size is not None and group_size not in GROUP_SIZES:
            raise UserError(f"A group size of {group_size!r} is not supported; there are {_listed(GROUP_SIZES)}.")
        return cls(bits, group_size or cls._field_defaults["group_size"])

    @classmethod
    def read(cls, stated: object, where: str) -> Quantization:
        """What the config of a pack states; raises UserError, naming `where`, for what MLX does not read."""
        if not isinstance(stated, Mapping):
            raise UserError(f"{where} says quantization = {shown(stated)}, which should give bits and group_size.")
        bits: Any = stated.get("bits")
        group, mode = stated.get("group_size", 64), stated.get("mode", "affine")
        plain = type(bits) is int and type(group) is int and mode == "affine"
        if not plain or bits not in READABLE_BITS or group not in GROUP_SIZES:
            raise UserError(
                f"{where} says its weights have {shown(bits)} bits in groups of {shown(group)} ({shown(mode)}); "
                f"supported here: "
                f"{_listed(READABLE_BITS)} bits in groups of {_listed(GROUP_SIZES)} (affine)."
            )
        return cls(bits, group)


def _listed(values: Sequence[int]) -> str:
    return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"


# ------------------------------------------------------------------------------------------------ making them


def layers(block: nn.Module, group_size: int) -> set[str]:
    """The paths of a block's layers that are quantized: those whose rows are made of whole groups."""
    return {
        path
        for path, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
        and path.rpartition(".")[2] not in KEPT
        and layer.weight.shape[1] % group_size == 0
    }


def chosen(blocks: Sequence[nn.Module], how: Quantization) -> list[set[str]]:
    """`layers` of each block; raises UserError where not one layer's rows can be cut into groups."""
    found = [layers(block, how.group_size) for block in blocks]
    if not any(found):
        raise UserError(
            f"No layer here can be quantized in groups of {how.group_size}: none has rows whose length is a multiple "
            f"of that."
        )
    return found


class QuantizedLinear(nn.QuantizedLinear):
    """MLX's own, which on a CPU makes its weight whole before a product with many rows."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., in) -> (..., out)."""
        if x.size // x.shape[-1] < forms.ROWS_TO_DEQUANTIZE or not platform.cpu_forms():
            result: mx.array = super().__call__(x)
            return result
        how = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}
        y = x @ mx.dequantize(self.weight, self.scales, self.get("biases"), **how).T
        return y + self.bias if "bias" in self else y


def take_over(network: nn.Module) -> None:
    """Makes the quantized linear layers of a network ours; they keep their places and their parameters."""
    for layer in network.modules():
        if type(layer) is nn.QuantizedLinear:
            layer.__class__ = QuantizedLinear


def quantize(blocks: Sequence[nn.Module], how: Quantization, dtype: mx.Dtype | None = None) -> None:
    """Quantizes the linear layers of lazily loaded blocks, one block after the other, so that only one is held twice.

    Bits are chosen from the weights as they were loaded; then everything is cast to `dtype`. Raises UserError where
    nothing can be quantized so.
    """
    for block, some in zip(blocks, chosen(blocks, how), strict=True):
        nn.quantize(block, how.group_size, how.bits, class_predicate=partial(_is_one_of, some))
        take_over(block)
        block.update(tree_map(lambda array: cast(array, dtype), block.parameters()))
        mx.eval(block.parameters())


def _is_one_of(paths: Collection[str], path: str, _: nn.Module) -> bool:
    return path in paths


def pack(arrays: Mapping[str, mx.array], paths: Collection[str], how: Quantization) -> dict[str, mx.array]:
    """`arrays` by name with the weights of the layers at `paths` as weight, scales and biases; lazy."""
    result: dict[str, mx.array] = {}
    for path, array in arrays.items():
        layer, _, leaf = path.rpartition(".")
        if leaf == "weight" and layer in paths:
            result.update(zip(_parts(layer), mx.quantize(array, how.group_size, how.bits), strict=True))
        else:
            result[path] = array
    return result


def _parts(layer: str) -> Iterator[str]:
    return (f"{layer}.{leaf}" for leaf in ("weight", "scales", "biases"))


# ------------------------------------------------------------------------------------------------ taking them on


def adopt(
    network: nn.Module,
    entries: Mapping[str, Entry],
    path_of: Callable[[str], str | None],
    where: str,
    stated: Quantization | None = None,
) -> None:
    """Makes those layers of `network` quantized whose scales are among `entries`; nothing is allocated.

    Bits and group size follow from the shapes, layer by layer. path_of: name of a tensor -> path in the network, or
    None where it is not the network's. Raises UserError, naming `where`, for what is no quantization, and where none of
    the layers is as `stated`.
    """
    scales = [name for name in entries if name.endswith(".scales")]
    if not scales:
        return
    found = dict(network.named_modules())
    kinds, replaced = set(), []
    for name in scales:
        path = (path_of(name) or "").removesuffix(".scales")
        layer = found.get(path)
        if not isinstance(layer, nn.Linear):
            continue
        weight = f"{name.removesuffix('scales')}weight"
        how = _from_shapes(layer, entries.get(weight), entries[name], f"{where}: {weight}")
        kinds.add(how)
        rows, columns = layer.weight.shape
        replaced.append((path, QuantizedLinear(columns, rows, "bias" in layer, how.group_size, how.bits)))
    if stated is not None and kinds and stated not in kinds:
        there = " and ".join(map(str, sorted(kinds)))
        raise UserError(f"{where} says {stated}, but its weights have {there}; the two are not of one conversion.")
    network.update_modules(tree_unflatten(replaced))


def _from_shapes(layer: nn.Linear, weight: Entry | None, scales: Entry, what: str) -> Quantization:
    rows, columns = layer.weight.shape
    packed = weight.shape[1] * 32 if weight is not None and weight.dtype == "U32" and len(weight.shape) == 2 else 0
    groups = scales.shape[-1] if scales.shape else 0
    how = Quantization(packed // columns, columns // max(groups, 1))
    whole = packed == columns * how.bits and columns == groups * how.group_size
    if not whole or how.bits not in READABLE_BITS or how.group_size not in GROUP_SIZES:
        shape = "absent" if weight is None else f"{weight.dtype} {list(weight.shape)}"
        raise UserError(
            f"{what} is {shape} with scales {list(scales.shape)} for a layer of {rows} x {columns}, which is no "
            f"quantization that is known: {_listed(READABLE_BITS)} bits in groups of {_listed(GROUP_SIZES)}."
        )
    return how


def used(network: nn.Module) -> Quantization | None:
    """How the network's quantized layers are quantized (that of most of them); None where there are none."""
    kinds = [Quantization(m.bits, m.group_size) for m in network.modules() if isinstance(m, nn.QuantizedLinear)]
    return max(set(kinds), key=kinds.count) if kinds else None
