"""The demo model: found by its name, follows its prompt, and says what it does not know."""

import numpy as np
import pytest

from mlx_video import LTXPipeline, generate, info
from mlx_video.pipelines import demo

BLUE, RED = np.array([30, 60, 160]), np.array([235, 40, 40])


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A red circle on blue, (frames, height, width, 3)."""
    with LTXPipeline.from_pretrained("demo") as pipe:
        clip = pipe.generate(prompt="a red circle moving right on a blue background, low tone", num_frames=17, seed=3)
        assert clip.shape[1:3] == (256, 256)
        assert np.abs(clip.waveform).max() > 0.05
        return np.stack(list(clip)).astype(int)


def _where(frame: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.abs(frame - colour).max(axis=-1) < 90


def test_the_background_is_what_the_prompt_says(frames):
    border = np.concatenate([frames[:, :16].reshape(-1, 3), frames[:, -16:].reshape(-1, 3)])
    assert np.abs(np.median(border, axis=0) - BLUE).max() < 40


def test_the_thing_has_its_colour_and_moves(frames):
    middles = []
    for frame in (frames[0], frames[-1]):
        red = _where(frame, RED)
        assert 0.01 < red.mean() < 0.25
        middles.append(np.argwhere(red).mean(axis=0))
    assert middles[1][1] - middles[0][1] > 25  # pixels to the right
    assert abs(middles[1][0] - middles[0][0]) < 25


def test_the_distilled_pipeline_takes_the_lora_and_dev_does_not():
    from mlx_video import Request
    from mlx_video.pipelines.layouts import open_checkpoint
    from mlx_video.pipelines.recipes import RECIPES
    from mlx_video.pipelines.settings import resolve

    strengths = {}
    for name, recipe in RECIPES.items():
        checkpoint = open_checkpoint(demo.folder(), recipe.variant)
        strengths[name] = resolve(Request("a", pipeline=name), recipe, checkpoint).lora_strengths
    assert strengths == {
        "distilled": (1.0, 1.0), "dev": (0.0,), "dev-two-stage": (0.0, 1.0), "dev-two-stage-hq": (0.25, 0.5),
    }  # fmt: skip


def test_words_beyond_the_world_are_named():
    assert demo.unknown_words("A red Circle, bouncing; low beep") == []
    assert demo.unknown_words("a dinosaur and a red dinosaur") == ["dinosaur"]
    assert demo.advice("a red circle") is None
    assert "dinosaur" in demo.advice("a red dinosaur")


def test_the_command_says_it_once(tmp_path, capsys):
    flags = ["--model-repo", "demo", "-p", "a dinosaur", "-n", "1", "-o", str(tmp_path / "a.mp4")]
    assert generate.main(flags) == 0
    assert capsys.readouterr().err.count("dinosaur") == 1


def test_info_lists_the_world(capsys):
    assert info.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("triangle", "purple", "bouncing", "gray"))


def test_it_stays_small():
    assert sum(file.stat().st_size for file in demo.folder().rglob("*") if file.is_file()) < 24_000_000
