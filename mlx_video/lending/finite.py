"""Numbers that are not finite end a run where they first appear, with what can be told of their cause.

A black clip after an hour would look like any other result. The check is part of the evaluation that is made anyway.
Once it fails the files are searched, so that a damaged one is told from numbers too large for the precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_video.checkpoints.text_source import TextSource
from mlx_video.types import RunError, UserError
from mlx_video.weights.store import Tensors

if TYPE_CHECKING:
    from mlx_video.lending.loader import Loader


class Stored(NamedTuple):
    """Some of the tensors in some files: those whose names begin with one of `prefixes`."""

    tensors: Tensors
    prefixes: tuple[str, ...] = ("",)

    def damaged(self) -> str | None:
        """The first tensor that holds numbers that are not finite; they are read one by one."""
        arrays = self.tensors.load(self.prefixes)
        for name in sorted(arrays):
            if not all_finite(arrays.pop(name)).item():
                return name
        return None


@dataclass(frozen=True)
class Origin:
    """What some numbers are computed from: weights by what they are, LoRAs with their strengths, and the precision.

    flag: the one that asks for another precision.
    """

    dtype: mx.Dtype = mx.float32
    weights: Mapping[str, Stored] = field(default_factory=dict)
    loras: Sequence[tuple[Path, float]] = ()
    flag: str = "--dtype"

    @classmethod
    def of(cls, loader: Loader, *components: str, loras: Sequence[tuple[Path, float]] = ()) -> Origin:
        """From networks that `loader` lends; upsamplers by their kinds."""
        found, dtype, flag = {}, loader.dtype, "--dtype"
        for name in components:
            known = name in loader.checkpoint.parts
            part, kind = (loader.checkpoint.part(name), name) if known else (loader.upsampler(name), "upsampler")
            found[name.replace("_", " ")] = Stored(part.tensors, part.prefixes)
            dtype, flag = loader.dtype_of(kind), "--vae-dtype" if part.component.autoencoder else "--dtype"
        return cls(dtype, found, loras, flag)

    def with_text_encoder(self, source: TextSource) -> Origin:
        """The same with a text encoder."""
        return replace(self, weights={"text encoder": Stored(source.tensors), **self.weights})

    def check(self, what: str, arrays: Any) -> None:
        """Evaluates `arrays`; where they hold numbers that are not finite, raises `fault(what)`."""
        fine = all_finite(arrays)
        mx.eval(arrays, fine)
        if not fine.item():
            raise self.fault(what)

    def fault(self, what: str) -> UserError | RunError:
        """What to raise where `what` ("stage 1, step 2 of 8,") gave such numbers; if a file is damaged a UserError."""
        said = f"The run ended: {what} gave numbers that are not finite (NaN or infinity)"
        for path, _ in self.loras:
            if (name := Stored(Tensors([path])).damaged()) is not None:
                return UserError(f"{said}, because {name} of the LoRA {path} holds such numbers; leave that LoRA out.")
        for kind, stored in self.weights.items():
            if (name := stored.damaged()) is not None:
                files = stored.tensors.paths
                where = files[0] if len(files) == 1 else files[0].parent
                return UserError(
                    f"{said}, because {name} of the {kind} in {where} holds such numbers; fetch or convert it again."
                )
        return RunError(f"{said}; the files hold none, so they became too large on the way: {self._advice()}.")

    def _advice(self) -> str:
        changes = [f"leave out or weaken the LoRA {path} (strength {strength:g})" for path, strength in self.loras]
        if self.dtype != mx.float32:
            changes.append(f"compute in float32 ({self.flag} float32, in place of {str(self.dtype).split('.')[-1]})")
        kinds = " or ".join(self.weights) or "network"
        return "; ".join(changes) or f"take another checkpoint, whose {kinds} keeps within float32"


def all_finite(arrays: Any) -> mx.array:
    """Whether every floating-point number in a tree of arrays is finite: one lazy bool."""
    leaves: list[tuple[str, mx.array]] = tree_flatten(arrays)  # type: ignore[assignment]
    found = [a for _, a in leaves if isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.floating)]
    fine = mx.array(True)
    for array in found:
        fine = mx.logical_and(fine, mx.isfinite(array).all())
    return fine
