"""What a file says of how it was made: the settings, the model, and of the user's files their names without folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_video import __version__
from mlx_video.checkpoints.locate import is_hub_id

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint
    from mlx_video.jobs.settings import Settings


def described(settings: Settings, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Of a clip; one that no checkpoint took part in names none."""
    values = {**settings.metadata, **({"mlx_video": __version__} if checkpoint is None else model_of(checkpoint))}
    for name in ("image", "lora"):
        if name in values:
            values[name] = [{**one, "path": _name_of(one["path"])} for one in values[name]]
    if "audio_file" in values:
        values["audio_file"] = {**values["audio_file"], "path": _name_of(values["audio_file"]["path"])}
    for name in ("embedding", "distilled_lora"):
        if name in values:
            values[name] = _name_of(values[name])
    return values


def model_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The model's name, as its file's or on the hub, its version where it states one, and this package's."""
    source, hub = checkpoint.source, [part for part in checkpoint.source.parts if part.startswith("models--")]
    name = "/".join([*hub[-1].split("--")[1:], *([source.name] if source.is_file() else [])]) if hub else source.name
    version = {"model_version": checkpoint.version} if checkpoint.version else {}
    return {"model": name, **version, "mlx_video": __version__}


def _name_of(path: str) -> str:
    # An id on the hub is a name as a whole.
    return path if is_hub_id(path) and not Path(path).exists() else Path(path).name
