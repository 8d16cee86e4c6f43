"""The command `upscale`: what comes out is read back, and every mistake ends with 2, one line and nothing written."""

import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mlx_video import LTXPipeline, generate, upscale
from mlx_video.checkpoints.provenance import mark_of
from mlx_video.media import settings
from mlx_video.media.image import read_image
from mlx_video.media.video import read_video
from tests.support import films
from tests.support.cases import GENERATIONS

FPS = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """clip.mp4 (10 frames, 70 x 50, AAC), silent.mov, packed.mkv (WavPack), turned.jpg (EXIF), glass.png (alpha)."""
    folder = tmp_path_factory.mktemp("sources")
    films.write(folder / "clip.mp4", 10, 50, 70, FPS)
    films.write(folder / "silent.mov", 3, 64, 64, sound=None)
    films.write(folder / "packed.mkv", 9, 64, 64, sound="wavpack")
    picture = Image.fromarray(films.frames(1, 40, 70)[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned, quality=95)
    picture.putalpha(80)
    picture.save(folder / "glass.png")
    return folder


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def line(folder, source, output, *more):
    return ["--model-repo", folder, "--input", source, "--output", output, *more]


def comment(path):
    with av.open(str(path)) as container:
        return json.loads(container.metadata["mlx_video"])


# ------------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_video_keeps_its_frames_rate_and_sound(command, upscale_folder, sources, out, generation):
    source = sources / "clip.mp4"
    folder = upscale_folder(generation)
    status, said = command(upscale.main, *line(folder, source, out / "a.mp4"))
    told = f"{out / 'a.mp4'}: 140x100, 10 frames at 29.97 fps, with its sound; {folder.name}, in "
    assert (status, said.splitlines()[-1].startswith(told)) == (0, True)
    film = read_video(out / "a.mp4")
    assert (film.count, film.fps, film.height, film.width) == (10, FPS, 100, 140)
    assert films.packets(out / "a.mp4") == films.packets(source) != []
    assert [path.name for path in out.iterdir()] == ["a.mp4"]
    asked = {"input": "clip.mp4", "scale": 2.0, "fps_scale": 1, "seed": 42, "tiling": "auto"}
    assert asked.items() <= comment(out / "a.mp4").items()


def test_what_it_was_made_out_of_is_in_its_settings(command, upscale_folder, sources, out):
    folder = upscale_folder("2.3")
    made = out / "made.mp4"
    words = ("a kite", "--model-repo", folder, "-n", 1, "-H", 64, "-W", 64, "-o", made, "--quiet")
    assert command(generate.main, *words) == (0, "")
    assert command(upscale.main, *line(folder, made, out / "large.mp4", "--quiet"))[0] == 0
    said = settings.read(out / "large.mp4")
    (parent,) = said["parents"]
    assert (parent["name"], parent["mark"]) == ("made.mp4", mark_of(made))
    assert (parent["settings"]["prompt"], parent["settings"]["seed"]) == ("a kite", 42)
    assert any(mark == mark_of(folder / file) for file, mark in said["files"].items())
    assert command(upscale.main, *line(folder, sources / "glass.png", out / "other.png", "--quiet"))[0] == 0
    (parent,) = settings.read(out / "other.png")["parents"]
    assert set(parent) == {"name", "mark"}  # another program's


def test_twice_the_rate_keeps_the_sound_and_the_time(command, upscale_folder, sources, out):
    source = sources / "clip.mp4"
    status, said = command(
        upscale.main, *line(upscale_folder("2.3"), source, out / "a.mkv", "--fps-scale", 2, "--scale", 1.5, "--quiet")
    )
    assert (status, said) == (0, "")
    film = read_video(out / "a.mkv")
    assert (film.count, film.height, film.width) == (19, 74, 104)
    assert float(film.fps) == pytest.approx(float(2 * FPS), rel=1e-6)  # Matroska says it in nanoseconds a frame
    kept, before = films.packets(out / "a.mkv"), films.packets(source)
    assert [data for _, data in kept] == [data for _, data in before]
    np.testing.assert_allclose([at for at, _ in kept], [at for at, _ in before], atol=1e-3)  # Matroska's clock


def test_a_silent_video_stays_silent(command, upscale_folder, sources, out):
    assert command(upscale.main, *line(upscale_folder("2"), sources / "silent.mov", out / "a.mov", "--quiet"))[0] == 0
    film = read_video(out / "a.mov")
    assert (film.count, film.fps, film.height, film.width, film.sound) == (3, 24, 128, 128, False)


@pytest.mark.parametrize(
    ("name", "target", "more", "size"),
    [
        ("turned.jpg", "a.png", (), (140, 80)),
        ("glass.png", "a.jpg", ("--scale", 1.5), (60, 105)),
        ("glass.png", "a.webp", ("--tiling", "aggressive"), (80, 140)),
    ],
)
def test_pictures(command, upscale_folder, sources, out, name, target, more, size):
    status, said = command(upscale.main, *line(upscale_folder("2.3"), sources / name, out / target, *more))
    assert status == 0
    assert said.splitlines()[-1].startswith(f"{out / target}: {size[1]}x{size[0]}; {upscale_folder('2.3').name}, in ")
    assert read_image(out / target).shape == (*size, 3)
    if target == "a.png":
        with LTXPipeline.from_pretrained(upscale_folder("2.3")) as pipe:
            (frame,) = pipe.upscale(sources / name)
        np.testing.assert_array_equal(read_image(out / target), frame)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_refined(command, upscale_folder, sources, out, generation):
    more = ["--refine", "--prompt", "a red ball", "--steps", 2, "--seed", 7, "--quiet"]
    source = sources / "clip.mp4"
    assert command(upscale.main, *line(upscale_folder(generation), source, out / "a.mp4", *more)) == (0, "")
    film = read_video(out / "a.mp4")
    assert (film.count, film.fps, film.height, film.width) == (10, FPS, 100, 140)
    assert films.packets(out / "a.mp4") == films.packets(source)
    kept = comment(out / "a.mp4")
    assert (kept["prompt"], kept["steps"], kept["seed"], kept["refine"]) == ("a red ball", 2, 7, True)


def test_as_a_program(upscale_folder, sources, out):
    words = [str(word) for word in line(upscale_folder("2"), sources / "glass.png", out / "a.png", "--quiet")]
    done = subprocess.run([sys.executable, "-m", "mlx_video.upscale", *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_image(out / "a.png").shape == (80, 140, 3)


def test_every_flag_reaches_the_request(monkeypatch, command, sources, out):
    asked = []

    def stop(pipe, request, **rest):
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(LTXPipeline, "run_upscaling", stop)
    more = ["--scale", 1.5, "--fps-scale", 2, "--refine", "-p", "a fox", "--steps", 1, "-s", 5, "--tiling", "none"]
    source = sources / "clip.mp4"
    assert command(upscale.main, *line(sources, source, out / "a.mp4", *more))[0] == 130
    (found,) = asked
    assert vars(found) == {
        "input": str(source), "scale": 1.5, "fps_scale": 2, "refine": True, "prompt": "a fox", "steps": 1, "seed": 5,
        "tiling": "none",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("source", "target", "more", "words"),
    [
        ("clip.mp4", "a.mp4", ["--refine"], ["--refine needs a prompt"]),
        ("clip.mp4", "a.mp4", ["--refine", "--prompt", " "], ["--refine needs a prompt"]),
        ("clip.mp4", "a.mp4", ["--prompt", "a fox"], ["--prompt has no effect without --refine"]),
        ("clip.mp4", "a.mp4", ["--steps", 2], ["--steps has no effect without --refine"]),
        ("clip.mp4", "a.mp4", ["--gemma-path", "g"], ["--text-encoder-repo has no effect without --refine"]),
        ("clip.mp4", "a.mp4", ["--dtype", "float32"], ["--dtype has no effect without --refine"]),
        ("clip.mp4", "a.mp4", ["--refine", "--prompt", "a", "--steps", 4], ["--steps 4", "1 to 3"]),
        ("clip.mp4", "a.mp4", ["--refine", "--prompt", "a", "--steps", 0], ["--steps 0", "1 to 3"]),
        ("clip.mp4", "a.mp4", ["--scale", 3], ["--scale 3", "1.5 and 2"]),
        ("clip.mp4", "a.mp4", ["--scale", 1], ["--scale 1 changes nothing"]),
        ("clip.mp4", "a.mp4", ["--scale", "nan"], ["--scale nan"]),
        ("clip.mp4", "a.mp4", ["--fps-scale", 3], ["--fps-scale 3"]),
        ("clip.mp4", "a.png", [], ["clip.mp4 is a video", "a.png", ".mp4"]),
        ("glass.png", "a.mp4", [], ["glass.png is a picture", "a.mp4", ".png"]),
        ("glass.png", "a.tiff", [], ["'.tiff'", ".png"]),
        ("glass.png", "a.png", ["--fps-scale", 2], ["no effect on a picture"]),
        ("packed.mkv", "a.mp4", [], ["wavpack", "write .mkv"]),
        ("none.mp4", "a.mp4", [], ["none.mp4 does not exist"]),
        ("clip.mp4", "none/a.mp4", [], ["does not exist"]),
        ("clip.mp4", "a.mp4", ["--scale", 1.5], ["No spatial x1.5 upsampler", "spatial-upscaler-x1.5"]),
        ("clip.mp4", "a.mp4", ["--fps-scale", 2], ["No temporal x2 upsampler", "temporal-upscaler-x2"]),
    ],
)
def test_mistakes(command, small_folder, sources, out, source, target, more, words):
    status, said = command(upscale.main, *line(small_folder("2.3"), sources / source, out / target, *more))
    assert (status, said.count("\n")) == (2, 1), said
    assert all(word in said for word in words), said
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", b""),
        ("a.mp4", b"no video at all" * 99),
        ("a.png", b"\x89PNG\r\n\x1a\n cut short"),
        ("a.jpg", b"?" * 50),
    ],
)
def test_sources_that_cannot_be_read(command, small_folder, tmp_path, out, name, content):
    (tmp_path / name).write_bytes(content)
    status, said = command(upscale.main, *line(small_folder("2.3"), tmp_path / name, out / name))
    assert (status, said.count("\n")) == (2, 1), said
    assert str(tmp_path / name) in said
    assert list(out.iterdir()) == []


def test_a_video_that_is_cut_short(command, small_folder, sources, tmp_path, out):
    films.write(tmp_path / "b.mkv", 40, 64, 64)
    data = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[:300])
    status, said = command(upscale.main, *line(small_folder("2.3"), tmp_path / "b.mkv", out / "a.mkv"))
    assert (status, said.count("\n")) == (2, 1), said


