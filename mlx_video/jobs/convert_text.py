"""Plans a quantized copy of a Gemma folder: linear layers of its language model in few bits, everything else as it is.

The copy keeps Hugging Face's form and names, with `quantization` in its config.json as mlx-lm writes it, so that other
MLX programs read it too. Writes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx

from mlx_video.reading import read_json
from mlx_video.types import UserError
from mlx_video.weights import names, quantize
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending

FOLDER = "text_encoder"
"""Where a converted folder keeps its text encoder."""
_COPIED = (".json", ".model", ".jinja", ".txt")


def plan(
    folder: Path, how: Quantization, dtype: mx.Dtype | None
) -> tuple[dict[str, Pending], list[Path], dict[str, str]]:
    """What to write for a quantized copy of `folder`: tensors (lazy), files to copy, and texts by file name.

    dtype: of what stays in 16 bit; None keeps it. Raises UserError where the folder is no Gemma 3 or is quantized
    already.
    """
    from mlx_video.models.ltx_2.text_encoder.gemma import Gemma
    from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig

    config = GemmaConfig.of_folder(folder)
    if config.quantization is not None:
        raise UserError(f"{folder} is quantized already; leave --quantize-text-encoder out, and copy it as it is.")
    tensors = Tensors.of_folder(folder)
    config.check_names(tensors.entries, folder)
    network = Gemma(config)
    pairs = names.match(
        network, {name: entry.shape for name, entry in tensors.entries.items()}, f"text encoder of {folder}"
    )
    found = quantize.chosen(network.model.layers, how)
    paths = {f"model.layers.{i}.{path}" for i, some in enumerate(found) for path in some}
    layers = {name.removesuffix(".weight") for name, path in pairs.items() if path.removesuffix(".weight") in paths}
    arrays = quantize.pack(tensors.load(), layers, how)
    pending = {name: Pending(array, _kept(array, dtype)) for name, array in sorted(arrays.items())}
    values = read_json(folder / "config.json")
    values["quantization"] = {"group_size": how.group_size, "bits": how.bits}
    copied = [file for file in sorted(folder.iterdir()) if file.suffix in _COPIED and _is_about_text(file.name)]
    return pending, copied, {"config.json": json.dumps(values, indent=1)}


def _is_about_text(name: str) -> bool:
    return name != "config.json" and not name.endswith(".safetensors.index.json")


def _kept(array: mx.array, dtype: mx.Dtype | None) -> mx.Dtype:
    narrow = mx.issubdtype(array.dtype, mx.floating) and array.dtype != mx.float32
    return dtype if narrow and dtype is not None else array.dtype
