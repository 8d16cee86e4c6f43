"""Many clips at once are what each would be by itself, with every network read once; a fault is one clip's."""

import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import ImageAt, Lora, LTXPipeline, Request, UserError
from mlx_video.jobs import many
from mlx_video.jobs.generate import Generate
from mlx_video.lending import shelf
from mlx_video.lending.visits import Ways
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.planning.plan import Memory
from mlx_video.types import Watch
from tests.support import small
from tests.support.reads import counted

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


def opened(folder, dtype="bfloat16", **options):
    return LTXPipeline.from_pretrained(folder, dtype=dtype, **options)


def latents(clip):
    return {m: np.array(array.astype(mx.float32)).tobytes() for m, array in clip.latents.items()}


def takes(count, **options):
    return [{**SMALL, **options, "seed": seed} for seed in range(count)]


def assert_the_same(pipe, requests):
    alone = [latents(pipe.generate(**one)) for one in requests]
    assert [latents(clip) for clip in pipe.generate_many(requests)] == alone
    assert len({str(one) for one in alone}) == len(alone)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["2.3", "2.5"])
@pytest.mark.parametrize("options", [{}, {"pipeline": "dev-two-stage", "steps": 2}], ids=["distilled", "two stages"])
def test_clips_are_what_they_are_by_themselves(small_folder, generation, options):
    requests = [*takes(2, **options), {**SMALL, **options, "prompt": "waves", "height": 96}]
    with opened(small_folder(generation)) as pipe:  # 16 bit: LoRAs that were taken out again would leave traces
        assert_the_same(pipe, requests)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True], ids=["whole", "read in every step"])
def test_loras_are_as_strong_as_in_a_single_run(small_folder, low_memory):
    folder = small_folder("2.3")
    lora = {"lora": Lora(str(folder / small.LORAS["2.3"]), 0.5)}
    requests = [*takes(2, **lora), *takes(2), *takes(1, lora_strength_stage_2=0.5, pipeline="dev-two-stage", steps=2)]
    requests += takes(1, pipeline="dev-two-stage", steps=2)
    with opened(folder, low_memory=low_memory) as pipe:
        assert_the_same(pipe, requests)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"pipeline": "dev-two-stage", "steps": 2}], ids=["distilled", "two stages"])
def test_a_transformer_that_steps_aside_comes_back_once_for_all(small_folder, monkeypatch, options):
    monkeypatch.setattr(shelf, "SMALL", 0)
    with opened(small_folder("2.3")) as pipe:
        alone = [latents(pipe.generate(**one)) for one in takes(3, **options)]
        monkeypatch.setattr(Memory, "ways", property(lambda memory: iter([Ways(step_aside=True)])))
        with counted() as read:
            assert [latents(clip) for clip in pipe.generate_many(takes(3, **options))] == alone
    assert read.times == {"transformer": 2, "latent statistics": 1, "upsampler": 1}


@pytest.mark.slow
def test_pictures_sounds_and_a_decided_length_go_with_the_others(small_folder, inputs):
    folder = small_folder("2.5")
    some = {"audio_file": str(inputs / "sound.wav")}, {"image": str(inputs / "picture.png")}
    requests = [*takes(1, **some[0]), *takes(2, **some[1]), takes(1)[0]]
    requests.append({"prompt": "a red ball", "height": 64, "width": 64, "auto_duration": "0.2:0.4", "seed": 9})
    with opened(folder) as pipe:
        assert_the_same(pipe, requests)


def test_a_take_is_what_it_is_by_itself(small_folder):
    with opened(small_folder("2.3")) as pipe:
        assert_the_same(pipe, takes(2, pipeline="dev-two-stage", steps=1))


@pytest.mark.slow
def test_rounds_change_nothing(small_folder, monkeypatch):
    monkeypatch.setattr(many, "AT_ONCE", 2)
    with opened(small_folder("2.3")) as pipe:
        assert_the_same(pipe, takes(3))


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.slow
@pytest.mark.usefixtures("texts_are_new")
def test_every_network_is_read_once_for_eight_takes(small_folder, inputs, monkeypatch):
    with opened(small_folder("2.3")) as pipe, counted() as read:
        for clip in pipe.generate_many(takes(8, image=str(inputs / "picture.png"))):
            assert clip.waveform is not None
            assert len(list(clip)) == 9
    assert len(read.times) == 9
    assert set(read.times.values()) == {1}, read


@pytest.mark.slow
@pytest.mark.usefixtures("texts_are_new")
def test_one_large_network_is_kept_at_a_time(small_folder, monkeypatch):
    monkeypatch.setattr(shelf, "SMALL", 0)
    kept = []
    monkeypatch.setattr(shelf.Shelf, "lend", watched(shelf.Shelf.lend, kept))
    with opened(small_folder("2.3")) as pipe, counted() as read:
        for clip in pipe.generate_many(takes(3)):
            list(clip)
    assert set(read.times.values()) == {1}, read
    # The transformer with the upsampler and its statistics, as in a single run; else one by itself.
    assert max(kept) == 3


def watched(lend, kept):
    def watching(self, *given, **how):
        kept.append(sum(bool(one.network) for one in self._kept.values()))
        return lend(self, *given, **how)

    return watching


@pytest.mark.slow
def test_texts_are_encoded_once_and_together(small_folder, monkeypatch, texts_are_new):
    asked = []
    encode = many.encode_prompts
    monkeypatch.setattr(many, "encode_prompts", lambda *a: asked.append(sorted(a[2])) or encode(*a))
    with opened(small_folder("2.3")) as pipe:
        list(pipe.generate_many([*takes(2), *takes(2, prompt="waves")]))
    assert asked == [["a red ball", "waves"]]


