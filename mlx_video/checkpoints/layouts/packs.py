"""Packs of other MLX converters: mlx-forge's split files, unified and split files of mlx-video-with-audio, and the
folders of Blaizzy's mlx-video.

They differ from an official file by names and by the order of axes alone, so each is described as the official file
under a rename (RENAMES takes all their names back) with channels last; how the packs differ from each other is only
where a component's tensors are. Configs come from the pack where it carries them, else from the generation's published
one. Knows no networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlx_video.checkpoints.checkpoint import Checkpoint, Part, version_of
from mlx_video.checkpoints.layouts.converted import FOLDERS
from mlx_video.checkpoints.layouts.neighbours import Place, object_in, repo_name, upsampler_kind, variant_of
from mlx_video.checkpoints.layouts.official import components_in
from mlx_video.models.family import Family
from mlx_video.models.section import Stated
from mlx_video.weights.store import Tensors

RENAMES = (
    (r"^((?:transformer|connector)\..*)\.to_out\.(\w+)$", r"\1.to_out.0.\2"),
    (r"^((?:transformer|connector)\..*ff)\.proj_in\.", r"\1.net.0.proj."),
    (r"^((?:transformer|connector)\..*ff)\.proj_out\.", r"\1.net.2."),
    (r"^(transformer\..*)\.linear([12])\.", r"\1.linear_\2."),
    (r"^transformer\.", "model.diffusion_model."),
    (r"^connector\.((?:video|audio)_embeddings_connector\.)", r"model.diffusion_model.\1"),
    (r"^connector\.(?:text_embedding_projection\.)?", "text_embedding_projection."),
    (r"per_channel_statistics\._?(mean|std)(?:_of_means)?$", r"per_channel_statistics.\1-of-means"),
    (r"^vae_(?:encoder|decoder)\.per_channel_statistics\.", "vae.per_channel_statistics."),
    (r"^vae_(encoder|decoder)\.", r"vae.\1."),
    (r"^(vae\.decoder\.(?:.*\.)?conv(?:_in|_out|1|2))\.conv\.conv\.", r"\1.conv."),
    (r"^audio_vae\.(?:encoder\.|decoder\.)?per_channel_statistics\.", "audio_vae.per_channel_statistics."),
    (r"^vocoder\.(act_post\.)", r"vocoder.vocoder.\1"),
    (r"^audio_vae\.(?!encoder\.|decoder\.|per_channel_statistics\.)", "audio_vae.decoder."),
)
"""From a pack's names, each beginning with its part ("transformer.", "vae_decoder.", ...), to the official ones."""
DOUBLES = r"^transformer\.(video|audio)_embeddings_connector\."
"""A unified file has the connectors twice, once as part of the transformer."""
PARTS = {
    "transformer": ("transformer",),
    "connectors": ("connector", "text_embedding_projection"),
    "video_decoder": ("vae_decoder",),
    "video_encoder": ("vae_encoder",),
    "audio_decoder": ("audio_vae",),
    "audio_encoder": ("audio_vae",),
    "vocoder": ("vocoder",),
    "latent_statistics": ("vae_decoder",),
}
"""With what the names of a component's tensors begin in a pack; in a file named after it they may lack that."""
_IN_FOLDER = {"audio_decoder": "audio_vae.decoder.", "audio_encoder": "audio_vae.encoder."}
"""What bare names in a component's folder lack, where it is more than the part."""
_UPSCALERS = ("upsampler", "spatial_upscaler", "temporal_upscaler")
"""With what the names of latent upsamplers begin; versions follow."""
_VAE_KEYS = ("encoder_blocks", "decoder_blocks", "decoder_base_channels", "latent_channels", "patch_size")
"""What the folders' configs say of the video VAE and can be relied on: their padding modes are guesses."""


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
    views = [_qualified(transformers[file], "transformer")]
    views += [_qualified(tensors, other.stem) for other, tensors in place.all.of("other").items()]
    found = {name: _first_with(place.family, views, name) for name in PARTS}
    config, version = _config(place, views[0].entries, transformers[file].metadata)
    stated = place.json("quantize_config.json").get("quantization") or root.get("quantization")
    if stated is None and "quantization_bits" in manifest:
        stated = {"bits": manifest["quantization_bits"], "group_size": manifest.get("quantization_group_size", 64)}
    whole = any(name.startswith("vae_decoder.") for name in views[0].entries)
    return place.checkpoint(
        file,
        Stated(config, str(file)),
        {name: tensors for name, tensors in found.items() if tensors is not None},
        "channels last",
        stated,
        place.folder,
        version=version,
        variant=variant_of(file.name) or manifest.get("variant") or variant_of(repo_name(place.folder)),
        layout="unified MLX file" if whole else "split MLX files",
        inside=_upsamplers(place.family, views),
    )


