"""Every flag of every command with every bad value: it ends with 2 and a sentence, or the value was not bad for it.

Made from the parsers themselves, so that a new flag is tried, too. A command ends here where a run would begin.
"""

import argparse
import importlib
import re

import pytest

from mlx_video import UserError, cli

COMMANDS = ("generate", "generate_av", "generate_dev", "convert", "encode", "upscale", "info")
VALUES = [
    "", " ", "-", "--", "--x", "0", "-1", "1/0", "24/", "/", "1/2/3", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320",
    "1e999", "9" * 30, "9" * 5000, "1_000", "0x10", "1,5", " 64 ", "64px", "١٢", "²", "½", "1\n2", "\0", "a\0b",
    "\x1b[2J", "~nosuchuser", "~nosuchuser/a.mp4", "a" * 300, "a/" * 3000, "é" * 200 + ".mp4", "\udcff",
    "%s", "%(prog)s", "{}", "$HOME", "../" * 40 + "x", "/", ".", "/dev/null", "/dev/null/a.mp4", "None", "true", "last",
    "🎬", "a red ball in the rain, filmed slowly " * 20,
]  # fmt: skip
PYTHON = re.compile(r"Traceback|Error\b|NoneType|object at 0x|<class|errno", re.IGNORECASE)


class Enough(UserError):
    """Where a run would begin."""


@pytest.fixture
def tried(small_folder, inputs, tmp_path, monkeypatch, capsys):
    """tried(command, *words) is (status, what was said); nothing is fetched, read or written."""
    from mlx_video import runner
    from mlx_video.checkpoints import describe, layouts, locate
    from mlx_video.checkpoints.hub import fetch as hub
    from mlx_video.jobs import upscale

    def stop(*args, **options):
        raise Enough("This is as far as it goes here.")

    for place, name in (
        (runner.Runner, "open"), (upscale, "read_source"), (layouts, "open_checkpoint"), (hub, "fetch"),
        (locate, "source"), (describe, "describe_repo"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, stop)
    for module in ("generate", "encode", "upscale", "info"):
        command = importlib.import_module(f"mlx_video.{module}")
        monkeypatch.setattr(command, "build_parser", once(command.build_parser))
    monkeypatch.chdir(tmp_path)

    def run(command, *words):
        try:
            status = importlib.import_module(f"mlx_video.{command}").main([*needed[command], *words])
        except SystemExit as end:
            status = end.code
        found = capsys.readouterr()
        return status, found.out + found.err

    clip = ["-p", "a ball", "--model-repo", str(small_folder("2"))]
    needed = {
        "generate": clip, "generate_av": clip, "generate_dev": clip, "encode": [*clip, "-o", "a.npz"],
        "upscale": ["-i", str(inputs / "picture.png"), "-o", "b.png", *clip[2:]], "info": [],
        "convert": ["--source", str(small_folder("2")), "-o", "c"],
    }  # fmt: skip
    return run


def once(build):
    """Parsers keep nothing of what they parse; making one takes longer than everything else here."""
    made = {}

    def build_parser(*name, **defaults):
        key = (name, tuple(defaults.items()))
        if key not in made:
            made[key] = build(*name, **defaults)
        return made[key]

    return build_parser


def actions(command):
    kept = []
    module = importlib.import_module(f"mlx_video.{command}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", lambda build, *_: kept.append(build()) or 0)
        module.main([])
    return [action for action in kept[0]._actions if not isinstance(action, argparse._HelpAction)]


@pytest.mark.quick("generate", "convert", "encode", "upscale", "info")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_value_of_any_flag_is_a_traceback(tried, command):
    for action in actions(command):
        if action.nargs == 0:
            continue
        for value in VALUES:
            forms = [(value,)] if not action.option_strings else [(f"{action.option_strings[0]}={value}",)]
            if action.option_strings and value in ("", "--", "-1", "nan", "24/"):
                forms.append((action.option_strings[-1], value))
            for words in forms:
                status, said = tried(command, *words)
                what = (command, action.dest, value[:40])
                if (command, words) == ("info", ("--",)):
                    assert status == 0, (what, said)  # nothing follows, and nothing need be said
                    continue
                assert status == 2, (what, status, said)
                assert said.count("\n") <= 1, (what, said)
                assert not PYTHON.search(said.replace(value, "")), (what, said)


@pytest.mark.parametrize("flag", ["--image", "--lora"])
def test_no_part_of_a_list_is_a_traceback(tried, flag):
    for place in range(4):
        for value in VALUES:
            parts = ["a.png", "0", "1", "18"][: place + 1]
            status, said = tried("generate", flag, *parts[:place], value)
            assert status == 2, (flag, place, value[:40], said)
            assert said.count("\n") <= 1
            assert not PYTHON.search(said.replace(value, "")), said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory-limit", "1e308"], "--memory-limit 1e+308 is out of range; it must be more than 0 and at most"),
        (["--memory-limit", "nan"], "--memory-limit nan is out of range"),
        (["--audio-file", "a.wav", "--audio-start-time", "1e308"], "--audio-start-time 1e+308 is out of range"),
        (["--fps", "24/"], "'24/' is not a number or a fraction"),
        (["--fps", "24/0"], "'24/0' divides by zero"),
        (["--height", "١٢"], "is not a whole number"),
        (["--seed", "9" * 30], "a whole number of 30 digits is out of range"),
        (["--pipeline", "dev", "--stg-blocks", "1", "1"], "--stg-blocks 1 1 must name at least one block"),
        (["--prompt=--"], "--prompt: -- by itself is no value"),
        (["-o", "~nosuchuser.mp4"], "there is no home of a user 'nosuchuser.mp4' here; write ./~nosuchuser.mp4"),
        (["--text-encoder-repo", ""], "--text-encoder-repo/--gemma-path: the path is empty"),
        (["--model-repo", ""], "the path is empty"),
        (["--heigth", "64"], "there is no --heigth; did you mean --height? (see --help)"),
        (["--enhance"], "there is no --enhance; did you mean --enhance-prompt?"),
        (["-a=no"], "-a takes no value, 'no' or any other; write --audio or --no-audio or -a"),
        (["--stream="], "--stream takes no value"),
        (["--pipeline", "dve"], "invalid choice: 'dve'"),
        (["a fox", "a hare"], "'a hare' stands by itself, and no argument takes it"),
    ],
)  # fmt: skip
def test_the_sentence(tried, words, said):
    status, message = tried("generate", *words)
    assert status == 2
    assert said in message


def test_aliases_name_themselves(tried):
    for command in ("generate_av", "generate_dev"):
        for words in (["--height", "x"], ["--height", "33"], ["--nonsense"]):
            assert tried(command, *words)[1].startswith(f"mlx_video.{command}: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_with_its_usage_in_a_line(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        importlib.import_module(f"mlx_video.{command}").main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: mlx_video.{command} ")
    assert lines[1] == ""
    if command.startswith("generate"):
        assert lines.index("pipelines:") < lines.index("examples:") < lines.index("clip:")
