"""Puts a checkpoint's tensors into a module by rules that the module's own class states.

A network class may state, as class attributes:
    prefixes: {checkpoint prefix: path in the module}, "" for the root. The longest matching prefix wins.
    renames:  ((regular expression, replacement), ...) applied in order to the path after the prefix.
    ignored:  (regular expression, ...) of paths that files carry and nothing reads.
Layouts follow from the module tree: the owner of a weight is looked up, and a convolution's weight is moved from the
checkpoint's channels-first to MLX's channels-last. A module with a layout of its own states
`checkpoint_axes = {leaf: axes}`. Nothing is guessed from names, and nothing is loaded in part: missing, surplus,
doubled or misshapen tensors are one error that names the component. Knows no particular network.

Tensors come in one of three forms (`Form`): as the official files have them, under official names but with channels
last as other converters write them, or under the module's own paths in MLX's order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_video.types import UserError

_CONVOLUTIONS = {
    nn.Conv1d: (0, 2, 1),
    nn.Conv2d: (0, 2, 3, 1),
    nn.Conv3d: (0, 2, 3, 4, 1),
    nn.ConvTranspose1d: (1, 2, 0),
}
"""Axes that take a checkpoint's (O, I, ...) weight, or (I, O, K) where transposed, to MLX's (O, ..., I)."""
NAMED_IN_REPORT = 3
Form = Literal["official", "channels last", "native"]
_Axes = tuple[int, ...]


def module_path(network: type[nn.Module] | nn.Module, name: str) -> str | None:
    """Where the tensor called `name` in a checkpoint belongs in the network; None where it is not the network's."""
    kind = network if isinstance(network, type) else type(network)
    return _module_path(kind, getattr(network, "ignored", ()), name)


@lru_cache(maxsize=1 << 16)
def _module_path(network: type[nn.Module], ignored: Collection[str], name: str) -> str | None:
    # Every check, weighing and reading of a run asks for the same thousands of names.
    prefixes: Mapping[str, str] = getattr(network, "prefixes", {"": ""})
    matching = [prefix for prefix in prefixes if name.startswith(prefix)]
    if not matching:
        return None
    prefix = max(matching, key=len)
    path = prefixes[prefix] + name[len(prefix) :]
    for pattern, replacement in getattr(network, "renames", ()):
        path = re.sub(pattern, replacement, path)
    return None if _is_ignored(ignored, path) else path


