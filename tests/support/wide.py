"""A small LTX-2 checkpoint whose transformer is wide enough to be quantized in groups of 32 and 64: rows of 64 and 256.

Gated attention is switched on, so that there are gates to leave alone. Everything else is that of tests/small.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.weights import names
from tests.support import small

SIZES = {
    "attention_head_dim": 32, "cross_attention_dim": 64, "audio_attention_head_dim": 32,
    "audio_cross_attention_dim": 64, "apply_gated_attention": True,
}  # fmt: skip
FILE = small.NAMES["2"].format("distilled")
CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")


def config(**sizes: Any) -> dict:
    found = small.config("2")
    found["transformer"].update(SIZES | sizes)
    return found


def transformer(seed: int = 0, **sizes: Any) -> dict[str, mx.array]:
    """The transformer's tensors under official names."""
    found = {}
    for path, shape in names.shapes(COMPONENTS["transformer"].build(config(**sizes))).items():
        array = small.value(f"wide/{path}", shape, seed)
        found[small.DIT + path] = small._rounded(array, mx.float32 if "scale_shift_table" in path else mx.bfloat16)
    return found


def tensors(**sizes: Any) -> dict[str, mx.array]:
    connectors = tuple(small.DIT + connector for connector in CONNECTORS)
    official = small.tensors("2", "distilled").items()
    kept = {name: a for name, a in official if not name.startswith(small.DIT) or name.startswith(connectors)}
    return kept | transformer(**sizes)


def is_quantized(name: str) -> bool:
    """Whether our rule quantizes the tensor of this official name."""
    inside = name.startswith(f"{small.DIT}transformer_blocks.") and name.endswith(".weight")
    return inside and "norm." not in name and "gate" not in name


def rounded(
    found: dict[str, mx.array], bits: int, group: int, chosen: Callable[[str], bool] = is_quantized
) -> dict[str, mx.array]:
    """The tensors as quantizing leaves them, written out in float32."""
    result = {}
    for name, array in found.items():
        if chosen(name) and array.ndim == 2:
            weight, scales, biases = mx.quantize(array, group, bits)
            array = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), group, bits)
        result[name] = array
    return result


def write(folder: Path, official: Path, found: dict[str, mx.array]) -> Path:
    """A folder with these tensors, and the rest of a small one at `official`."""
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / FILE), found, {"config": json.dumps(config())})
    shutil.copyfile(official / small.UPSAMPLERS["2"], folder / small.UPSAMPLERS["2"])
    (folder / "gemma").symlink_to(official / "gemma")
    return folder


def lora(seed: int, rank: int = 4) -> dict[str, mx.array]:
    """A LoRA over every quantized layer."""
    found = {}
    for name, array in transformer().items():
        if is_quantized(name):
            base = "diffusion_model." + name[len(small.DIT) : -len(".weight")]
            for part, shape in (("lora_A", (rank, array.shape[1])), ("lora_B", (array.shape[0], rank))):
                value = 0.5 * small.value(f"{part}/{name}", shape, seed)
                found[f"{base}.{part}.weight"] = small._rounded(value, mx.bfloat16)
    return found
