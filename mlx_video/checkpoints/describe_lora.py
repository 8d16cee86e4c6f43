"""What a LoRA file is, in lines for the user: the base that it fits, ranks, alphas, layers that do nothing, its notes.

The matrices are looked at one pair at a time, so that a file of any size takes little memory. Prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_video.checkpoints import demo
from mlx_video.checkpoints.describe import PRECISIONS
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.models.families import FAMILIES
from mlx_video.models.family import Family
from mlx_video.types import UserError, amount
from mlx_video.weights import lora
from mlx_video.weights.lora_file import Adapter, Pair, is_lora, read
from mlx_video.weights.store import Tensors, size_of

NAMED = 4
"""Ranks, alphas and dead layers that are named; of more there is the count."""
MOST_NOTES, LONGEST_NOTE = 24, 160
"""Lines of what a trainer has noted, and characters of each."""
FIRST_NOTES = ("ss_base_model", "ss_sd_model_name", "modelspec.", "ss_network", "ss_")
"""Keys that tell most, by how they begin."""
UNTOLD_NOTES = ("format", "sshs_", "ss_tag_frequency", "ss_bucket", "ss_dataset")


class _Dead(NamedTuple):
    """Layers that add nothing, and those whose matrices are no numbers; by the file's names."""

    nothing: list[str]
    no_number: list[str]


def lora_at(path: Path) -> Path | None:
    """The file, or the only one in a folder, that is a LoRA; None where there is none."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1 or files[0].suffix.lower() != ".safetensors":
        return None
    return path if is_lora(Tensors(files).entries) else None


def describe_lora(path: Path) -> list[str]:
    """The lines for a LoRA; raises UserError where it is damaged, or one that cannot be read."""
    adapter = read(path, header_only=False)
    tensors = Tensors([adapter.path])
    sizes: Counter[str] = Counter()
    for entry in tensors.entries.values():
        sizes[PRECISIONS.get(entry.dtype, entry.dtype)] += entry.nbytes
    pairs = dict(adapter.pairs)
    count = len(pairs)
    lines = [
        str(adapter.path),
        _line("kind", f"LoRA for {count} layers"),
        _line("size", f"{amount(size_of(adapter.path), disk=True)}  {', '.join(k for k, _ in sizes.most_common())}"),
        *(_line(label, text) for label, text in _bases(adapter)),
        _line("rank", _counted(pair.down.shape[0] for pair in pairs.values())),
        _line("alpha", _counted(round(pair.scale * pair.down.shape[0], 4) for pair in pairs.values())),
        _line("scale", _counted(round(pair.scale, 6) for pair in pairs.values())),
    ]
    unread = adapter.unread
    del adapter  # it would keep every matrix that is looked at
    lines += [_line("dead layers", text) for text in _told_dead(_find_dead(pairs), count)]
    if unread:
        lines.append(_line("not read", f"{len(unread)} tensors, such as {unread[0]}"))
    return lines + [_line("note", note) for note in _notes(tensors.metadata)]


def _bases(adapter: Adapter) -> Iterator[tuple[str, str]]:
    """Which models the file's layers are of, by names and shapes, and how many of them."""
    found: dict[str, lora.Coverage] = {}
    faults = []
    for name, skeleton in _networks():
        try:
            found[name] = lora.match(skeleton, adapter, "transformer")[1]
        except UserError as fault:
            faults.append(str(fault))
    if not found:
        yield "base", f"none that is known: {faults[0]}"
        return
    most = max(one.matched for one in found.values())
    best = [name for name, one in found.items() if one.matched == most]
    alike = " (whose layers here have the same names and shapes)" if len(best) > 1 else ""
    yield "base", f"{' or '.join(best)}{alike}"
    coverage = found[best[0]]
    named = f"; not known: {', '.join(coverage.strangers[:NAMED])}" if coverage.strangers else ""
    yield "layers", f"{coverage.matched} of {coverage.total} matched{named}"


def _networks() -> Iterator[tuple[str, nn.Module]]:
    for family in FAMILIES.values():
        for one in family.generations:
            if one.config is not None:
                yield f"LTX-{one.name}", _build(family, one.config())
    own = open_checkpoint(demo.folder(), "distilled")
    yield "the demo", own.skeleton("transformer")


def _build(family: Family, config: Mapping[str, object]) -> nn.Module:
    return family.components["transformer"].build(config)


def _find_dead(pairs: dict[str, Pair]) -> _Dead:
    """Empties `pairs` as it goes, so that no more than one is in memory."""
    nothing, no_number = list[str](), list[str]()
    for name in list(pairs):
        pair = pairs.pop(name)
        finite = [mx.isfinite(matrix).all() for matrix in (pair.down, pair.up)]
        some = [(matrix != 0).any() for matrix in (pair.down, pair.up)]
        mx.eval(finite, some)
        if not all(one.item() for one in finite):
            no_number.append(pair.key)
        elif pair.scale == 0 or not all(one.item() for one in some):
            nothing.append(pair.key)
    return _Dead(nothing, no_number)


def _told_dead(dead: _Dead, count: int) -> Iterator[str]:
    for names, what in ((dead.nothing, "add nothing (zeros)"), (dead.no_number, "are no numbers (NaN or infinity)")):
        if names:
            more = ", ..." if len(names) > NAMED else ""
            yield f"{len(names)} of {count} {what}: {', '.join(names[:NAMED])}{more}"
    if not any(dead):
        yield "none"


def _counted(values: Iterable[float]) -> str:
    """The values, the commonest first, with how many layers have each where they differ."""
    found = Counter(values).most_common()
    if len(found) == 1:
        return f"{found[0][0]:g}"
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(f"{value:g} ({count} layers)" for value, count in found[:NAMED]) + more


def _notes(metadata: Mapping[str, object]) -> list[str]:
    """What the trainer wrote of itself, most telling first; long and nested values are left out."""
    plain = {key: value for key, value in metadata.items() if isinstance(value, str | int | float)}
    kept = [key for key in plain if not key.startswith(UNTOLD_NOTES)]
    kept.sort(key=lambda key: next((n for n, start in enumerate(FIRST_NOTES) if key.startswith(start)), 99))
    lines = [f"{key[:LONGEST_NOTE]} = {plain[key]}"[:LONGEST_NOTE] for key in kept[:MOST_NOTES]]
    return lines + ([f"and {len(kept) - MOST_NOTES} more"] if len(kept) > MOST_NOTES else [])


def _line(label: str, text: str) -> str:
    return f"  {label:<18}{text}"
