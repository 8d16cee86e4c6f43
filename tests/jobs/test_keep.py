"""A run that ends after any step goes on from there: to the same latents, bit for bit, whatever it is made of."""

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import AudioIn, ImageAt, Lora, LTXPipeline, Request, UserError
from mlx_video.diffusion.noise import seeded
from mlx_video.diffusion.schedules import REFINE
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.keep import Keep
from mlx_video.jobs.stages import Denoising, Inputs
from mlx_video.jobs.texts import prompts as text
from mlx_video.models.families import DEFAULT
from mlx_video.models.ltx_2.duration import DurationHead
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.results import kept as kept_folder
from mlx_video.results import stored
from mlx_video.types import Watch
from mlx_video.types.recipes import Recipe, Stage, Window
from tests.support import small

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}
SLOW = pytest.mark.slow
DONE = ["latents.safetensors", "request.json", "settings.json"]
FIRST = RECIPES["dev"].stages[0]


class Stopped(Exception):
    """What the tests end a run with."""


def stop(progress):
    raise Stopped


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2.3")


@pytest.fixture(scope="module")
def pipe(folder):
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        yield pipe


class MadeUp(Generate):
    """Pipelines that the package has not, of samplers and windows that none of its own has."""

    recipes = {
        "gradient": replace(
            RECIPES["dev"], name="gradient", stages=(replace(FIRST, sampler="gradient_estimating_euler"),)
        ),
        "second order": replace(RECIPES["dev"], name="second order", stages=(replace(FIRST, sampler="res_2s"),)),
        "ancestral": replace(RECIPES["dev"], name="ancestral", stages=(replace(FIRST, sampler="ancestral_euler"),)),
        "windows": Recipe(
            "windows", "in parts", "distilled",
            (Stage(1.0, "refine", sampler="res_2s", start=REFINE[-2], window=Window(3, 1), phase="refine"),),
            audio_from=0,
        ),
    }  # fmt: skip

    def inputs(self, contexts, watch):
        if self.request.pipeline != "windows":
            return super().inputs(contexts, watch)
        return Inputs(contexts, latents={"video": seeded(9)("given", (1, 128, 6, 2, 2))})


CASES = {
    "distilled": {},
    "dev with sound, skipping": {"pipeline": "dev", "steps": 3, "skip_step": 1},
    "dev, skipping more": {"pipeline": "dev", "steps": 6, "skip_step": 2},
    "dev, silent": {"pipeline": "dev", "steps": 3, "audio": False},
    "two stages": {"pipeline": "dev-two-stage", "steps": 3, "skip_step": 1},
    "hq": {"pipeline": "dev-two-stage-hq", "steps": 3},
    "pictures and sound": {"pipeline": "dev-two-stage", "steps": 2, "image": "picture", "audio_file": "sound"},
    "LoRA": {"pipeline": "dev-two-stage-hq", "steps": 2, "lora": "own", "num_frames": 1},
    "LoRA, streamed": {"pipeline": "dev-two-stage", "steps": 2, "lora": "own", "low_memory": True, "num_frames": 1},
    "dfr": {"generation": "2.5", "pipeline": "dfr", "num_frames": 41, "temporal_upsample_rounds": 1},
    "2.5": {"generation": "2.5", "num_generated_keyframes": 1},
    "gradient": {"pipeline": "gradient", "steps": 3, "num_frames": 1},
    "second order": {"pipeline": "second order", "steps": 2, "num_frames": 1},
    "ancestral": {"pipeline": "ancestral", "steps": 2, "num_frames": 1},
    "windows": {"pipeline": "windows", "num_frames": 41, "audio": False},
}


@pytest.fixture
def opened(small_folder, inputs, tmp_path):
    """opened(case) is what runs it: run(keep=..., on_kept=...) gives the clip."""

    def make(case):
        options = {**SMALL, **CASES[case]}
        place = small_folder(options.pop("generation", "2.3"))
        pipe = LTXPipeline.from_pretrained(place, dtype="float32", low_memory=options.pop("low_memory", None))
        if "image" in options:
            picture = str(inputs / "picture.png")
            options["image"] = (ImageAt(picture, 0, 0.9), ImageAt(picture, "last"))
            options["audio_file"] = AudioIn(str(inputs / "sound.wav"), 0.2)
        if "lora" in options:
            mx.save_safetensors(str(tmp_path / "own.safetensors"), small.lora_tensors("2.3", seed=9))
            options["lora"] = (Lora(str(tmp_path / "own.safetensors"), 0.5),)
        request = Request(**options)

        def run(keep=None, on_kept=None, say=lambda message: None):
            if request.pipeline in RECIPES:
                return pipe.run(request, keep=keep, on_kept=on_kept, on_message=say)
            watch = Watch(say=say) if on_kept is None else Watch(say=say, stepped=on_kept)
            return pipe._runner.run(MadeUp(request, None, keep), watch)

        return run

    return make


