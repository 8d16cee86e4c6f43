"""The passes of a guided step as data, and their way through the blocks together, so that equal work is done once.

Passes whose streams are still the identical array and which a block treats alike are computed once; a text's keys and
values are computed once per block, whoever reads them. Both give the same numbers as one pass at a time. Knows no
embedding and no output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import mlx.core as mx

from mlx_video.models.layers import KeysValues
from mlx_video.models.ltx_2.transformer.adaln import Modulation
from mlx_video.models.ltx_video.transformer.block import Block, BlockInputs, Perturbation, step_operations
from mlx_video.models.ltx_video.transformer.prepared import Prepared


class Pass(NamedTuple):
    """One evaluation of the transformer in a guided step.

    context: which prepared context it reads; perturbed: blocks that are perturbed, and how.
    """

    context: str = "positive"
    perturbed: frozenset[int] = frozenset()
    how: Perturbation = "attention_values"


class Visits:
    """The passes of one call on their way through the blocks; `streams` holds where each of them is."""

    def __init__(self, x: mx.array, passes: Sequence[Pass], modulation: Modulation, prepared: Prepared):
        """x: embedded tokens (B, T, D), where every pass starts; modulation: 6 rows, before any block adds its table.

        Raises ValueError for a way of perturbing that there is not.
        """
        ways = get_args(Perturbation)
        for one in passes:
            if one.how not in ways:
                raise ValueError(f"a pass is perturbed by {one.how!r}; there are {', '.join(ways)}")
        self.streams: list[mx.array] = [x] * len(passes)
        self._passes, self._modulation, self._prepared = passes, modulation, prepared

    def through(self, index: int, block: Block) -> Iterator[float]:
        """Takes all passes through block `index`, in pieces; yields each piece's operations when it is done."""
        texts: dict[tuple[str, int], KeysValues] = {}
        for (context, perturbed, _), members in self._plan(index).items():
            if perturbed == "transformer_block":
                continue
            x, text = self.streams[members[0]], self._text(index, block, texts, context)
            around = BlockInputs(self._modulation, self._prepared.rotation, text)
            counts = step_operations(x.shape[1], x.shape[2], text.keys.shape[2])
            for result, operations in zip(block.steps(x, around, perturbed), counts, strict=True):
                for i in members:
                    self.streams[i] = result
                yield x.shape[0] * operations

    def _plan(self, index: int) -> dict[tuple[str, Perturbation | None, int], list[int]]:
        # Which passes take one road: the same text, treated alike, from the same array.
        plan: dict[tuple[str, Perturbation | None, int], list[int]] = {}
        for i, one in enumerate(self._passes):
            perturbed = one.how if index in one.perturbed else None
            plan.setdefault((one.context, perturbed, id(self.streams[i])), []).append(i)
        return plan

    def _text(self, index: int, block: Block, texts: dict[tuple[str, int], KeysValues], context: str) -> KeysValues:
        store, key = texts if self._prepared.text is None else self._prepared.text, (context, index)
        if key not in store:
            store[key] = block.read_text(self._prepared.contexts[context])
        return store[key]
