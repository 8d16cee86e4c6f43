"""Reads LoRA files: pairs of thin matrices by layer, with names brought from every spelling to the checkpoint's own.

Knows how Lightricks, diffusers, PEFT, ComfyUI and kohya spell names and say alpha, and no network.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.types import UserError
from mlx_video.weights.store import Entry, Tensors

NETWORK = "model.diffusion_model."
"""What an official checkpoint puts before the names of the layers that LoRA files leave it away from."""
NAMED_IN_REPORT = 3

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


def read(path: str | Path, *, header_only: bool = False) -> Adapter:
    """Reads the LoRA in `path`, a safetensors file or a folder that holds one; nothing but headers and alphas.

    header_only: no alphas either, and no arrays; enough to match layers, and all that an outline has.
    Raises UserError where there is no such file, it is damaged, holds no pair or half a pair, or is a DoRA.
    """
    file = _file_of(Path(path).expanduser())
    tensors = Tensors([file])
    layers: dict[str, dict[str, Any]] = {}
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
    settings = _settings(file, tensors.metadata)
    pairs: dict[str, Pair] = {}
    for key, parts in layers.items():
        name = _official(key)
        if name in pairs:
            raise UserError(f"{file} names one layer twice: {pairs[name].key} and {key}.")
        pairs[name] = _pair(file, key, parts, settings)
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


def _settings(file: Path, metadata: Mapping[str, object]) -> Mapping[str, Any]:
    """PEFT's settings: diffusers keeps them in the file, PEFT in a file beside it; empty where there are none."""
    found = metadata.get("lora_adapter_metadata")
    beside = file.parent / "adapter_config.json"
    # In a folder of many LoRAs a stray settings file says nothing of this one.
    alone = beside.is_file() and [f.name for f in file.parent.glob("*.safetensors")] == [file.name]
    if not isinstance(found, Mapping) and alone:
        try:
            found = json.loads(beside.read_text())
        except ValueError as error:
            raise UserError(f"{beside} is not JSON ({error}).") from error
    return found if isinstance(found, Mapping) else {}


def _pair(file: Path, key: str, parts: Mapping[str, mx.array], settings: Mapping[str, Any]) -> Pair:
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
    try:
        if "alpha" in parts:
            return Pair(key, down, up, _number(parts["alpha"]) / rank)
        return Pair(key, down, up, _scale(file, key, rank, settings))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise UserError(f"{file} says no usable alpha for {key}: {error}.") from error


def _number(alpha: mx.array | Entry) -> float:
    if math.prod(alpha.shape) != 1:
        raise ValueError(f"it has shape {list(alpha.shape)} and not one value")
    return math.nan if isinstance(alpha, Entry) else float(np.array(alpha.astype(mx.float32)).item())


def _scale(file: Path, key: str, rank: int, settings: Mapping[str, Any]) -> float:
    """alpha / rank as PEFT's settings have it; 1 where they say nothing."""
    prefix = next(
        (p for p in ("transformer.", "connectors.") if key.startswith(p) and p + "lora_alpha" in settings), ""
    )
    if settings.get(prefix + "use_dora"):
        raise UserError(f"{file} is a DoRA by its settings, which is not read; only LoRA is.")
    alpha = settings.get(prefix + "lora_alpha")
    for pattern, own in (settings.get(prefix + "alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", key):
            alpha = own
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if settings.get(prefix + "use_rslora") else rank)


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