def same(one, other):
    return one.keys() == other.keys() and all(mx.array_equal(one[m], other[m]).item() for m in one)


def stopped_after_every_step(run, keep, **more):
    """The clip, and how many runs it took."""
    for count in range(1, 200):
        try:
            return run(keep=keep, on_kept=stop, **more), count
        except Stopped:
            pass


QUICK = ("dev with sound, skipping", "second order", "gradient", "ancestral", "windows")
"""Every sampler, and guidance that repeats itself; the others take longer."""


@pytest.mark.parametrize("case", [case if case in QUICK else pytest.param(case, marks=SLOW) for case in CASES])
def test_a_run_that_is_stopped_after_every_step_ends_in_the_same_latents(opened, case, tmp_path):
    run, steps, said = opened(case), [], []
    whole = run(on_kept=steps.append)
    clip, runs = stopped_after_every_step(run, tmp_path / "kept", say=said.append)
    assert same(whole.latents, clip.latents)
    assert runs == len(steps) + 1
    assert whole.metadata == clip.metadata
    assert sorted(os.listdir(tmp_path / "kept")) == DONE
    once_more = run(keep=tmp_path / "kept", on_kept=stop)  # no step is made
    assert same(whole.latents, once_more.latents)
    assert whole.metadata == once_more.metadata
    assert not [text for text in said if "anew" in text]


@pytest.mark.parametrize("step_aside", [False, True])
@pytest.mark.parametrize("skipped", [{1}, {1, 2}, {1, 2, 3}])
def test_loras_come_to_a_strength_by_the_same_steps(step_aside, skipped, monkeypatch):
    # In 16 bit 0.25 and then 0.25 more is not 0.5 at once; a transformer that stepped aside is read anew.
    stages = [Stage(1.0, "refine", loras={"distilled": 1.0}, upsample=("spatial x2",) * (n == 3)) for n in (1, 2, 3, 4)]
    recipe = Recipe("loras", "", "dev", tuple(stages), audio_from=0)
    weights, seen = [], {}

    class Loader:
        ways = SimpleNamespace(step_aside=step_aside)

        @contextmanager
        def aside(self, *given, **more):
            yield
            weights[:] = [] if step_aside else weights

    class Kept(Keep):
        def __init__(self, numbers):
            super().__init__()
            self.numbers = numbers

        def stage(self, number):
            return ({"video": mx.ones(1)}, None) if number in self.numbers else None

    def stage(self, number, *given):
        seen[number] = list(weights)
        return {"video": mx.ones(1)}

    monkeypatch.setattr(Denoising, "stage", stage)
    monkeypatch.setattr(Denoising, "_upsampled", lambda self, latent, *rest: latent)
    settings = SimpleNamespace(recipe=recipe, build_options=lambda name: {}, lora_strengths=(0.25, 0.5, 0.75, 1.0))
    made = []
    for now in (set(), skipped):
        weights.clear()
        seen.clear()
        fuse = lambda transformer: lambda strengths: weights.append(strengths["distilled"])  # noqa: E731
        run = Denoising(settings, Loader(), None, fuse, Inputs({}), seeded(1), Watch(), keep=Kept(now))
        list(run.run())
        made.append(dict(seen))
    whole, rest = made
    assert set(rest) == {1, 2, 3, 4} - skipped
    assert rest == {number: whole[number] for number in rest}


def test_what_is_there_is_not_made_again(pipe, tmp_path, monkeypatch):
    seen = []

    def end(progress):
        if progress.phase == "stage 2" and progress.done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        pipe.generate(**SMALL, keep=tmp_path / "k", on_kept=end)
    monkeypatch.setattr(text, "encode_prompts", None)
    pipe.generate(**SMALL, keep=tmp_path / "k", on_kept=seen.append, on_step=seen.append)
    assert [p[:3] for p in seen if p.phase.startswith("stage")] == [
        ("stage 2", 0, 3), ("stage 2", 2, 3), ("stage 2", 3, 3), ("stage 2", 3, 3),
    ]  # fmt: skip


