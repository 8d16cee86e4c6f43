"""Our own folder: module paths, MLX's axis order, a folder for each component, and a marker that says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_video.checkpoints.checkpoint import Checkpoint, version_of
from mlx_video.checkpoints.layouts.neighbours import Place
from mlx_video.models.section import Stated
from mlx_video.reading import is_there, shown
from mlx_video.types import UserError
from mlx_video.weights.store import Tensors

MARKER = "mlx_video.json"
"""A converted folder holds this file; it says what the folder is, so nothing has to be guessed."""
FOLDERS = {
    "transformer": "transformer",
    "connectors": "text_projections",
    "video_decoder": "vae/decoder",
    "video_encoder": "vae/encoder",
    "audio_decoder": "audio_vae/decoder",
    "audio_encoder": "audio_vae/encoder",
    "vocoder": "vocoder",
    "latent_statistics": "vae/statistics",
    "diffusion_decoder": "vae/diffusion_decoder",
    "duration_head": "duration_head",
}
"""Where a converted folder keeps each component."""


def recognise(place: Place) -> bool:
    """By its marker."""
    return (place.path / MARKER).is_file()


def describe(place: Place, variant: str) -> Checkpoint:
    """The checkpoint in the folder, which holds one variant."""
    path, marker = place.path, place.json(MARKER)
    config: Any = marker.get("config")
    configs: Any = marker.get("configs", {})
    components: Any = marker.get("components")
    stated, variant_said, encoder = (marker.get(key) for key in ("quantization", "variant", "text_encoder"))
    for key, fine in (
        ("config", isinstance(config, dict)),
        ("configs", isinstance(configs, dict) and all(isinstance(one, dict) for one in configs.values())),
        ("components", isinstance(components, list) and all(name in list(FOLDERS) for name in components)),
        ("variant", variant_said in (None, "distilled", "dev")),
        ("text_encoder", encoder is None or (isinstance(encoder, str) and encoder != "")),
    ):
        if not fine:
            said = shown(marker.get(key))
            raise UserError(f"{path / MARKER} is damaged ({key} = {said}); convert the checkpoint again.")
    config = Stated(config, str(path / MARKER))
    folders = {name: path / FOLDERS[name] for name in components}
    for folder in folders.values():
        if not any(folder.glob("*.safetensors")):
            said = "holds no .safetensors file" if folder.is_dir() else "is missing"
            raise UserError(f"{path} is incomplete: {folder.relative_to(path)}/ {said}; convert the checkpoint again.")
    return place.checkpoint(
        path,
        config,
        {name: Tensors.of_folder(folder) for name, folder in folders.items()},
        "native",
        stated,
        path / MARKER,
        configs={name: Stated(one, str(path / MARKER)) for name, one in configs.items()},
        version=version_of(marker.get("model_version")),
        variant=variant_said,
        layout="folder of mlx_video.convert",
        distilled_by_lora=marker.get("distilled_by") == "lora",
        text_encoder=place.text_encoder or _named(path, encoder),
    )


def _named(path: Path, encoder: str | None) -> str | None:
    """Where the text encoder is that the marker names: in the folder, on the hub, or (as it once was) anywhere."""
    inside = encoder is not None and is_there(path / encoder / "config.json")
    return str(path / str(encoder)) if inside else encoder