def _qualified(tensors: Tensors, part: str) -> Tensors:
    """The tensors of one file under names that begin with their part, which a split file may leave out."""
    heads = {head for heads in PARTS.values() for head in heads}
    if all(name.partition(".")[0] in heads or name.startswith(_UPSCALERS) for name in tensors.entries):
        return tensors
    return tensors.renamed(lambda name: f"{part}.{name}")


def _first_with(family: Family, views: list[Tensors], component: str) -> Tensors | None:
    for view in views:
        found = view.renamed(partial(_official, PARTS[component]))
        if component in components_in(family.components, found.entries):
            return found
    return None


def _official(heads: tuple[str, ...], name: str, prefix: str = "") -> str | None:
    name = prefix + name
    if name.partition(".")[0] not in heads or re.match(DOUBLES, name):
        return None
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _upsamplers(family: Family, views: list[Tensors]) -> dict[str, Part]:
    """The upsamplers of a pack; their kinds and sizes follow from their tensors."""
    parts: dict[str, Part] = {}
    for view in views:
        for name in view.entries:
            head, _, leaf = name.partition(".")
            if leaf == "initial_conv.weight" and head.startswith(_UPSCALERS):
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
        prefix = _IN_FOLDER.get(name, f"{PARTS[name][0]}.")
        parts[name] = Tensors.of_folder(place.path / folder).renamed(partial(_official, PARTS[name], prefix=prefix))
    config, version = _config(place, parts["transformer"].entries, {})
    root = {**object_in(place.path / "transformer" / "config.json"), **place.json("config.json")}
    return place.checkpoint(
        place.path,
        Stated(config, str(place.path)),
        parts,
        "channels last",
        root.get("quantization"),
        place.path,
        version=version,
        variant=root.get("variant") or variant_of(repo_name(place.path)),
        layout="MLX folders",
    )


def _has_tensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))


# ------------------------------------------------------------------------------------------- configs


def _config(place: Place, names: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The official config of a pack, and its version: as the pack has it, filled up from the published one."""
    generation, folder = place.family.generation_of(names), place.folder
    assert generation.config is not None
    base = generation.config()
    files = [object_in(folder / name) for name in ("embedded_config.json", "config.json", "split_model.json")]
    implied = f"{generation.name}.0" if generation.told_by else ""
    version = next((version_of(file["model_version"]) for file in files if "model_version" in file), implied)
    for given in (*files, metadata.get("config")):
        if isinstance(given, Mapping) and isinstance(given.get("transformer"), Mapping):
            # One converter writes a config of its own for LTX-2.3, in which keys are missing.
            if not generation.whole_with or generation.whole_with in given["transformer"]:
                return dict(given), version
            return {section: _overlay(base[section], given.get(section, {})) for section in base}, version
    return _from_folders(folder, base), version


def _overlay(base: Mapping[str, Any], given: object) -> Any:
    # What is no section is left for the reader of configs to name.
    return {**base, **given} if isinstance(given, Mapping) else given


def _from_folders(folder: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """The published config with what the components' own config.json files state."""
    transformer, decoder, encoder, audio, vocoder = (
        object_in(folder / FOLDERS[name] / "config.json")
        for name in ("transformer", "video_decoder", "video_encoder", "audio_decoder", "vocoder")
    )
    vae = {key: value for key, value in {**encoder, **decoder}.items() if key in _VAE_KEYS}
    params = base["audio_vae"]["model"]["params"]
    model = {"params": {**params, "ddconfig": _overlaid(params["ddconfig"], audio)}}
    return {
        "transformer": _overlaid(base["transformer"], transformer),
        "vae": {**base["vae"], **vae},
        "audio_vae": {**base["audio_vae"], "model": model},
        "vocoder": _overlaid(base["vocoder"], vocoder),
    }


def _overlaid(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] if given.get(key) is not None else value for key, value in base.items()}
