"""The dfr pipeline: stages, tiles and keyframes against the reference's, how a clip is cut, and what does not go.

tests/parity/record_dfr.py wrote the numbers, with the draws of our seeds.
"""

from dataclasses import replace
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import ImageAt, LTXPipeline, Request, UserError, generate
from mlx_video.diffusion.conditioning import AppendKeyframe, ReplaceFrame
from mlx_video.diffusion.segments import Tile
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.stages import Denoising
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.results.clip import Clip
from mlx_video.types import Watch
from tests.jobs.dfr_cases import CASES, EVERY, FIXTURE
from tests.support import small_pack
from tests.support.cases import error
from tests.support.readback import read

pytestmark = pytest.mark.usefixtures("texts_are_kept")
LIMIT = 1e-4
"""Measured: 7e-7 to 4e-6."""
SMALL = {"prompt": "a red ball", "pipeline": "dfr", "height": 64, "width": 64, "num_frames": 9, "tiling": "none"}


def asked(options, inputs):
    own = {key: value for key, value in options.items() if key not in ("rounds", "images", "kept")}
    images = tuple(ImageAt(str(inputs / "picture.png"), *image) for image in options.get("images", ()))
    return Request(**{**SMALL, **own}, temporal_upsample_rounds=options.get("rounds", 0), image=images)


@pytest.fixture
def kept(monkeypatch):
    """What stages end with, before it is cut, by its name; `stageN/all` the keyframes that there are by then."""
    found, plain = {}, Denoising.stage

    def stage(self, number, *given):
        made = plain(self, number, *given)
        found.update({f"stage{number}/{modality}": array for modality, array in made.items()})
        found[f"stage{number}/keyframes"] = self.keyframes[number]
        return made

    monkeypatch.setattr(Denoising, "stage", stage)
    return found


@pytest.mark.quick("no round-*")
@pytest.mark.parametrize("low_memory", [False, True], ids=["", "low memory"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_the_reference_s(name, low_memory, small_folder, inputs, kept):
    with np.load(FIXTURE) as arrays:
        recorded = {key.split("/", 1)[1]: arrays[key] for key in arrays if key.startswith(f"{name}/")}
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32", low_memory=low_memory) as pipe:
        clip = pipe.run(asked(CASES[name], inputs))
    frames, samples, rate = recorded.pop("length")
    assert (len(clip), round(clip.shape.seconds * rate)) == (frames, samples)
    found = {**kept, **clip.latents, "some": clip.latents["video"][:, :, ::EVERY]}
    if "stage3/1/keyframes" in recorded:
        # Of the second tile's the first is one that the first tile has made already.
        both = [recorded.pop(f"stage3/{tile}/keyframes")[:, :, tile:] for tile in (0, 1)]
        recorded["middles"], found["middles"] = np.concatenate(both, 2), kept["stage3/keyframes"][:, :, ::2]
        assert mx.array_equal(kept["stage3/keyframes"][:, :, 1::2], kept["stage2/keyframes"])
    errors = {key: error(found[key], recorded[key]) for key in recorded}
    assert errors
    assert all(value <= LIMIT for value in errors.values()), errors


@pytest.mark.slow
def test_every_stage_is_a_clip_as_long_as_was_asked(small_folder, tmp_path):
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        job = Generate(asked(CASES["two rounds"], None))
        said = []
        job.check(Watch())
        pipe._runner.open(job, Watch(say=said.append))
        clips = list(job.clips(Watch()))
        assert [(len(clip), clip.fps, clip.silent) for clip in clips] == [
            (41, 24, False), (41, 24, False), (81, 48, False), (161, 96, False),
        ]  # fmt: skip
        assert any("41 frames are made as 49" in one for one in said)
        clips[-1].store(tmp_path / "stored")
        clips[-1].save(tmp_path / "a.mp4", audio_path=tmp_path / "a.wav")
    again = Clip.open(tmp_path / "stored")
    assert (str(again), again.latents["audio"].shape) == (str(clips[-1]), clips[0].latents["audio"].shape)
    assert again.metadata["temporal_upsample_rounds"] == 2


@pytest.mark.parametrize("audio", [True, False], ids=["to a sound", "silent"])
def test_with_a_sound_and_without(audio, small_folder, inputs):
    options = {"audio_file": str(inputs / "sound.wav")} if audio else {"audio": False}
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        clip = pipe.generate(**SMALL, **options, temporal_upsample_rounds=1)
    assert (len(clip), clip.silent) == (17, not audio)
    if audio:
        waveform, rate = clip.sound
        assert waveform.shape[1] == round(17 / 48 * rate)


def test_a_plan_has_every_phase_of_a_run(small_folder):
    said = []
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        request = Request(**{**SMALL, "num_frames": 41}, temporal_upsample_rounds=2)
        planned = [need.name for need in pipe.plan(request).phases]
        weights = {need.name: need.weights for need in pipe.plan(request).phases}
        # The transformer stays as it is, with the sound that later stages do not make.
        assert len({weights[f"stage {number}"] for number in (1, 2, 3, 4)}) == 1
        list(pipe.run(request, on_step=said.append))
    ran = [one.phase for one in said]
    assert set(planned) - {"decode", "waveform"} <= set(ran)
    assert {"stage 3", "stage 4", "upsample"} <= set(planned)
    assert {one.total for one in said if one.phase == "stage 4"} == {4 * 4}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_frames": 1}, ["--num-frames 1", "least is 9"]),
        ({"temporal_upsample_rounds": 3}, ["--temporal-upsample-rounds 3", "0 to 2"]),
        ({"fps": 100.0, "temporal_upsample_rounds": 2}, ["--fps 100", "60 at most"]),
        ({"pipeline": "dev", "temporal_upsample_rounds": 1}, ["--temporal-upsample-rounds", "dev", "used by dfr"]),
        ({"num_generated_keyframes": 2, "num_frames": 33}, ["--num-generated-keyframes 2", "places keyframes itself"]),
        ({"steps": 4}, ["--steps has no effect in the dfr pipeline"]),
    ],
)
def test_what_does_not_go_is_told(options, said):
    with pytest.raises(UserError) as error:
        Request(**{**SMALL, **options}).check(RECIPES)
    assert all(part in str(error.value) for part in said), str(error.value)


