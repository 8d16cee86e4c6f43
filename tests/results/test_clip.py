"""What a job makes can be stored and opened again, shown, and is handed out after every stage."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Clip, LTXPipeline, Request, UserError
from mlx_video.jobs.generate import Generate
from mlx_video.types import Watch
from tests.jobs.test_runs import SMALL
from tests.support import films, readback

pytestmark = pytest.mark.usefixtures("texts_are_kept")


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2.3")


@pytest.fixture(scope="module")
def pipe(folder):
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        yield pipe


def same(clip, other):
    assert str(clip) == str(other)
    assert clip.metadata == other.metadata
    assert all(mx.array_equal(clip.latents[m], other.latents[m]) for m in clip.latents)
    np.testing.assert_array_equal(np.stack(list(clip)), np.stack(list(other)))
    if clip.waveform is not None:
        np.testing.assert_array_equal(clip.waveform, other.waveform)
    return True


@pytest.mark.quick("silent", "given*")
@pytest.mark.parametrize("kind", ["silent", "sound", "given sound, cut, tiled"])
def test_a_stored_clip_opens_to_the_same_bit_for_bit_and_saves_alike(pipe, inputs, tmp_path, kind):
    more = {"silent": {"audio": False}, "sound": {}}
    given = {"audio_file": str(inputs / "sound.wav"), "height": 96, "tiling": "aggressive"}
    clip = pipe.generate(**{**SMALL, **more.get(kind, given)})
    clip.store(tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["latents.safetensors", "settings.json"]
    opened = pipe.open(tmp_path / "kept")
    assert same(clip, opened)
    for name, one in (("a.mp4", clip), ("b.mp4", opened)):
        one.save(tmp_path / name)
    # Not byte by byte: x264 reads memory that it has not written, and gives one of several files for noise this small.
    assert readback.read(tmp_path / "a.mp4") == readback.read(tmp_path / "b.mp4")


def test_an_upscaled_film_keeps_its_source_and_its_rate(upscale_folder, tmp_path):
    film = films.write(tmp_path / "film.mp4", 10, 50, 70, films.Fraction(30000, 1001))
    with LTXPipeline.from_pretrained(upscale_folder("2"), dtype="float32") as pipe:
        clip = pipe.upscale(film)
        clip.store(tmp_path / "kept")
        opened = pipe.open(tmp_path / "kept")
    assert same(clip, opened)
    assert opened.fps == films.Fraction(30000, 1001)
    opened.save(tmp_path / "out.mp4")
    assert films.packets(tmp_path / "out.mp4") == films.packets(film) != []


def test_without_a_model_a_clip_is_looked_at_and_not_decoded(pipe, tmp_path):
    pipe.generate(**SMALL, audio=False).store(tmp_path / "kept")
    clip = Clip.open(tmp_path / "kept")
    assert (len(clip), repr(clip)) == (9, "<Clip 64x64, 9 frames at 24 fps (0.38 s), silent>")
    assert "64x64" in clip._repr_html_()
    with pytest.raises(UserError, match=r"without its model \(ltx-2\.3-22b-distilled"):
        next(iter(clip))


def test_another_generation_does_not_decode_it(pipe, small_folder, tmp_path):
    pipe.generate(**SMALL, audio=False).store(tmp_path / "kept")
    with LTXPipeline.from_pretrained(small_folder("2")) as other, pytest.raises(UserError, match="its own model"):
        other.open(tmp_path / "kept")


def test_what_is_no_stored_clip_is_told(pipe, tmp_path):
    with pytest.raises(UserError, match="does not exist; give a stored clip"):
        pipe.open(tmp_path / "nothing")
    pipe.generate(**SMALL, audio=False).store(tmp_path / "kept")
    with pytest.raises(UserError, match="is there already"):
        pipe.generate(**SMALL, audio=False).store(tmp_path / "kept")
    settings = tmp_path / "kept" / "settings.json"
    good = json.loads(settings.read_text())
    shapes = [{**good["look"]["shape"], name: 1 << 20} for name in ("frames", "height", "width")]
    looks = [{"look": {**good["look"], **more}} for more in ({"tiling": "few"}, {"top": -1}, {"left": "a"})]
    looks += [{"look": {**good["look"], "shape": shape}} for shape in shapes]
    for change in (
        {"format": "another"},
        {"look": {}},
        {"look": {**good["look"], "rate": "x"}},
        {"metadata": 3},
        *looks,
    ):
        settings.write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError, match=r"stored clip|damaged clip"):
            pipe.open(tmp_path / "kept")
    settings.write_text(json.dumps(good))
    latents = tmp_path / "kept" / "latents.safetensors"
    latents.write_bytes(latents.read_bytes()[:-8])
    with pytest.raises(UserError):
        pipe.open(tmp_path / "kept")


def test_a_notebook_shows_a_short_clip_itself(pipe):
    shown = pipe.generate(**SMALL)._repr_html_()
    assert shown.startswith('<video controls loop src="data:video/mp4;base64,')


def test_each_stage_hands_out_what_could_be_stored(folder, tmp_path):
    runs = []

    class Watched(Generate):
        def run(self, watch):
            for number, clip in enumerate(self.clips(watch)):
                clip.store(tmp_path / str(number))
                runs.append(clip)
            return clip

    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        clip = pipe._runner.run(Watched(Request(**SMALL)), Watch())
        half = pipe.open(tmp_path / "0")
        assert np.stack(list(half)).shape == (9, 32, 32, 3)
    assert [one.latents["video"].shape for one in runs] == [(1, 128, 2, 1, 1), (1, 128, 2, 2, 2)]
    assert clip is runs[-1]


def test_a_kept_film_whose_source_is_gone_or_no_path_says_so(upscale_folder, tmp_path):
    film = films.write(tmp_path / "film.mp4", 2, 32, 32, films.Fraction(24))
    with LTXPipeline.from_pretrained(upscale_folder("2"), dtype="float32") as pipe:
        pipe.upscale(film).store(tmp_path / "kept")
        film.unlink()
        with pytest.raises(UserError, match=r"film\.mp4"):
            pipe.open(tmp_path / "kept").save(tmp_path / "out.mp4")
        settings = tmp_path / "kept" / "settings.json"
        said = json.loads(settings.read_text())
        for key, value in (("source", 5), ("still", "no"), ("stream", 1), ("top", "0"), ("sound", "loud")):
            settings.write_text(json.dumps(said | {"look": said["look"] | {key: value}}))
            with pytest.raises(UserError, match="damaged clip"):
                pipe.open(tmp_path / "kept")
