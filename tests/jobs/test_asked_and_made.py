"""What is asked and what is made: sizes that are cut back, fewer steps, checkpoints without sound, placeholders."""

import wave

import numpy as np
import pytest

from mlx_video import AudioIn, ImageAt, LTXPipeline, Request, UserError, generate, generate_av
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion.schedules import DISTILLED, REFINE, part_of
from mlx_video.jobs.inputs import LOOK_AHEAD
from mlx_video.jobs.inputs import read as read_media
from mlx_video.jobs.settings import resolve
from mlx_video.jobs.texts.prompts import enhanced
from mlx_video.models.families import DEFAULT
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.types import Watch
from tests.support import small_gemma
from tests.support.readback import read

SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2")


@pytest.fixture(scope="module")
def silent_folder(folder, tmp_path_factory):
    from mlx_video.convert import main

    place = tmp_path_factory.mktemp("silent") / "model"
    assert main(["--source", str(folder), "--output", str(place), "--no-audio", "--quiet"]) == 0
    return place


def settings(folder, **options):
    request = Request(**{**SMALL, **options})
    recipe = request.check(RECIPES)
    return resolve(request, recipe, open_checkpoint(folder, recipe.variant))


# ------------------------------------------------------------------------------------------------ sizes


def test_a_multiple_of_32_is_cut_out_of_a_multiple_of_64(folder):
    said = []
    with LTXPipeline.from_pretrained(folder) as pipe:
        clip = pipe.generate(**{**SMALL, "height": 96, "width": 160}, audio=False, on_message=said.append)
        whole = pipe.generate(**{**SMALL, "height": 128, "width": 192}, audio=False)
    made = "160x96 is made as 192x128 and cut back: the distilled pipeline works in multiples of 64."
    assert made in said
    assert clip.latents["video"].shape == (1, 128, 2, 4, 6)
    np.testing.assert_array_equal(np.array(clip.latents["video"]), np.array(whole.latents["video"]))
    for frame, around in zip(clip, whole, strict=True):
        np.testing.assert_array_equal(frame, around[16:112, 16:176])
    assert (clip.shape.height, clip.shape.width) == (96, 160)


def test_a_plan_shows_what_is_made(folder):
    said = []
    with LTXPipeline.from_pretrained(folder) as pipe:
        plan = pipe.plan(Request(**{**SMALL, "height": 480, "width": 832}), on_message=said.append)
        larger = pipe.plan(Request(**{**SMALL, "height": 512, "width": 832}))
    assert any("832x480 is made as 832x512" in line for line in said)
    assert [phase.work for phase in plan.phases] == [phase.work for phase in larger.phases]


@pytest.mark.parametrize("pipeline", ["distilled", "dev-two-stage", "dev-two-stage-hq"])
def test_a_picture_fills_what_is_shown_in_every_stage(folder, inputs, pipeline):
    picture = str(inputs / "picture.png")
    asked = settings(folder, height=96, width=128, pipeline=pipeline, image=(ImageAt(picture),))
    exact = settings(folder, height=96, width=128, pipeline="dev", image=(ImageAt(picture),))
    images = read_media(asked).images
    assert [image[0].shape for image in images.values()] == [(64, 64, 3), (128, 128, 3)]
    shown = images[2][0][16:112]
    np.testing.assert_array_equal(shown, read_media(exact).images[1][0])
    np.testing.assert_array_equal(images[2][0][:16], np.broadcast_to(shown[:1], (16, 128, 3)))
    np.testing.assert_array_equal(images[2][0][112:], np.broadcast_to(shown[-1:], (16, 128, 3)))


def test_the_encoder_hears_beyond_the_clip_where_the_file_goes_on(folder, inputs):
    """The last frames of the mel look ahead; where the file ends with the clip, or before it, there is only silence."""
    sound = inputs / "sound.wav"  # 1.5 s; the clip plays 9 / 24 of them
    with wave.open(str(sound)) as file:
        rate, length = file.getframerate(), file.getnframes()
        samples = np.frombuffer(file.readframes(length), "<i2").reshape(-1, 2).T / 32768
    played = round(9 / 24 * rate)
    for start, heard in ((0, played + LOOK_AHEAD * rate), (1.1, length - 1.1 * rate), (1.125, played), (1.3, played)):
        media = read_media(settings(folder, audio_file=AudioIn(str(sound), start)))
        asked = samples[:, round(start * rate) :][:, : round(heard)]
        assert media.heard[1] == media.sound[1] == rate
        assert media.heard[0].shape == (2, round(heard))
        assert media.sound[0].shape == (2, played)
        np.testing.assert_array_equal(media.heard[0][:, :played], media.sound[0])
        np.testing.assert_allclose(media.heard[0][:, : asked.shape[1]], asked, atol=1e-4)
        assert not media.heard[0][:, asked.shape[1] :].any()
    assert LOOK_AHEAD * 16_000 >= 512  # half a window of the mel's


