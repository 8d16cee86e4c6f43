"""What a run of the Python API promises besides right numbers: draws, passes, networks one at a time, progress."""

import functools

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import AudioIn, ImageAt, Lora, LTXPipeline, UserError
from mlx_video.diffusion.noise import seeded
from mlx_video.jobs.stages import Denoising
from mlx_video.lending import loader
from mlx_video.models.family import Component
from mlx_video.models.ltx_2.transformer import Transformer
from tests.support import small
from tests.support.cases import error

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture
def folder(small_folder):
    return small_folder("2.3")


def generate(folder, **options):
    if options.get("pipeline", "distilled") != "distilled":
        options = {"steps": 2, **options}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        return pipe.generate(**{**SMALL, **options})


def latents(folder, **options):
    return {modality: np.array(value) for modality, value in generate(folder, **options).latents.items()}


unchanged = functools.cache(latents)
"""Runs that several tests compare with, made once."""


def same(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


# ------------------------------------------------------------------------------------------------ draws


@pytest.mark.parametrize("pipeline", ["distilled", "dev-two-stage-hq"])
def test_a_seed_is_a_clip(folder, pipeline):
    first = latents(folder, pipeline=pipeline, seed=1)
    assert same(first, latents(folder, pipeline=pipeline, seed=1))
    other = unchanged(folder, pipeline=pipeline)
    assert all(error(other[modality], first[modality]) > 0.1 for modality in first)


def test_leaving_sound_out_changes_no_draw_of_the_video(folder):
    drawn = {True: {}, False: {}}
    for audio, kept in drawn.items():
        source = seeded(1)

        def noise(name, shape, kept=kept, source=source):
            kept[name] = np.array(source(name, shape))
            return kept[name]

        generate(folder, audio=audio, noise=noise)
    assert set(drawn[True]) == {"stage1/video", "stage1/audio", "stage2/video", "stage2/audio"}
    assert set(drawn[False]) == {"stage1/video", "stage2/video"}
    assert same({name: drawn[True][name] for name in drawn[False]}, drawn[False])


def test_noise_that_is_given_is_used_and_checked(folder):
    shapes = {"stage1/video": (1, 128, 2, 1, 1), "stage1/audio": (1, 8, 9, 16)}
    shapes |= {"stage2/video": (1, 128, 2, 2, 2), "stage2/audio": (1, 8, 9, 16)}
    noise = {name: np.array(seeded(3)(name, shape)) for name, shape in shapes.items()}
    assert same(latents(folder, noise=noise), latents(folder, seed=3))
    with pytest.raises(UserError, match=r"'stage2/audio' \(1, 8, 9, 16\), which was not given"):
        generate(folder, noise={name: noise[name] for name in list(noise)[:3]})
    with pytest.raises(UserError, match="Noise was given for stage3/video, which this run does not draw"):
        generate(folder, noise={**noise, "stage3/video": noise["stage1/video"]})
    with pytest.raises(UserError, match=r"'stage1/audio' has shape \(1, 8, 8, 16\); this run needs \(1, 8, 9, 16\)"):
        generate(folder, noise={**noise, "stage1/audio": noise["stage1/audio"][:, :, :8]})


# ------------------------------------------------------------------------------------------------ guidance


@pytest.mark.parametrize(
    ("options", "passes", "stages"),
    [
        ({}, [1] * 11, 2),
        ({"pipeline": "dev"}, [4, 4], 1),
        ({"pipeline": "dev", "audio": False}, [3, 3], 1),
        ({"pipeline": "dev", "steps": 5, "skip_step": 1}, [4, 4, 4], 1),
        ({"pipeline": "dev", "stg_scale": 0.0}, [3, 3], 1),
        ({"pipeline": "dev", "cfg_scale": 1.0, "audio_cfg_scale": 1.0, "modality_scale": 1.0}, [2, 2], 1),
        ({"pipeline": "dev-two-stage"}, [4, 4, 1, 1, 1], 2),
        ({"pipeline": "dev-two-stage-hq"}, [3] * 5 + [1] * 7, 2),
    ],
)  # fmt: skip
def test_no_pass_is_made_that_guidance_does_not_need(folder, options, passes, stages, monkeypatch):
    made, prepared = [], []
    call, prepare = Transformer.__call__, Transformer.prepare

    def counted(self, x, sigma, shared, asked, **rest):
        made.append(len(asked))
        return call(self, x, sigma, shared, asked, **rest)

    monkeypatch.setattr(Transformer, "__call__", counted)
    monkeypatch.setattr(Transformer, "prepare", lambda *a, **k: (prepared.append(1), prepare(*a, **k))[1])
    generate(folder, **options)
    assert made == passes
    assert len(prepared) == stages  # tables, captions and the like once a stage


@pytest.mark.parametrize("generation", ["2", "2.3"])
def test_batched_guidance_gives_the_same_numbers(small_folder, generation):
    one_by_one = latents(small_folder(generation), pipeline="dev", guidance_batch=False)
    batched = latents(small_folder(generation), pipeline="dev", guidance_batch=True)
    assert all(error(batched[modality], one_by_one[modality]) < 1e-5 for modality in batched)


@pytest.mark.parametrize(
    "option",
    [
        {"cfg_scale": 5.0}, {"audio_cfg_scale": 2.0}, {"cfg_rescale": 0.0}, {"stg_scale": 0.0}, {"stg_blocks": (0,)},
        {"modality_scale": 1.0}, {"apg": True}, {"skip_step": 1}, {"negative_prompt": "blue"}, {"steps": 3},
    ],
    ids=str,
)  # fmt: skip
def test_every_guidance_option_has_an_effect(folder, option):
    plain = unchanged(folder, pipeline="dev")
    steered = latents(folder, pipeline="dev", **option)
    assert max(error(steered[modality], plain[modality]) for modality in plain) > 1e-3


# ------------------------------------------------------------------------------------------------ LoRA


def test_the_distilled_lora_is_added_to_the_users_own(folder, tmp_path, monkeypatch):
    layer = "transformer_blocks.1.attn1.to_q"
    own = small.lora_tensors("2.3", seed=9)
    mx.save_safetensors(str(tmp_path / "own.safetensors"), own)
    seen = []
    stage = Denoising.stage

    def watched(self, *rest):
        seen.append(np.array(dict(tree_flatten(self.transformer.parameters()))[f"{layer}.weight"]))
        return stage(self, *rest)

    monkeypatch.setattr(Denoising, "stage", watched)
    generate(folder, pipeline="dev-two-stage-hq", lora=Lora(str(tmp_path / "own.safetensors"), 0.5))

    def delta(tensors):
        up, down = (tensors[f"diffusion_model.{layer}.lora_{part}.weight"].astype(mx.float32) for part in "BA")
        return np.array(up) @ np.array(down)

    base = np.array(small.tensors("2.3", "dev")[f"{small.DIT}{layer}.weight"].astype(mx.float32))
    distilled = delta(small.lora_tensors("2.3"))
    for weight, strength in zip(seen, (0.25, 0.5), strict=True):
        assert error(weight, base + 0.5 * delta(own) + strength * distilled) < 1e-6


def test_a_lora_of_strength_0_changes_nothing_and_one_of_1_does(folder):
    plain = unchanged(folder)
    lora = str(folder / small.LORAS["2.3"])
    off = latents(folder, lora=(lora, 0.0))
    assert all(error(off[modality], plain[modality]) < 1e-6 for modality in plain)
    assert error(latents(folder, lora=lora)["video"], plain["video"]) > 1e-3


def test_the_pipelines_lora_is_for_every_clip(folder):
    lora = str(folder / small.LORAS["2.3"])
    with LTXPipeline.from_pretrained(folder, dtype="float32", lora=(lora, 0.7)) as pipe:
        found = {m: np.array(value) for m, value in pipe.generate(**SMALL).latents.items()}
    assert same(found, latents(folder, lora=(lora, 0.7)))


# ------------------------------------------------------------------------------------------------ pictures and sound


def test_first_and_last_frame(folder, inputs):
    picture = str(inputs / "picture.png")
    plain = unchanged(folder, seed=4)
    first = latents(folder, seed=4, image=picture)
    both = latents(folder, seed=4, image=[picture, (picture, "last")])
    assert error(first["video"][:, :, 0], plain["video"][:, :, 0]) > 0.1
    # A picture held fully is what comes out; one at another frame guides from beside the clip.
    assert error(both["video"][:, :, 0], first["video"][:, :, 0]) < 1e-6
    assert error(both["video"][:, :, 1], first["video"][:, :, 1]) > 1e-3
    assert both["video"].shape == plain["video"].shape


def test_a_picture_of_strength_0_only_draws_the_same(folder, inputs):
    plain = unchanged(folder, pipeline="dev", seed=4)
    free = latents(folder, pipeline="dev", seed=4, image=ImageAt(str(inputs / "picture.png"), 0, 0.0))
    assert all(error(free[modality], plain[modality]) < 1e-5 for modality in plain)


def test_a_sound_that_is_given_steers_the_video_and_is_handed_on(folder, inputs):
    from mlx_video.media.audio import read_audio

    plain = latents(folder, pipeline="dev-two-stage", seed=4)
    clip = generate(folder, pipeline="dev-two-stage", seed=4, audio_file=AudioIn(str(inputs / "sound.wav"), 0.5))
    assert error(clip.latents["video"], plain["video"]) > 1e-3
    whole, rate = read_audio(inputs / "sound.wav")
    assert clip.sample_rate == rate
    np.testing.assert_array_equal(clip.waveform, whole[:, rate // 2 : rate // 2 + round(9 / 24 * rate)])
    later = generate(folder, pipeline="dev-two-stage", seed=4, audio_file=AudioIn(str(inputs / "sound.wav"), 0.9))
    assert error(later.latents["audio"], clip.latents["audio"]) > 0.1


def test_the_sounds_last_latent_hears_a_little_of_what_follows_the_clip(folder, inputs, tmp_path):
    # 9 frames at 23.6 a second end at 0.381 s, within the last window of the spectrum, which ends at 0.392 s.
    from mlx_video.media.audio import read_audio, write_wav

    whole, rate = read_audio(inputs / "sound.wav")
    cut = whole.copy()
    cut[:, round(9 / 23.6 * rate) :] = 0
    write_wav(tmp_path / "cut.wav", cut, rate)
    files = (inputs / "sound.wav", tmp_path / "cut.wav")
    long, short = (latents(folder, pipeline="dev", fps=23.6, audio_file=str(file))["audio"] for file in files)
    assert error(long[:, :, :-2], short[:, :, :-2]) < 1e-3
    assert error(long[:, :, -1], short[:, :, -1]) > 1e-3


# ------------------------------------------------------------------------------------------------ networks


@pytest.mark.usefixtures("texts_are_new")
@pytest.mark.parametrize("pipeline", ["distilled", "dev-two-stage-hq"])
def test_networks_are_read_once_and_gone_before_the_next(folder, inputs, tmp_path, pipeline, monkeypatch):
    alive, read = {}, []
    give, stream, text = loader.give_weights, loader.stream_weights, loader.read_text_encoder

    def see(name, network):
        read.append(name)
        held = {other for other, module in alive.items() if tree_flatten(module.parameters())}
        # The transformer stays through its stages; the upsampler and the statistics around it are small.
        assert held <= {"transformer", "latent_statistics"}, (name, held)
        assert name not in ("transformer", "video_decoder", "audio_decoder", "vocoder") or not held, (name, held)
        alive[name] = network

    def watched(network, part, *rest):
        see(part.component.key, network)
        return give(network, part, *rest)

    def watched_stream(network, part, *rest):
        see(part.component.key, network)
        return stream(network, part, *rest)

    def watched_text(*rest):
        encoder = text(*rest)
        see("text_encoder", encoder.network)
        return encoder

    monkeypatch.setattr(loader, "give_weights", watched)
    monkeypatch.setattr(loader, "stream_weights", watched_stream)
    monkeypatch.setattr(loader, "read_text_encoder", watched_text)
    clip = generate(folder, pipeline=pipeline, image=str(inputs / "picture.png"))
    clip.save(tmp_path / "a.mp4")
    assert sorted(read) == sorted(
        ["text_encoder", "connectors", "video_encoder", "transformer", "latent_statistics", "upsampler",
         "video_decoder", "audio_decoder", "vocoder"]
    )  # fmt: skip
    assert not any(tree_flatten(module.parameters()) for module in alive.values())


@pytest.mark.usefixtures("texts_are_new")
def test_a_network_is_built_once_for_the_checks_the_plan_and_the_run(folder, monkeypatch):
    built = []
    build = Component.build
    monkeypatch.setattr(Component, "build", lambda self, *a, **k: (built.append(self.key), build(self, *a, **k))[1])
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        list(pipe.generate(**SMALL))
        large = ["connectors", "transformer", "video_decoder", "audio_decoder", "vocoder"]
        assert sorted(large) == sorted(name for name in built if name in large)
        again = pipe.generate(**SMALL)
        assert sorted(name for name in built if name in large) == sorted([*large, "connectors", "transformer"])
    assert again.latents["video"].shape == (1, 128, 2, 2, 2)


@pytest.mark.usefixtures("texts_are_new")
def test_a_text_that_occurs_twice_is_encoded_once(folder, monkeypatch):
    asked = []
    text = loader.read_text_encoder

    def watched(*rest):
        encoder = text(*rest)
        encode = encoder.encode
        monkeypatch.setattr(encoder, "encode", lambda prompts: (asked.extend(prompts), encode(prompts))[1])
        return encoder

    monkeypatch.setattr(loader, "read_text_encoder", watched)
    generate(folder, pipeline="dev", negative_prompt=SMALL["prompt"])
    assert asked == [SMALL["prompt"]]


# ------------------------------------------------------------------------------------------------ progress and the end


@pytest.mark.usefixtures("texts_are_new")
def test_progress_of_every_phase_goes_from_0_to_its_total(folder, inputs, tmp_path):
    reports = []
    options = {"pipeline": "dev-two-stage-hq", "image": str(inputs / "picture.png"), "on_step": reports.append}
    generate(folder, **options).save(tmp_path / "a.mp4", on_step=reports.append)
    phases = list(dict.fromkeys(report.phase for report in reports))
    assert phases == ["text", "images", "stage 1", "upsample", "stage 2", "waveform", "decode", "save"]
    for phase in phases:
        mine = [report for report in reports if report.phase == phase]
        done = [report.done for report in mine]
        assert done == sorted(set(done)), phase
        assert all(report.total == mine[0].total for report in mine)
        assert done[-1] == mine[-1].total
        assert [report.peak is not None for report in mine] == [False] * (len(mine) - 1) + [True], phase
    totals = {report.phase: report.total for report in reports}
    wanted = {"text": 3, "images": 2, "stage 1": 5, "upsample": 1, "stage 2": 7, "waveform": 2, "decode": 9, "save": 1}
    assert totals == wanted


def test_each_step_shows_a_preview(folder):
    shown = []
    clip = generate(folder, on_preview=lambda progress, x0: shown.append((progress, x0)))
    assert [progress.phase for progress, _ in shown] == ["stage 1"] * 8 + ["stage 2"] * 3
    assert [progress.done for progress, _ in shown] == [*range(1, 9), *range(1, 4)]
    assert shown[0][1]["video"].shape == (1, 128, 2, 1, 1)
    # At the last step the prediction is the result.
    last = shown[-1][1]
    assert all(error(last[modality], clip.latents[modality]) < 1e-6 for modality in ("video", "audio"))


@pytest.mark.usefixtures("texts_are_new")
@pytest.mark.parametrize("phase", ["text", "stage 1", "upsample", "stage 2", "decode"])
def test_whatever_a_listener_raises_cancels_and_leaves_nothing(folder, tmp_path, phase):
    class Enough(Exception):
        pass

    def stop(progress):
        if progress.phase == phase and progress.done == progress.total // 2:
            raise Enough

    outputs = {"path": tmp_path / "a.mp4", "audio_path": tmp_path / "a.wav", "frames": True}
    with pytest.raises(Enough):
        generate(folder, on_step=stop).save(**outputs, on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_outlives_its_pipeline_and_decodes_as_often_as_asked(folder):
    clip = generate(folder)
    first, second = np.stack(list(clip)), np.stack(list(clip))
    assert first.shape == (9, 64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert clip.waveform.shape[0] == 2
    assert clip.metadata["seed"] == 42


def test_frames_do_not_depend_on_how_they_are_decoded(folder):
    options = {"height": 128, "num_frames": 17, "noise": None}
    plain, streamed, tiled = (
        np.stack(list(generate(folder, **options, tiling=tiling, stream=stream))).astype(int)
        for tiling, stream in (("none", False), ("none", True), ("aggressive", False))
    )
    assert np.mean(np.abs(streamed - plain) > 1) <= 1e-3
    assert tiled.shape == plain.shape  # tiles are blended, and so differ where they meet


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_checkpoint_is_a_file_or_its_folder(folder, where):
    path = folder / small.NAMES["2.3"].format("distilled") if where == "file" else folder
    assert same(latents(path), unchanged(folder))
