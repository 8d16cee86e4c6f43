"""Reads LoRA files: pairs of thin matrices by layer, with names brought from every spelling to the checkpoint's own.

Knows how Lightricks, diffusers, PEFT, ComfyUI and kohya spell names and say alpha, and no network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.reading import path_of, read_json, shown
from mlx_video.types import UserError
from mlx_video.weights.patterns import Pattern
from mlx_video.weights.store import Entry, Tensors, is_outline

NETWORK = "model.diffusion_model."
"""What an official checkpoint puts before the names of the layers that LoRA files leave it away from."""
NAMED_IN_REPORT = 3
MAX_SCALE = 10_000.0
"""Of alpha / rank; trainers write from 0.01 to 100."""
MAX_PATTERNS = 32
"""Of those that are more than a name."""

_ROLES = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up",
    "alpha": "alpha",
}  # fmt: skip
"""Trainers' words for the two matrices: PEFT and Lightricks, kohya and ComfyUI, early diffusers."""
_KEY = re.compile(rf"(?P<layer>.+)\.(?P<role>{'|'.join(map(re.escape, _ROLES))})(?:\.(?!weight$)\w+)?(?:\.weight)?")
"""A tensor's name: layer, role, PEFT's adapter name where it is kept (`.lora_A.default.weight`)."""
FLAT = re.compile(r"lora_(?:unet|transformer)_(?:diffusion_model_)?(?P<layer>[^.]+)")
"""kohya's spelling of a layer, all dots turned to underscores."""
_PREFIXES = ("base_model.model.", "pipe.dit.", NETWORK, "diffusion_model.", "transformer.")
"""Dropped in turn where a name starts with them: PEFT, DiffSynth, the full name, Lightricks and ComfyUI, diffusers."""
_DIFFUSERS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
"""First parts of names that diffusers calls otherwise (its LTX2 LoRA loader and converter); the others are the same."""
_DIFFUSERS_TEXT = {
    "text_proj_in": "text_embedding_projection.aggregate_embed",
    "video_text_proj_in": "text_embedding_projection.video_aggregate_embed",
    "audio_text_proj_in": "text_embedding_projection.audio_aggregate_embed",
    "video_connector": NETWORK + "video_embeddings_connector",
    "audio_connector": NETWORK + "audio_embeddings_connector",
}
"""The same under its `connectors.` prefix, where blocks are `transformer_blocks` instead of `transformer_1d_blocks`."""


class Pair(NamedTuple):
    """What a LoRA adds to one layer: scale * up (out, rank) @ down (rank, in). `key` is the file's name for it.

    Of a header alone the matrices are what it says of them, and the scale is NaN where a tensor gives it.
    """

    key: str
    down: Any
    up: Any
    scale: float


@dataclass(frozen=True)
class Adapter:
    """One LoRA file: pairs by the checkpoint's name for the layer (kohya's flat names as they are), arrays still lazy.

    unread: tensors of the file that are part of no pair.
    """

    path: Path
    pairs: Mapping[str, Pair]
    unread: tuple[str, ...] = ()


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is a LoRA, in any spelling that is known."""
    found = (_KEY.fullmatch(name) for name in names)
    return any(one is not None and _ROLES[one["role"]] != "alpha" for one in found)


def read(path: str | Path, *, header_only: bool | None = False) -> Adapter:
    """Reads the LoRA in `path`, a safetensors file or a folder that holds one; nothing but headers and alphas.

    header_only: no alphas either, and no arrays; enough to match layers, and all that an outline has. None: so of an
    outline alone.
    Raises UserError where there is no such file, it is damaged, holds no pair or half a pair, or is a DoRA, and where
    an alpha is no number.
    """
    file = _file_of(path_of(path, "--lora"))
    tensors = Tensors([file])
    header_only = is_outline(file) if header_only is None else header_only
    layers: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    """Of each layer: the tensors that are its matrices."""
    unread = []
    arrays: Mapping[str, Any] = tensors.entries if header_only else tensors.load()
    for key, array in arrays.items():
        if "dora_scale" in key or "lora_magnitude_vector" in key:
            raise UserError(f"{file} is a DoRA ({key}), which is not read; only LoRA is.")
        found = _KEY.fullmatch(key)
        if found is None:
            unread.append(key)
            continue
        parts, role = layers.setdefault(found["layer"], {}), _ROLES[found["role"]]
        if role in parts:
            raise UserError(f"{file} holds two adapters: {key} is the second {role} of its layer; save one by itself.")
        parts[role] = array
        if role != "alpha":
            names.setdefault(found["layer"], []).append(key)
    settings = _Settings(file, _stated(file, tensors.metadata))
    pairs: dict[str, Pair] = {}
    for key, parts in layers.items():
        name = _official(key)
        if name in pairs:
            raise UserError(f"{file} names one layer twice: {pairs[name].key} and {key}.")
        pairs[name] = _pair(file, key, parts, settings)
        tensors.check_floats(names[key], float8=False)
    if not pairs:
        first = unread[0] if unread else "no tensor at all"
        raise UserError(f"{file} is not a LoRA: no tensor is named like one (lora_A, lora_down, ...); it has {first}.")
    return Adapter(file, pairs, tuple(unread))


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:NAMED_IN_REPORT]) or "none"
        raise UserError(f"{path} must hold one .safetensors file to be a LoRA, but holds {len(files)} ({listed}).")
    return files[0]


def _stated(file: Path, metadata: Mapping[str, object]) -> Mapping[str, Any]:
    """PEFT's settings: diffusers keeps them in the file, PEFT in a file beside it; empty where there are none."""
    found = metadata.get("lora_adapter_metadata")
    beside = file.parent / "adapter_config.json"
    # In a folder of many LoRAs a stray settings file says nothing of this one.
    alone = beside.is_file() and [f.name for f in file.parent.glob("*.safetensors")] == [file.name]
    if not isinstance(found, Mapping) and alone:
        found = read_json(beside)
    return found if isinstance(found, Mapping) else {}


