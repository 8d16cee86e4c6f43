"""Every key of every config with values that cannot stand there: the checkpoint's, its upsampler's, Gemma's."""

from __future__ import annotations

import json
from pathlib import Path

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.material import Material, clip, enlarge, put_together, take_apart

GEMMA_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
RUNS = {"vae": "picture", "audio_vae": "sound", "scheduler": "dev"}
"""Which flags make a run read a section, where a plain one does not."""
TEMPLATES = (
    "{{ 1/0 }}", "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}", "{{ x.y.z }}",
    "{% raise %}",
    "{{ ''.__class__.__mro__ }}", "{{ 'a' * 10**10 }}", "{{ 9**9**9 }}", "{% include '/etc/passwd' %}", "{", "{{", "",
    "{{ messages[99] }}",
    "{% set x = namespace(v='a') %}{% for i in range(60) %}{% set x.v = x.v + x.v %}{% endfor %}{{ x.v }}",
    "{{ raise_exception('no') }}",
)  # fmt: skip


def _spoilt(tree: dict, number: int, seed: int, group: str) -> tuple[str, tuple, bytes, str]:
    """(in words, path, JSON text, what to expect) of one change to a JSON tree."""
    draw = source(seed, group, number)
    path = nth(spoil.places(tree), number, seed)
    old = spoil.at(tree, path)
    kind = draw.random()
    name = ".".join(map(str, path))
    if kind < 0.06:
        return f"without {name}", path, json.dumps(spoil.without(tree, path)).encode(), "valid"
    if kind < 0.16:
        how = draw.choice(spoil.SPELLINGS)
        return f"spelt as {how}", (), spoil.misspelt(tree, how, draw), "same"
    if kind < 0.19:
        return f"{name} = null", path, json.dumps(spoil.replaced(tree, path, None)).encode(), "valid"
    new = spoil.wrong_value(old, draw)
    shown = repr(new)[:50]
    return (
        f"{name} = {shown} (was {repr(old)[:30]})",
        path,
        json.dumps(spoil.replaced(tree, path, new)).encode(),
        "same",
    )


def _names(path: tuple, *more: str) -> tuple[str, ...]:
    return (*(str(key) for key in path if isinstance(key, str)), *more)


def checkpoint(number: int, seed: int, material: Material, folder: Path) -> Case:
    """The config in the header of a checkpoint."""
    header, data = take_apart(material.checkpoint)
    config = json.loads(header["__metadata__"]["config"])
    what, path, text, expect = _spoilt(config, number, seed, "config")
    header["__metadata__"]["config"] = text.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
    model, file = material.model_with(folder / "model", material.checkpoint, put_together(header, data))
    more: tuple[object, ...] = ()
    used = RUNS.get(str(path[0]) if path else "")
    if used == "picture":
        more = ("--image", material.picture)
    elif used == "sound" and number % 2:
        more = ("--audio-file", material.sound)
    twin = clip(material.model, *more)
    return Case(
        "config", what, "generate", clip(model, *more), _names(path, file.name, "config"), expect, twin=twin,
    )  # fmt: skip


def upsampler(number: int, seed: int, material: Material, folder: Path) -> Case:
    """The upsampler's config, or its tensors' names."""
    header, data = take_apart(material.upsampler)
    if number % 5 == 4:
        return _upsampler_tensors(number, seed, material, folder)
    config = json.loads(header["__metadata__"]["config"])
    what, path, text, expect = _spoilt(config, number, seed, "upsampler")
    header["__metadata__"]["config"] = text.decode("utf-8", "replace")
    model, file = material.model_with(folder / "model", material.upsampler, put_together(header, data))
    names = _names(path, file.name, "config", "upsampl", "upscaler")
    if number % 2:
        return Case("upsampler", what, "generate", clip(model), names, expect, twin=clip(material.model))
    line, twin = (enlarge(place, material.picture, out="out.png") for place in (model, material.model))
    return Case("upsampler", what, "upscale", line, names, expect, twin=twin, outputs=("out.png",))


def _upsampler_tensors(number: int, seed: int, material: Material, folder: Path) -> Case:
    draw = source(seed, "upsampler", number)
    header, data = take_apart(material.upsampler)
    name = draw.choice([key for key in header if key != "__metadata__"])
    how = draw.choice(("renamed", "reshaped", "no config", "whole numbers"))
    if how == "renamed":
        header[name + "_"] = header.pop(name)
    elif how == "reshaped":
        header[name]["shape"] = [1, *reversed(header[name]["shape"])]
    elif how == "no config":
        header["__metadata__"] = {}
    else:
        header[name]["dtype"] = "I16"
    model, file = material.model_with(folder / "model", material.upsampler, put_together(header, data))
    return Case(
        "upsampler",
        f"{name} {how}",
        "generate",
        clip(model),
        (name, file.name, "upsampl"),
        "same",
        twin=clip(material.model),
    )


def gemma(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Gemma's config and tokenizer files, and the chat templates that prompt enhancement runs."""
    draw = source(seed, "gemma", number)
    if number % 6 == 5:
        return _template(draw.choice(TEMPLATES), material, folder)
    name = nth(("config.json",) * 3 + GEMMA_FILES[1:], number, seed)
    tree = json.loads((material.gemma / name).read_text())
    if name == "tokenizer.json":
        tree["model"]["vocab"] = dict(list(tree["model"]["vocab"].items()))
    what, path, text, expect = _spoilt(tree, number, seed, "gemma")
    model, _ = material.model_with(folder / "model", material.gemma / name, text)
    # A tokenizer that says other things than it did is still a tokenizer.
    expect = "valid" if expect == "same" and name != "config.json" else expect
    line, twin = (clip(place, "-n", "1", "--no-audio") for place in (model, material.model))
    return Case(
        "gemma", f"{name}: {what}", "generate", line, _names(path, name, "gemma", "tokenizer"), expect, twin=twin
    )


def _template(template: str, material: Material, folder: Path) -> Case:
    tree = json.loads((material.gemma / "tokenizer_config.json").read_text()) | {"chat_template": template}
    model, _ = material.model_with(
        folder / "model", material.gemma / "tokenizer_config.json", json.dumps(tree).encode()
    )
    line = clip(model, "-n", "1", "--no-audio", "--enhance-prompt", "--max-tokens", "3")
    return Case("gemma", f"chat template {template}", "generate", line, ("template", "enhance", "gemma"), "valid")
