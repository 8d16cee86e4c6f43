"""Embeddings as NumPy's .npz, for those who make or read them with NumPy alone. Knows no meaning of what it holds.

An array for each name of the contexts, such as "positive.video" and "positive.audio": (B, T, D) float32, whatever
precision they were encoded in; and "metadata", one text: the JSON object of a .safetensors embedding's metadata, with
"dtype", the precision that the arrays are brought back to. Nothing is pickled, and nothing pickled is opened.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.reading import parse_json
from mlx_video.types import DTYPES, UserError

SUFFIX = ".npz"
METADATA = "metadata"
FAULTS = (
    ValueError, KeyError, TypeError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile, zlib and NumPy raise for a file that is not as it should be: cut, encrypted, pickled, lying."""
MOST_BYTES = 1 << 30
"""Unpacked, of a whole file; four contexts of the largest model in float32 are 150 MB."""


def write(path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Writes arrays of one precision and the metadata of their safetensors form."""
    dtype = next(name for name in DTYPES if all(getattr(mx, name) == array.dtype for array in arrays.values()))
    text = json.dumps({**metadata, "dtype": dtype})
    plain = {name: np.array(array.astype(mx.float32)) for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain, **{METADATA: np.array(text)})


def read(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Arrays in their first precision, and the metadata as text by name; UserError where `path` is no such file."""
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        metadata = parse_json(str(found.pop(METADATA)[()]))
        dtype = getattr(mx, metadata["dtype"]) if metadata["dtype"] in DTYPES else None
        if dtype is None or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata says no precision")
        if not all(array.dtype == np.float32 for array in found.values()):
            raise ValueError("its arrays are not float32")
    except FAULTS as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{path} is not an embedding of mlx_video.encode: {reason}.") from error
    return {name: mx.array(array).astype(dtype) for name, array in found.items()}, metadata


def _check_size(path: Path) -> None:
    # A few bytes can unpack to any number of them.
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES >> 30} GiB")
