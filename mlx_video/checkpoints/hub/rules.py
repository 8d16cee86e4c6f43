"""Which files of a model's repo a run needs, by the names that repos are known to use.

Pure functions over a list of names: they ask no network, and know nothing of what is in the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mlx_video.reading import shown
from mlx_video.types import UserError, amount

MARKER = "mlx_video.json"
"""A folder that `convert` wrote holds this file."""
TEXT_ENCODERS = ("text_encoder", "gemma", "gemma4-12b-ltx-v1", "gemma4-text-encoder")
"""Folders of a model's repo that may hold its text encoder."""
_PACK_FOLDERS = ("transformer/", "vae/", "audio_vae/", "vocoder/", "text_projections/")
_PACK_PARTS = {
    "connector",
    "vae_decoder",
    "vae_encoder",
    "vae_decoder_conv",
    "vae_encoder_conv",
    "audio_vae",
    "vocoder",
}
"""How other MLX converters name what they take a checkpoint apart into."""
_PACK_EXTRAS = {"diffusion video VAE": "vae_decoder_av.safetensors", "duration head": "duration_head.safetensors"}
"""The same, of what only some runs need."""
PACK_TEXT = "text_encoder.safetensors"
_PACK_WORDS = ("text_encoder_config.json", "tokenizer.json", "tokenizer_config.json")
"""A pack's text encoder, and what belongs to it beside it."""
_NOT_READ = ("generation_config.json", "processor_config.json", "special_tokens_map.json")
BESIDE = ("upsampler", "spatial x1.5", "temporal x2", "lora", "text_encoder")
"""Kinds of files that lie beside a checkpoint."""
NAMED_IN_REPORT = 6
MAX_NAME = 512
"""Characters of a file's name with its folders."""

Choice = Callable[[Collection[str]], list[str]]
"""Picks a repo's files by name; raises UserError where something needed is not among them."""

SPLIT = {
    "checkpoint": "diffusion_models/", "upsampler": "latent_upscale_models/", "spatial x1.5": "latent_upscale_models/",
    "temporal x2": "latent_upscale_models/", "lora": "loras/", "text_encoder": "text_encoders/",
    "video VAE": "vae/", "diffusion video VAE": "vae/", "audio VAE": "vae/", "duration head": "model_patches/",
}  # fmt: skip
"""Where an official split pack (LTX-2.5) has what older repos have at their root, or inside the checkpoint."""
_WITH_SPLIT = ("video VAE", "audio VAE")
"""Files of a split pack that every run needs besides the transformer."""
_VERSION = r"(?:-(?P<version>\d+(?:\.\d+)*))?\.safetensors"
_RULES = {
    "checkpoint": r"ltx-[\d.]+-\d+b-{variant}(?:-transformer-bf16)?",
    "upsampler": r"ltx-[\d.]+-(?:latent-)?spatial-upscaler-x2(?:-bf16)?",
    "spatial x1.5": r"ltx-[\d.]+-(?:latent-)?spatial-upscaler-x1\.5(?:-bf16)?",
    "temporal x2": r"ltx-[\d.]+-(?:latent-)?temporal-upscaler-x2(?:-bf16)?",
    "lora": r"ltx-[\d.]+-\d+b-distilled-lora-\d+(?:-bf16)?",
    "text_encoder": r"gemma4-\d+b-with-proj-ltx-[\d.]+-bf16",
    "video VAE": r"ltx-[\d.]+-video-vae-conv-bf16",
    "diffusion video VAE": r"ltx-[\d.]+-video-vae-bf16",
    "audio VAE": r"ltx-[\d.]+-audio-vae-bf16",
    "duration head": r"ltx-[\d.]+-(?:\d+b-)?duration-head-bf16",
}
"""Lightricks' names, before an optional version; `-fp8` and the like are other files."""
_WORDS = {
    "checkpoint": ("{variant}",),
    "upsampler": ("spatial", "x2"),
    "spatial x1.5": ("spatial", "x1"),
    "temporal x2": ("temporal", "x2"),
    "lora": ("distilled", "lora"),
}
"""What names in other repos hold."""
_NOT_A_CHECKPOINT = ("lora", "upscaler", "upsampler", "fp8", "fp4", "int8", "int4", "vae", "vocoder", "text", "embed")
_NOUNS = {
    "checkpoint": "{variant} checkpoint",
    "upsampler": "spatial x2 upsampler",
    "spatial x1.5": "spatial x1.5 upsampler",
    "temporal x2": "temporal x2 upsampler",
    "lora": "distilled LoRA",
}


