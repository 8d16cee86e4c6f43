"""Pictures of latents: a map finds what is linear, says how good it is, is kept, and shows what is made."""

import logging

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, Request, UserError, generate
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.lending.loader import Loader
from mlx_video.media.image import read_image
from mlx_video.media.sheet import even
from mlx_video.results import latent_map, preview
from mlx_video.results.look import Look
from mlx_video.results.made_up import film
from mlx_video.results.outputs import check_outputs
from mlx_video.types import Phase, VideoShape, Watch
from tests.jobs.test_runs import SMALL
from tests.support import readback

CELL = latent_map.REDUCED


def linear_films(count, channels=6, noise=0.0):
    """Films whose pixels are a linear map of their latents, but for noise; the eight frames of a latent are one."""
    draw = np.random.default_rng(1)
    weights = np.tile(draw.normal(0, 0.1, (channels, latent_map.VALUES // 8)), 8)
    for _ in range(count):
        latent = draw.normal(0, 1, (channels, 3, 2, 4))
        values = np.moveaxis(latent, 0, -1) @ weights + 0.1
        cells = values.reshape(3, 2, 4, 8, latent_map.SIDE, latent_map.SIDE, 3)
        frames = cells.transpose(0, 3, 1, 4, 2, 5, 6).reshape(24, 2 * latent_map.SIDE, 4 * latent_map.SIDE, 3)[7:]
        frames = frames + draw.normal(0, noise, frames.shape) if noise else frames
        yield latent, frames.repeat(CELL, axis=1).repeat(CELL, axis=2)


@pytest.fixture
def unridged(monkeypatch):
    monkeypatch.setattr(latent_map, "RIDGE", 0.0)


@pytest.fixture
def few_films(monkeypatch):
    """A fit of moments, for tests of everything but how good it is."""
    monkeypatch.setattr(preview, "FILMS", 4)
    monkeypatch.setattr(preview, "LENGTH", 64)


def test_a_linear_decoder_is_found_exactly(unridged):
    found = latent_map.fit(linear_films(8))
    latent, pixels = next(iter(linear_films(1)))
    wanted = pixels[:, ::CELL, ::CELL]
    made = np.stack(list(found.frames(latent)))
    assert made.shape == (17, 16, 32, 3)
    assert found.r2 > 0.999
    np.testing.assert_array_equal(found.pictures(latent), made[::8])
    np.testing.assert_allclose(made / 255.0 * 2 - 1, np.clip(wanted, -1, 1), atol=2.1 / 255)


def test_the_stated_r2_is_of_films_that_were_not_fitted(unridged):
    clean, noisy = (latent_map.fit(linear_films(8, noise=noise)).r2 for noise in (0.0, 0.5))
    assert noisy < 0.5 < clean
    with pytest.raises(ValueError, match="4 films at least"):
        latent_map.fit(linear_films(3))


def test_made_up_films_move_differ_and_are_the_same_each_time():
    one, other = film(1, 9, 64), film(2, 9, 64)
    assert one.shape == (9, 64, 64, 3)
    assert one.dtype == np.float32
    assert -1 <= one.min() < one.max() <= 1
    np.testing.assert_array_equal(one, film(1, 9, 64))
    assert not np.array_equal(one[0], one[-1])
    assert not np.array_equal(one, other)


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2.3")


@pytest.mark.usefixtures("texts_are_kept", "few_films")
def test_a_run_shows_pictures_and_previews_and_keeps_its_map(folder):
    shown, latents, phases = [], [], []
    asked = {**SMALL, "audio": False, "prompt": "seen"}
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        plain = pipe.generate(**asked)
        clip = pipe.generate(
            **asked,
            on_picture=lambda progress, frames: shown.append((progress, frames)),
            on_preview=lambda progress, tree: latents.append(tree["video"]),
            on_step=lambda progress: phases.append(progress.phase),
        )
        assert Phase.PREVIEW in phases
        assert mx.array_equal(clip.latents["video"], plain.latents["video"])  # nothing that is made changes
        assert len(shown) == len(latents) == 11
        for (_, frames), latent in zip(shown, latents, strict=True):
            _, _, count, rows, columns = latent.shape
            assert frames.shape == (count, rows * 8, columns * 8, 3)
            assert frames.dtype == np.uint8


@pytest.mark.usefixtures("few_films")
def test_a_kept_map_is_read_and_a_damaged_one_is_made_anew(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path))
    loader, told, heard = Loader(open_checkpoint(folder, "distilled"), mx.float32), [], []
    first = preview.map_of(loader, Watch(told.append, say=heard.append))
    [kept] = (tmp_path / "previews").iterdir()
    assert told[-1].done == told[-1].total == 8
    assert float(mx.load(str(kept), return_metadata=True)[1]["r2"]) == first.r2
    told.clear()
    again = preview.map_of(loader, Watch(told.append, say=heard.append))
    assert told == []
    assert heard == [preview.FITTED.format(first.r2)]
    np.testing.assert_array_equal(again.weights, first.weights)
    assert again.r2 == first.r2
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with caplog.at_level(logging.INFO):
        made = preview.map_of(loader, Watch(told.append, say=heard.append))
    assert told
    assert "map is made anew: its numbers are not those that were written" in caplog.text
    np.testing.assert_array_equal(made.weights, first.weights)


@pytest.mark.usefixtures("few_films")
def test_skip_vae_needs_no_decoder_and_says_so(folder, tmp_path, capsys, texts_are_kept):
    asked = ["--model-repo", folder, "-H", 64, "-W", 64, "-n", 9, "--dtype", "float32", "--skip-vae", "a fox"]
    assert generate.main([*map(str, asked), "-o", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().err
    assert "linear map of the latents" in said
    assert "silent" in said
    assert "waveform" not in said
    made = readback.read(tmp_path / "a.mp4")
    assert (made.frames, made.size, made.sound, made.metadata["skip_vae"]) == (9, (64, 64), None, True)


@pytest.mark.parametrize("generation", ["2", "2.5"])
@pytest.mark.usefixtures("few_films")
def test_every_generation_has_its_map(small_folder, generation):
    loader = Loader(open_checkpoint(small_folder(generation), "distilled"), mx.float32)
    preview.check(loader)
    found = preview.map_of(loader, Watch())
    assert found.pictures(np.zeros((128, 2, 3, 1))).shape == (2, 24, 8, 3)
    assert found.r2 <= 1


def test_a_plan_without_decoders_counts_the_fit_in_their_place(folder):
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        phases = {skip: pipe.plan(Request("a fox", skip_vae=skip)).phases for skip in (False, True)}
    whole, quick = ({phase.name: phase.peak for phase in phases[skip]} for skip in (False, True))
    assert set(whole) - set(quick) == {"decode", "waveform"}
    assert set(quick) - set(whole) == {"preview"}
    assert 0 < quick["preview"] < whole["decode"]  # so that a fit for --preview is never what a run needs most


@pytest.mark.parametrize("other", ["--stream", "--placeholder", "--tiling=none", "--video-decoder=conv"])
def test_skip_vae_excludes_what_decoders_are_told(other):
    args = generate.build_parser().parse_args(["a fox", "--skip-vae", other])
    with pytest.raises(UserError, match="no effect with --skip-vae"):
        generate.generate(args)


@pytest.mark.usefixtures("few_films", "texts_are_kept")
@pytest.mark.parametrize(("frames", "count"), [(9, 2), (1, 1)])
def test_a_preview_and_a_sheet_lie_beside_the_video(folder, tmp_path, capsys, frames, count):
    asked = ["a fox", "--model-repo", folder, "-H", 64, "-W", 64, "-n", frames, "--no-audio", "--preview", "--sheet",
             "--preview-every", 4, "-o", tmp_path / "a.mp4"]  # fmt: skip
    assert generate.main(list(map(str, asked))) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.preview.png", "a.sheet.png"]
    strip = read_image(tmp_path / "a.preview.png")
    assert strip.shape == (128, count * 128 + (count - 1) * 2, 3)
    sheet = read_image(tmp_path / "a.sheet.png")
    assert sheet.shape[1] == min(frames, 4) * 76 + 12
    assert "\x1b" not in capsys.readouterr().err


def test_a_picture_has_no_sheet():
    with pytest.raises(UserError, match="only a video has a contact sheet"):
        check_outputs("a.png", Look(VideoShape(1, 64, 64, 24.0), still=True), pictures=["b.png"])


def test_moments_are_even():
    assert even(5, 8) == [0, 1, 2, 3, 4]
    assert even(33, 3) == [0, 16, 32]
    assert even(1, 8) == [0]


@pytest.mark.slow
def test_the_demos_last_pictures_are_its_clip(tmp_path, monkeypatch):
    """Correlation of the last preview with what is decoded: 0.85 to 0.97 on five clips, stated in the docs."""
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path))
    with LTXPipeline.from_pretrained("demo") as pipe:
        for seed, prompt in enumerate(("a red circle bouncing on a blue background", "a green star moving up")):
            shown = {}
            clip = pipe.generate(prompt=prompt, seed=seed, num_frames=17, audio=False, on_picture=shown.__setitem__)
            frames = np.stack(list(clip))[::8]
            small = frames.reshape(len(frames), 64, 4, 64, 4, 3).mean((2, 4))
            assert np.corrcoef(small.ravel(), list(shown.values())[-1].ravel())[0, 1] >= 0.8
    [kept] = (tmp_path / "previews").iterdir()
    assert 0.6 < float(mx.load(str(kept), return_metadata=True)[1]["r2"]) < 0.95
