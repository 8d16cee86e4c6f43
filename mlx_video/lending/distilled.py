"""Which of a run's LoRAs is the distilled one, which two-stage pipelines add at strengths of their own.

A user's LoRA that is it takes the place of the one beside the checkpoint. Knows files, names and recipes; adds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub.fetch import Take, fetch
from mlx_video.checkpoints.layouts.converted import MARKER
from mlx_video.checkpoints.layouts.neighbours import object_in, variant_of
from mlx_video.request import Request
from mlx_video.request.options import flag
from mlx_video.types import Lora, UserError
from mlx_video.types.recipes import Recipe
from mlx_video.weights.lora_file import read
from mlx_video.weights.store import Tensors

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint

_DISTILLED = re.compile(r"distill(ed)?[-_. ]?lora", re.IGNORECASE)
"""How names and metadata say that a LoRA is the one that makes a dev checkpoint a distilled one."""
SAMPLE = 1 << 20
"""Bytes at the beginning, the middle and the end of two files that are compared to tell that they are one."""


class Chosen(NamedTuple):
    """The LoRAs of a run, told apart: the user's own, and the distilled one that the recipe asks for."""

    own: tuple[Lora, ...]
    distilled: Path | None
    request: Request
    """With the strengths that came with a LoRA which takes the distilled one's place."""
    replaced: Path | None
    """The user's LoRA that took that place, if one did."""

    def told(self, strengths: Sequence[float]) -> tuple[str, ...]:
        """What to tell the user, given the strength in each stage."""
        if self.replaced is None:
            return ()
        listed = ", ".join(f"{strength:g} in stage {number}" for number, strength in enumerate(strengths, 1))
        return (f"{self.replaced.name} is the distilled LoRA and takes its place: strength {listed}.",)


def brings_distilled(request: Request, loras: Sequence[Lora], recipe: Recipe) -> bool:
    """Whether the user's own words bring the distilled LoRA, so that the one beside the checkpoint is not needed.

    Of a LoRA on the hub its name alone is known here.
    """
    if not recipe.distilled_lora:
        return False
    return request.distilled_lora is not None or any(
        _DISTILLED.search(Path(lora.path).name)
        or (not locate.is_hub_id(lora.path) and _says_so(lora, locate.lora(lora.path)))
        for lora in loras
    )


def choose(
    request: Request, loras: Sequence[Lora], recipe: Recipe, checkpoint: Checkpoint, take: Take = fetch
) -> Chosen:
    """Which of the user's `loras` is the distilled one, and at what strengths it is added; it is never added twice.

    One is it by its metadata, by its name, as `lora` in the folder of a distilled checkpoint, or by having the very
    bytes of the one that the checkpoint has. Raises UserError where two are, or a strength cannot be placed.
    """
    wanted = recipe.distilled_lora or (recipe.variant == "distilled" and checkpoint.distilled_by_lora)
    if request.distilled_lora is not None and not wanted:
        raise UserError(f"--distilled-lora has no effect in the {recipe.name} pipeline, which adds none.")
    found = [lora for lora in loras if wanted and _is_distilled(lora, checkpoint, take)]
    named = request.distilled_lora and locate.lora(request.distilled_lora, take)
    if len(found) + (named is not None) > 1:
        others = ", ".join([*([request.distilled_lora] if request.distilled_lora else []), *(x.path for x in found)])
        raise UserError(f"More than one distilled LoRA is given ({others}); leave all but one out.")
    own = tuple(lora for lora in loras if lora not in found)
    if not found:
        file = checkpoint.distilled_lora if named is None else read(named, header_only=True).path
        return Chosen(own, file, request, None)
    file = read(locate.lora(found[0].path, take), header_only=True).path
    return Chosen(own, file, _placed(request, found[0], recipe), file)


def _placed(request: Request, lora: Lora, recipe: Recipe) -> Request:
    # 1 is what a LoRA has unless the user says otherwise: then the recipe's own strengths are meant.
    if lora.strength == 1.0:
        return request
    stages = recipe.lora_options
    strength, flags = f"{lora.path} is the distilled LoRA; its strength {lora.strength:g}", [flag(s) for s in stages]
    if not stages:
        raise UserError(f"{strength} cannot be had in the {recipe.name} pipeline, where it is 1.")
    if len(stages) > 1:
        raise UserError(f"{strength} does not say in which stage: give {' and '.join(flags)}.")
    if getattr(request, stages[0]) is not None:
        raise UserError(f"{strength} and {flags[0]} set the same; give one of them.")
    changes: dict[str, Any] = {stages[0]: lora.strength}
    return replace(request, **changes)


def _is_distilled(lora: Lora, checkpoint: Checkpoint, take: Take) -> bool:
    place = locate.lora(lora.path, take)
    known = checkpoint.distilled_lora
    return _says_so(lora, place) or (known is not None and _same(read(place, header_only=True).path, known))


def _says_so(lora: Lora, place: Path) -> bool:
    """By its name, its place or its metadata."""
    file = read(place, header_only=True).path
    if any(_DISTILLED.search(name) for name in (Path(lora.path).name, file.name)):
        return True
    around = file.absolute().parent.parent
    if file.parent.name == "lora" and "distilled" in (
        variant_of(around.name),
        object_in(around / MARKER).get("variant"),
    ):
        return True
    said = Tensors([file]).metadata
    return any(isinstance(value, str) and _DISTILLED.search(value) for value in said.values())


def _same(one: Path, other: Path) -> bool:
    if one.samefile(other):
        return True
    size = one.stat().st_size
    if size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        for start in (0, size // 2, max(size - SAMPLE, 0)):
            first.seek(start)
            second.seek(start)
            if first.read(SAMPLE) != second.read(SAMPLE):
                return False
    return True