class Listing(NamedTuple):
    """What a repo holds at one commit: file name -> bytes, and -> what the hub calls the content (its ETag)."""

    commit: str | None
    files: Mapping[str, int]
    contents: Mapping[str, str | None]


class Chosen(NamedTuple):
    """The files of a repo that a run needs, with their bytes, and where those lie that are here."""

    repo: str
    commit: str | None
    files: Mapping[str, int]
    here: Mapping[str, Path]

    @property
    def absent(self) -> dict[str, int]:
        """The files that are not here, with their bytes."""
        return {name: size for name, size in self.files.items() if name not in self.here}

    @property
    def folder(self) -> Path | None:
        """Where they all lie; None where some are absent."""
        return None if self.absent else next(path.parents[name.count("/")] for name, path in self.here.items())

    def __str__(self) -> str:
        """For the user: what is to be fetched."""
        if not self.absent:
            return f"nothing to fetch, {len(self.here)} here"
        files = f"{len(self.absent)} file{'s' if len(self.absent) > 1 else ''}"
        return f"{files}, {amount(sum(self.absent.values()), disk=True)} to fetch, {len(self.here)} here"


def choose(files: Iterable[str], kind: str, variant: str = "distilled") -> list[str]:
    """The files of a repo that make up one thing; empty where it has none.

    files: names from the repo's root; kind: "checkpoint" (of `variant`, or all of a converted folder), "upsampler"
    (spatial x2), "spatial x1.5" or "temporal x2" (the other upsamplers), "lora" (the distilled one), "text_encoder",
    or what a split pack alone has ("diffusion video VAE", "duration head"). Of several versions the
    newest; 16 bit, not fp8.
    """
    files = sorted(files)
    split = _named(files, kind, variant, SPLIT[kind])
    if kind == "text_encoder":
        return split or _text_encoder(files)
    if split and kind == "checkpoint":
        beside = (_named(files, other, variant, SPLIT[other]) for other in _WITH_SPLIT)
        return [*split, *(name for found in beside for name in found)]
    if split or kind not in _WORDS:
        return split or [name for name in files if name == _PACK_EXTRAS.get(kind)]
    if kind == "checkpoint" and MARKER in files:
        inside = [name for name in files if "/" in name and not name.startswith(TEXT_ENCODERS)]
        return [MARKER, *_readable(inside)]
    if official := _named(files, kind, variant):
        return official
    root = [name for name in files if "/" not in name and name.endswith(".safetensors")]
    words = [word.format(variant=variant) for word in _WORDS[kind]]
    named = [name for name in root if all(word in name.lower() for word in words)]
    if kind == "checkpoint" and (pack := _pack(files, variant)):
        return pack
    if kind == "upsampler" and not named:
        return [name for name in root if name in ("upsampler.safetensors", "model.safetensors")][-1:]
    if kind == "checkpoint":
        not_it = (*_NOT_A_CHECKPOINT, "dev" if variant == "distilled" else "distilled")
        others = [name for name in root if not any(word in name.lower() for word in not_it)]
        named = [name for name in named if name in others] or (others if len(others) == 1 else [])
    return named[-1:]


