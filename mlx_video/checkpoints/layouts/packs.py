"""Packs of other MLX converters: mlx-forge's split files, unified and split files of mlx-video-with-audio, and the
folders of Blaizzy's mlx-video.

They differ from an official file by names and by the order of axes alone, so each is described as the official file
under a rename (`pack_names` takes all their names back) with channels last; how the packs differ from each other is
only where a component's tensors are. LTX-2.5's text encoder, with the projections that belong to the connectors, lies
in a file of its own (`text_pack`) or in a folder. Of LTX-2.5 mlx-forge's code was read; no pack of that converter or of
others was seen. Knows no networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlx_video.checkpoints import text_pack
from mlx_video.checkpoints.checkpoint import Checkpoint, Part
from mlx_video.checkpoints.layouts import pack_configs, split
from mlx_video.checkpoints.layouts.converted import FOLDERS
from mlx_video.checkpoints.layouts.neighbours import Place, object_in, repo_name, upsampler_kind, variant_of
from mlx_video.checkpoints.layouts.pack_names import PARTS, UPSCALERS, first_with, official, qualified
from mlx_video.models.family import Family
from mlx_video.weights.store import Tensors

_IN_FOLDER = {"audio_decoder": "audio_vae.decoder.", "audio_encoder": "audio_vae.encoder."}
"""What bare names in a component's folder lack, where it is more than the part."""


# ------------------------------------------------------------------------------------------- files


def recognise_files(place: Place) -> bool:
    """By a file that has the transformer's blocks under its own name for them."""
    return bool(place.own.of("pack"))


def describe_files(place: Place, variant: str) -> Checkpoint:
    """The checkpoint in one unified file or in split ones, of `variant` where a folder has several transformers."""
    transformers = place.own.of("pack")
    # Later versions sort later by name: "transformer-distilled-1.1" after "transformer-distilled".
    file = max(transformers, key=lambda file: (variant_of(file.name) == variant, file.stem))
    manifest, root = place.json("split_model.json"), place.json("config.json")
    views = [qualified(transformers[file], "transformer")]
    for kind in ("other", "duration head"):
        views += [qualified(tensors, other.stem) for other, tensors in place.all.of(kind).items()]
    found = {name: first_with(place.family, views, name) for name in PARTS}
    parts = _projecting(place, {name: tensors for name, tensors in found.items() if tensors is not None})
    configs = pack_configs.read(place, parts, file)
    stated = place.json("quantize_config.json").get("quantization") or root.get("quantization")
    if stated is None and "quantization_bits" in manifest:
        stated = {"bits": manifest["quantization_bits"], "group_size": manifest.get("quantization_group_size", 64)}
    whole = any(name.startswith("vae_decoder.") for name in views[0].entries)
    return place.checkpoint(
        file,
        configs.whole,
        parts,
        "channels last",
        stated,
        place.folder,
        configs=configs.own,
        version=configs.version,
        variant=variant_of(file.name) or manifest.get("variant") or variant_of(repo_name(place.folder)),
        layout="unified MLX file" if whole else "split MLX files",
        inside=_upsamplers(place.family, views),
    )


def _projecting(place: Place, parts: dict[str, Tensors]) -> dict[str, Tensors]:
    """`parts` with the projections of the text encoder beside the pack, where LTX-2.5's connectors lack them."""
    own, encoder = parts.get("connectors"), place.text_encoder
    if own is None or encoder is None or split.projects(own):
        return parts
    return {**parts, "connectors": split.connected(own, text_pack.tensors_at(Path(encoder)))}


def _upsamplers(family: Family, views: list[Tensors]) -> dict[str, Part]:
    """The upsamplers of a pack; their kinds and sizes follow from their tensors."""
    parts: dict[str, Part] = {}
    for view in views:
        for name in view.entries:
            head, _, leaf = name.partition(".")
            if leaf == "initial_conv.weight" and head.startswith(UPSCALERS):
                found = view.renamed(partial(_without, f"{head}."))
                config = _upsampler_config({name: entry.shape for name, entry in found.entries.items()})
                if config is not None:
                    part = Part(family.components["upsampler"], found, "channels last", config)
                    parts.setdefault(upsampler_kind(config), part)
    return parts


def _without(head: str, name: str) -> str | None:
    return name.removeprefix(head) if name.startswith(head) else None


def _upsampler_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    rational = "upsampler.conv.weight" in shapes
    first = shapes["initial_conv.weight"]
    grown = shapes.get("upsampler.conv.weight" if rational else "upsampler.0.weight", ())
    if not first or not first[0] or not grown:
        return None
    channels = first[0]
    time = {"spatial_upsample": False, "temporal_upsample": True}
    kinds: dict[tuple[int, int], dict[str, Any]] = {(4, 4): {}, (4, 9): {"spatial_scale": 1.5}, (5, 2): time}
    kind = kinds.get((len(grown), grown[0] // channels))
    if kind is None:
        return None  # another scale
    blocks = {name.split(".")[1] for name in shapes if name.startswith("res_blocks.")}
    return {
        "in_channels": shapes.get("final_conv.bias", (128,))[0], "mid_channels": channels, "dims": 3,
        "num_blocks_per_stage": len(blocks), "spatial_upsample": True, "temporal_upsample": False,
        "rational_resampler": rational, "spatial_scale": 2.0, **kind,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- folders


def recognise_folders(place: Place) -> bool:
    """By a folder transformer/ with the network's own names in it; diffusers keeps other names there."""
    folder = place.path / "transformer"
    return _has_tensors(folder) and "patchify_proj.weight" in Tensors.of_folder(folder)


def describe_folders(place: Place, variant: str) -> Checkpoint:
    """The checkpoint in the folders, which hold one variant."""
    parts = {}
    for name, folder in FOLDERS.items():
        folder = FOLDERS["video_decoder"] if name == "latent_statistics" else folder
        if not _has_tensors(place.path / folder):
            continue
        heads = PARTS[name][0]
        rename = partial(official, name, heads, prefix=_IN_FOLDER.get(name, f"{heads[0]}."))
        parts[name] = Tensors.of_folder(place.path / folder).renamed(rename)
    parts = _projecting(place, parts)
    configs = pack_configs.read(place, parts, place.path)
    root = {**object_in(place.path / "transformer" / "config.json"), **place.json("config.json")}
    return place.checkpoint(
        place.path,
        configs.whole,
        parts,
        "channels last",
        root.get("quantization"),
        place.path,
        configs=configs.own,
        version=configs.version,
        variant=root.get("variant") or variant_of(repo_name(place.path)),
        layout="MLX folders",
    )


def _has_tensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))
