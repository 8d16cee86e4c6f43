"""The LoRAs of one run: the user's own, and the distilled one that some stages add at a strength of their own.

Files are opened and matched against the network's names before anything heavy is loaded. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    from mlx_video.planning.settings import Settings

SetLora = Callable[[float], None]
"""Brings the distilled LoRA to a strength."""


class _Matched(NamedTuple):
    """A LoRA file that fits: where each of its pairs belongs in the transformer, by the file's name for the pair."""

    file: Path
    places: Mapping[str, str]


class Adapters:
    """LoRAs that are known to fit, ready to be added to a borrowed transformer. Holds none of their matrices."""

    def __init__(self, own: Sequence[tuple[_Matched, float]], distilled: _Matched | None):
        """Use `open`."""
        self._own, self._distilled = own, distilled

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
            return cls((), None)
        skeleton = checkpoint.build("transformer", audio="audio" in settings.modalities)
        own = []
        for lora in loras:
            adapter = read(locate.lora(lora.path, take), header_only=None)
            matched, coverage = _match(skeleton, adapter)
            if coverage.strangers:
                on_message(str(coverage))
            own.append((matched, lora.strength))
        distilled = None
        if any(settings.lora_strengths) and checkpoint.distilled_lora is not None:
            distilled, _ = _match(skeleton, read(checkpoint.distilled_lora, header_only=None))
        return cls(own, distilled)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the user's own LoRA files."""
        return tuple(size_of(matched.file) for matched, _ in self._own)

    @property
    def used(self) -> tuple[tuple[Path, float], ...]:
        """The files of all LoRAs, with the strengths that the user gave; the distilled one's own is 1."""
        distilled = [(self._distilled.file, 1.0)] if self._distilled is not None else []
        return (*((matched.file, strength) for matched, strength in self._own), *distilled)

    def fuse(self, transformer: nn.Module) -> SetLora:
        """Adds the user's LoRAs to the transformer; the result brings the distilled one to a strength.

        Going from one strength to the next adds the difference: the weights are not read a second time. Blocks that are
        read from disk for each visit are given all of it each time they are read.
        """
        streamed = transformer.parts if isinstance(transformer.parts, Streamed) else None
        now = 0.0

        def add(loras: Sequence[tuple[_Matched, float]]) -> None:
            terms = _terms(loras).items()
            fitting.add(transformer, {p: t for p, t in terms if streamed is None or streamed.split(p)[0] is None})

        def set_strength(strength: float) -> None:
            nonlocal now
            if self._distilled is not None and strength != now:
                add([(self._distilled, strength - now)])
                now = strength

        add(self._own)
        if streamed is not None:
            distilled = self._distilled
            streamed.adapt = lambda: [_terms(self._own), _terms([(distilled, now)] if distilled else [])]
        return set_strength


def _match(transformer: nn.Module, adapter: Adapter) -> tuple[_Matched, fitting.Coverage]:
    pairs, coverage = fitting.match(transformer, adapter, "transformer")
    return _Matched(adapter.path, {pair.key: path for path, pair in pairs.items()}), coverage


def _terms(loras: Sequence[tuple[_Matched, float]]) -> dict[str, list[tuple[fitting.Pair, float]]]:
    """By path, from files read anew: a matrix keeps its memory as long as anyone holds it."""
    terms: dict[str, list[tuple[fitting.Pair, float]]] = {}
    for (file, places), strength in loras:
        for pair in read(file).pairs.values() if strength else ():
            if pair.key in places:
                terms.setdefault(places[pair.key], []).append((pair, strength))
    return terms
