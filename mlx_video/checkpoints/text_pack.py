"""A text encoder in one file of a pack, with its config and its tokenizer in files beside it: LTX-2.5's by mlx-forge.

The names in it are the official file's with PREFIX before them, or bare; of its weights only those of layers may be
packed. Knows names of files; opens no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_video.reading import read_json
from mlx_video.types import UserError
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors

NAME = "text_encoder.safetensors"
PREFIX = "text_encoder."
QUANTIZED = "quantize_config.json"
"""Says for the whole pack in how many bits it is."""


def file_in(folder: Path) -> Path | None:
    """The text encoder of a pack's folder; None where it has none of this form."""
    file = folder / NAME
    return file if file.is_file() and config_of(file) is not None else None


def config_of(file: Path) -> Path | None:
    """The config of a text encoder's file; None where nothing of that name lies beside it."""
    config = file.with_name(f"{file.stem}_config.json")
    return config if config.is_file() else None


def bare(tensors: Tensors) -> Tensors:
    """The tensors under official names."""
    return tensors.renamed(lambda name: name.removeprefix(PREFIX))


def tensors_at(path: Path) -> Tensors:
    """The tensors of a text encoder at `path`, a file or a folder, under official names."""
    return bare(Tensors([path]) if path.is_file() else Tensors.of_folder(path))


def settings_of(file: Path, tensors: Tensors) -> dict[str, Any]:
    """The content of the config beside `file`, with `quantization` as a folder of mlx-lm's has it.

    Raises UserError where weights are packed and nothing says in how many bits.
    """
    config = file.with_name(f"{file.stem}_config.json")
    values = read_json(config)
    if "quantization" in values or not any(name.endswith(".scales") for name in tensors.entries):
        return values
    beside = file.with_name(QUANTIZED)
    stated = read_json(beside).get("quantization") if beside.is_file() else None
    if stated is None:
        raise UserError(
            f"{file} has packed weights, and neither {config.name} nor {QUANTIZED} beside it says in how many bits "
            f'(quantization: {{"bits": 8, "group_size": 64}}); fetch those of its repo.'
        )
    return {**values, "quantization": Quantization.read(stated, str(beside))._asdict()}
