"""What an official transformer file lacks and other files beside it have: LTX-2.5 is published as a split pack.

One file each for the transformer (with the connectors), the text encoder (with the projections of its hidden states),
the autoencoders of video and sound, and the duration head; upsamplers and LoRAs lie beside them as ever. The names are
the single file's, except that a video autoencoder's lack their `vae.`. Knows no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mlx_video.checkpoints.checkpoint import Checkpoint, version_of
from mlx_video.checkpoints.layouts.neighbours import Place, is_packed
from mlx_video.models.family import numbers_of
from mlx_video.models.section import Stated
from mlx_video.types import UserError
from mlx_video.weights.store import Tensors

GEMMA = "gemma_source_checkpoint"
"""Metadata of a transformer: which text encoder it was trained with."""
PROJECTION = "text_embedding_projection."
VIDEO = {"video_encoder": "vae.encoder.", "video_decoder": "vae.decoder.", "latent_statistics": "vae.per_channel_"}
SOUND = {"audio_encoder": "audio_vae.encoder.", "audio_decoder": "audio_vae.decoder.", "vocoder": "vocoder."}
PIXELS = {"diffusion_decoder": "decoder."}
LENGTH = {"duration_head": "duration_head."}
CONNECTORS = ("model.diffusion_model.video_embeddings_connector.", "model.diffusion_model.audio_embeddings_connector.",
              PROJECTION)  # fmt: skip


class Beside(NamedTuple):
    """What lies beside a transformer: tensors and configs by component, and the text encoder."""

    tensors: Mapping[str, Tensors]
    configs: Mapping[str, Stated]
    text_encoder: Path | None


def find(place: Place, file: Path, main: Tensors, have: Mapping[str, object]) -> Beside:
    """The parts that `file`, a transformer with tensors `main`, lacks; `have`: the components that it has.

    Raises UserError where a part is of another version than the transformer.
    """
    if "video_decoder" in have:
        return Beside({}, {}, None)
    version = version_of(main.metadata.get("model_version"))
    kinds = ("video VAE", "diffusion video VAE", "audio VAE", "duration head")
    files = {kind: _of_version(place, kind, version, file) for kind in kinds}
    tensors: dict[str, Tensors] = {}
    configs: dict[str, Stated] = {}

    def add(kind: str, prefixes: Mapping[str, str], rename: str = "") -> None:
        found = files[kind]
        if found is None:
            return
        own = place.all.found[found][1].renamed(lambda name: rename + name)
        for component, prefix in prefixes.items():
            if component not in tensors and any(name.startswith(prefix) for name in own.entries):
                tensors[component], configs[component] = own, _config(own, found)

    add("video VAE", VIDEO, "vae.")
    # The encoder and the statistics in it are those of the other file.
    add("diffusion video VAE", {name: VIDEO[name] for name in ("video_encoder", "latent_statistics")}, "vae.")
    add("diffusion video VAE", PIXELS)
    add("audio VAE", SOUND)
    add("duration head", LENGTH)
    encoder = _text_encoder(place, main)
    if encoder is not None:
        tensors["connectors"] = connected(main, place.all.found[encoder][1])
    return Beside(tensors, configs, encoder)


def with_projections(checkpoint: Checkpoint, text_encoder: Tensors) -> Checkpoint:
    """The checkpoint with the projections of its text encoder's file, where that has them and is not its own."""
    part = checkpoint.parts.get("connectors")
    if part is None or part.form == "native" or not text_encoder.files_of(PROJECTION):
        return checkpoint
    own, others = part.tensors.files_of(PROJECTION), text_encoder.files_of(PROJECTION)
    stacks = part.tensors.files_of(CONNECTORS[0])
    # Projections that stand in the connectors' own file are of one training with them.
    if own and (own == others or own <= stacks):
        return checkpoint
    both = part._replace(tensors=connected(part.tensors, text_encoder))
    return replace(checkpoint, parts={**checkpoint.parts, "connectors": both})


def connected(stacks: Tensors, text_encoder: Tensors) -> Tensors:
    """The connectors' tensors by official names: `stacks` with the projections of a text encoder."""
    own = CONNECTORS[:2]
    return Tensors.joined(
        stacks.renamed(lambda name: name if name.startswith(own) else None),
        text_encoder.renamed(lambda name: name if name.startswith(PROJECTION) else None),
    )


def projects(tensors: Tensors) -> bool:
    """Whether the projections of the text encoder's hidden states are among the tensors."""
    return any(name.startswith(PROJECTION) for name in tensors.entries)


def whole_config(main: Stated, configs: Mapping[str, Stated]) -> Stated:
    """The sections of all files' configs, as a single file has them; and which text encoder belongs to them."""
    # Of two video autoencoders that of the convolutional one, which comes first.
    sections = {key: value for config in reversed([*configs.values()]) for key, value in config.items()}
    return Stated({**sections, **main}, main.whose)


def _config(tensors: Tensors, file: Path) -> Stated:
    config = tensors.metadata["config"]
    return Stated(config if isinstance(config, Mapping) else {}, str(file))


def _of_version(place: Place, kind: str, version: str, transformer: Path) -> Path | None:
    """The file of a kind that goes with a transformer of `version`, the latest by name where there are several."""
    files = place.all.of(kind)
    stated = {path: version_of(tensors.metadata.get("model_version")) for path, tensors in files.items()}
    fitting = [path for path, found in stated.items() if not found or numbers_of(found) == numbers_of(version)]
    if fitting or not files:
        return max(fitting, key=lambda path: path.name, default=None)
    other = max(files, key=lambda path: path.name)
    raise UserError(
        f"{transformer.name} is of version {version or 'unknown'}, but {other.name}, the {kind} beside it, is of "
        f"version {stated[other]}; put the {kind} of the transformer's version there."
    )


def _text_encoder(place: Place, main: Tensors) -> Path | None:
    """The text encoder that the transformer names, else any; whether it fits is told when it is opened."""
    source = main.metadata.get(GEMMA)
    wanted = source.get("gemma_version") if isinstance(source, Mapping) else None

    def fits(tensors: Tensors) -> bool:
        config = tensors.metadata["gemma_config"]
        return isinstance(config, Mapping) and config.get("gemma_version") == wanted

    files = place.all.of("text encoder")
    return max(files, key=lambda path: (fits(files[path]), not is_packed(path), path.name), default=None)
