"""One option of one command with a value that does not belong there: every option of every parser, times the values."""

from __future__ import annotations

import argparse
import importlib
import os
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Request
from mlx_video.request.options import options_of
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.material import PROMPT, Material, clip, enlarge

NO_NUMBER = (
    "", " ", "nan", "inf", "-inf", "1e400", "abc", "0x10", "1/0", "24/", "/", "1,5", "1.5.2", "²", "½", "None", "true",
    "[1]",
    "1 2", "++1", "1e", "--", "NaN", "infinity", "-", "1;2", "9" * 5000, "1e308", "-1e308",
)  # fmt: skip
"""Nothing that any option could mean."""
ODD_NUMBER = (
    "-1", "0", "-0.0", "1", "3", "1e-320", "0.1", "99999999999999999999", "-99999999999999999999", "2147483648",
    "4294967296",
    "9223372036854775808", "1_0", "٣", " 8", "1e3", "5e-1", "1000000", "33", "65", "-64", "64.0", "7.5", "8193",
    "30000/1001",
)  # fmt: skip
"""What some options take and others have to refuse."""
NO_INPUT = (
    "", " ", "missing", "missing.safetensors", "missing.png", ".", "..", "/", "a" * 300, "/".join(["d" * 200] * 30),
    "a\nb", "~nobody-here/x", "\udcff.png", "/dev/zero", "/dev/null", "fifo", "empty.safetensors", "empty.png",
    "text.txt",
    "loop", "dangling", "directory", "https://example.org/x.safetensors", "file:///etc/passwd", "C:\\model", "*", "%s",
    "{}",
    "nobody/nothing", "nobody/nothing/extra", "../../../../../../etc/passwd", "x" * 5000, "-", "\x1b[31mred", "a:b",
    "nobody/" + "n" * 200, "./fifo", "directory/", "text.safetensors", "socket",
)  # fmt: skip
NO_OUTPUT = (
    "", ".", "/", "..", "missing/out.mp4", "a" * 300 + ".mp4", "out.txt", "out", "directory", "directory.mp4",
    "~nobody-here/out.mp4", "/dev/null", "/proc/out.mp4", "out.mp4/", "text.txt/out.mp4",
    "/".join(["d" * 200] * 30) + ".mp4",
    "out.exe", ".mp4", "-", "\x00", "/dev/full", "missing/deep/out.safetensors", "missing/out.wav", "directory.wav",
    "loop",
)  # fmt: skip
NO_CHOICE = (
    "",
    " ",
    "nothing",
    "None",
    "0",
    "-1",
    "nan",
    "DISTILLED",
    "distilled ",
    "dev,distilled",
    "4.0",
    "x" * 3000,
    "--",
)
NO_SWITCH = ("=", "=1", "=true", "=no", "= ")
NEW_FOLDERS = ("out.txt", "out", "out.exe", ".mp4", "-", "out.mp4/")
REFINED = ("--refine", "--prompt", PROMPT)
COMPANIONS = {
    "image_frame_idx": ("--image", "{picture}"),
    "image_strength": ("--image", "{picture}"),
    "audio_start_time": ("--audio-file", "{sound}"),
    "max_tokens": ("--enhance-prompt",),
    "temperature": ("--enhance-prompt", "--max-tokens", "4"),
    "prompt_writer": ("--enhance-prompt", "--max-tokens", "4"),
    "lora_strength": ("--lora-path", "{lora}"),
    "group_size": ("--quantize", "8"),
}
"""What an option needs beside it to mean anything."""
REFINING = {"steps": REFINED, "seed": (*REFINED, "--steps", "1"), "text_encoder_repo": (*REFINED, "--steps", "1")}


class Option(NamedTuple):
    """One option of one command."""

    command: str
    flag: str
    kind: str
    dest: str


def commands() -> tuple[str, ...]:
    """The modules of all commands, as the package installs them."""
    scripts = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["scripts"]
    return tuple(sorted(target.split(":")[0].removeprefix("mlx_video.") for target in scripts.values()))


@cache
def actions(command: str) -> tuple[argparse.Action, ...]:
    """The options of a command's parser; an alias has those of `generate`."""
    module = importlib.import_module(f"mlx_video.{command}")
    build = getattr(module, "build_parser", None) or importlib.import_module("mlx_video.generate").build_parser
    return tuple(action for action in build()._actions if action.dest not in ("help", "version"))


def kind_of(action: argparse.Action) -> str:
    """What sort of value an option takes."""
    if action.nargs == 0:
        return "switch"
    if action.choices is not None:
        return "choice"
    metavar = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar or ""
    if "FILE" in metavar or "FOLDER" in metavar or "REPO" in metavar:
        return "output" if action.dest.startswith("output") else "input"
    return "text" if metavar in ("TEXT", "PROMPT") else "number"


