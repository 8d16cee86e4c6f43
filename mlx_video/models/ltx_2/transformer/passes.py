"""Walks the passes of a guided step through the blocks together, so that equal work is done once.

Passes whose streams are still the identical arrays and which a block treats alike are computed once; a text's keys and
values are computed once per block, whoever reads them; and passes treated alike can share one batch. All give the same
numbers as one pass at a time. Knows no embedding and no output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_video.models.layers import KeysValues, Rotation
from mlx_video.models.ltx_2.transformer.adaln import Modulation, repeat_samples
from mlx_video.models.ltx_2.transformer.block import Block, BlockInputs, Crossing, Skips, step_operations
from mlx_video.models.ltx_2.transformer.prepared import Prepared
from mlx_video.types import MODALITIES, Modality, Pass, Tree


class Timing(NamedTuple):
    """What the noise levels of a call make of each modality, before any block adds its tables.

    modulation: 6 or 9 rows; prompt: (1 or B, 1, 2, D), empty without text AdaLN; crossing: empty for one modality.
    """

    modulation: dict[str, Modulation]
    prompt: dict[str, mx.array]
    crossing: dict[str, Crossing]


class _Group(NamedTuple):
    """Passes that share streams, text and what they skip in a block: computed once for all `members`."""

    context: str
    members: list[int]


class Visits:
    """The passes of one call on their way through the blocks; `streams` holds where each of them is."""

    def __init__(
        self,
        x: Tree,
        passes: Sequence[Pass],
        timing: Timing,
        prepared: Prepared,
        *,
        still: frozenset[str] = frozenset(),
        batched: bool = False,
    ):
        """x: embedded tokens (B, T, D), where every pass starts; `still`: modalities that are only seen, not moved."""
        self.streams: list[Tree] = [x] * len(passes)
        self._passes, self._timing, self._prepared = passes, timing, prepared
        self._still, self._batched = still, batched

    def through(self, index: int, block: Block) -> Iterator[float]:
        """Takes all passes through block `index`, in pieces; yields each piece's operations when it is done."""
        texts: dict[tuple[Any, ...], KeysValues] = {}
        for skips, groups in self._plan(index).items():
            for some in [groups] if self._batched else [[group] for group in groups]:
                inputs = [self.streams[group.members[0]] for group in some]
                text = {
                    m: _joined([self._text(index, block, texts, group.context, m) for group in some], x)
                    for m, x in inputs[0].items()
                    if m not in self._still
                }
                yield from self._advance(block, skips, some, inputs, text)

    def _plan(self, index: int) -> dict[Skips, list[_Group]]:
        plan: dict[Skips, dict[tuple[Any, ...], _Group]] = {}
        for i, one in enumerate(self._passes):
            x = self.streams[i]
            bypassed = {m for m, blocks in one.skip_self_attention if index in blocks and m in x} - self._still
            skips = Skips(frozenset(bypassed), one.cross_modal and len(x) == len(MODALITIES), self._still)
            same = (one.context, *map(id, x.values()))
            plan.setdefault(skips, {}).setdefault(same, _Group(one.context, [])).members.append(i)
        return {skips: list(groups.values()) for skips, groups in plan.items()}

    def _advance(
        self, block: Block, skips: Skips, groups: list[_Group], inputs: list[Tree], text: dict[str, KeysValues]
    ) -> Iterator[float]:
        times = len(groups)
        x = inputs[0] if times == 1 else {m: mx.concatenate([tree[m] for tree in inputs]) for m in inputs[0]}
        modulation, _, crossing = self._timing

        def repeated(rotation: Rotation) -> Rotation:
            return Rotation(*(repeat_samples(table, times) for table in rotation))

        around = BlockInputs(
            modulation={m: modulation[m].repeat(times) for m in x},
            rotation={m: repeated(self._prepared.rotation[m]) for m in x},
            text=text,
            crossing={m: Crossing(a.repeat(times), b.repeat(times), repeated(r)) for m, (a, b, r) in crossing.items()},
        )
        samples = next(iter(x.values())).shape[0]
        tokens, widths = ({m: x[m].shape[axis] for m in x} for axis in (1, 2))
        counts = step_operations(tokens, widths, {m: text[m].keys.shape[2] for m in text}, skips.cross_modal)
        for result, operations in zip(block.steps(x, around, skips), counts, strict=True):
            parts = {m: mx.split(result[m], times) if times > 1 else [result[m]] for m in result}
            for k, group in enumerate(groups):
                tree = {m: parts[m][k] for m in parts}
                for i in group.members:
                    self.streams[i] = tree
            yield samples * operations

    def _text(
        self, index: int, block: Block, texts: dict[tuple[Any, ...], KeysValues], context: str, modality: Modality
    ) -> KeysValues:
        prompt = self._timing.prompt.get(modality)
        kept = self._prepared.text if prompt is None else None
        key, store = ((context, modality), texts) if kept is None else ((context, modality, index), kept)
        if key not in store:
            store[key] = block.read_text(modality, self._prepared.contexts[context][modality], prompt)
        return store[key]


def _joined(texts: list[KeysValues], x: mx.array) -> KeysValues:
    # A text of one sample serves all samples of x.
    whole = []
    for arrays in zip(*texts, strict=True):
        spread = [a if len(a) == len(x) else mx.broadcast_to(a, (len(x), *a.shape[1:])) for a in arrays]
        whole.append(spread[0] if len(spread) == 1 else mx.concatenate(spread))
    return KeysValues(*whole)
