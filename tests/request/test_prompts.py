"""A file of requests: what a line says arrives, and what is wrong is told by line and key before anything is opened."""

import json

import pytest

from mlx_video import AudioIn, ImageAt, Lora, Request, UserError
from mlx_video.models.families import RECIPES
from mlx_video.request import prompts

BASE = Request("a fox", num_frames=9, seed=5)


@pytest.fixture
def asked(tmp_path):
    """asked(text, name) is what a file of that text asks for."""

    def read(text, name="list.txt"):
        (tmp_path / name).write_text(text)
        return prompts.read(tmp_path / name, BASE, RECIPES)

    return read


def test_a_line_is_a_prompt_or_an_object(asked, tmp_path):
    found = asked(
        '\ufeff# mine\n\nwaves, at night\n  {"seed": 7, "num-frames": 17, "output": "b.mp4"}\n{"prompt": "a hare"}\n'
    )
    assert [one.request for one in found] == [
        Request("waves, at night", num_frames=9, seed=5),
        Request("a fox", num_frames=17, seed=7),
        Request("a hare", num_frames=9, seed=5),
    ]
    assert [one.output for one in found] == [None, str(tmp_path / "b.mp4"), None]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"image": "a.png"}, "image", (ImageAt("{}/a.png"),)),
        ({"image": ["a.png", "last", 0.5]}, "image", (ImageAt("{}/a.png", "last", 0.5),)),
        ({"image": ["a.png", 3]}, "image", (ImageAt("{}/a.png", 3),)),
        ({"image": [["a.png"], ["b.png", "last"]]}, "image", (ImageAt("{}/a.png"), ImageAt("{}/b.png", "last"))),
        ({"image": {"path": "a.png", "crf": 20}}, "image", (ImageAt("{}/a.png", crf=20),)),
        ({"image": [{"path": "/a.png"}, {"path": "b.png", "frame": -1}]}, "image",
         (ImageAt("/a.png"), ImageAt("{}/b.png", -1))),
        ({"audio_file": "a.wav"}, "audio_file", AudioIn("{}/a.wav")),
        ({"audio_file": ["a.wav", 2]}, "audio_file", AudioIn("{}/a.wav", 2.0)),
        ({"audio_file": {"path": "a.wav", "start": 1.5}}, "audio_file", AudioIn("{}/a.wav", 1.5)),
        ({"lora": ["list.txt", 0.5]}, "lora", (Lora("{}/list.txt", 0.5),)),
        ({"lora": "somebody/else"}, "lora", (Lora("somebody/else"),)),
        ({"fps": 30}, "fps", 30.0),
        ({"audio": False}, "audio", False),
        ({"stg_blocks": [3, 5], "pipeline": "dev"}, "stg_blocks", (3, 5)),
        ({"steps": None, "pipeline": "dev"}, "steps", None),
    ],
)  # fmt: skip
def test_every_form_of_an_option_arrives(asked, tmp_path, options, field, value):
    (one,) = asked(json.dumps(options))
    found = getattr(one.request, field)
    assert repr(found) == repr(value).replace("{}", str(tmp_path))


def test_tables_share_what_stands_above_them(asked, tmp_path):
    found = asked(
        'pipeline = "dev"\nsteps = 4\n\n[[clip]]\nprompt = "waves"\n\n[[clip]]\nprompt = """a\nhare"""\nsteps = 6\n'
        'image = ["a.png", "last"]\n[clip.audio_file]\npath = "a.wav"\n',
        "list.toml",
    )
    assert [(one.request.prompt, one.request.steps) for one in found] == [("waves", 4), ("a\nhare", 6)]
    assert found[1].request.image == (ImageAt(str(tmp_path / "a.png"), "last"),)
    assert found[1].request.audio_file == AudioIn(str(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('waves\n{"promt": "a"}', "line 2: there is no option 'promt'; did you mean prompt?"),
        ('{"model_repo": "demo"}', "line 1: there is no option 'model_repo'"),
        ('{"zzz": 1}', "line 1: there is no option 'zzz'; a clip has those that --help lists"),
        ('{"height": "tall"}', "line 1: height='tall' is text; it must be a whole number."),
        ('{"height": 100}', "line 1: height=100 does not work: it must be a multiple of 32.*nearest: 96 or 128"),
        ('{"fps": 1000}', "line 1: fps=1000 is out of range; it must be from 1 to 240"),
        ('{"tiling": "few"}', "line 1: tiling='few' is not known; there are auto"),
        ('{"pipeline": "devs"}', "There is no pipeline 'devs'; there are distilled"),
        ('{"cfg_scale": 4}', "line 1: cfg_scale has no effect in the distilled pipeline"),
        ('# a\n\n{"seed": 1,}', "line 3: it is not JSON"),
        ('{"seed": 1, "seed": 2}', "line 1: it is not JSON.*'seed' stands there twice"),
        ('{"num-frames": 9, "num_frames": 17}', "line 1: num_frames is given twice"),
        ('{"image": {"frame": 3}}', "line 1: {'frame': 3} names no path"),
        ('{"image": {"path": "a", "frames": 3}}', "there is no 'frames' in it; did you mean frame?"),
        ('{"image": 3}', "line 1: image"),
        ('{"image": ""}', "line 1: image '' is empty"),
        ('{"output": 3}', "line 1: output=3 is an int; it must be text"),
        ('{"prompt": " "}', "line 1: The prompt is empty"),
        ("# nothing\n\n", "asks for nothing"),
    ],
)
def test_a_wrong_line_is_told_of_by_its_number(asked, text, said):
    with pytest.raises(UserError, match=said) as fault:
        asked(text)
    assert "list.txt" in str(fault.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("heigt = 64\n[[clip]]\nprompt = 'a'\n", "line 1: there is no option 'heigt'; did you mean height?"),
        ("[[clip]]\nprompt = 'a'\n[[clip]]\nprompt = 'b'\nseed = 'c'\n", "line 5: seed='c' is text"),
        ("[[clip]]\nprompt = 'a'\n\n[[clip]]\nprompt = 'b'\nwidth = 33\n", "line 6: width=33 does not work"),
        ("[[clip]\n", "is not TOML: .*line 1"),
        ("clip = 3\n", "has clip = 3; write a table"),
        ("prompt = 'a'\n", "asks for nothing"),
    ],
)
def test_a_wrong_table_is_told_of_by_its_line(asked, text, said):
    with pytest.raises(UserError, match=said):
        asked(text, "list.toml")


def test_what_is_no_text_is_told_of(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\xfe")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        prompts.read(tmp_path / "a.txt", BASE, RECIPES)
    with pytest.raises(UserError, match="cannot be read"):
        prompts.read(tmp_path / "nowhere.txt", BASE, RECIPES)
    with pytest.raises(UserError, match="is a folder"):
        prompts.read(tmp_path, BASE, RECIPES)
