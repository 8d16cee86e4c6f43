"""From a path to one network's tensors of a family that pipelines do not know yet: official files with or without
metadata, diffusers folders, text encoders, upsamplers. Headers alone.

It is handed the family (`Alone`), and imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from mlx_video.checkpoints.checkpoint import Part
from mlx_video.models.family import Component
from mlx_video.models.section import Stated
from mlx_video.reading import read_json
from mlx_video.types import UserError
from mlx_video.weights.store import Tensors

Shapes = Mapping[str, tuple[int, ...]]
FOLDERS = {"transformer": "transformer", "video_encoder": "vae", "video_decoder": "vae"}
"""Of a diffusers pipeline, by component."""
UPSAMPLER_FOLDER, TEXT_FOLDER = "latent_upsampler", "text_encoder"


class Alone(Protocol):
    """What a family says of itself, such as `models.ltx_video.family`."""

    NAME: str
    COMPONENTS: dict[str, Component]
    settings: Callable[[object, Shapes, str], Stated]
    of_diffusers: Callable[[Mapping[str, Mapping[str, Any]], str, str], tuple[Stated, Callable[[str], str]]]
    of_text: Callable[[Shapes, str], Stated]
    text_name: Callable[[str, Collection[str]], str]
    text_encoder: Callable[[Any, Path], Any]


def part_of(family: Alone, component: str, path: Path) -> Part:
    """The tensors of `component` at a path; raises UserError where there are none, or none that are known."""
    kind = family.COMPONENTS[component]
    if component == "text_encoder":
        return _text(family, kind, path)
    if component == "upsampler":
        return _upsampler(kind, path)
    return _official(family, kind, path) if path.is_file() else _diffusers(family, kind, path)


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors, as the headers say."""
    return {name: entry.shape for name, entry in tensors.entries.items()}


def _official(family: Alone, kind: Component, path: Path) -> Part:
    tensors = Tensors([path])
    if not tensors.under(kind.prefixes):
        raise UserError(
            f"{path} has no {kind.label} of {family.NAME} (tensors {' and '.join(kind.prefixes)}*); name an official "
            f"file or a diffusers folder."
        )
    return Part(
        kind, tensors, "official", family.settings(tensors.metadata.get("config"), shapes_of(tensors), str(path))
    )


def _diffusers(family: Alone, kind: Component, path: Path) -> Part:
    name = FOLDERS[kind.key]
    folder = path / name if (path / name / "config.json").is_file() else path
    _check_folder(family, kind, path, folder)
    configs = {
        other: read_json(place / "config.json")
        for other in dict.fromkeys(FOLDERS.values())
        if ((place := folder if other == name else folder.parent / other) / "config.json").is_file()
    }
    settings, rename = family.of_diffusers(configs, name, str(folder))
    return Part(kind, Tensors.of_folder(folder).renamed(rename), "official", settings)


def _upsampler(kind: Component, path: Path) -> Part:
    if path.is_file():
        tensors = Tensors([path])
        config = tensors.metadata.get("config")
        if not isinstance(config, Mapping) or "initial_conv.weight" not in tensors:
            raise UserError(f"{path} is not a latent upsampler: its metadata has no upsampler config.")
        return Part(kind, tensors, "official", Stated(config, str(path)))
    below = path / UPSAMPLER_FOLDER
    folder = below if (below / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} holds no latent upsampler: there is no {UPSAMPLER_FOLDER}/config.json.")
    return Part(kind, Tensors.of_folder(folder), "official", Stated(read_json(folder / "config.json"), str(folder)))


def _text(family: Alone, kind: Component, path: Path) -> Part:
    if path.is_file():
        folder, tensors = path.parent, Tensors([path])
    else:
        folder = path / TEXT_FOLDER if (path / TEXT_FOLDER / "config.json").is_file() else path
        _check_folder(family, kind, path, folder)
        tensors = Tensors.of_folder(folder)
    known = tensors.entries
    tensors = tensors.renamed(lambda name: family.text_name(name, known))
    if path.is_file():
        settings = family.of_text(shapes_of(tensors), str(path))
    else:
        settings = Stated(read_json(folder / "config.json"), str(folder))
    return Part(kind, tensors, "official", settings)


def _check_folder(family: Alone, kind: Component, path: Path, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        files = sorted(file.name for file in path.glob("*.safetensors"))
        some = f" Of its files, name one: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}." if files else ""
        where = FOLDERS.get(kind.key, TEXT_FOLDER)
        raise UserError(f"{path} holds no {kind.label} of {family.NAME}: there is no {where}/config.json.{some}")
