"""The demo model, as it ships, through the torch reference and through us: one clip from the same noise."""

import numpy as np
import pytest

from mlx_video.checkpoints import demo
from mlx_video.diffusion.noise import seeded
from mlx_video.types import VideoShape
from tests.parity import reference_pipelines
from tests.support import small
from tests.support.cases import Case, error, generate

pytestmark = pytest.mark.parity

PROMPT = "a yellow star moving left on a gray background, high tone"
FILES = {
    "ltx-2.3-demo.safetensors": small.NAMES["2.3"].format("distilled"),
    "ltx-2.3-demo-distilled-lora.safetensors": small.LORAS["2.3"],
    "ltx-2.3-demo-spatial-upscaler-x2.safetensors": small.UPSAMPLERS["2.3"],
    "gemma": "gemma",
}
"""What ships, under the names that the parity harness knows."""


def test_the_demo_is_rendered_as_the_reference_renders_it(tmp_path, monkeypatch):
    for name, known in FILES.items():
        (tmp_path / known).symlink_to(demo.folder() / name)
    monkeypatch.setattr(small, "TEXT_WIDTH", 64)
    monkeypatch.setattr(small, "TEXT_LAYERS", 2)
    parts = reference_pipelines._parts

    def with_lora(folder, generation, case):
        two_stage = parts(folder, generation, Case("lora", "dev-two-stage", case.shape, seed=0))
        return {**parts(folder, generation, case), "loras": two_stage["distilled_lora"]}

    monkeypatch.setattr(reference_pipelines, "_parts", with_lora)
    case = Case("demo", "distilled", VideoShape(17, 128, 128, 24.0), seed=5, prompt=PROMPT)
    reference = reference_pipelines.run(tmp_path, "2.3", case, tmp_path, seeded(case.seed))
    clip = generate(tmp_path, case, tmp_path, noise=reference.noise)
    difference = np.stack(list(clip)).astype(float) - reference.frames
    decibels = 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9))
    found = {modality: error(clip.latents[modality], reference.latents[modality]) for modality in clip.latents}
    print(f"demo: frames agree to {decibels:.1f} dB, latents {found}")
    assert decibels >= 45
    assert all(value <= 1e-3 for value in found.values()), found
