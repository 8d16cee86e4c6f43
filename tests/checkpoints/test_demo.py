"""The demo model: found by its name, follows its prompt, and says what it does not know."""

import random

import numpy as np
import pytest
from PIL import Image

from mlx_video import LTXPipeline, generate, info, upscale
from mlx_video.checkpoints import demo
from mlx_video.types import VideoShape
from tools.demo_model import prompts

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
    from mlx_video.checkpoints.layouts import open_checkpoint
    from mlx_video.jobs.settings import resolve
    from mlx_video.models.ltx_2.recipes import RECIPES

    strengths = {}
    for name, recipe in RECIPES.items():
        if recipe.keyframes:  # which the demo was not trained with
            continue
        checkpoint = open_checkpoint(demo.folder(), recipe.variant)
        strengths[name] = resolve(Request("a", pipeline=name), recipe, checkpoint).lora_strengths
    assert strengths == {
        "distilled": (1.0, 1.0), "dev": (0.0,), "dev-two-stage": (0.0, 1.0), "dev-two-stage-hq": (0.25, 0.5),
    }  # fmt: skip


@pytest.mark.parametrize(("prompt", "named", "knows"), [
    ("a dinosaur and a red dinosaur", "'dinosaur'", "circle, square"),
    ("two circles", "'two', 'circles'", "one moving shape at a time"),
    ("3 red balls", "'3', 'balls'", "circle, square"),
    ("a blue circle", "'blue' as a colour of things", "red, orange, yellow, green, cyan, purple as colours"),
    ("the ball is white, low tone", "'white' as a colour of things", "red, orange"),
    ("Black bouncing star on white", "'black' as a colour of things", "red, orange"),
    ("a star on a red background", "'red' as a background", "black, white, gray, blue as backgrounds"),
    ("green square, background: purple", "'purple' as a background", "black, white"),
    ("a red circle in the middle", "'middle' as anything but the pitch of a tone", "low, middle, high"),
    ("a circle and a star", "more than one shape at a time ('circle', 'star')", "one moving shape at a time"),
    ("a red and yellow star", "more than one colour at a time ('red', 'yellow')", "as colours of things"),
    ("a box moving left, growing", "more than one motion at a time ('left', 'growing')", "moving left, moving right"),
    ("a blue circle, two", "'two', 'blue' as a colour of things", "red, orange"),
])  # fmt: skip
def test_what_is_beyond_the_world_is_named_once_with_what_it_knows(prompt, named, knows):
    said = demo.advice(prompt)
    assert f"does not know {named}; it knows " in said, said
    assert knows in said.partition("; it knows ")[2], said


def test_no_prompt_of_its_own_grammar_is_warned_about():
    rng = random.Random(0)
    kinds = (prompts.SHAPE, prompts.COLOUR, prompts.MOTION, prompts.BACKGROUND, prompts.PITCH)
    for _ in range(3000):
        said = prompts.sentence(tuple(rng.randrange(len(kind)) for kind in kinds), rng, complete=False)
        assert demo.advice(said) is None, said


def test_the_world_of_the_package_is_that_of_its_training():
    means = demo.world()["means"]
    for kind, phrases in {"shape": prompts.SHAPE, "colour": prompts.COLOUR, "background": prompts.BACKGROUND,
                          "pitch": prompts.PITCH}.items():  # fmt: skip
        assert [tuple(words) for words in means[kind].values()] == list(phrases), kind
    for words, phrases in zip(means["motion"].values(), prompts.MOTION, strict=True):
        assert all(set(phrase.split()) & set(words) for phrase in phrases), phrases
    assert set(prompts.world_words(2000)) <= set(demo.world()["words"])


@pytest.mark.parametrize("prompt", ["", "a circle", "a red ball, black background", "a blue background", "circle, red"])
def test_short_prompts_are_not_warned_about(prompt):
    assert demo.advice(prompt) is None


def test_sizes_lengths_and_rates_beyond_its_training_are_told():
    assert demo.reach(VideoShape(33, 256, 256, 24.0)) is None
    assert demo.reach(VideoShape(25, 256, 256, 24.0)) is None
    said = demo.reach(VideoShape(97, 512, 256, 30.0))
    assert "256x512, 97 frames, 30 frames a second" in said
    assert "256x256 pixels with 25 to 33 frames" in said


def test_the_command_says_once_what_is_beyond_the_demo(tmp_path, capsys):
    flags = ["--model-repo", "demo", "-p", "a dinosaur", "-n", "1", "-H", "128", "-W", "192"]
    assert generate.main([*flags, "-o", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().err
    assert said.count("dinosaur") == 1
    assert said.count("192x128 will show its shapes") == 1


def test_upscaling_says_what_it_knows(tmp_path, capsys):
    Image.new("RGB", (64, 64), (30, 60, 160)).save(tmp_path / "a.png")
    flags = ["--model-repo", "demo", "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--refine"]
    assert upscale.main([*flags, "-p", "a dinosaur"]) == 0
    said = capsys.readouterr().err
    assert said.count("pictures of its own world") == 1
    assert said.count("'dinosaur'") == 1


def test_info_lists_the_world(capsys):
    assert info.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("triangle", "purple", "bouncing", "gray"))


def test_it_stays_small():
    assert sum(file.stat().st_size for file in demo.folder().rglob("*") if file.is_file()) < 24_000_000