def test_one_stage_makes_what_is_asked(folder):
    assert settings(folder, height=96, width=160, pipeline="dev").notes == ()


# ------------------------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("steps", range(1, 9))
def test_fewer_steps_are_a_part_of_the_schedule(folder, steps):
    asked = settings(folder, steps=steps)
    first, second = (asked.sigmas(stage, 100) for stage in asked.recipe.stages)
    assert len(first) == steps + 1
    assert len(second) == max(1, int(steps * 3 / 8 + 0.5)) + 1
    for found, table in ((first, DISTILLED), (second, REFINE)):
        assert (found[0], found[-1]) == (table[0], table[-1])
        assert list(found) == sorted(set(found), reverse=True)
        assert set(found) <= set(table)


def test_the_parts_themselves():
    assert part_of(DISTILLED, 8) == DISTILLED
    assert part_of(DISTILLED, 4) == DISTILLED[::2]
    assert part_of(DISTILLED, 3) == tuple(DISTILLED[i] for i in (0, 3, 5, 8))
    assert part_of(REFINE, 1) == (REFINE[0], 0.0)
    for steps in (0, 9, -1):
        with pytest.raises(UserError, match="of which 1 to 8 can be taken"):
            part_of(DISTILLED, steps)


def test_the_whole_schedule_is_the_default(folder):
    asked = settings(folder)
    assert asked.steps == 8
    assert [asked.sigmas(stage, 1) for stage in asked.recipe.stages] == [DISTILLED, REFINE]
    dev = settings(folder, pipeline="dev-two-stage", steps=5)
    assert [len(dev.sigmas(stage, 1)) for stage in dev.recipe.stages] == [6, 4]


def test_a_quick_look_is_a_clip(folder, made, command, tmp_path):
    words = ["a red ball", "-H", 64, "-W", 64, "-n", 9, "--steps", 2, "--no-audio", "--model-repo", folder]
    status, said = command(generate.main, *words, "-o", tmp_path / "a.mp4")
    assert status == 0, said
    assert "stage 1  2/2 in" in said
    assert "stage 2  1/1 in" in said
    assert read(tmp_path / "a.mp4").metadata["steps"] == 2


# ------------------------------------------------------------------------------------------------ sound


def test_a_checkpoint_without_sound_makes_silent_clips_with_a_word(silent_folder, folder, command, tmp_path, inputs):
    words = ["a red ball", "-H", 64, "-W", 64, "-n", 9, "--model-repo", silent_folder, "-o", tmp_path / "a.mp4"]
    words += ["--text-encoder-repo", folder / "gemma"]
    status, said = command(generate_av.main, *words, "--steps", 1)
    assert status == 0, said
    assert f"{silent_folder} has no sound, so the clip is silent.\n" in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert read(tmp_path / "a.mp4").sound is None
    for more in (["--audio"], ["--output-audio", tmp_path / "a.wav"]):
        status, said = command(generate.main, *words, *more)
        assert (status, said) == (
            2,
            f"mlx_video.generate: {silent_folder} was converted without sound; add --no-audio.\n",
        )
    status, said = command(generate.main, *words, "--audio-file", inputs / "sound.wav")
    assert status == 2
    assert "cannot follow any; drop --audio-file" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cfg_scale": 1.0, "audio_cfg_scale": 1.0}, "--cfg-scale and --audio-cfg-scale are 1"),
        ({"cfg_scale": 1.0, "audio": False}, "--cfg-scale is 1"),
    ],
)
def test_a_negative_prompt_without_guidance_is_refused(folder, options, said):
    with pytest.raises(UserError, match=f"--negative-prompt has no effect where {said}"):
        settings(folder, pipeline="dev", negative_prompt="fog", **options)
    assert settings(folder, pipeline="dev", **options).negative_prompt is None
    assert settings(folder, pipeline="dev", negative_prompt="fog").negative_prompt == "fog"


# ------------------------------------------------------------------------------------------------ placeholders


