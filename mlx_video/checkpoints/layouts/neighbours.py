"""A place where a checkpoint may lie, and what lies beside one in every layout: upsamplers, LoRAs, the text encoder.

Each file is known by its header, and a header is read once. Knows no component's names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mlx_video.checkpoints import text_pack
from mlx_video.checkpoints.checkpoint import Checkpoint, Part
from mlx_video.models.families import FAMILIES
from mlx_video.models.family import Family
from mlx_video.models.section import Stated
from mlx_video.reading import read_json
from mlx_video.types import UserError
from mlx_video.weights.names import Form
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors

FAMILY = FAMILIES["LTX-2"]
"""The one that is read; files of the older one are told by `kind_of`."""
UPSAMPLER_KINDS = ("spatial x2", "spatial x1.5", "temporal x2")
SPLIT_FOLDERS = ("diffusion_models", "text_encoders", "vae", "latent_upscale_models", "loras", "model_patches")
"""Of an official split pack (LTX-2.5), which are those of a ComfyUI's `models` folder too."""
TEXT_ENCODER_FOLDERS = (
    "gemma", "text_encoder", "gemma-3-12b-it-qat-q4_0-unquantized", "gemma-3-12b-it", "gemma4-12b-ltx-v1",
    "gemma4-text-encoder",
)  # fmt: skip
SPLIT_PARTS = ("text encoder", "video VAE", "diffusion video VAE", "audio VAE", "duration head")
"""What stands in files of its own in a split pack, besides the transformer with its connectors."""
OLDER = "LTX-Video 0.9.x (an older family, not read yet)"
NO_CONFIGS: Mapping[str, Stated] = MappingProxyType({})
NO_PARTS: Mapping[str, Part] = MappingProxyType({})
_OFFICIAL_BLOCKS = "model.diffusion_model.transformer_blocks."
_BLOCKS = re.compile(r"(transformer\.)?transformer_blocks\.")
_OFFICIAL = ("model.", "vae.", "audio_vae.", "vocoder.", "text_embedding_projection.")
"""With what the names in a whole checkpoint begin."""


