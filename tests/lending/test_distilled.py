"""The distilled LoRA that a user brings takes the place of the one beside the checkpoint, and is never added twice."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Lora, LTXPipeline, Request, UserError
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.lending.distilled import brings_distilled, choose
from mlx_video.models.ltx_2.recipes import RECIPES
from tests.support import small

CLIP = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9, "steps": 1, "audio": False}
TWO, HQ = RECIPES["dev-two-stage"], RECIPES["dev-two-stage-hq"]


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2")


@pytest.fixture
def place(folder, tmp_path):
    """place("x/y.safetensors") is another copy of the distilled LoRA there; change= gives it other matrices."""

    def make(name, seed=0, metadata=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if seed or metadata:
            mx.save_safetensors(str(path), small.lora_tensors("2", seed=seed), metadata or {})
        else:
            path.write_bytes((folder / small.LORAS["2"]).read_bytes())
        return path

    return make


def chosen(folder, recipe, *loras, **options):
    request = Request("a", pipeline=recipe.name, **options)
    return choose(request, loras, recipe, open_checkpoint(folder, "dev"))


def test_the_same_bytes_give_the_clip_that_no_lora_gives(folder, place):
    lora = place("LTX-2-distilled/lora/weights.safetensors")
    said = []
    with LTXPipeline.from_pretrained(folder) as pipe:
        plain = pipe.generate(**CLIP, pipeline="dev-two-stage")
        brought = pipe.generate(**CLIP, pipeline="dev-two-stage", lora=lora.parent, on_message=said.append)
    np.testing.assert_array_equal(np.array(plain.latents["video"]), np.array(brought.latents["video"]))
    told = "weights.safetensors is the distilled LoRA and takes its place: strength 0 in stage 1, 1 in stage 2."
    assert said.count(told) == 1


@pytest.mark.parametrize(
    ("name", "seed", "metadata"),
    [
        ("any.safetensors", 0, None),  # the same bytes
        ("ltx-2-19b-distilled-lora-384-1.1.safetensors", 7, None),
        ("my_distilled_lora.safetensors", 7, None),
        ("LTX-2-distilled/lora/weights.safetensors", 7, None),
        ("any.safetensors", 7, {"modelspec.title": "LTX-2 Distilled LoRA"}),
    ],
)
def test_it_is_known_by_its_bytes_its_name_its_place_or_its_metadata(folder, place, name, seed, metadata):
    lora = Lora(str(place(name, seed, metadata)))
    found = chosen(folder, TWO, lora)
    assert (str(found.distilled), found.own) == (lora.path, ())
    assert brings_distilled(found.request, [lora], TWO) == bool(seed or metadata)


@pytest.mark.parametrize("name", ["any.safetensors", "styles/lora/weights.safetensors", "camera-lora.safetensors"])
def test_another_is_added_beside_it(folder, place, name):
    lora = Lora(str(place(name, 7)))
    found = chosen(folder, TWO, lora)
    assert (found.distilled, found.own, found.replaced) == (folder / small.LORAS["2"], (lora,), None)
    assert not brings_distilled(found.request, [lora], TWO)


def test_where_no_stage_asks_for_it_it_is_a_lora_like_others(folder, place):
    lora = Lora(str(place("distilled-lora.safetensors")))
    assert chosen(folder, RECIPES["dev"], lora).own == (lora,)


def test_strengths_come_from_the_recipe_the_flags_or_the_lora(folder, place):
    path = str(place("distilled-lora.safetensors"))
    assert chosen(folder, HQ, Lora(path)).request.lora_strength_stage_1 is None
    assert chosen(folder, TWO, Lora(path, 0.7)).request.lora_strength_stage_2 == 0.7
    given = chosen(folder, HQ, Lora(path), lora_strength_stage_1=0.1, lora_strength_stage_2=0.2).request
    assert (given.lora_strength_stage_1, given.lora_strength_stage_2) == (0.1, 0.2)
    with pytest.raises(
        UserError, match="does not say in which stage: give --lora-strength-stage-1 and --lora-strength"
    ):
        chosen(folder, HQ, Lora(path, 0.7))
    with pytest.raises(UserError, match="and --lora-strength-stage-2 set the same"):
        chosen(folder, TWO, Lora(path, 0.7), lora_strength_stage_2=0.3)
    with pytest.raises(UserError, match="More than one distilled LoRA"):
        chosen(folder, TWO, Lora(path), distilled_lora=path)


def test_one_that_lies_elsewhere_is_named(folder, place, tmp_path):
    path = place("elsewhere.safetensors", 7)
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in folder.iterdir():
        if file.name != small.LORAS["2"]:
            (alone / file.name).symlink_to(file)
    with LTXPipeline.from_pretrained(alone) as pipe:
        with pytest.raises(UserError, match="No distilled LoRA"):
            pipe.plan(Request(**CLIP, pipeline="dev-two-stage"))
        pipe.plan(Request(**CLIP, pipeline="dev-two-stage", distilled_lora=str(path)))
        pipe.plan(Request(**CLIP, pipeline="dev-two-stage-hq", lora=(Lora(str(place("distilled_lora.safetensors"))),)))
        with pytest.raises(UserError, match="distilled_lora has no effect in the dev pipeline"):
            pipe.plan(Request(**CLIP, pipeline="dev", distilled_lora=str(path)))
        with pytest.raises(UserError, match="neither a file or folder"):
            pipe.plan(Request(**CLIP, pipeline="dev-two-stage", distilled_lora=str(tmp_path / "none")))


def test_the_demos_own_is_not_added_twice():
    from mlx_video.checkpoints import demo

    own = next(demo.folder().glob("*distilled-lora*"))
    request = Request("a red circle", height=64, width=64, num_frames=9, lora=(Lora(str(own)),))
    said = []
    with LTXPipeline.from_pretrained("demo") as pipe:
        pipe.plan(request, on_message=said.append)
    assert any("takes its place: strength 1 in stage 1, 1 in stage 2." in line for line in said)


def test_the_repos_own_is_not_fetched_where_another_is_brought(monkeypatch):
    from mlx_video import runner

    asked = []

    def checkpoint(self, recipe, **options):
        asked.append(options["lora"])
        raise UserError("enough")

    monkeypatch.setattr(runner.Runner, "checkpoint", checkpoint)
    with LTXPipeline.from_pretrained("owner/model") as pipe:
        for lora in ((), (Lora("owner/camera"),), (Lora("owner/ltx-2-distilled-lora-384"),)):
            with pytest.raises(UserError, match="enough"):
                pipe.plan(Request("a", pipeline="dev-two-stage", lora=lora))
    assert asked == [True, True, False]
