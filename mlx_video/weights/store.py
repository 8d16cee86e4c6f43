"""Reads safetensors files: headers at once, tensors lazily, from one file, shards, or several files seen as one.

Knows the format (an 8-byte length, a JSON header, the data) and nothing of what the tensors mean. Headers are checked
against the file's length before anything is read, because a half-downloaded file is what users meet most. Tensors come
from `mx.load`, which reads a tensor's bytes from disk only when it is evaluated, so asking for a few costs only those.

An outline stands for a file that lies elsewhere: its header and its length, in a form of our own that takes a header's
room on every file system and that no reader of tensors accepts, so that nobody can take a file's absence for zeros.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mlx.core as mx

from mlx_video.types import UserError

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
OUTLINE = b"outline\xff"
"""An outline begins so: as a header's length (1.8e19 bytes) it is refused by whatever reads safetensors. The length of
the file that it stands for follows, in 8 bytes, and then that file's beginning: 8 bytes and the header."""


class Entry(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Header(NamedTuple):
    """The head of one safetensors file: its tensors, and its metadata (values that parse as JSON are parsed)."""

    tensors: dict[str, Entry]
    metadata: dict[str, object]


def read_header(path: Path) -> Header:
    """Reads and checks the head of `path`.

    Raises UserError where the file is absent, is not safetensors, or is shorter or longer than its header says.
    """
    try:
        with path.open("rb") as file:
            size = _begin(file)
            length = header_length(file.read(8), size, str(path))
            raw = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a safetensors file: its header is not JSON ({error}).") from error
    return _check(path, raw, size - 8 - length)


def header_length(head: bytes, size: int, name: str) -> int:
    """Bytes of the header, from the first 8 of the file called `name`, which has `size`; UserError where none fits."""
    length: int = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise UserError(
            f"{name} is not a whole safetensors file: it has {size:,} bytes and its first 8 do not give the length of "
            f"a header that fits; download it again."
        )
    return length


def write_outline(path: Path, size: int, beginning: bytes) -> None:
    """Writes at `path` the outline of a file of `size` bytes; `beginning`: its first 8 and its header."""
    path.write_bytes(OUTLINE + struct.pack("<Q", size) + beginning)


def size_of(path: Path) -> int:
    """Bytes of a file; of an outline, those of the file that it stands for."""
    with path.open("rb") as file:
        return _begin(file)


def _begin(file: BinaryIO) -> int:
    """Bytes of the file that is open, or that an outline stands for, which then is to be read from where it begins."""
    if file.read(len(OUTLINE)) == OUTLINE:
        return int.from_bytes(file.read(8), "little")
    file.seek(0)
    return os.fstat(file.fileno()).st_size


def _check(path: Path, raw: object, available: int) -> Header:
    if not isinstance(raw, dict):
        raise UserError(f"{path} is not a safetensors file: its header is not a JSON object.")
    texts = raw.pop("__metadata__", None) or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{path} has a damaged header: its metadata must be texts by name.")
    tensors, spans = {}, []
    for name, described in raw.items():
        tensors[name], span = _check_tensor(path, name, described)
        spans.append(span)
    _check_spans(path, sorted(spans), available)
    return Header(tensors, {key: _parsed(value) for key, value in texts.items()})


def _check_tensor(path: Path, name: str, described: object) -> tuple[Entry, tuple[int, int]]:
    match described:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
            isinstance(side, int) and side >= 0 for side in shape
        ):
            pass
        case _:
            raise UserError(f"{path} has a damaged header at tensor {name!r}.")
    if dtype not in DTYPE_BYTES:
        raise UserError(f"{path}: tensor {name!r} has dtype {dtype}; known are {', '.join(DTYPE_BYTES)}.")
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise UserError(
            f"{path} has a damaged header: {name!r} is {dtype} {list(shape)} but spans {end - start:,} bytes."
        )
    return Entry(dtype, tuple(shape), end - start), (start, end)


def _check_spans(path: Path, spans: list[tuple[int, int]], available: int) -> None:
    needed = 0
    for start, end in spans:
        if start != needed:
            raise UserError(f"{path} has a damaged header: its tensors overlap or leave a gap at byte {needed:,}.")
        needed = end
    if needed != available:
        state = "truncated" if available < needed else "longer than its header says"
        raise UserError(f"{path} is {state}: {available:,} bytes of tensors, {needed:,} expected; download it again.")


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


class Tensors:
    """Several safetensors files seen as one mapping from name to lazy array.

    `paths` are the files; a name in two of them is an error. Nothing but headers is read until arrays are evaluated.
    """

    def __init__(self, paths: Iterable[Path]):
        """Reads the headers of `paths`; raises UserError as `read_header` does."""
        self.paths = [Path(p) for p in paths]
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, object] = {}
        self._home: dict[str, tuple[Path, str]] = {}
        for path in self.paths:
            header = read_header(path)
            for name, entry in header.tensors.items():
                if name in self._home:
                    raise UserError(f"Tensor {name!r} stands both in {self._home[name][0]} and in {path}.")
                self.entries[name], self._home[name] = entry, (path, name)
            self.metadata = {**header.metadata, **self.metadata}

    @classmethod
    def of_folder(cls, folder: Path) -> Tensors:
        """The shards that a folder's index names, or all its safetensors files where it has no index."""
        index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
        if index is None:
            return cls(sorted(folder.glob("*.safetensors")))
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is not a safetensors index.") from error
        if missing:
            raise UserError(
                f"{folder} is incomplete: {index.name} names {missing[0]}, which is not there; download it again."
            )
        return cls(folder / name for name in names)

    def renamed(self, rename: Callable[[str], str | None]) -> Tensors:
        """The same tensors under other names; those that `rename` gives None are left out.

        Raises UserError where two would have one name.
        """
        view = Tensors(())
        view.metadata = self.metadata
        for name, entry in self.entries.items():
            new = rename(name)
            if new is None:
                continue
            if new in view.entries:
                raise UserError(f"{view._home[new][1]!r} and {name!r} in {self._home[name][0]} both stand for {new!r}.")
            view.entries[new], view._home[new] = entry, self._home[name]
        homes = {home for home, _ in view._home.values()}
        view.paths = [path for path in self.paths if path in homes]
        return view

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self.entries

    def nbytes(self, prefixes: Iterable[str] = ("",)) -> int:
        """Bytes on disk of the tensors under any of `prefixes`."""
        prefixes = tuple(prefixes)
        return sum(entry.nbytes for name, entry in self.entries.items() if name.startswith(prefixes))

    def load(self, prefixes: Iterable[str] = ("",), stream: mx.Stream | None = None) -> dict[str, mx.array]:
        """Lazy arrays of all tensors whose names start with one of `prefixes`, read on `stream` (None: MLX's own)."""
        prefixes = tuple(prefixes)
        arrays: dict[str, mx.array] = {}
        for path in self.paths:
            here = {name: old for name, (home, old) in self._home.items() if home == path}
            wanted = {name: old for name, old in here.items() if name.startswith(prefixes)}
            if wanted:
                loaded: dict[str, mx.array] = mx.load(  # type: ignore[assignment]
                    str(path), format="safetensors", stream=stream
                )
                arrays.update({name: loaded[old] for name, old in wanted.items()})
        return arrays


def state_of(file: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to a file; None where there is none."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


Source = Mapping[str, mx.array]
"""Checkpoint name -> array, as `Tensors.load` gives and `names.assign` takes."""
