"""Options that do not go together: without effect in a pipeline, exclusive, or an output where an input lies."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Request
from mlx_video.request.options import options_of
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.flags import output_of
from tests.trials.material import PROMPT, Material, clip, enlarge

VALUES = {"stg_blocks": "1", "steps": "2"}
"""Of guidance options that a plain 1 does not suit."""
SWITCHES = ("apg", "guidance_batch")
EXCLUSIVE = (
    ("--audio-file {sound}", "--no-audio"), ("--audio-file {sound}", "--output-audio out.wav", "--no-audio"),
    ("--output-audio out.wav", "--no-audio"), ("--embedding {embedding}", "--negative-prompt fog"),
    ("--embedding {embedding}", "--enhance-prompt"), ("--audio-start-time 1",), ("--image-frame-idx 0",),
    ("--image-strength 0.5",), ("--max-tokens 5",), ("--temperature 1",), ("--lora-strength 0.5",),
    ("--image {picture} 0", "--image {picture} 0"), ("--image {picture} last", "--image {picture} 8"),
    ("--image {picture} 9",), ("--image {picture}", "--image {picture} 8", "--image-strength 0.5"),
    ("--modality-scale 2", "--pipeline dev", "--no-audio"), ("--audio-cfg-scale 2", "--pipeline dev", "--no-audio"),
    ("--audio-cfg-scale 2", "--pipeline dev", "--audio-file {sound}"),
    ("--pipeline dev-two-stage", "--lora-strength 1", "--lora-strength-stage-2 1"),
    ("--pipeline dev", "--height 48"), ("--height 8256",), ("--width 0",), ("--num-frames 4105",),
)  # fmt: skip
"""Flags that have to be refused together (or alone, where they need another)."""
TOGETHER = (
    "--no-audio", "--audio-file {sound}", "--image {picture}", "--image {picture} last 0.5", "--lora {lora} 0.5",
    "--stream",
    "--output-audio out.wav", "--save-frames", "--tiling aggressive", "--tiling none", "--low-memory",
    "--no-low-memory",
    "--memory-limit 8", "--quantize 8", "--dtype bfloat16", "--dtype float16", "--seed 7", "--fps 12.5",
    "--fps 30000/1001",
    "--pipeline dev --steps 2", "--pipeline dev-two-stage --steps 2", "--pipeline dev-two-stage-hq --steps 2",
    "--verbose",
    "--enhance-prompt --max-tokens 3", "--audio", "--embedding {embedding}", "--image {picture} 0 1 0", "-n 17", "-n 1",
)  # fmt: skip
"""Flags that each work; some sets of them do not."""
WAYS = ("itself", "./", "up and down", "symbolic link", "hard link")


def make(number: int, seed: int, material: Material, folder: Path) -> Case:
    """One of: an option without effect, an exclusive set, an output over an input, a drawn set of flags."""
    kind, detail = nth(_all(), number, seed)
    if kind == "idle":
        recipe, option = detail
        value = () if option in SWITCHES else (VALUES.get(option, "1"),)
        flag = "--" + option.replace("_", "-")
        line = clip(material.model, "--pipeline", recipe, flag, *value)
        return Case("conflicts", f"{flag} with {recipe}", "generate", line, (flag,), "refused")
    if kind == "exclusive":
        words = _spelt(detail, material)
        prompt = "--embedding" not in words
        flags = tuple(word for word in words if word.startswith("--"))
        line = _without_prompt(clip(material.model)) if not prompt else clip(material.model)
        return Case("conflicts", " ".join(words), "generate", (*line, *words), flags, "refused")
    if kind == "over":
        return _over(*detail, material, folder)
    return _together(number, seed, material)


@cache
def _all() -> tuple[tuple[str, tuple], ...]:
    idle = [
        ("idle", (recipe.name, one.name)) for recipe in RECIPES.values() for one in options_of(Request)
        if one.used and not one.used(recipe) and one.name != "steps"
    ]  # fmt: skip
    over = [("over", (what, way)) for what in OVER for way in WAYS]
    return (*idle, *(("exclusive", flags) for flags in EXCLUSIVE), *over, *[("together", ())] * len(over))


OVER = ("audio-file", "wav over audio-file", "embedding", "upscale", "upscale picture", "convert", "encode")


def _spelt(flags: tuple[str, ...], material: Material) -> tuple[str, ...]:
    places = {name: getattr(material, name) for name in ("sound", "embedding", "picture", "lora")}
    return tuple(word.format(**places) for flag in flags for word in flag.split(" "))


def _without_prompt(line: tuple[str, ...]) -> tuple[str, ...]:
    where = line.index("--prompt")
    return line[:where] + line[where + 2 :]


def _over(what: str, way: str, material: Material, folder: Path) -> Case:
    """A result that would take the place of something that it is made from."""
    taken = {
        "audio-file": material.film, "wav over audio-file": material.sound, "embedding": material.embedding,
        "upscale": material.film, "upscale picture": material.picture, "convert": material.model,
        "encode": material.model,
    }[what]  # fmt: skip
    mine = folder / taken.name
    if taken.is_dir():
        shutil.copytree(taken, mine, ignore=lambda place, names: [name for name in names if "-dev" in name])
    else:
        shutil.copy(taken, mine)
    out = _other_name(mine, way)
    checkpoint = out / "ltx-2.3-22b-distilled.safetensors"
    lines = {
        "audio-file": ("generate", clip(material.model, "--audio-file", mine, out=str(out))),
        "wav over audio-file": ("generate", clip(material.model, "--audio-file", mine, "--output-audio", out)),
        "embedding": ("encode", ("--prompt", PROMPT, "--model-repo", str(material.model), "-o", str(out))),
        "upscale": ("upscale", enlarge(material.model, mine, out=str(out))),
        "upscale picture": ("upscale", enlarge(material.model, mine, out=str(out))),
        "convert": ("convert", ("--source", str(mine), "-o", str(out))),
        "encode": ("encode", ("--prompt", PROMPT, "--model-repo", str(mine), "-o", str(checkpoint))),
    }
    command, line = lines[what]
    # An embedding is not read by the command that writes it: that one may be replaced.
    expect = "right" if what == "embedding" else "refused"
    return Case(
        "conflicts", f"{what}: output over input by {way}", command, line, (out.name, taken.name, str(out),
        checkpoint.name),
        expect, outputs=(out.name,) if what == "embedding" else output_of(command),
    )  # fmt: skip


def _other_name(path: Path, way: str) -> Path:
    beside = path.with_name("other" + path.suffix)
    if way == "./":
        return Path(".") / path.name
    if way == "up and down":
        (path.parent / "sub").mkdir()
        return path.parent / "sub" / ".." / path.name
    if way == "symbolic link":
        beside.symlink_to(path)
        return beside
    if way == "hard link" and path.is_file():
        os.link(path, beside)
        return beside
    return path


def _together(number: int, seed: int, material: Material) -> Case:
    draw = source(seed, "conflicts", number)
    flags = draw.sample(TOGETHER, draw.choice((2, 3, 3, 4)))
    words = _spelt(tuple(flags), material)
    line = clip(material.model, *words)
    if "--embedding" in words:
        line = _without_prompt(line)
    outputs = ["out.mp4"]
    if "--output-audio" in words:
        outputs.append("out.wav")
    # A refusal may name a file as well as the option that it was given with.
    names = (*words, *(Path(word).name for word in words if "/" in word), "enhance")
    count = int(words[words.index("-n") + 1]) if "-n" in words else 9
    extra = tuple(f"out/frame_{n:05}.png" for n in range(count)) if "--save-frames" in words else ()
    return Case(
        "conflicts", " ".join(flags), "generate", line, names, "valid" if "-n 1" in flags else "right",
        outputs=(*outputs, *extra), check=None,
    )  # fmt: skip
