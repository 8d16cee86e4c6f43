"""The LoRAs of one run: the user's own, and the distilled one that some stages add at a strength of their own.

Files are opened and matched against the network's names before anything heavy is loaded. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlx.nn as nn

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub.fetch import Take, fetch
from mlx_video.lending.visits import Streamed
from mlx_video.types import Lora
from mlx_video.weights import lora as fitting
from mlx_video.weights.lora_file import Adapter, read
from mlx_video.weights.store import size_of

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint
    from mlx_video.jobs.settings import Settings

SetLoras = Callable[[Mapping[str, float]], None]
"""Brings LoRAs to strengths, by name."""


class _Matched(NamedTuple):
    """A LoRA file that fits: where each of its pairs belongs in the transformer, by the file's name for the pair."""

    file: Path
    places: Mapping[str, str]
    total: int = 0
    """Layers that the file has for the network."""


_Group = Sequence[tuple[_Matched, float]]


class Adapters:
    """LoRAs that are known to fit, ready to be added to a borrowed transformer. Holds none of their matrices."""

    def __init__(self, groups: Mapping[str, _Group]):
        """Use `open`."""
        self._groups = groups

    @classmethod
    def open(
        cls,
        loras: Sequence[Lora],
        settings: Settings,
        checkpoint: Checkpoint,
        on_message: Callable[[str], None],
        take: Take = fetch,
    ) -> Adapters:
        """Opens the user's LoRAs (`take`: how those on the hub are had) and, where a stage asks, the distilled one.

        Raises UserError where one does not fit the checkpoint; tells the coverage of one that fits in part.
        """
        if not loras and not any(settings.lora_strengths):
            return cls({"user": [], "distilled": []})
        skeleton = checkpoint.skeleton("transformer", audio="audio" in settings.modalities)
        own: list[tuple[_Matched, float]] = []
        for lora in loras:
            adapter = read(locate.lora(lora.path, take), header_only=None)
            matched, coverage = _match(skeleton, adapter)
            if coverage.strangers:
                on_message(str(coverage))
            own.append((matched, lora.strength))
        distilled: list[tuple[_Matched, float]] = []
        if any(settings.lora_strengths) and checkpoint.distilled_lora is not None:
            distilled.append((_match(skeleton, read(checkpoint.distilled_lora, header_only=None))[0], 1.0))
        return cls({"user": own, "distilled": distilled})

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the user's own LoRA files."""
        return tuple(size_of(matched.file) for matched, _ in self._groups["user"])

    @property
    def used(self) -> tuple[tuple[Path, float], ...]:
        """The files of all LoRAs, with the strengths that the user gave; the distilled one's own is 1."""
        return tuple((matched.file, strength) for group in self._groups.values() for matched, strength in group)

    @property
    def coverage(self) -> str:
        """How much of each of the user's own LoRAs found its place; empty where there is none."""
        own = (matched for matched, _ in self._groups["user"])
        return "; ".join(f"{one.file.name}: {len(one.places)} of {one.total} layers matched" for one in own)

    @staticmethod
    def beside_disk(transformer: nn.Module) -> bool:
        """Whether a transformer's blocks are read from disk in every call."""
        return isinstance(transformer.parts, Streamed)

    def fuse(self, transformer: nn.Module) -> SetLoras:
        """What brings LoRAs to the strengths of a stage, by name: the "user"'s own, all together, and "distilled".

        Going from one strength to the next adds the difference: the weights are not read a second time. Blocks that are
        read from disk for each visit are given all of it each time they are read, and so are those among them that
        stay: read once more, they have the same numbers. Several runs with the same LoRAs may have one transformer.
        """
        streamed = transformer.parts if isinstance(transformer.parts, Streamed) else None
        if getattr(transformer, "added", None) is None:
            transformer.added = _Added(self._groups)
        # Who borrows it together with others finds it as they have left it.
        now = transformer.added.strengths

        def bring(strengths: Mapping[str, float]) -> None:
            for name, strength in strengths.items():
                if strength == now[name] or not self._groups[name]:
                    continue
                terms = _terms(self._groups[name], strength - now[name]).items()
                fitting.add(transformer, {p: t for p, t in terms if streamed is None or streamed.split(p)[0] is None})
                now[name] = strength
                if streamed is not None and self._groups[name]:
                    streamed.let_go()

        if streamed is not None:
            streamed.adapt = lambda: [_terms(group, now[name]) for name, group in self._groups.items()]
        return bring


class _Added:
    """At which strengths LoRAs are in a transformer's weights, by name. No dict: a module would take it for weights."""

    def __init__(self, names: Iterable[str]):
        self.strengths = dict.fromkeys(names, 0.0)


def is_adapted(network: nn.Module) -> bool:
    """Whether LoRAs are in a network's weights: taken out again they would leave what rounding has changed."""
    added = getattr(network, "added", None)
    return added is not None and any(added.strengths.values())


def adapt_anew(network: nn.Module) -> None:
    """Tells that a network's weights have just been read, without LoRAs."""
    network.added = None


def _match(transformer: nn.Module, adapter: Adapter) -> tuple[_Matched, fitting.Coverage]:
    pairs, coverage = fitting.match(transformer, adapter, "transformer")
    return _Matched(adapter.path, {pair.key: path for path, pair in pairs.items()}, coverage.total), coverage


def _terms(group: _Group, factor: float) -> dict[str, list[tuple[fitting.Pair, float]]]:
    """By path, from files read anew: a matrix keeps its memory as long as anyone holds it."""
    terms: dict[str, list[tuple[fitting.Pair, float]]] = {}
    for matched, strength in group:
        places = matched.places
        for pair in read(matched.file).pairs.values() if strength * factor else ():
            if pair.key in places:
                terms.setdefault(places[pair.key], []).append((pair, strength * factor))
    return terms
