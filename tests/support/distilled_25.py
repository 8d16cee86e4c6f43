"""The two stages of LTX-2.5's distilled pipeline on the small pack, each by itself, from texts, pictures and draws that
follow from their names. Ours are run here; tests/parity/test_distilled25.py has the reference do the same, and records
fixtures/distilled_25.npz. Knows our stage loop; knows nothing of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.diffusion.conditioning import (
    AppendKeyframe,
    Condition,
    GenerateKeyframe,
    ReplaceFrame,
    keyframe_places,
)
from mlx_video.diffusion.noise import given
from mlx_video.diffusion.tokens import latent_shape
from mlx_video.jobs.settings import Settings, resolve
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.lending.loader import Loader
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Request
from mlx_video.types import AudioShape, Context, Tree, VideoShape, Watch
from tests.diffusion.cases import array
from tests.support.small import FIXTURES

RECORDED = FIXTURES / "distilled_25.npz"
CLIP = VideoShape(9, 128, 64, 24.0)
WIDTHS = {"video": 32, "audio": 16}
"""Of the small transformer's texts."""


@dataclass(frozen=True)
class Case:
    """What is kept or made beside the clip."""

    pictures: tuple[tuple[int, float], ...] = ()
    """Pixel frame and strength of each: the first frame's is kept in its place, others guide from beside the clip."""
    slots: int = 0
    """Generated keyframes."""
    stages: tuple[int, ...] = (1, 2)


CASES = {
    "text": Case(),
    "pictures": Case(pictures=((0, 1.0), (8, 0.6))),
    "keyframes": Case(slots=2, stages=(1,)),
}


def shapes(number: int) -> dict[str, VideoShape | AudioShape]:
    """Of the latents of a stage."""
    return {"video": CLIP.scaled(0.5 if number == 1 else 1.0), "audio": AudioShape.of(CLIP)}


def latents(number: int) -> dict[str, np.ndarray]:
    """What a stage begins with besides noise: (1, 128, F, H, W) and (1, 8, T, 16); nothing in the first."""
    if number == 1:
        return {}
    return {m: array(f"given/{m}", *latent_shape(shape, 1)) for m, shape in shapes(number).items()}


def picture(number: int, frame: int) -> np.ndarray:
    """The latent (1, 128, 1, H, W) of a picture at pixel frame `frame`, of a stage's size."""
    _, rows, columns = CLIP.scaled(0.5 if number == 1 else 1.0).grid
    return array(f"picture/{number}/{frame}", 1, 128, 1, rows, columns)


def texts() -> dict[str, np.ndarray]:
    """(1, 12, D) by modality."""
    return {m: array(f"text/{m}", 1, 12, width) for m, width in WIDTHS.items()}


def settings(folder: Path, case: Case, **asked: Any) -> tuple[Settings, Loader]:
    """Of a run of the pack's distilled pipeline, and what lends its networks."""
    checkpoint = open_checkpoint(folder, "distilled")
    size = {"height": CLIP.height, "width": CLIP.width, "num_frames": CLIP.frames, "fps": CLIP.fps}
    request = Request(prompt="a red ball", audio=True, num_generated_keyframes=case.slots, **size, **asked)
    recipe = checkpoint.generation.recipe(RECIPES["distilled"], request.reference_version)
    return resolve(request, recipe, checkpoint), Loader(checkpoint, mx.float32)


def conditions(case: Case, number: int) -> list[Condition]:
    """Of the video, as `jobs.inputs` makes them."""
    found: list[Condition] = []
    for frame, strength in case.pictures:
        latent = mx.array(picture(number, frame))
        found.append(AppendKeyframe(latent, frame, strength) if frame else ReplaceFrame(latent, 0, strength))
    places = keyframe_places(case.slots, CLIP.frames) if number == 1 else []
    return [*found, *map(GenerateKeyframe, places)]


@dataclass
class Run:
    """Our run of a case."""

    latents: dict[str, mx.array] = field(default_factory=dict)
    """Final latents by "stage1/video" and so on."""
    draws: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the draws that were asked for, by name."""
    marks: dict[int, np.ndarray | None] = field(default_factory=dict)
    """What each stage told the transformer of its keyframes, token by token."""


def run(folder: Path, case: Case, **asked: Any) -> Run:
    """All stages of the case."""
    made, done = settings(folder, case, **asked), Run()
    how, loader = made

    def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
        done.draws[name] = shape
        return array(name, *shape)

    with loader.borrow("transformer") as transformer:
        prepare = transformer.prepare
        for number in case.stages:

            def watched(contexts: Mapping, positions: Tree, masks: Tree, marks: Any, number: int = number) -> Any:
                done.marks[number] = None if marks is None else np.array(marks)[0, :, 0]
                return prepare(contexts, positions, masks, marks)

            transformer.prepare = watched
            begun = {m: mx.array(value) for m, value in latents(number).items()}
            contexts = {"positive": Context(**{m: mx.array(text) for m, text in texts().items()})}
            inputs = Inputs(contexts, {(number, "video"): conditions(case, number)})
            stages = Denoising(how, loader, transformer, lambda _: lambda _: None, inputs, given(noise), Watch())
            for m, latent in stages.stage(number, how.recipe.stages[number - 1], begun).items():
                done.latents[f"stage{number}/{m}"] = latent
    return done
