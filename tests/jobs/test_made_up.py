"""A made-up pipeline, retaking a part of a clip, is a recipe and what it starts from; the package does not know it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Lora, LTXPipeline, Request
from mlx_video.checkpoints.layouts import neighbours
from mlx_video.diffusion.conditioning import ReplaceFrame
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.stages import Inputs
from mlx_video.models.family import Generation
from mlx_video.models.ltx_2.family import LTX_2
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.types import Watch
from mlx_video.types.recipes import Recipe, Stage
from tests.jobs.test_runs import SMALL
from tests.support import small
from tests.support.cases import GENERATIONS

pytestmark = pytest.mark.usefixtures("texts_are_kept")
STAGE = Stage(1.0, "distilled", frozen=("audio",), phase="retake")


class Retake(Generate):
    """Latent frames `first` to `last` of a clip anew, between those that stay; its sound stays."""

    recipes = {"retake": Recipe("retake", "a part of a clip anew", "distilled", (STAGE,), audio_from=0)}

    def __init__(self, request, clip, first, last):
        super().__init__(request)
        self.clip, self.first, self.last = clip, first, last

    def inputs(self, contexts, watch):
        video = self.clip.latents["video"]
        kept = [ReplaceFrame(video[:, :, : self.first]), ReplaceFrame(video[:, :, self.last :], self.last)]
        return Inputs(contexts, {(1, "video"): kept}, self.clip.latents)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_part_of_a_clip_is_made_anew(small_folder, generation):
    said = []
    with LTXPipeline.from_pretrained(small_folder(generation), dtype="float32") as pipe:
        before = pipe.generate(**{**SMALL, "num_frames": 33})
        asked = Request(**{**SMALL, "prompt": "a blue cube", "num_frames": 33}, pipeline="retake", seed=7)
        after = pipe._runner.run(Retake(asked, before, 1, 3), Watch(said.append))
    first, second = (clip.latents["video"] for clip in (before, after))
    for there in (0, 3, 4):
        assert mx.array_equal(first[:, :, there], second[:, :, there])
    assert mx.abs(first[:, :, 1:3] - second[:, :, 1:3]).max().item() > 0.1
    assert mx.array_equal(before.latents["audio"], after.latents["audio"])
    assert [(p.done, p.total) for p in said if p.phase == "retake"] == [(n, 8) for n in range(9)]
    assert np.stack(list(after)).shape == (33, 64, 64, 3)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_stage_can_leave_the_users_lora_out(small_folder, low_memory):
    class Second(Generate):
        half, full = RECIPES["distilled"].stages
        recipes = {"distilled": replace(RECIPES["distilled"], stages=(replace(half, loras={"user": 0.0}), full))}

    folder = small_folder("2")
    asked = Request(**SMALL, audio=False, lora=(Lora(str(folder / small.LORAS["2"]), 0.5),))
    with LTXPipeline.from_pretrained(folder, dtype="float32", low_memory=low_memory) as pipe:
        first, second = ([], [])
        for seen, job in ((first, Generate(replace(asked, lora=()))), (second, Second(asked))):
            job.check(Watch())
            pipe._runner.open(job, Watch())
            seen += [clip.latents["video"] for clip in job.clips(Watch())]
    assert mx.abs(first[0] - second[0]).max().item() < 1e-6
    assert mx.abs(first[1] - second[1]).max().item() > 1e-3


HALF, FULL = RECIPES["distilled"].stages
NINE = Generation(
    (9, 1),
    {"steps": 12, "stg_block": 0.5, "image_crf": 18},
    recipes={"distilled": replace(RECIPES["distilled"], stages=(replace(HALF, sampler="res_2s"), FULL))},
)


@pytest.mark.parametrize(("version", "own"), [("9.1.2", True), ("9.0", False), ("9.4", True)])
def test_a_made_up_generation_is_a_row(small_folder, tmp_path, monkeypatch, version, own):
    monkeypatch.setattr(neighbours, "FAMILY", replace(LTX_2, generations=(*LTX_2.generations, NINE)))
    for file in small_folder("2.3").iterdir():
        (tmp_path / file.name).symlink_to(file)
    file = tmp_path / small.NAMES["2.3"].format("distilled")
    arrays, metadata = mx.load(str(file), return_metadata=True)
    file.unlink()
    mx.save_safetensors(str(file), arrays, {**metadata, "model_version": version})
    drawn, said = [], []

    def noise(name, shape):
        drawn.append(name)
        return mx.random.normal(shape, key=mx.random.key(len(name)))

    with LTXPipeline.from_pretrained(file, dtype="float32") as pipe:
        pipe.generate(**SMALL, noise=noise, on_message=said.append)
        assert pipe._runner.checkpoint(RECIPES["distilled"]).generation is (NINE if own else LTX_2.generations[-1])
    assert ("stage1/sde/9/video" in drawn) == own
    assert any("says it is version" in one for one in said) == (version != "9.1.2")