def test_the_input_is_not_written_over(command, small_folder, sources, tmp_path):
    source = films.write(tmp_path / "a.mp4", 2, 64, 64)
    before = source.read_bytes()
    (tmp_path / "b.mp4").symlink_to(source)
    for target in (source, tmp_path / "b.mp4", tmp_path / ".." / tmp_path.name / "a.mp4"):
        status, said = command(upscale.main, *line(small_folder("2.3"), source, target))
        assert status == 2
        assert "is the input itself" in said
    assert source.read_bytes() == before


@pytest.mark.parametrize("phase", ["encode", "upscale", "refine", "decode"])
def test_stopping_leaves_what_was_there(upscale_folder, sources, out, phase):
    (out / "a.mp4").write_bytes(b"before")

    def stop(progress):
        if progress.phase == phase:
            raise KeyboardInterrupt

    def run():
        options = {"refine": True, "prompt": "a red ball", "steps": 1} if phase == "refine" else {}
        with LTXPipeline.from_pretrained(upscale_folder("2")) as pipe:
            pipe.upscale(sources / "silent.mov", on_step=stop, **options).save(out / "a.mp4", on_step=stop)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [path.name for path in out.iterdir()] == ["a.mp4"]
    assert (out / "a.mp4").read_bytes() == b"before"


def test_help_is_quick():
    code = "import sys; from mlx_video import upscale; upscale.build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlx.core", "numpy", "transformers", "av", "PIL", "tqdm"} & set(loaded)