def _named(files: Iterable[str], kind: str, variant: str, folder: str = "") -> list[str]:
    """The file that Lightricks' own name for a kind fits, in a folder of a repo; of several versions the newest."""
    rule = re.compile(re.escape(folder) + _RULES[kind].format(variant=variant) + _VERSION)
    fitting = [(_version(found["version"]), name) for name in files if (found := rule.fullmatch(name))]
    return [max(fitting)[1]] if fitting else []


def _pack(files: Collection[str], variant: str) -> list[str]:
    """The files of another MLX converter's pack: folders, split files, or one unified file, with their configs."""
    unread = (*_PACK_WORDS, *_NOT_READ)
    configs = [name for name in files if "/" not in name and name.endswith(".json") and name not in unread]
    inside = [name for name in files if name.startswith(_PACK_FOLDERS)]
    if any(re.fullmatch(r"transformer/model.*\.safetensors", name) for name in inside):
        return [*configs, *_readable(inside)]
    stems = {name.removesuffix(".safetensors") for name in files if "/" not in name and name.endswith(".safetensors")}
    transformers = [stem for stem in stems if re.fullmatch(rf"transformer(-{variant}(-[\d.]+)?)?", stem)]
    if transformers:
        return [*configs, *(f"{stem}.safetensors" for stem in (max(transformers), *sorted(stems & _PACK_PARTS)))]
    return [*configs, "model.safetensors"] if "model" in stems else []


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split("."))


def _readable(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith((".safetensors", ".json", ".model", ".jinja"))]


def _text_encoder(files: Collection[str]) -> list[str]:
    """A Hugging Face folder at the root, or in one of TEXT_ENCODERS with its tokenizer in it or beside it; a pack's
    file at the root with what belongs to it."""
    if {PACK_TEXT, _PACK_WORDS[0]} <= set(files):
        return [PACK_TEXT, *(name for name in (*_PACK_WORDS, "quantize_config.json") if name in files)]
    # Of a pack's files a root with a config would take every one for the text encoder's.
    alone = not any(re.fullmatch(r"transformer(-.*)?\.safetensors", name) for name in files)
    for folder in (*([""] if alone else []), *(f"{name}/" for name in TEXT_ENCODERS)):
        inside = [name for name in files if name.startswith(folder) and "/" not in name.removeprefix(folder)]
        inside = [name for name in _readable(inside) if "consolidated" not in name]
        if f"{folder}config.json" in inside and any(name.endswith(".safetensors") for name in inside):
            return inside + (_readable(name for name in files if name.startswith("tokenizer/")) if folder else [])
    return []


def choose_all(repo: str, files: Iterable[str], kinds: Iterable[str], variant: str = "distilled") -> list[str]:
    """The files for several kinds; raises UserError, naming what `repo` has instead, where one of them is not there."""
    files, chosen = list(files), []
    for kind in kinds:
        found = choose(files, kind, variant)
        if not found:
            noun = _NOUNS.get(kind, kind.replace("_", " ")).format(variant=variant)
            other = "dev" if variant == "distilled" else "distilled"
            if kind == "checkpoint" and (instead := choose(files, kind, other)):
                raise UserError(f"{repo} has no {noun}, but a {other} one ({instead[0]}): choose a pipeline for that.")
            raise UserError(f"{repo} has no {noun}; its files are {name_some(files)}.")
        chosen += found
    return chosen


def name_some(files: Collection[str]) -> str:
    """The first few of `files` for a message, weights before others."""
    weights = [name for name in files if name.endswith(".safetensors")] or list(files)
    more = ", ..." if len(weights) > NAMED_IN_REPORT else ""
    return (", ".join(weights[:NAMED_IN_REPORT]) or "none") + more


def check_names(repo: str, names: Iterable[str]) -> None:
    """Raises UserError where a repo's list names a file that would lie outside its folder, or is no name."""
    for name in names:
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in name or not name.isprintable() or len(name) > MAX_NAME:
            raise UserError(
                f"{repo} lists a file {shown(name)}, which would lie outside its folder; it is not fetched."
            )
