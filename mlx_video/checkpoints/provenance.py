"""What a file says of how it was made: the settings, the model with a mark of each file, of the user's files their
names without folders and their marks, and of a file that it was made out of what that one says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_video import __version__
from mlx_video.checkpoints.locate import is_hub_id
from mlx_video.media import settings as written
from mlx_video.types import UserError

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint
    from mlx_video.checkpoints.text_source import TextSource
    from mlx_video.jobs.settings import Settings

MARKED = 64 << 20
"""Bytes of a file, from its beginning, that its mark is of; of a safetensors file its header's."""
MOST_OF_PARENT = 100_000
"""Characters that a file says of another that it was made out of; where that has more, its name and mark do."""


def described(
    settings: Settings,
    checkpoint: Checkpoint | None,
    computed: Mapping[str, Any] | None = None,
    encoder: TextSource | None = None,
) -> dict[str, Any]:
    """Of a clip; one that no checkpoint took part in names none.

    computed: how the networks computed. encoder: the text encoder, where one took part.
    """
    model = {"mlx_video": __version__} if checkpoint is None else model_of(checkpoint)
    values = {**settings.metadata, **model, **(computed or {})}
    marks = {}
    for name in ("image", "lora"):
        if name in values:
            marks.update(_marks(*(one["path"] for one in values[name])))
            values[name] = [{**one, "path": name_of(one["path"])} for one in values[name]]
    if "audio_file" in values:
        marks.update(_marks(values["audio_file"]["path"]))
        values["audio_file"] = {**values["audio_file"], "path": name_of(values["audio_file"]["path"])}
    for name in ("embedding", "distilled_lora", "prompt_writer"):
        if name in values:
            marks.update(_marks(values[name]))
            values[name] = name_of(values[name])
    if checkpoint is not None:
        marks.update(marks_of(checkpoint, encoder))
    return {**values, **({"files": marks} if marks else {})}


def marks_of(checkpoint: Checkpoint, encoder: TextSource | None = None) -> dict[str, str]:
    """Of each file of a model, by its place."""
    marks = {_inside(file, checkpoint.source): mark_of(file) for file in checkpoint.files}
    if encoder is not None:
        for file in encoder.tensors.paths:
            marks.setdefault(_inside(file, checkpoint.source), mark_of(file))
    return marks


def parent_of(path: Path) -> dict[str, Any]:
    """Of a picture or film that something is made out of: its name, its mark, and its own settings where it has any."""
    parent: dict[str, Any] = {"name": path.name, "mark": mark_of(path)}
    try:
        said = written.read(path)
    except UserError:  # another program's
        return parent
    return {**parent, "settings": said} if len(json.dumps(said)) <= MOST_OF_PARENT else parent


def model_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The model's name, as its file's or on the hub, its version where it states one, and this package's."""
    source, hub = checkpoint.source, [part for part in checkpoint.source.parts if part.startswith("models--")]
    name = "/".join([*hub[-1].split("--")[1:], *([source.name] if source.is_file() else [])]) if hub else source.name
    version = {"model_version": checkpoint.version} if checkpoint.version else {}
    return {
        "model": name,
        **version,
        "generation": f"LTX-{checkpoint.generation.name}",
        "mlx_video": __version__,
    }


def mark_of(path: Path) -> str:
    """What tells a file from another of its name: its size and a digest."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        most = int.from_bytes(head, "little") if path.suffix == ".safetensors" else size
        digest = hashlib.blake2b(head, digest_size=8)
        digest.update(file.read(min(most, MARKED)))
    return f"{size}-{digest.hexdigest()}"


def name_of(path: str) -> str:
    """Without its folder; an id on the hub is a name as a whole."""
    return path if is_hub_id(path) and not Path(path).exists() else Path(path).name


def _inside(file: Path, source: Path) -> str:
    """A checkpoint's file by its place in the folder or the pack: folders have several of one name."""
    roots = (source, source.parent, source.parent.parent)
    return next((file.relative_to(root).as_posix() for root in roots if root in file.parents), file.name)


def _marks(*paths: str) -> dict[str, str]:
    return {Path(path).name: mark_of(Path(path)) for path in paths if Path(path).is_file()}