class Place:
    """A path that a user gave: a file, or a folder."""

    def __init__(self, path: Path):
        self.path = path
        folder = path if path.is_dir() else path.parent
        self.folder = folder.parent if folder.name in SPLIT_FOLDERS and not path.is_dir() else folder

    @property
    def family(self) -> Family:
        """What a checkpoint here is of."""
        return FAMILY

    @cached_property
    def own(self) -> Files:
        """The file itself, or the safetensors files of the folder."""
        return Files.read([self.path] if self.path.is_file() else _files_in(self.folder))

    @cached_property
    def all(self) -> Files:
        """The safetensors files of the folder; where a file was given, unreadable others do not matter."""
        if self.path.is_dir():
            return self.own
        others = Files.read(file for file in _files_in(self.folder) if file != self.path)
        return Files({**self.own.found, **others.found}, self.own.faults)

    def checkpoint(
        self,
        source: Path,
        config: Stated,
        tensors: Mapping[str, Tensors],
        form: Form,
        quantization: object = None,
        stated_by: Path | None = None,
        configs: Mapping[str, Stated] = NO_CONFIGS,
        inside: Mapping[str, Part] = NO_PARTS,
        **own: Any,
    ) -> Checkpoint:
        """The checkpoint in `source`, with what lies beside it; `own`: the other fields of a `Checkpoint`.

        tensors: of each component, in `form`; quantization: as the file `stated_by` states it; configs: of components
        whose files state their own; inside: upsamplers that it has itself.
        """
        components = self.family.components
        own_name = f"ltx-{self.family.generation(str(own.get('version', ''))).name}-"
        fields = {
            "parts": {
                name: Part(components[name], found, form, configs.get(name, config)) for name, found in tensors.items()
            },
            "upsamplers": {**inside, **self.all.upsamplers(own_name)},
            "distilled_lora": self.all.distilled_lora(own_name),
            "text_encoder": self.text_encoder,
            "stated": None if quantization is None else Quantization.read(quantization, str(stated_by)),
            "faults": tuple(self.all.faults),
        }
        return Checkpoint(family=self.family, source=source, config=config, **{**fields, **own})

    @property
    def text_encoder(self) -> str | None:
        """The text encoder in the folder: Gemma's own folder under a known name, a file with everything in it, or a
        pack's file."""
        for name in TEXT_ENCODER_FOLDERS:
            if (self.folder / name / "config.json").is_file():
                return str(self.folder / name)
        file = _latest(self.all.of("text encoder")) or text_pack.file_in(self.folder)
        return None if file is None else str(file)

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of the folder, empty where there is none; UserError where it cannot be read."""
        return object_in(self.folder / name)


class Files(NamedTuple):
    """Safetensors files by path: what each is and its tensors; and what could not be read."""

    found: dict[Path, tuple[str, Tensors]]
    faults: list[UserError]

    @classmethod
    def read(cls, files: Iterable[Path]) -> Files:
        """Reads the headers of `files`."""
        found, faults = {}, []
        for file in files:
            try:
                tensors = Tensors([file])
            except UserError as fault:
                faults.append(fault)
            else:
                found[file] = (kind_of(tensors), tensors)
        return cls(found, faults)

    def of(self, kind: str) -> dict[Path, Tensors]:
        """The files of one kind."""
        return {file: tensors for file, (found, tensors) in self.found.items() if found == kind}

    def upsamplers(self, own_name: str = "") -> dict[str, Part]:
        """The upsamplers in official form, the latest of each kind; those whose names begin with `own_name` first."""
        found = {kind: self.of(kind) for kind in UPSAMPLER_KINDS}
        latest = {kind: _latest(files, own_name) for kind, files in found.items()}
        return {kind: _upsampler(file, found[kind][file]) for kind, file in latest.items() if file is not None}

    def distilled_lora(self, own_name: str = "") -> Path | None:
        """The distilled LoRA, with the same preference."""
        return _latest((file for file in self.of("lora") if "distilled" in file.name), own_name)


def kind_of(tensors: Tensors) -> str:
    """What one safetensors file is.

    "lora"; "checkpoint", an official one; "pack", the transformer of another converter; an official upsampler by its
    scale ("spatial x2", "spatial x1.5", "temporal x2"); a part of an official split pack (SPLIT_PARTS); OLDER; or
    "other".
    """
    config, names = tensors.metadata.get("config"), tensors.entries
    if any(".lora_" in name or name.startswith("lora_") for name in names):
        return "lora"
    if (part := _split_part(tensors)) is not None:
        return part
    if any(_BLOCKS.match(name) for name in names):
        return "pack"
    said = config.get("transformer") if isinstance(config, Mapping) else None
    known = [*names, *(said if isinstance(said, Mapping) else ())]
    if any(name.startswith(_OFFICIAL_BLOCKS) for name in names) and not any("audio" in name for name in known):
        # Every LTX-2 has a stream for sound, or says in its config that it had one. The older family's early files say
        # nothing of themselves.
        return OLDER
    if isinstance(config, Mapping) and "transformer" in config and _is_official(names):
        return "checkpoint"
    if isinstance(config, Mapping) and "spatial_upsample" in config and "initial_conv.weight" in names:
        return upsampler_kind(config)
    return "other"


def _is_official(names: Collection[str]) -> bool:
    # A pack's other files may repeat the transformer's config.
    return not names or any(name.startswith(_OFFICIAL) for name in names)


def _split_part(tensors: Tensors) -> str | None:
    """Which of SPLIT_PARTS a file is."""
    config, names = tensors.metadata.get("config"), tensors.entries
    config = config if isinstance(config, Mapping) else {}
    if "gemma_config" in tensors.metadata:
        return "text encoder"
    if any(name.startswith("duration_head.") for name in names):
        return "duration head"
    if "vae" in config and "transformer" not in config and any(name.startswith("decoder.") for name in names):
        said = config["vae"].get("_class_name") if isinstance(config["vae"], Mapping) else None
        return "diffusion video VAE" if said == "CausalDiffusionVAE" else "video VAE"
    if "audio_vae" in config and "transformer" not in config:
        # A pack's files repeat that config, one for the autoencoder with other names and one for the vocoder.
        own = [name for name in names if name.startswith("audio_vae.")]
        return "audio VAE" if own and not any(name.endswith("_mean_of_means") for name in own) else None
    return None


def upsampler_kind(config: Mapping[str, Any]) -> str:
    """Names an upsampler by its config: one of UPSAMPLER_KINDS, or another of that form, which nothing uses."""
    if config.get("temporal_upsample"):
        return "temporal x2" if config.get("spatial_upsample") is False else "spatial and temporal x2"
    scale = config.get("spatial_scale") if config.get("rational_resampler") else None
    if scale is not None and type(scale) not in (int, float):
        return "other"
    return f"spatial x{scale or 2.0:g}"


def upsampler_part(path: Path) -> Part:
    """The tensors of one official upsampler file; raises UserError where it is not one."""
    return _upsampler(path, Tensors([path]))


def _upsampler(path: Path, tensors: Tensors) -> Part:
    config = tensors.metadata.get("config")
    if not isinstance(config, Mapping) or "initial_conv.weight" not in tensors:
        raise UserError(f"{path} is not a latent upsampler: its metadata has no upsampler config.")
    shape = tensors.entries["initial_conv.weight"].shape
    # A pack's file may keep the official names; a kernel is smaller than the number of channels.
    form: Form = "channels last" if len(shape) > 2 and shape[1] < shape[-1] else "official"
    return Part(FAMILY.components["upsampler"], tensors, form, Stated(config, str(path)))


def variant_of(name: str) -> str | None:
    """The variant that a file's or folder's name tells."""
    name = name.lower()
    return "distilled" if "distilled" in name else "dev" if "dev" in name else None


def is_packed(file: Path) -> bool:
    """Whether a file's name says that it has fewer bits than another of that name, which is to be taken first."""
    return any(word in file.name for word in ("fp8", "int8", "nvfp4", "fp4"))


def repo_name(folder: Path) -> str:
    """The folder's name; in Hugging Face's cache, where folders are named after commits, that of the repo."""
    return folder.parents[1].name if folder.parent.name == "snapshots" else folder.name


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty where there is no such file; raises UserError where it cannot be read."""
    return read_json(path) if path.is_file() else {}


def _files_in(folder: Path) -> list[Path]:
    """The safetensors files of a folder, and of those in it that a split pack has."""
    places = (folder, *(folder / name for name in SPLIT_FOLDERS))
    return [file for place in places for file in sorted(place.glob("*.safetensors"))]


def _latest(files: Iterable[Path], own_name: str = "") -> Path | None:
    # Later versions sort later by name: "...-x2-1.1" after "...-x2-1.0". Folders that several generations share have
    # files of others, too.
    return max(files, key=lambda file: (file.name.startswith(own_name), file.name), default=None)