def test_an_older_checkpoint_has_no_keyframes(small_folder):
    with (
        LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32") as pipe,
        pytest.raises(UserError, match=r"dfr pipeline needs a checkpoint that was trained with keyframes \(LTX-2.5\)"),
    ):
        pipe.generate(**SMALL, temporal_upsample_rounds=1)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (small_pack.TEMPORAL, "temporal x2 upsampler"),
        (small_pack.LORA, "distilled LoRA"),
        (small_pack.TRANSFORMER.format("dev"), "dev"),
    ],
)
def test_a_missing_file_is_named(without, said, tmp_path):
    small_pack.make(tmp_path / "pack", without=(without,))
    request = Request(**SMALL, temporal_upsample_rounds=1)
    with LTXPipeline.from_pretrained(tmp_path / "pack", dtype="float32") as pipe:
        with pytest.raises(UserError, match=said):
            pipe.plan(request)
        if without == small_pack.TEMPORAL:
            pipe.plan(replace(request, temporal_upsample_rounds=0))


@pytest.mark.quick("more1")
@pytest.mark.parametrize("more", [(), ("--placeholder",), ("--video-decoder", "diffusion", "--width", "96")])
def test_as_a_command(more, small_folder, tmp_path):
    size = ["-H", "64", "-W", "64", "-n", "9", "--fps", "23.98", *more]
    options = [*size, "--temporal-upsample-rounds", "2", "--quiet"]
    where = ["--model-repo", str(small_folder("2.5")), "-o", str(tmp_path / "a.mp4")]
    assert generate.main(["-p", "a red ball", "--pipeline", "dfr", *options, *where]) == 0
    film = read(tmp_path / "a.mp4")
    width = 96 if "--width" in more else 64
    assert (film.frames, film.size, film.fps) == (33, (64, width), Fraction(96000, 1001))
    samples, rate = film.sound
    assert samples == round(33 * 1001 / 96000 * rate)
    assert film.metadata["temporal_upsample_rounds"] == 2


def test_every_draw_has_a_name(small_folder):
    drawn = {}

    def noise(name, shape):
        drawn[name] = mx.random.normal(shape, key=mx.random.key(len(drawn)))
        return drawn[name]

    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        asked = {**SMALL, "num_frames": 41, "audio": False, "temporal_upsample_rounds": 1}
        first = pipe.generate(**asked, noise=noise)
        own = [name for name in drawn if not name.endswith("/appended")]
        assert {f"{name}/appended" for name in own} | set(own) == set(drawn)
        injected = [f"stage3/{tile}/sde/{step}/video" for tile in (0, 1) for step in (0, 1, 2)]
        assert sorted(own) == sorted(["stage1/video", "stage2/video", "stage3/0/video", "stage3/1/video", *injected])
        again = pipe.generate(**asked, noise=drawn)
    assert mx.array_equal(first.latents["video"], again.latents["video"])


def test_a_picture_within_the_clip_stays_at_its_time(small_folder, inputs, monkeypatch):
    """The reference keeps its frame's number where frames are doubled, so that it comes at half its time, then less."""
    seen, plain = [], Tile.conditions

    def conditions(self, *given):
        made = plain(self, *given)
        guides = [one for one in made if isinstance(one, AppendKeyframe | ReplaceFrame)]
        seen.extend((self.begin, self.stop, getattr(one, "frame", 0)) for one in guides if one.strength == 0.5)
        return made

    monkeypatch.setattr(Tile, "conditions", conditions)
    picture = ImageAt(str(inputs / "picture.png"), 36, 0.5)
    asked = {**SMALL, "num_frames": 41, "temporal_upsample_rounds": 2, "audio": False}
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        pipe.generate(**asked, image=picture)
    # Segments have 24, then 48 frames: by each tile's first and last border, where in it the picture is.
    assert seen == [(0, 2, 36), (0, 2, 36), (0, 2, 72), (1, 3, 96), (2, 4, 48)]
    with pytest.raises(UserError, match="frames 0 to 40"):
        Request(**asked, image=(replace(picture, frame=41),)).check(RECIPES)