def _is_ignored(ignored: Collection[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in ignored)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Path -> shape in the checkpoint's own axis order, for every parameter of the module; nothing is allocated."""
    return _official_shapes(module, _axes(module))


def _official_shapes(module: nn.Module, axes: Mapping[str, _Axes]) -> dict[str, _Axes]:
    result = {}
    for path, array in _parameters(module).items():
        order = axes.get(path)
        shape = array.shape
        result[path] = tuple(shape[order.index(i)] for i in range(len(shape))) if order else tuple(shape)
    return result


def _parameters(module: nn.Module) -> dict[str, mx.array]:
    arrays: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore[assignment]
    return dict(arrays)


def _axes(module: nn.Module) -> dict[str, _Axes]:
    found = {}
    for path, owner in module.named_modules():
        start = f"{path}." if path else ""
        for kind, order in _CONVOLUTIONS.items():
            if isinstance(owner, kind):
                found[start + "weight"] = order
        for leaf, order in getattr(owner, "checkpoint_axes", {}).items():
            found[start + leaf] = tuple(order)
    return found


def match(
    module: nn.Module, found: Mapping[str, tuple[int, ...]], component: str, *, form: Form = "official"
) -> dict[str, str]:
    """Pairs names of tensors with module paths: {name: path}, one to one.

    found: name -> shape, in the order that `form` says. Raises UserError with a short report where a tensor is missing,
    surplus, doubled or has another shape.
    """
    return {name: path for name, (path, _) in _pair(module, found, component, form).items()}


def _pair(
    module: nn.Module, found: Mapping[str, tuple[int, ...]], component: str, form: Form
) -> dict[str, tuple[str, _Axes]]:
    """As `match`, with the axes that take each tensor to the official order (a native one: that leave it alone)."""
    native = form == "native"
    axes, ignored = {} if native else _axes(module), getattr(module, "ignored", ())
    wanted = _official_shapes(module, axes)
    pairs: dict[str, tuple[str, _Axes]] = {}
    taken: dict[str, str] = {}
    faults = []
    for name, shape in found.items():
        path = module_path(module, name) if not native else None if _is_ignored(ignored, name) else name
        if path is None:
            continue
        order = _to_official(tuple(shape), wanted[path], axes.get(path), form) if path in wanted else ()
        if path in taken:
            faults.append(f"{taken[path]} and {name} both stand for {path}")
        elif order is None:
            faults.append(f"{name} has shape {list(shape)}, expected {list(wanted[path])}")
        pairs[name], taken[path] = (path, order or ()), name
    faults += _report("missing", [path for path in wanted if path not in taken])
    faults += _report("not known", [name for path, name in taken.items() if path not in wanted])
    if faults:
        more = f" (and {len(faults) - NAMED_IN_REPORT} more)" if len(faults) > NAMED_IN_REPORT else ""
        raise UserError(f"The weights do not fit the {component}: {'; '.join(faults[:NAMED_IN_REPORT])}{more}.")
    return pairs


def _to_official(shape: _Axes, official: _Axes, axes: _Axes | None, form: Form) -> _Axes | None:
    """The axes that take a tensor of `shape` to the `official` one; None where it is of neither order.

    Converters that write channels last leave some tensors as they were (filters, an upsampler): where the shape tells
    the two orders apart, it decides.
    """
    plain = tuple(range(len(official)))
    if form == "channels last" and len(official) > 2:
        last = axes or (0, *plain[2:], 1)
        if shape == tuple(official[i] for i in last):
            return tuple(last.index(i) for i in plain)
    return plain if shape == official else None


def _report(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    if not names:
        return []
    shown = ", ".join(names[:NAMED_IN_REPORT])
    number = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return [f"{number} {what} ({shown}{', ...' if len(names) > NAMED_IN_REPORT else ''})"]


def places(
    module: nn.Module, found: Mapping[str, tuple[int, ...]], component: str, *, form: Form = "official"
) -> dict[str, tuple[str, _Axes]]:
    """For each name its module path and the axes that take the tensor to MLX's order, for `moved`.

    found: name -> shape, in the order that `form` says. Raises UserError as `match` does.
    """
    axes = {} if form == "native" else _axes(module)
    return {
        name: (path, tuple(order[i] for i in axes.get(path, range(len(order)))))
        for name, (path, order) in _pair(module, found, component, form).items()
    }


def native_arrays(
    module: nn.Module, tensors: Mapping[str, mx.array], component: str, *, form: Form = "official"
) -> dict[str, mx.array]:
    """Module path -> array in MLX's axis order, from `tensors` (name -> array); lazy, dtypes untouched.

    Raises UserError as `match` does.
    """
    found = places(module, {name: array.shape for name, array in tensors.items()}, component, form=form)
    return {path: moved(tensors[name], axes) for name, (path, axes) in found.items()}


def official_arrays(
    module: nn.Module, tensors: Mapping[str, mx.array], component: str, *, form: Form = "official"
) -> dict[str, mx.array]:
    """Official name -> array in the official order, from tensors under official names in either order; lazy.

    Raises UserError as `match` does.
    """
    pairs = _pair(module, {name: array.shape for name, array in tensors.items()}, component, form)
    return {name: moved(tensors[name], order) for name, (_, order) in pairs.items()}


def moved(array: mx.array, order: _Axes) -> mx.array:
    """The array with its axes in `order`; itself where they are already."""
    return array if order == tuple(sorted(order)) else array.transpose(order)


def assign(
    module: nn.Module,
    tensors: Mapping[str, mx.array],
    component: str,
    *,
    dtype: mx.Dtype | None = None,
    form: Form = "official",
) -> None:
    """Loads `tensors` (name -> array) into `module`, cast to `dtype`; lazy until evaluated.

    Raises UserError as `match` does, and then has changed nothing.
    """
    arrays = native_arrays(module, tensors, component, form=form)
    module.update(tree_unflatten([(path, cast(array, dtype)) for path, array in arrays.items()]))


def cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    """The array in `dtype` where it is a floating-point one and a dtype is given; else as it is."""
    return array.astype(dtype) if dtype is not None and mx.issubdtype(array.dtype, mx.floating) else array
