"""Every generation x four pipelines x with and without sound, through the real command; every file is read back."""

import re
import subprocess
import sys
from fractions import Fraction

import pytest

from mlx_video import generate
from tests.support.cases import PIPELINES
from tests.support.readback import read

RATES = {"2": 24_000, "2.3": 48_000, "2.5": 48_000}
"""Samples a second of each generation's vocoder."""


def flags(folder, path, pipeline, *more):
    steps = [] if pipeline == "distilled" else ["--steps", "2"]
    size = ["--height", "64", "--width", "64", "--num-frames", "9"]
    where = ["--model-repo", str(folder), "-o", str(path)]
    return ["--prompt", "a red ball", "--pipeline", pipeline, *size, *steps, *where, *more]


def check(film, generation, *, sound, fps=Fraction(24), frames=9, size=(64, 64)):
    assert (film.frames, film.size, film.fps) == (frames, size, fps)
    assert film.codec == ("h264", "yuv420p")
    assert film.colours == (1, 1, 1, 1)
    if sound:
        samples, rate = film.sound
        assert rate == RATES[generation]
        assert samples == round(frames / fps * rate)
    else:
        assert film.sound is None


@pytest.mark.quick(
    "2-conv-dev-*",
    "2.3-conv-distilled-*",
    "2.3-conv-dev-two-stage-hq-silent",
    "2.5-conv-dev-two-stage-*d",
    "2.5-conv-dev-two-stage-silent",
    "2.5-diffusion-distilled-silent",
)
@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize("sound", [True, False], ids=["sound", "silent"])
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("generation", "decoder"), [*((one, "conv") for one in RATES), ("2.5", "diffusion")])
def test_a_prompt_becomes_a_video(small_folder, tmp_path, capfd, generation, decoder, pipeline, sound):
    more = ["--audio" if sound else "--no-audio", "--video-decoder", decoder]
    assert generate.main(flags(small_folder(generation), tmp_path / "a.mp4", pipeline, *more)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    film = read(tmp_path / "a.mp4")
    check(film, generation, sound=sound)
    assert film.metadata["pipeline"] == pipeline
    assert film.metadata["prompt"] == "a red ball"
    assert film.metadata["seed"] == 42
    assert film.metadata["video_decoder"] == decoder
    out, err = capfd.readouterr()
    assert out == ""
    *phases, last = err.splitlines()
    said = f"{tmp_path / 'a.mp4'}: 64x64, 9 frames at 24 fps (0.38 s), {'with sound' if sound else 'silent'}; seed 42, "
    assert last.startswith(said)
    assert phases
    whole = re.compile(r" *[a-z]+( \d)?  (\d+)/\2 in \d+:\d\d, peak [\d.]+ [MG]iB")
    assert all(map(whole.fullmatch, phases)), phases


PROGRAMS = [("2.3", "generate", "distilled"), ("2", "generate_dev", "dev")]


@pytest.mark.quick("2.3-*")
@pytest.mark.parametrize(("generation", "module", "pipeline"), PROGRAMS)
def test_as_a_program(small_folder, tmp_path, generation, module, pipeline):
    line = flags(small_folder(generation), tmp_path / "a.mp4", pipeline, "--quiet")
    if module == "generate_dev":
        del line[line.index("--pipeline") : line.index("--pipeline") + 2]
    done = subprocess.run([sys.executable, "-m", f"mlx_video.{module}", *line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    film = read(tmp_path / "a.mp4")
    check(film, generation, sound=True)
    assert film.metadata["pipeline"] == pipeline


@pytest.mark.quick("more0*", "more1*", "more4*")
@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize(
    ("more", "size", "frames", "fps"),
    [
        (["--width", "128"], (64, 128), 9, Fraction(24)),
        (["--num-frames", "1"], (64, 64), 1, Fraction(24)),
        (["--num-frames", "17", "--fps", "23.976"], (64, 64), 17, Fraction(24000, 1001)),
        (["--fps", "30000/1001"], (64, 64), 9, Fraction(30000, 1001)),
        (["--fps", "50"], (64, 64), 9, Fraction(50)),
    ],
)  # fmt: skip
def test_sizes_and_rates_are_what_was_asked(small_folder, tmp_path, more, size, frames, fps):
    assert generate.main(flags(small_folder("2"), tmp_path / "a.mp4", "distilled", "--quiet", *more)) == 0
    check(read(tmp_path / "a.mp4"), "2", sound=True, size=size, frames=frames, fps=fps)