def test_a_step_keeps_its_latents_and_little_more(pipe, tmp_path):
    sizes = []
    pipe.generate(
        **{**SMALL, "height": 128, "width": 128}, audio=False, keep=tmp_path / "k",
        on_kept=lambda progress: sizes.append((tmp_path / "k" / "state.safetensors").stat().st_size),
    )  # fmt: skip
    half, full = 128 * 2 * 2 * 2 * 4, 128 * 2 * 4 * 4 * 4  # float32 latents of the two stages
    assert [size // 1024 for size in sizes] == [half // 1024] * 8 + [full // 1024] * 3


@SLOW
def test_noise_that_is_handed_in_is_the_same_and_told_from_another(pipe, tmp_path):
    names = ("stage1/video", "stage2/video")
    shapes = {"stage1/video": (1, 128, 2, 1, 1), "stage2/video": (1, 128, 2, 2, 2)}
    noise = {name: np.array(seeded(3)(name, shapes[name])) for name in names}
    whole = pipe.generate(**SMALL, audio=False, noise=noise)
    run = lambda **more: pipe.generate(**SMALL, audio=False, **more)  # noqa: E731
    clip, _ = stopped_after_every_step(lambda **more: run(noise=noise, **more), tmp_path / "k")
    assert same(whole.latents, clip.latents)
    for other in ({**noise, "stage2/video": noise["stage2/video"] + 1}, None):
        with pytest.raises(UserError, match=r"keeps a run with.* noise"):
            run(noise=other, keep=tmp_path / "k")
    with pytest.raises(Stopped):
        run(noise={**noise, "stage3/video": noise["stage1/video"]}, keep=tmp_path / "more", on_kept=stop)
    with pytest.raises(UserError, match="given for stage3/video, which this run does not draw"):
        run(noise={**noise, "stage3/video": noise["stage1/video"]}, keep=tmp_path / "more")


@SLOW
def test_an_enhanced_prompt_is_kept_as_text(pipe, tmp_path, monkeypatch):
    written, said = [], []
    monkeypatch.setattr(DEFAULT.text(), "enhance", lambda *a, **k: written.append(1) or "a red ball, at dusk")
    options = {**SMALL, "enhance_prompt": True, "on_message": said.append}
    whole = pipe.generate(**options)
    clip, _ = stopped_after_every_step(lambda **more: pipe.generate(**options, **more), tmp_path / "k")
    assert len(written) == 2  # once with each
    assert same(whole.latents, clip.latents)
    again = pipe.generate(**options, keep=tmp_path / "k")
    assert len(written) == 2
    assert again.metadata == whole.metadata
    assert whole.metadata["original_prompt"] == "a red ball"


@SLOW
def test_a_length_that_the_prompt_decided_is_kept(small_folder, tmp_path, monkeypatch):
    asked = []
    plain = DurationHead.seconds
    monkeypatch.setattr(DurationHead, "seconds", lambda *a: asked.append(1) or plain(*a))
    options = {"prompt": "a red fox", "height": 64, "width": 64, "auto_duration": "0.1:2", "audio": False}
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        whole = pipe.generate(**options)
        clip, _ = stopped_after_every_step(lambda **more: pipe.generate(**options, **more), tmp_path / "k")
        again = pipe.generate(**options, keep=tmp_path / "k")
    assert len(asked) == 2
    assert same(whole.latents, clip.latents)
    assert len(whole) == len(again) == len(clip)


# ------------------------------------------------------------------------------------------------ refused


@pytest.fixture(scope="module")
def whole(pipe):
    """The latents of SMALL, made at once."""
    return pipe.generate(**SMALL).latents


@pytest.fixture(scope="module")
def half(pipe, tmp_path_factory):
    """A folder that keeps a run of SMALL, stopped in its second stage."""
    place = tmp_path_factory.mktemp("half") / "kept"

    def end(progress):
        if progress.phase == "stage 2":
            raise Stopped

    with pytest.raises(Stopped):
        pipe.generate(**SMALL, keep=place, on_kept=end)
    return place


@pytest.fixture
def kept(half, tmp_path):
    """A copy of it."""
    return shutil.copytree(half, tmp_path / "kept")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "a run with seed=42, and this one is with seed=7;"),
        ({"prompt": "a cube"}, "a run with prompt 'a red ball', and this one is with prompt 'a cube';"),
        ({"num_frames": 17}, "a run with num_frames=9, and this one is with num_frames=17;"),
        ({"audio": False}, "a run with audio=True, and this one is without audio=True;"),
        ({"pipeline": "dev", "steps": 2}, 'a run with pipeline="distilled", and this one is with pipeline="dev";'),
        ({"image": "picture"}, "a run without image, and this one is with image "),
    ],
)
def test_another_request_is_refused_with_the_first_difference(pipe, kept, inputs, change, said):
    change = {"image": inputs / "picture.png"} if "image" in change else change
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    with pytest.raises(UserError) as refused:
        pipe.generate(**{**SMALL, **change}, keep=kept)
    assert said in str(refused.value)
    assert before == {file.name: file.read_bytes() for file in kept.iterdir()}


def test_what_only_changes_how_it_is_shown_is_no_other_run(pipe, whole, kept):
    clip = pipe.generate(**SMALL, tiling="aggressive", stream=True, keep=kept)
    assert same(whole, clip.latents)
    assert (clip.look.tiling, clip.look.stream) == ("aggressive", True)
    assert pipe.generate(**SMALL, tiling="none", keep=kept).look.tiling == "none"


