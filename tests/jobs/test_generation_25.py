"""What LTX-2.5's runs do that others' do not: recorded stages, keyframes, draws, defaults, and what is refused."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import ImageAt, LTXPipeline, UserError
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.diffusion.conditioning import keyframe_places
from mlx_video.jobs import inputs as media
from mlx_video.jobs.settings import resolve
from mlx_video.jobs.stages import Denoising
from mlx_video.lending.loader import load
from mlx_video.media import image
from mlx_video.models.ltx_2.duration import DurationHead
from mlx_video.models.ltx_2.recipes import LATER_25, RECIPES
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.request import Request
from mlx_video.weights import lora
from tests.support import distilled_25, small, small_pack
from tests.support.cases import error
from tests.support.loras import fuse

SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture
def folder(small_folder):
    return small_folder("2.5")


@pytest.fixture(scope="module")
def runs(small_folder):
    return {name: distilled_25.run(small_folder("2.5"), case) for name, case in distilled_25.CASES.items()}


def generate(folder, **options):
    if options.get("pipeline", "distilled") != "distilled":
        options = {"steps": 1, **options}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        return pipe.generate(**{**SMALL, **options})


# ------------------------------------------------------------------------------------------------ distilled stages


@pytest.mark.parametrize("name", distilled_25.CASES)
def test_a_stage_is_the_references(runs, name):
    recorded = np.load(distilled_25.RECORDED)
    found = runs[name].latents
    assert {f"{name}/{key}" for key in found} == {key for key in recorded.files if key.startswith(f"{name}/")}
    for key, latent in found.items():
        assert error(latent, recorded[f"{name}/{key}"]) < 2e-5, key


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("text", [1, 1, 0, 0], [1] * 8 + [0] * 8),
        ("pictures", [1, 1, 0, 0, 0, 0], [1] * 8 + [0] * 16),
        ("keyframes", [1, 1, 0, 0, 1, 1, 1, 1], None),
    ],
)
def test_the_first_frame_and_what_is_generated_are_keyframes_and_pictures_are_not(runs, name, first, second):
    # Two tokens in a latent frame of the first stage, eight of the second; two latent frames, then what is appended.
    found = {number: marks.tolist() for number, marks in runs[name].marks.items()}
    assert found == {1: first} | ({} if second is None else {2: second})


@pytest.mark.parametrize(("name", "appended"), [("text", 0), ("pictures", 2), ("keyframes", 4)])
def test_the_first_stage_draws_before_seven_of_its_eight_steps_and_the_second_only_at_its_start(runs, name, appended):
    steps = ["stage1", *(f"stage1/sde/{k}" for k in range(7))]
    wanted = {f"{step}/video": (1, 128, 2, 2, 1) for step in steps}
    wanted |= {f"{step}/audio": (1, 8, 9, 16) for step in steps}
    wanted |= {f"{step}/video/appended": (1, appended, 128) for step in steps if appended}
    if name != "keyframes":
        wanted |= {"stage2/video": (1, 128, 2, 4, 2), "stage2/audio": (1, 8, 9, 16)}
    if name == "pictures":
        wanted["stage2/video/appended"] = (1, 8, 128)
    assert runs[name].draws == wanted


def test_a_later_version_of_the_reference_samples_the_second_stage_as_the_first(folder, runs):
    later = distilled_25.run(folder, distilled_25.CASES["text"], reference_version="1.4")
    more = set(later.draws) - set(runs["text"].draws)
    assert more == {f"stage2/sde/{k}/{m}" for k in range(2) for m in ("video", "audio")}
    change = {key: error(later.latents[key], latent) for key, latent in runs["text"].latents.items()}
    assert [change["stage1/video"], change["stage1/audio"]] == [0, 0]
    assert min(change["stage2/video"], change["stage2/audio"]) > 0.1


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize("pictures", [False, True], ids=["text", "pictures"])
@pytest.mark.parametrize("pipeline", [name for name, recipe in RECIPES.items() if not recipe.keyframes])
def test_every_stage_of_every_pipeline_is_told_its_keyframes(folder, inputs, pipeline, pictures, monkeypatch):
    told, prepare = [], Transformer.prepare

    def watched(self, contexts, positions, masks, keyframes):
        told.append((positions["video"].shape[2], np.array(keyframes)[0, :, 0].tolist()))
        return prepare(self, contexts, positions, masks, keyframes)

    monkeypatch.setattr(Transformer, "prepare", watched)
    picture = str(inputs / "picture.png")
    shown = [ImageAt(picture, 0), ImageAt(picture, 8)] if pictures else []
    generate(folder, pipeline=pipeline, image=shown, num_generated_keyframes=3)
    sizes = [4] if pipeline == "dev" else [1, 4]  # tokens of a latent frame
    wanted = []
    for number, size in enumerate(sizes):
        guides, slots = [0] * size * pictures, [1] * size * 3 if number == 0 else []
        wanted.append([1] * size + [0] * size + guides + slots)
    assert [marks for _, marks in told] == wanted
    assert [tokens for tokens, _ in told] == [len(marks) for marks in wanted]


@pytest.mark.parametrize(("generation", "crf"), [("2", 33), ("2.3", 33), ("2.5", 18)])
def test_a_picture_is_compressed_as_the_generation_learnt_them(small_folder, inputs, generation, crf, monkeypatch):
    used, compress = [], image.compress
    monkeypatch.setattr(image, "compress", lambda picture, crf: (used.append(crf), compress(picture, crf))[1])
    shown = (ImageAt(str(inputs / "picture.png")), ImageAt(str(inputs / "picture.png"), 8, 1.0, 5))
    checkpoint = open_checkpoint(small_folder(generation), "distilled")
    media.read(resolve(Request(**SMALL, audio=True, image=shown), RECIPES["distilled"], checkpoint))
    assert used == [crf, 5]


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize(
    ("pipeline", "number"), [("distilled", 2), ("dev", 1), ("dev-two-stage", 1), ("dev-two-stage-hq", 1)]
)
def test_the_sound_is_that_of_the_stage_that_makes_it(folder, pipeline, number, monkeypatch):
    ended, stage = {}, Denoising.stage

    def watched(self, number, *rest):
        ended[number] = stage(self, number, *rest)
        return ended[number]

    monkeypatch.setattr(Denoising, "stage", watched)
    latents = generate(folder, pipeline=pipeline).latents
    assert mx.array_equal(latents["audio"], ended[number]["audio"])
    assert mx.array_equal(latents["video"], ended[max(ended)]["video"])
    assert all(error(latents["audio"], made["audio"]) > 1e-3 for other, made in ended.items() if other != number)


def test_the_published_loras_rank_and_alpha_scale_nothing(folder, tmp_path):
    """Its metadata have both as 450 while narrow layers have a lower rank."""
    path = tmp_path / "lora.safetensors"
    tensors = small.lora_tensors("2.3")
    mx.save_safetensors(str(path), tensors, {"lora_rank": "450", "lora_alpha": "450", "model_version": "2.5.0"})
    network = load("transformer", folder)
    before = dict(tree_flatten(network.parameters()))
    mx.eval(before)
    fuse(network, [(lora.read(path), 0.25)])
    after = dict(tree_flatten(network.parameters()))
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    for layer in layers:
        down, up = (np.array(tensors[f"{layer}.lora_{part}.weight"].astype(mx.float32)) for part in "AB")
        weight = f"{layer.removeprefix('diffusion_model.')}.weight"
        assert error(after[weight], np.array(before[weight]) + 0.25 * (up @ down)) < 1e-6, layer


@pytest.mark.usefixtures("texts_are_kept")
def test_the_prompt_tells_how_long_the_clip_is_and_not_what_is_steered_away_from(folder, monkeypatch):
    heard, seconds = [], DurationHead.seconds
    monkeypatch.setattr(DurationHead, "seconds", lambda *given: (heard.append(seconds(*given)), heard[-1])[1])
    how = {"pipeline": "dev", "height": 64, "width": 64, "steps": 1, "auto_duration": "0.1:0.4"}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        for prompt, negative in (("a red ball", "rain"), ("a red ball", "blue square"), ("slow music", "rain")):
            pipe.generate(**how, prompt=prompt, negative_prompt=negative)
    first, other_negative, other_prompt = heard
    assert first == other_negative != other_prompt


def test_no_bias_but_the_videos_feed_forwards_is_gone(folder):
    """And a config that says nothing of the sound's means that it has them."""
    network = load("transformer", folder)
    parameters = {name for name, _ in tree_flatten(network.parameters())}
    older = {name for name, _ in tree_flatten(Transformer(replace_biases(network.config)).parameters())}
    gone = {f"transformer_blocks.{i}.ff.net.{part}.bias" for i in range(3) for part in ("0.proj", "2")}
    assert older - parameters == gone
    assert parameters - older == {"keyframes_abs_pos_embedding"}


