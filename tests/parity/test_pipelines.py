"""Whole pipelines against the torch reference's own pipeline classes: same small checkpoints, same draws, float32."""

import numpy as np
import pytest

from mlx_video.diffusion.noise import seeded
from mlx_video.types import VideoShape
from tests.parity import reference_pipelines
from tests.support.cases import GENERATIONS, Case, error, generate, levels_apart

pytestmark = pytest.mark.parity

LIMIT = 1e-4
"""Of each relative error. Measured: 5e-7 to 4e-6; a LoRA 5 % too strong, or guidance 3 % off, makes more than 4e-3."""
ONE_LEVEL = 1e-3
"""Share of 8-bit samples that may be more than one level apart. Measured: none."""
FIRST, LAST, SOFT = (0, 1.0, 0), (16, 1.0, 0), ((0, 0.7, 33), (5, 0.5, 0))
CASES = (
    Case("distilled", "distilled", VideoShape(9, 128, 64, 24.0), seed=11),
    Case("distilled silent", "distilled", VideoShape(17, 64, 128, 24.0), seed=12, audio=False),
    Case("distilled from a picture", "distilled", VideoShape(9, 64, 192, 25.0), seed=13, images=(FIRST,)),
    Case("distilled, first and last", "distilled", VideoShape(17, 64, 64, 24.0), seed=23, images=(FIRST, LAST)),
    Case("dev", "dev", VideoShape(17, 64, 96, 30.0), seed=14, prompt="ocean"),
    Case("dev silent", "dev", VideoShape(9, 128, 64, 24.0), seed=15, audio=False, steps=2),
    Case("dev from pictures", "dev", VideoShape(9, 96, 128, 24.0), seed=16, steps=2, images=SOFT),
    Case("dev-two-stage", "dev-two-stage", VideoShape(9, 64, 128, 24000 / 1001), seed=17, negative_prompt=""),
    Case("dev-two-stage silent", "dev-two-stage", VideoShape(9, 128, 128, 24.0), seed=18, audio=False, steps=2),
    Case("dev-two-stage to a sound", "dev-two-stage", VideoShape(17, 64, 128, 25.0), seed=19, sound=0.25, steps=2),
    Case("dev-two-stage-hq", "dev-two-stage-hq", VideoShape(9, 128, 64, 24.0), seed=20),
    Case("dev-two-stage-hq silent", "dev-two-stage-hq", VideoShape(9, 64, 64, 24.0), seed=21, audio=False, steps=2),
    Case("hq from a picture", "dev-two-stage-hq", VideoShape(17, 64, 128, 24.0), seed=22, images=(FIRST,), steps=2),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_run_is_the_reference_s(generation, case, small_folder, inputs):
    folder = small_folder(generation)
    reference = reference_pipelines.run(folder, generation, case, inputs, seeded(case.seed))
    # As a mapping: a draw that only one of the two makes is an error.
    clip = generate(folder, case, inputs, noise=reference.noise)
    assert sorted(clip.latents) == sorted(reference.latents)
    found = {modality: error(clip.latents[modality], reference.latents[modality]) for modality in clip.latents}
    if reference.waveform is not None:
        # A sound that is given is handed on as it is, as long as the clip; the reference hands on all of its file.
        wanted = reference.waveform[:, : clip.waveform.shape[1]] if case.sound is not None else reference.waveform
        found["waveform"] = error(clip.waveform, wanted)
    assert all(value <= LIMIT for value in found.values()), found
    assert levels_apart(np.stack(list(clip)), reference.frames) <= ONE_LEVEL