@SLOW
def test_another_model_or_lora_of_the_same_name_is_refused(folder, kept, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other" / folder.name)
    file = other / small.NAMES["2.3"].format("distilled")
    arrays, metadata = mx.load(str(file), return_metadata=True)
    mx.save_safetensors(str(file), arrays, {**metadata, "note": "another"})
    for place, dtype, said in (
        (other, "float32", rf"a run with another {file.name} \(.* there, .* here"),
        (folder, "bfloat16", r"dtype.*float32.*bfloat16"),
    ):
        with LTXPipeline.from_pretrained(place, dtype=dtype) as pipe, pytest.raises(UserError, match=said):
            pipe.generate(**SMALL, keep=kept)


def test_two_runs_at_once_in_one_folder_are_refused(pipe, kept):
    def second(progress):
        with pytest.raises(UserError, match="Another run keeps its work"):
            pipe.generate(**SMALL, keep=kept)
        raise Stopped

    with pytest.raises(Stopped):
        pipe.generate(**SMALL, keep=kept, on_kept=second)
    pipe.generate(**SMALL, keep=kept)


def test_a_folder_of_something_else_is_left_alone(pipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is there already and is not an empty folder"):
        pipe.generate(**SMALL, keep=tmp_path / "mine")
    with pytest.raises(UserError, match="does not exist; create it first"):
        pipe.generate(**SMALL, keep=tmp_path / "no" / "such")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        pipe.generate(**SMALL, keep=tmp_path / "file")
    with pytest.raises(UserError, match="has no effect with placeholder"):
        pipe.generate(**SMALL, keep=tmp_path / "k", placeholder=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


# ------------------------------------------------------------------------------------------------ damaged


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def altered(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("contexts", altered), ("state", altered), ("request", altered),
        *(pytest.param(name, damage, marks=SLOW) for name, damage in [
            ("contexts", cut), ("contexts", emptied), ("state", cut), ("state", emptied), ("stage-1", cut),
            ("stage-1", altered), ("stage-1", emptied), ("request", cut), ("request", emptied),
        ]),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_not_used(pipe, whole, kept, name, damage):
    file = next(kept.glob(f"{name}.*"))
    damage(file)
    said = []
    clip = pipe.generate(**SMALL, keep=kept, on_message=said.append)
    assert same(whole, clip.latents)
    assert [text for text in said if str(file) in text and "anew" in text]
    assert sorted(os.listdir(kept)) == DONE


@SLOW
@pytest.mark.parametrize(
    ("name", "damage"), [("latents.safetensors", altered), ("latents.safetensors", cut), ("settings.json", cut)]
)
def test_a_damaged_clip_is_made_anew(pipe, whole, kept, name, damage):
    said = []
    pipe.generate(**SMALL, keep=kept)
    damage(kept / name)
    clip = pipe.generate(**SMALL, keep=kept, on_message=said.append)
    assert same(whole, clip.latents)
    assert [text for text in said if str(kept) in text and "anew" in text]


@SLOW
def test_a_file_of_another_run_is_not_used(pipe, whole, kept, tmp_path):
    with pytest.raises(Stopped):
        pipe.generate(**SMALL, seed=7, keep=tmp_path / "other", on_kept=stop)
    said = []
    shutil.copy(tmp_path / "other" / "contexts.safetensors", kept)
    clip = pipe.generate(**SMALL, keep=kept, on_message=said.append)
    assert [text for text in said if "contexts.safetensors is of another run" in text]
    assert same(whole, clip.latents)


def test_what_a_killed_run_left_unfinished_goes(pipe, kept):
    for name in (".state.0a1b2c3d.part.safetensors", ".request.00000000.part.json"):
        (kept / name).write_bytes(b"")
    pipe.generate(**SMALL, keep=kept)
    assert sorted(os.listdir(kept)) == DONE


def test_a_full_disk_is_told_once_and_the_run_goes_on(pipe, whole, tmp_path, monkeypatch):
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    said = []
    written = []
    plain = kept_folder.write
    monkeypatch.setattr(
        kept_folder, "write", lambda *a, **k: full() if len(written) == 4 else (written.append(1), plain(*a, **k))
    )
    monkeypatch.setattr(stored, "write", full)
    clip = pipe.generate(**SMALL, keep=tmp_path / "k", on_message=said.append)
    assert same(whole, clip.latents)
    assert len([text for text in said if "is full. The run goes on and keeps nothing more." in text]) == 1
    for module in (kept_folder, stored):
        monkeypatch.setattr(module, "write", plain)
    seen = []
    assert same(whole, pipe.generate(**SMALL, keep=tmp_path / "k", on_kept=seen.append).latents)
    assert len(seen) == 11 - 3  # contexts and three steps were written