class _Settings:
    """What PEFT's settings say of the scale of a layer."""

    def __init__(self, file: Path, stated: Mapping[str, Any]):
        self._file, self._stated = file, stated
        prefixes = [p for p in ("transformer.", "connectors.") if p + "lora_alpha" in stated]
        self._of = {prefix: self._read(prefix) for prefix in (*prefixes, "")}

    def _read(self, prefix: str) -> tuple[float | None, bool, list[tuple[Pattern, float]]]:
        get = self._stated.get
        if get(prefix + "use_dora"):
            raise UserError(f"{self._file} is a DoRA by its settings, which is not read; only LoRA is.")
        alpha, rooted = get(prefix + "lora_alpha"), get(prefix + "use_rslora")
        own = get(prefix + "alpha_pattern")
        if not isinstance(rooted, bool | None) or not isinstance(own, Mapping | None):
            wrong = "alpha_pattern" if isinstance(rooted, bool | None) else "use_rslora"
            raise UserError(
                f"{self._file} says no usable alpha: its settings have {prefix}{wrong} = {shown(get(prefix + wrong))}."
            )
        patterns = [(self._pattern(text), self._alpha(text, value)) for text, value in (own or {}).items()]
        if sum(not pattern.is_name for pattern, _ in patterns) > MAX_PATTERNS:
            raise UserError(f"{self._file} says no usable alpha: more than {MAX_PATTERNS} patterns in alpha_pattern.")
        return None if alpha is None else self._alpha("lora_alpha", alpha), bool(rooted), patterns

    def _pattern(self, text: str) -> Pattern:
        try:
            return Pattern(text)
        except ValueError as error:
            raise UserError(f"{self._file} says no usable alpha: {error} (alpha_pattern).") from error

    def _alpha(self, what: str, value: object) -> float:
        if type(value) not in (int, float):
            raise UserError(f"{self._file} says no usable alpha for {shown(what)}: {shown(value)} is no number.")
        return value  # type: ignore[return-value]

    def scale(self, key: str, rank: int) -> float:
        """alpha / rank; 1 where the settings say nothing."""
        prefix = next((prefix for prefix in self._of if prefix and key.startswith(prefix)), "")
        alpha, rooted, own = self._of[prefix]
        alpha = next((value for pattern, value in reversed(own) if pattern.matches(key)), alpha)
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if rooted else rank)


def _pair(file: Path, key: str, parts: Mapping[str, Any], settings: _Settings) -> Pair:
    if "down" not in parts or "up" not in parts:
        absent = "up (lora_B)" if "down" in parts else "down (lora_A)"
        raise UserError(f"{file} is incomplete: {key} lacks its {absent} matrix.")
    down, up = parts["down"], parts["up"]
    if len(down.shape) != 2 or len(up.shape) != 2 or not down.shape[0] == up.shape[1] > 0:
        raise UserError(
            f"{file} has no matrices that fit together at {key}: {list(up.shape)} times {list(down.shape)}; "
            f"wanted [out, rank] times [rank, in]."
        )
    rank = down.shape[0]
    if isinstance(parts.get("alpha"), Entry):
        scale = math.nan  # as yet unread
    elif "alpha" in parts:
        scale = _number(file, key, parts["alpha"]) / rank
    else:
        scale = settings.scale(key, rank)
    if abs(scale) > MAX_SCALE or math.isinf(scale):
        raise UserError(
            f"{file} says no usable alpha for {key}: alpha / rank is {scale:g}; it should be {MAX_SCALE:,.0f} at most."
        )
    return Pair(key, down, up, scale)


def _number(file: Path, key: str, alpha: mx.array) -> float:
    if math.prod(alpha.shape) != 1 or alpha.dtype in (mx.bool_, mx.complex64):
        raise UserError(
            f"{file} says no usable alpha for {key}: it is {alpha.dtype} of shape {list(alpha.shape)}, not one number."
        )
    value = float(np.array(alpha.astype(mx.float32)).item())
    if not math.isfinite(value):
        raise UserError(f"{file} says no usable alpha for {key}: tensor {key}.alpha is {value}.")
    return value


def _official(key: str) -> str:
    """The checkpoint's name for the layer that a LoRA file calls `key`; kohya's flat names stay."""
    if FLAT.fullmatch(key):
        return key
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    first, _, rest = key.partition(".")
    if first == "connectors":
        first, _, rest = rest.partition(".")
        rest = re.sub(r"^transformer_blocks\.", "transformer_1d_blocks.", rest)
        return ".".join(filter(None, (_DIFFUSERS_TEXT.get(first, f"connectors.{first}"), rest)))
    if first == "text_embedding_projection":
        return key
    return NETWORK + ".".join(filter(None, (_DIFFUSERS.get(first, first), rest)))