@cache
def options() -> tuple[Option, ...]:
    """Every option of every command, in each of its spellings."""
    return tuple(
        Option(command, flag, kind_of(action), action.dest)
        for command in commands()
        for action in actions(command)
        for flag in (action.option_strings or [""])
    )


@cache
def pairs() -> tuple[tuple[Option, str, bool], ...]:
    """(option, value, whether it has to be refused) of everything there is to try."""
    pools = {
        "number": [(value, True) for value in NO_NUMBER] + [(value, False) for value in ODD_NUMBER],
        "input": [(value, True) for value in NO_INPUT], "output": [(value, True) for value in NO_OUTPUT],
        "choice": [(value, True) for value in NO_CHOICE], "switch": [(value, True) for value in NO_SWITCH],
        "text": [(value, False) for value in ("", " ", "\n", "\udcff", "x" * 5000, "--", "-1", "\x00")],
    }  # fmt: skip
    return tuple((option, value, no) for option in options() for value, no in pools[option.kind])


def base(command: str, material: Material) -> tuple[str, ...]:
    """A line of the command that works."""
    model = str(material.model)
    lines = {
        "upscale": enlarge(model, material.picture, out="out.png"),
        "encode": ("--prompt", PROMPT, "--model-repo", model, "-o", "out.safetensors"),
        "convert": ("--source", model, "-o", "out"),
        "info": (model,),
    }
    return lines.get(command) or clip(model)


def output_of(command: str) -> tuple[str, ...]:
    """What the base line makes; the alias with sound in its name writes the sound beside the clip."""
    made = {
        "upscale": ("out.png",), "encode": ("out.safetensors",), "convert": ("out",), "info": (),
        "generate_av": ("out.mp4", "out.wav"),
    }  # fmt: skip
    return made.get(command, ("out.mp4",))


def companions(option: Option, material: Material) -> tuple[str, ...]:
    """What stands beside the option so that its own value is what is looked at."""
    if option.command == "upscale":
        return REFINING.get(option.dest, ())
    words = COMPANIONS.get(option.dest, ()) if option.command != "convert" or option.dest == "group_size" else ()
    used = next((one.used for one in options_of(Request) if one.name == option.dest), None)
    users = [recipe.name for recipe in RECIPES.values() if used and used(recipe)]
    if users and option.command.startswith("generate"):
        words = (*words, "--pipeline", users[-1], *(() if option.dest == "steps" else ("--steps", "2")))
    places = {"picture": material.picture, "sound": material.sound, "lora": material.lora}
    return tuple(word.format(**places) for word in words)


def odd_places(folder: Path) -> None:
    """What the odd paths name, where they name something."""
    os.mkfifo(folder / "fifo")
    for name in ("empty.safetensors", "empty.png"):
        (folder / name).touch()
    for name in ("text.txt", "text.safetensors"):
        (folder / name).write_text("not what was asked for\n")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    for name in ("directory", "directory.mp4", "directory.wav"):
        (folder / name).mkdir()
        (folder / name / "kept.txt").write_text("kept")
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")


def make(number: int, seed: int, material: Material, folder: Path) -> Case:
    """An option and a value; in half of the cases written as --option=value."""
    option, value, refused = nth(pairs(), number, seed)
    draw = source(seed, "flags", number)
    odd_places(folder)
    joined = option.flag.startswith("--") and (draw.random() < 0.5 or value.startswith("-"))
    if option.kind == "switch":
        words: tuple[str, ...] = (option.flag + value,)
    elif not option.flag:
        words = (value,)
    else:
        words = (f"{option.flag}={value}",) if joined else (option.flag, value)
    line = (*base(option.command, material), *companions(option, material), *words)
    if not option.flag and option.command == "info":
        line = words
    outputs = output_of(option.command)
    if "--audio-file" in line:  # the sound is the user's own, and there already
        outputs = outputs[:1]
    if option.kind == "output" and option.command == "convert":
        outputs = (value.rstrip("/"),)
    expect = "refused" if refused and not harmless(option, value) else "right"
    beside = companions(option, material)
    names = (
        option.flag,
        option.dest,
        option.dest.split("_")[-1],
        *spoken_as(value),
        *(word for word in beside if word[:2] == "--"),
    )
    return Case("flags", f"{option.flag} {value!r}"[:120], option.command, line, names, expect, outputs=outputs)


def spoken_as(value: str) -> tuple[str, ...]:
    """How a message may show a value: as it is, its folder, or with what cannot be printed spelt out."""
    parts = [part for part in value.split("/") if len(part) > 2]
    return (value[:40], *parts[:1], ascii(value[:40])[1:-1]) if value.strip() else (repr(value), "empty", "nothing")


def harmless(option: Option, value: str) -> bool:
    """Whether a value of those that are to be refused is right for this one option."""
    if option.command != "convert":
        return value == "out.mp4/"
    # Any new folder will do for an output, and the hub's name of a text encoder is only noted down.
    return option.dest == "text_encoder_repo" or (option.kind == "output" and value in NEW_FOLDERS)
