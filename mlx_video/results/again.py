"""A request out of a finished file's settings, to be made again with changes. Knows files and settings; no network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.checkpoints import demo
from mlx_video.checkpoints.locate import is_hub_id
from mlx_video.checkpoints.provenance import mark_of
from mlx_video.media import settings
from mlx_video.media.files import check_input
from mlx_video.models.families import RECIPES
from mlx_video.reading import path_of, shown
from mlx_video.request import Request
from mlx_video.request.options import flag
from mlx_video.types import AudioIn, ImageAt, Lora, UserError

MODEL = ("model_repo", "dtype", "vae_dtype", "quantize")
_ON_HUB = ("lora", "distilled_lora")
"""Options that may be ids on the hub."""
WRITING = ("enhance_prompt", "max_tokens", "temperature", "prompt_writer")
"""What made a prompt that the file has as it was made."""


class Again(NamedTuple):
    """What a file says of how it was made."""

    request: dict[str, Any]
    """Fields of a Request."""
    model: dict[str, Any]
    """Options of the model, as commands name them; `model_repo` only where it is no folder of somebody's."""
    made_by: str
    """The model's name and generation, for messages."""
    notes: tuple[str, ...]


def read(path: str | Path, without: Collection[str] = ()) -> Again:
    """The request that made a file. without: options that are given anew, whose files need not be there any more.

    Raises UserError for a file without settings, of no generation, and for inputs that are gone.
    """
    file = check_input(path_of(path, "--again", "give a file that generate has made"), "a clip")
    said = settings.read(file)
    if said.get("pipeline") not in RECIPES:
        raise UserError(f"--again {file} was not made by generate (pipeline = {shown(said.get('pipeline'))}).")
    names = {field.name for field in fields(Request)} - set(without)
    names -= set(WRITING) if "original_prompt" in said else set()
    found = {name: value for name, value in said.items() if name in names}
    marks = said.get("files")
    inputs = _Inputs(file, marks if isinstance(marks, Mapping) else {}, [])
    try:
        request = _restored(found, inputs)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"--again {file} has settings that are not as written ({error}).") from error
    model = {name: said[name] for name in MODEL if name in said}
    repo = model.get("model_repo", demo.NAME)
    if not isinstance(repo, str) or not (repo == demo.NAME or is_hub_id(repo)):
        raise UserError(f"--again {file} has settings that are not as written (model_repo {shown(repo)}).")
    made_by = f"{said.get('model', 'an unknown model')} ({said.get('generation', 'of no known generation')})"
    return Again(request, model, made_by, tuple(inputs.changed))


class _Inputs(NamedTuple):
    file: Path
    marks: Mapping[str, Any]
    changed: list[str]

    def find(self, name: str, option: str) -> str:
        """The path of an input by its name: beside the file, or in the working folder."""
        if option in _ON_HUB and is_hub_id(name):
            return name
        if Path(name).name != name:
            raise ValueError(f"{option} {shown(name)} is no name of a file")
        places = [self.file.parent / name, Path(name)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise UserError(
                f"--again {self.file} was made with {flag(option)} {name}, which lies neither beside it nor in the "
                f"working folder; put it there, or give {flag(option)} anew."
            )
        if self.marks.get(path.name) not in (None, mark_of(path)):
            self.changed.append(f"{path} is not the file that {self.file.name} was made with.")
        return str(path)


def _restored(found: Mapping[str, Any], inputs: _Inputs) -> dict[str, Any]:
    request = dict(found)
    several: dict[str, Any] = {"image": ImageAt, "lora": Lora}
    for name, kind in several.items():
        if name in found:
            request[name] = tuple(kind(**{**one, "path": inputs.find(one["path"], name)}) for one in found[name])
    if "audio_file" in found:
        sound = found["audio_file"]
        request["audio_file"] = AudioIn(**{**sound, "path": inputs.find(sound["path"], "audio_file")})
        request.pop("audio", None)
    for name in ("embedding", "distilled_lora"):
        if name in found:
            request[name] = inputs.find(found[name], name)
    if "stg_blocks" in found:
        request["stg_blocks"] = tuple(found["stg_blocks"])
    if "embedding" in found:
        for name in ("prompt", "negative_prompt"):
            request.pop(name, None)
    return request