@pytest.mark.slow
def test_closing_the_iterator_frees_the_networks(small_folder, monkeypatch):
    lent = []
    init = Transformer.__init__
    monkeypatch.setattr(Transformer, "__init__", lambda self, *a, **k: (lent.append(self), init(self, *a, **k))[1])
    with opened(small_folder("2.3")) as pipe:
        clips = pipe.generate_many(takes(3))
        clip = next(clips)
        assert any(lent)
        clips.close()
        assert not any(len(one) for one in lent)
        assert len(list(clip)) == 9  # decodes by itself then


# ------------------------------------------------------------------------------------------------ faults


def test_a_clip_that_cannot_be_made_leaves_the_others(small_folder, inputs, tmp_path):
    picture = tmp_path / "soon gone.png"
    shutil.copy(inputs / "picture.png", picture)
    requests = takes(4)
    requests[0]["image"], requests[2]["image"] = "nowhere.png", str(picture)
    requests[3]["stg_blocks"], requests[3]["pipeline"] = [99], "dev"
    faults = {}
    with opened(small_folder("2.3")) as pipe:
        clips = pipe.generate_many(requests, on_error=lambda number, fault: faults.update({number: str(fault)}))
        picture.unlink()
        assert [clip.metadata["seed"] for clip in clips] == [1]
    assert list(faults) == [0, 3, 2]
    assert "nowhere.png does not exist" in faults[0]
    assert "soon gone.png does not exist" in faults[2]
    assert "blocks 0 to" in faults[3]


def test_without_a_listener_a_fault_is_raised(small_folder):
    with opened(small_folder("2.3")) as pipe, pytest.raises(UserError, match="does not exist"):
        list(pipe.generate_many([takes(1)[0], {**takes(1)[0], "image": "nowhere.png"}]))


@pytest.mark.slow
def test_numbers_that_are_none_leave_one_clip_out(small_folder):
    faults, broken = {}, {"lora": Lora(str(small_folder("2.3") / small.LORAS["2.3"]), 0.5)}
    prepare = Transformer.prepare
    calls = []

    def once(self, *given):
        calls.append(1)
        if len(calls) == 4:  # what the LoRA changes was measured with two, for the first clip
            raise UserError("The run ended.")
        return prepare(self, *given)

    with opened(small_folder("2.3")) as pipe, pytest.MonkeyPatch.context() as patch:
        alone = [latents(pipe.generate(**one)) for one in takes(3, **broken)]
        patch.setattr(Transformer, "prepare", once)
        found = list(
            pipe.generate_many(takes(3, **broken), on_error=lambda number, fault: faults.update({number: fault}))
        )
    assert [latents(clip) for clip in found] == [alone[0], alone[2]]
    assert list(faults) == [1]


def test_a_wrong_request_is_told_of_before_anything_is_opened(tmp_path, small_folder):
    with opened(small_folder("2.3")) as pipe:
        with pytest.raises(UserError, match=r"Clip 2 of 2: height=65 does not work"):
            pipe.generate_many([takes(1)[0], {**SMALL, "height": 65}])
        with pytest.raises(UserError, match="no keyword 'hight'; did you mean height"):
            pipe.generate_many([{"prompt": "a", "hight": 64}])
        with pytest.raises(UserError, match="No clip is asked for"):
            pipe.generate_many([])
        with pytest.raises(UserError, match=r"nowhere\.png does not exist"):
            pipe.generate_many([{**one, "image": "nowhere.png"} for one in takes(2)])


# ------------------------------------------------------------------------------------------------ plan and progress


def test_the_plan_is_that_of_the_largest_with_what_waits(small_folder):
    with opened(small_folder("2.3")) as pipe:
        large, other = Request(**{**SMALL, "num_frames": 33}), Request(**SMALL)
        alone = {need.name: need for need in pipe.plan(large).phases}
        together = {
            need.name: need for need in pipe.plan_many([large, *(replace(other, seed=n) for n in range(7))]).phases
        }
        more = {need.name: need for need in pipe.plan_many([replace(large, seed=n) for n in range(16)]).phases}
    assert list(together) == list(alone)
    assert all(alone[name].peak <= together[name].peak < more[name].peak for name in alone)
    assert together["stage 1"].read == alone["stage 1"].read
    assert more["stage 1"].flops == pytest.approx(16 * alone["stage 1"].flops)


@pytest.mark.slow
def test_a_phase_is_reported_once_for_all(small_folder):
    said = []
    with opened(small_folder("2.3")) as pipe:
        list(pipe.generate_many([*takes(2), *takes(1, pipeline="dev", steps=4)], on_step=said.append))
    stage = [(one.done, one.total) for one in said if one.phase == "stage 1"]
    assert [done for done, _ in stage] == sorted(done for done, _ in stage)
    assert stage[-1] == (20, 20)
    assert sum(one.peak is not None for one in said if one.phase == "stage 1") == 1
    assert [(one.done, one.total) for one in said if one.phase == "stage 2"][-1] == (6, 6)


def test_placeholders_are_made_among_the_others(small_folder):
    with opened(small_folder("2.3")) as pipe:
        clips = list(pipe.generate_many([{**SMALL, "placeholder": True}, *takes(1)]))
        assert [clip.metadata.get("placeholder") for clip in clips] == [True, None]


@pytest.mark.slow
def test_a_job_that_runs_again_sees_its_picture_again(small_folder, inputs):
    with opened(small_folder("2.3")) as pipe:
        job = Generate(Request(**SMALL, image=(ImageAt(str(inputs / "picture.png")),)))
        assert latents(pipe._runner.run(job, Watch())) == latents(job.run(Watch()))
