"""Reads safetensors files: headers at once, tensors lazily, from one file, shards, or several files seen as one.

Headers are checked against the file's length first: a half-downloaded file is what users meet most. Tensors come from
`mx.load`, which reads their bytes only when they are evaluated. An outline stands for a file that lies elsewhere: its
header and length, in a form that no reader of tensors accepts, so that nobody takes a file's absence for zeros.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mlx.core as mx

from mlx_video.reading import MAX_JSON, UnfitJSON, open_file, parse_json, read_bytes, shown
from mlx_video.types import UserError

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
"""What weights are written in, besides 8-bit floats (`weights.fp8`) and packs of few bits (`weights.quantize`)."""
NOT_LOADED = {"F64": "numbers of 64 bit", "F8_E5M2": "8-bit floats of the kind e5m2"}
"""Of the above, what MLX does not load; it then loads no tensor of that file."""
MAX_HEADER = 16 << 20
"""Bytes; the largest known, of 5,000 tensors, has 1 MB. The safetensors library's own limit of 100 MB would let a file
of headers alone fill the memory."""
MAX_NAME, MAX_SIDE, MAX_AXES = 512, 1 << 31, 8
"""Of a tensor: characters of its name, values along a side (MLX counts in 32 bit), and sides."""
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
    with open_file(path) as file:
        try:
            size = _begin(file)
            length = header_length(file.read(8), size, str(path))
            raw = parse_json(file.read(length))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
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
    with open_file(path) as file:
        return _begin(file)


def is_outline(path: Path) -> bool:
    """Whether there is an outline at `path`, and so no tensor to read."""
    with open_file(path) as file:
        return file.read(len(OUTLINE)) == OUTLINE


def _begin(file: BinaryIO) -> int:
    """Bytes of the file that is open, or that an outline stands for, which then is to be read from where it begins."""
    if file.read(len(OUTLINE)) == OUTLINE:
        return int.from_bytes(file.read(8), "little")
    file.seek(0)
    return os.fstat(file.fileno()).st_size


def _check(path: Path, raw: object, available: int) -> Header:
    if not isinstance(raw, dict):
        raise UserError(f"{path} is not a safetensors file: its header is not a JSON object.")
    texts = raw.pop("__metadata__", None)
    if texts is None:  # as MLX writes it
        texts = {}
    if not isinstance(texts, dict) or not _are_texts(texts.values()):
        raise UserError(f"{path} has a damaged header: its metadata must be texts by name.")
    tensors, spans = {}, []
    for name, described in raw.items():
        tensors[name], span = _check_tensor(path, name, described)
        spans.append(span)
    _check_spans(path, sorted(spans), available)
    return Header(tensors, {key: _parsed(path, key, value) for key, value in texts.items()})


def _check_tensor(path: Path, name: str, described: object) -> tuple[Entry, tuple[int, int]]:
    match described:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]} if (
            {*map(type, shape), type(start), type(end)} == {int}
            and min(start, end, *shape) >= 0
            and max(shape, default=0) < MAX_SIDE
            and len(shape) <= MAX_AXES
            and len(name) <= MAX_NAME
            and name.isprintable()
        ):
            pass
        case _:
            raise UserError(f"{path} has a damaged header at tensor {shown(name)}.")
    if dtype not in DTYPE_BYTES:
        raise UserError(f"{path}: tensor {name!r} has dtype {shown(dtype)}; known are {', '.join(DTYPE_BYTES)}.")
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


def _parsed(path: Path, key: str, value: str) -> object:
    try:
        return parse_json(value)
    except UnfitJSON as error:
        if value.lstrip().startswith(("{", "[")):
            raise UserError(f"{path} has damaged metadata: of {shown(key)}, {error}.") from error
        return value
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
        self._under: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._strange: dict[Path, str] = {}
        """By file: a tensor of a kind in NOT_LOADED."""
        for path in self.paths:
            header = read_header(path)
            for name, entry in header.tensors.items():
                if entry.dtype in NOT_LOADED:
                    self._strange[path] = name
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
        names = _shards(index)
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise UserError(
                f"{folder} is incomplete: {index.name} names {missing[0]}, which is not there; download it again."
            )
        return cls(folder / name for name in names)

    def check_floats(self, names: Iterable[str], *, float8: bool = True) -> None:
        """Raises UserError where a tensor of `names` is of no kind that weights are: whole numbers, bools, 64 bit.

        Packed weights of few bits, told by the scales beside them, are 32-bit whole numbers, their scales perhaps of 8
        bit; those with ComfyUI's mark beside them are of 8 bit. float8: whether the reader takes 8-bit floats.
        """
        names = list(names)
        for path in dict.fromkeys(self._home[name][0] for name in names):
            self._check_loaded(path)
        plain = (*FLOATS, "F8_E4M3") if float8 else FLOATS
        for name in names:
            layer, _, leaf = name.rpartition(".")
            packed = leaf == "weight" and f"{layer}.scales" in self.entries
            scale = leaf == "scales" and f"{layer}.weight" in self.entries
            marked = leaf == "weight" and f"{layer}.comfy_quant" in self.entries
            kinds = ("U32",) if packed else (*FLOATS, "U8") if scale else (*plain, "I8") if marked else plain
            if self.entries[name].dtype not in kinds:
                raise UserError(
                    f"{self._home[name][0]}: tensor {name!r} is {self.entries[name].dtype}; it should be "
                    f"{' or '.join(kinds)}."
                )

    def _check_loaded(self, path: Path) -> None:
        name = self._strange.get(path)
        if name is not None:
            kinds = " or ".join(f"{kind} ({what})" for kind, what in NOT_LOADED.items())
            raise UserError(
                f"{path}: tensor {name!r} is {kinds}, which MLX does not load, nor any other of that file; "
                f"save it as {', '.join(FLOATS)}."
            )

    @classmethod
    def joined(cls, *views: Tensors) -> Tensors:
        """Several views as one; of metadata the first view's go before. Raises UserError where two have a name."""
        whole = cls(())
        for view in views:
            for name, entry in view.entries.items():
                if name in whole.entries:
                    raise UserError(
                        f"Tensor {name!r} stands both in {whole._home[name][0]} and in {view._home[name][0]}."
                    )
                whole.entries[name], whole._home[name] = entry, view._home[name]
            whole.metadata = {**view.metadata, **whole.metadata}
            whole._strange.update(view._strange)
        whole.paths = list(dict.fromkeys(path for view in views for path in view.paths))
        return whole

    def files_of(self, prefix: str) -> set[Path]:
        """The files that hold the tensors whose names begin so."""
        return {self._home[name][0] for name in self.under((prefix,))}

    def renamed(self, rename: Callable[[str], str | None]) -> Tensors:
        """The same tensors under other names; those that `rename` gives None are left out.

        Raises UserError where two would have one name.
        """
        view = Tensors(())
        view.metadata, view._strange = self.metadata, self._strange
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

    def under(self, prefixes: Iterable[str]) -> tuple[str, ...]:
        """The names that start with one of `prefixes`, in the files' order; gone through once."""
        prefixes = tuple(prefixes)
        if prefixes not in self._under:
            self._under[prefixes] = tuple(name for name in self.entries if name.startswith(prefixes))
        return self._under[prefixes]

    def nbytes(self, prefixes: Iterable[str] = ("",)) -> int:
        """Bytes on disk of the tensors under any of `prefixes`."""
        return sum(self.entries[name].nbytes for name in self.under(prefixes))

    def load(self, prefixes: Iterable[str] = ("",), stream: mx.Stream | None = None) -> dict[str, mx.array]:
        """Lazy arrays of all tensors whose names start with one of `prefixes`, read on `stream` (None: MLX's own)."""
        prefixes = tuple(prefixes)
        arrays: dict[str, mx.array] = {}
        for path in self.paths:
            here = {name: old for name, (home, old) in self._home.items() if home == path}
            wanted = {name: old for name, old in here.items() if name.startswith(prefixes)}
            if wanted:
                self._check_loaded(path)
                loaded: dict[str, mx.array] = mx.load(  # type: ignore[assignment]
                    str(path), format="safetensors", stream=stream
                )
                arrays.update({name: loaded[old] for name, old in wanted.items()})
        return arrays


def _shards(index: Path) -> list[str]:
    """The files that an index names; they lie beside it, or it is none."""
    try:
        found = parse_json(read_bytes(index, MAX_JSON))
    except ValueError as error:
        raise UserError(f"{index} is not a safetensors index: it is not JSON ({error}).") from error
    named = found.get("weight_map") if isinstance(found, dict) else None
    names = sorted(set(named.values())) if isinstance(named, dict) and _are_texts(named.values()) else []
    if not names:
        raise UserError(f"{index} is not a safetensors index.")
    for name in names:
        if not name.isprintable() or {"/", "\\"} & set(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"{index} names the file {shown(name)}; an index names .safetensors files beside it, without folders."
            )
    return names


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def state_of(file: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to a file; None where there is none."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
