"""Values of a wrong kind are told in one sentence with the keyword, wherever the Python API takes one."""

from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import AudioIn, ImageAt, Lora, LTXPipeline, Request, UserError
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Upscaling, kinds

WRONG = [
    None, True, 7, -3, 2.5, float("nan"), 10**400, "text", "", b"bytes", [1, 2], ["a", "b"], (), (1.5,), {"a": 1}, {1},
    object(), print, Path("x"), np.zeros((2, 2)), np.array(3), np.float32(2), np.int64(9), np.bool_(True),
    mx.array([1.0]), mx.float32, 3 + 4j, Fraction(1, 3), Fraction(10**400), Lora("x"), ImageAt("x"), AudioIn("x"),
    ImageAt(5), ImageAt("x", "first"), ImageAt("x", 0, "much"), ImageAt("x", 0, 1.0, 2.5), Lora("x", None),
    AudioIn(3, 4), range(3), iter([]), float, RECIPES,
]  # fmt: skip
"""None of them is right for every field, and each is right for some at most."""


class Enough(Exception):
    """Where a run would begin."""


@pytest.fixture
def pipe(monkeypatch):
    """The demo, which stops where a run would begin: all that is told before is told."""
    from mlx_video import runner
    from mlx_video.jobs import upscale

    def stop(*args, **options):
        raise Enough

    with LTXPipeline.from_pretrained("demo") as pipe:
        monkeypatch.setattr(runner.Runner, "open", stop)
        monkeypatch.setattr(upscale, "read_source", stop)
        yield pipe


def told(call) -> str | None:
    """The message of a refusal, in one sentence; None where the call went on to a run."""
    try:
        call()
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 400, message
        assert message.endswith((".", "?")), message
        return message
    except Enough:
        pass
    return None


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_every_keyword_of_generate_with_every_wrong_value(pipe, name):
    hint = kinds.hints_of(Request)[name]
    for value in WRONG:
        message = told(lambda value=value: pipe.generate(**{"prompt": "a red circle", name: value}))
        if name not in ("image", "lora", "audio_file") and not kinds.fits(kinds.plain(value, hint), hint):
            assert message is not None, (name, value)
            assert name in message


@pytest.mark.parametrize("name", [field.name for field in fields(Upscaling)])
def test_every_keyword_of_upscale_with_every_wrong_value(pipe, name):
    hint = kinds.hints_of(Upscaling)[name]
    for value in WRONG:
        message = told(lambda value=value: pipe.upscale(**{"input": "a.mp4", name: value}))
        if not kinds.fits(kinds.plain(value, hint), hint):
            assert message is not None, (name, value)
            assert name in message


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("where", (Path, str)), ("dtype", (str, type(None), type(mx.float32))),
        ("text_encoder", (str, Path, type(None))), ("quantize", (type(None),)), ("low_memory", (bool, type(None))),
        ("memory_limit", (int, float, type(None))),
    ],
)  # fmt: skip
def test_every_keyword_of_from_pretrained_with_every_wrong_value(name, allowed):
    for value in WRONG:

        def call(value=value):
            LTXPipeline.from_pretrained(**{"where": "demo", name: value})
            raise Enough

        message = told(call)
        if not isinstance(value, (*allowed, np.number)):
            assert message is not None, (name, value)


@pytest.mark.parametrize("name", ["prompt", "path", "variant", "negative_prompt"])
def test_every_argument_of_encode_with_every_wrong_value(pipe, name, tmp_path):
    for value in WRONG:
        given = {"prompt": "a", "path": tmp_path / "a.safetensors", name: value}
        told(lambda given=given: pipe.encode(given.pop("prompt"), given.pop("path"), **given))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"height": "64"}, "height='64' is text; it must be a whole number."),
        ({"fps": "24"}, "fps='24' is text; it must be a number."),
        ({"prompt": None}, "prompt is None; it must be text."),
        ({"num_frames": 9.0}, "num_frames=9.0 is a float; it must be a whole number."),
        ({"seed": 1.5}, "seed=1.5 is a float; it must be a whole number."),
        ({"seed": None}, "seed is None; it must be a whole number."),
        ({"seed": [1, 2]}, "seed=[1, 2] is a list; it must be a whole number."),
        ({"audio": "no"}, "audio='no' is text; it must be True or False or None."),
        ({"image": np.zeros((9, 9, 3))}, "image is given as a ndarray; give a path, an ImageAt, or"),
        ({"image": ImageAt("x", "first")}, "image: frame='first' is text; it must be a whole number or 'last'."),
        ({"stg_blocks": "28"}, "stg_blocks='28' is text; it must be a tuple of whole numbers or None."),
        ({"heigth": 64}, "generate() has no keyword 'heigth'; did you mean height?"),
        ({"x": 64}, "generate() has no keyword 'x'; it has prompt, pipeline, height, width, num_frames and"),
    ],
)
def test_the_sentence(pipe, options, said):
    assert told(lambda: pipe.generate(**{"prompt": "a", **options})).startswith(said)


def test_other_spellings_of_the_right_kind_are_taken():
    hints = kinds.hints_of(Request)
    assert kinds.plain(np.int64(9), hints["num_frames"]) == 9
    assert type(kinds.plain(np.int64(9), hints["num_frames"])) is int
    assert kinds.plain(Fraction(24000, 1001), hints["fps"]) == 24000 / 1001
    assert kinds.plain(24, hints["fps"]) == 24.0
    assert kinds.plain([np.int32(1), 2], hints["stg_blocks"]) == (1, 2)
    assert kinds.plain(Path("a"), hints["embedding"]) == "a"
    assert kinds.plain(None, hints["embedding"]) is None
    assert kinds.plain(True, hints["seed"]) is True


def test_frames_are_rounded_and_told_through_the_api(pipe):
    said = []
    assert told(lambda: pipe.generate(prompt="a", num_frames=100, on_message=said.append)) is None
    assert said == ["num_frames=100 is made 97: a clip has 1 + 8k frames (strict_frames=True refuses)."]
    message = told(lambda: pipe.generate(prompt="a", num_frames=100, strict_frames=True))
    assert "97 or 105" in message