@pytest.mark.parametrize("pipeline", RECIPES)
def test_a_placeholder_is_what_a_run_would_write_but_for_what_it_shows(pipeline, inputs, tmp_path):
    said = []
    options = {**SMALL, "pipeline": pipeline, "height": 96, "num_frames": 17, "fps": 25.0, "placeholder": True}
    with LTXPipeline.from_pretrained("nobody/nothing") as pipe:  # which is never asked for
        clip = pipe.generate(**options, image=str(inputs / "picture.png"), on_message=said.append)
        clip.save(tmp_path / "a.mp4", audio_path=tmp_path / "a.wav")
        again = pipe.generate(**options)
        other = pipe.generate(**options, seed=1)
    assert "This is a placeholder: noise in place of every network, and nothing of the model was read." in said
    film = read(tmp_path / "a.mp4")
    assert (film.frames, film.size, film.fps) == (17, (96, 64), 25)
    assert film.sound == (round(17 / 25 * 24_000), 24_000)
    assert film.metadata["placeholder"] is True
    assert film.metadata["image"][0]["path"] == "picture.png"
    assert "model" not in film.metadata
    assert clip.waveform.shape == (2, round(17 / 25 * 24_000))
    rows = 3 if pipeline == "dev" else 4
    assert clip.latents["video"].shape == (1, 128, 3, rows, 2)
    assert clip.latents["audio"].shape == (1, 8, 17, 16)
    frames, repeated, others = (np.stack(list(one)) for one in (clip, again, other))
    np.testing.assert_array_equal(frames, repeated)
    assert np.abs(frames.astype(int) - others).mean() > 5
    assert frames.std() > 10


def test_a_placeholder_still_refuses_what_a_run_would(inputs, tmp_path):
    with LTXPipeline.from_pretrained("nobody/nothing") as pipe:
        for options, said in (
            ({"height": 90}, "height=90"),
            ({"image": str(tmp_path / "none.png")}, "none.png"),
            ({"audio_file": AudioIn(str(inputs / "sound.wav"), 9.0)}, "past its end"),
            ({"lora": str(tmp_path / "none.safetensors")}, "none.safetensors"),
        ):
            with pytest.raises(UserError, match=said):
                pipe.generate(**{**SMALL, "placeholder": True, **options})


def test_a_placeholder_has_the_sound_that_is_given(inputs):
    with LTXPipeline.from_pretrained("nobody/nothing") as pipe:
        clip = pipe.generate(**SMALL, placeholder=True, audio_file=str(inputs / "sound.wav"))
        assert clip.sample_rate == 16_000
        assert clip.waveform.shape == (2, 6000)
        assert pipe.generate(**SMALL, placeholder=True, audio=False).sound is None


# ------------------------------------------------------------------------------------------------ progress


def test_another_model_may_write_the_prompt(folder, tmp_path, monkeypatch):
    other, asked = small_gemma.make_gemma(tmp_path / "other", width=48), []

    def write(place, load, prompt, **drawing):
        asked.append((place, prompt, len(load())))
        return "a red ball, at dusk"

    monkeypatch.setattr(DEFAULT.text(), "enhance", write)
    with LTXPipeline.from_pretrained(folder) as pipe:
        named = pipe.generate(**SMALL, enhance_prompt=True, prompt_writer=other)
        assert asked == [(other, SMALL["prompt"], len(TextSource.open(DEFAULT, other).tensors.entries))]
        assert named.metadata["prompt"] == "a red ball, at dusk"
        pipe.generate(**SMALL, enhance_prompt=True)
        assert asked[1][0] == folder / "gemma"
        with pytest.raises(UserError, match="prompt_writer has no effect without enhance_prompt"):
            pipe.generate(**SMALL, prompt_writer=other)
        with pytest.raises(UserError, match=r"prompt_writer=.*nowhere. is neither a file or folder here"):
            pipe.generate(**SMALL, enhance_prompt=True, prompt_writer=tmp_path / "nowhere")


def test_enhancement_is_reported_token_by_token(folder, monkeypatch):
    def write(*given, on_token, **drawing):
        for _ in range(3):
            on_token()
        return f"{given[-1]}, at dusk"

    told, said = [], []
    source = TextSource.open(DEFAULT, folder / "gemma")
    monkeypatch.setattr(source.text, "enhance", write)
    found = enhanced(settings(folder, enhance_prompt=True, max_tokens=9), source, Watch(told.append, say=said.append))
    assert found.request.prompt == "a red ball, at dusk"
    assert [progress[:3] for progress in told] == [("enhance", n, 9) for n in range(4)] + [("enhance", 3, 3)]
    assert [progress.peak is None for progress in told] == [True] * 4 + [False]


def test_the_waveform_is_reported(folder, tmp_path):
    told = []
    with LTXPipeline.from_pretrained(folder) as pipe:
        clip = pipe.generate(**SMALL, steps=1)
        clip.save(tmp_path / "a.mp4", on_step=told.append)
    sound = [progress for progress in told if progress.phase == "waveform"]
    assert [progress[1:3] for progress in sound] == [(0, 2), (1, 2), (2, 2)]
    assert sound[-1].peak > 0