def replace_biases(config):
    """A config as LTX-2.3 would have it."""
    return replace(config, keyframe_embedding=False, video=replace(config.video, feed_forward_bias=True))


# ------------------------------------------------------------------------------------------------ refusals


def test_keyframes_are_generated_by_checkpoints_that_learnt_to(small_folder):
    with pytest.raises(UserError, match=r"num_generated_keyframes=2 needs a checkpoint .* \(LTX-2.5\); .* was not"):
        generate(small_folder("2.3"), num_generated_keyframes=2)


@pytest.mark.parametrize(("count", "frames", "most"), [(8, 9, 7), (1, 1, 0), (32, 33, 31)])
def test_more_keyframes_than_frames_between_the_ends_are_refused(count, frames, most):
    said = rf"--num-generated-keyframes {count} is too many for a clip of {frames} frames; .* from 0 to {most}\."
    request = Request(prompt="a fox", num_frames=frames, num_generated_keyframes=count)
    with pytest.raises(UserError, match=said):
        request.check(RECIPES)
    if most:
        replace(request, num_generated_keyframes=most).check(RECIPES)
        assert keyframe_places(most, frames) == list(range(1, frames - 1))


@pytest.mark.parametrize(
    ("generation", "pipeline", "differ"),
    [
        ("2.5", "dev", "only distilled, dev-two-stage differ"),
        ("2.5", "dev-two-stage-hq", "only distilled, dev-two-stage differ"),
        ("2.3", "distilled", "no pipeline differs"),
        ("2", "dev-two-stage", "no pipeline differs"),
    ],
)
def test_a_version_of_the_reference_that_changes_nothing_is_refused(small_folder, generation, pipeline, differ):
    said = rf"reference_version=1.4 has no effect in the {pipeline} pipeline of LTX-{generation}, where {differ}"
    with pytest.raises(UserError, match=said):
        generate(small_folder(generation), pipeline=pipeline, reference_version="1.4")


@pytest.mark.parametrize("pipeline", RECIPES)
def test_the_version_that_is_matched_may_be_named(small_folder, pipeline):
    for generation in ("2", "2.3", "2.5"):
        variant = "distilled" if pipeline == "distilled" else "dev"
        known = open_checkpoint(small_folder(generation), variant).generation
        assert known.recipe(RECIPES[pipeline], "1.2") == known.recipe(RECIPES[pipeline])


def test_what_later_versions_are_said_to_change_is_two_second_stages():
    assert {version: set(recipes) for version, recipes in LATER_25.items()} == {"1.4": {"distilled", "dev-two-stage"}}
    second = {name: recipe.stages[1] for name, recipe in LATER_25["1.4"].items()}
    assert second["distilled"].sampler == "ancestral_euler"
    assert second["dev-two-stage"].frozen == ("audio",)


def test_the_small_packs_flags_are_the_published_ones(folder):
    metadata = mx.load(str(folder / small_pack.TRANSFORMER.format("distilled")), return_metadata=True)[1]
    section = json.loads(metadata["config"])["transformer"]
    assert section["ff_bias"] is False
    assert section["use_keyframes_abs_pos_embedding"] is True
    assert "audio_ff_bias" not in section
