"""Whole pipelines against what the torch reference gave for the same small checkpoints and the same seed.

tests/parity/record.py wrote the numbers. They hold as long as a seed gives the same draws, which is looked at first.
"""

import numpy as np
import pytest

from mlx_video.diffusion.noise import seeded
from tests.support.cases import FRAMES_KEPT, GENERATIONS, RECORDED, error, generate, levels_apart
from tests.support.small import FIXTURES


@pytest.fixture(scope="module", params=GENERATIONS)
def recorded(request):
    with np.load(FIXTURES / f"small_{request.param}.npz") as arrays:
        return request.param, dict(arrays)


def test_a_seed_gives_the_draws_that_were_recorded_with(recorded):
    name = "stage1/video"
    drawn = recorded[1][f"noise/{name}"]
    assert error(seeded(RECORDED[0].seed)(name, drawn.shape), drawn) < 1e-6


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_a_run_is_the_reference_s(recorded, case, small_folder, inputs):
    generation, arrays = recorded
    clip = generate(small_folder(generation), case, inputs)
    limit = 5e-4 if case.pipeline == "distilled" else 1e-3
    for modality in ("video", "audio"):
        assert error(clip.latents[modality], arrays[f"{case.name}/{modality}"]) <= limit
    if f"{case.name}/frames" in arrays:
        assert levels_apart(np.stack(list(clip))[FRAMES_KEPT], arrays[f"{case.name}/frames"]) <= 1e-3
        sound = arrays[f"{case.name}/waveform"]
        assert error(clip.waveform[:, : sound.shape[1]], sound) <= 2e-3  # recorded in float16
