"""A folder in which a run keeps what it has: one run's at a time, each file whole or not at all.

Holds arrays with facts beside them, by name. What was cut or altered is told of and taken for absent; where no more can
be written, that is told once and the run goes on. Knows nothing of what is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.media.files import check_new_folder, replacing
from mlx_video.reading import read_json
from mlx_video.results.stored import LATENTS, REQUEST, SETTINGS, Stored
from mlx_video.types import RunError, UserError
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, checksum, settle, write

FORMAT = "mlx_video kept 1"
SUFFIX = ".safetensors"
_UNFINISHED = re.compile(r"\.[a-z0-9-]+\.[0-9a-f]+\.part\.(json|safetensors)")
"""What a killed process leaves: who has the lock knows that nobody is writing it."""
Say = Callable[[str], None]


def is_kept(path: Path) -> bool:
    """Whether a folder is one that runs keep things in."""
    return (path / REQUEST).is_file()


def asked_of(path: Path) -> dict[str, Any] | None:
    """What was asked of the run that a folder keeps; None where it keeps none."""
    with suppress(UserError):
        asked = read_json(path / REQUEST).get("asked") if is_kept(path) else None
        return asked if isinstance(asked, dict) else None
    return None


def told(path: Path) -> str:
    """What a folder keeps so far, in words; raises UserError where one of its files is damaged."""
    if (path / SETTINGS).exists():
        return "the finished clip, which is only decoded"
    found = ["the texts"] if (path / f"contexts{SUFFIX}").exists() else []
    found += sorted(file.stem.replace("-", " ") for file in path.glob(f"stage-*{SUFFIX}"))
    state = path / f"state{SUFFIX}"
    facts = Tensors([state]).metadata.get("facts") if state.exists() else None
    if isinstance(facts, dict) and f"stage {facts.get('stage')}" not in found:
        found.append(f"{facts.get('step')} steps of stage {facts.get('stage')}")
    return ", ".join(found) or "nothing yet"


def check_folder(path: Path) -> None:
    """Raises UserError where nothing can be kept: no folder can be made, or something else is in it."""
    if not is_kept(path) and not _only_unfinished(path):
        check_new_folder(path)


def _only_unfinished(path: Path) -> bool:
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(path)]
        return bool(names) and all(_UNFINISHED.fullmatch(name) for name in names)
    return False


class KeptFolder:
    """One that is locked for this run alone. See `opened`."""

    def __init__(self, path: Path, handle: int, say: Say):
        """handle: of the folder, locked."""
        self.path, self._handle, self._say = path, handle, say
        self._mark, self._full = "", False
        self.asked: dict[str, Any] | None = None
        """What was asked of the run that is kept; None where there is none."""
        self.found: dict[str, Any] = {}
        """What the run has found out besides arrays, such as a prompt that was written for it."""

    @classmethod
    @contextmanager
    def opened(cls, path: Path, say: Say) -> Iterator[KeptFolder]:
        """Makes the folder where there is none.

        Raises UserError where another run has it, or something else is in it.
        """
        check_folder(path)
        try:
            path.mkdir(exist_ok=True)
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"The folder {path} cannot be used: {error.strerror or error}.") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"Another run keeps its work in {path} just now; wait for it, or name another."
                ) from None
            except OSError:
                pass  # some network disks know no locks
            folder = cls(path, handle, say)
            folder._look()
            yield folder
        finally:
            os.close(handle)

    def _look(self) -> None:
        for entry in list(os.scandir(self.path)):
            if _UNFINISHED.fullmatch(entry.name):
                (self.path / entry.name).unlink(missing_ok=True)
        if not is_kept(self.path):
            return
        try:
            said = read_json(self.path / REQUEST)
            if said.get("format") != FORMAT or said.pop("sum", None) != _sum(said):
                raise UserError(f"{self.path / REQUEST} is not as it was written.")
        except UserError as fault:
            self._say(f"{fault.args[0]} It is written anew.")
            return
        self.asked, self.found = said["asked"], said["found"]

    def begin(self, asked: Mapping[str, Any]) -> None:
        """What is put and read from here on is of the run that was asked for so."""
        self._mark = _sum(asked)
        if self.asked != asked:
            self.asked, self.found = dict(asked), {}
            self._write_request()

    def tell(self, **found: Any) -> None:
        """Keeps what was found out, in plain values."""
        self.found |= found
        self._write_request()

    def _write_request(self) -> None:
        said = {"format": FORMAT, "asked": self.asked, "found": self.found}
        text = json.dumps({**said, "sum": _sum(said)}, indent=1)
        with self._going_on(), replacing(self.path / REQUEST) as temporary:
            temporary.write_text(text, encoding="utf-8")
            settle(temporary)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except (UserError, RunError, OSError) as fault:
            if not self._full:
                self._say(f"{fault} The run goes on and keeps nothing more.")
            self._full = True

    # ------------------------------------------------------------------------------------------------ arrays

    def put(self, name: str, arrays: Mapping[str, mx.array], **facts: Any) -> None:
        """Keeps arrays in place of what had that name; facts: plain values."""
        if self._full:
            return
        mx.eval(dict(arrays))
        axes = {each: _axes(array) for each, array in arrays.items()}
        laid = {each: array.transpose(axes[each]) for each, array in arrays.items()}
        text = json.dumps({**facts, "run": self._mark, "axes": axes}, sort_keys=True)
        metadata = {"format": FORMAT, "facts": text, "sum": checksum(laid, text)}
        with self._going_on(), replacing(self._file(name)) as temporary:
            pending = {each: Pending(array, array.dtype) for each, array in laid.items()}
            write(temporary, pending, metadata, lambda _: None, tidy=False)
            settle(temporary)

    def get(self, name: str, **wanted: Any) -> tuple[dict[str, mx.array], dict[str, Any]] | None:
        """Arrays, laid out in memory as they were, and facts; None where there are none of this run and whole.

        wanted: facts that they are to have; arrays of others are not read.
        """
        file = self._file(name)
        if not file.exists():
            return None
        try:
            tensors = Tensors([file])
            facts = tensors.metadata.get("facts")
            if isinstance(facts, dict) and any(facts.get(fact) != value for fact, value in wanted.items()):
                return None
            laid = tensors.load()
            mx.eval(laid)
            said = json.dumps(facts, sort_keys=True)
            if not isinstance(facts, dict) or tensors.metadata.get("sum") != checksum(laid, said):
                raise UserError(f"{file} is not as it was written.")
            if facts["run"] != self._mark:
                raise UserError(f"{file} is of another run.")
        except (UserError, RuntimeError, ValueError, KeyError) as fault:
            self._say(f"{fault.args[0]} It is not used, and what it held is made anew.")
            return None
        arrays = {each: laid[each].transpose(_back(axes)) for each, axes in facts["axes"].items()}
        mx.eval(arrays)
        return arrays, facts

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{SUFFIX}"

    # ------------------------------------------------------------------------------------------------ the end

    @property
    def result(self) -> Stored | None:
        """The finished clip, if it is."""
        if not (self.path / SETTINGS).exists():
            return None
        try:
            return Stored.read(self.path)
        except UserError as fault:
            self._say(f"{fault.args[0]} It is not used, and the clip is made anew.")
            return None

    def finish(self, clip: Stored) -> None:
        """Keeps the clip in place of everything on the way to it."""
        with self._going_on():
            clip.put(self.path)
            with suppress(OSError):  # some disks know no such thing of a folder
                os.fsync(self._handle)
            self.clear()

    def clear(self) -> None:
        """Removes what was kept on the way."""
        for file in self.path.glob(f"*{SUFFIX}"):
            if file.name != LATENTS:
                file.unlink(missing_ok=True)


def _sum(said: Mapping[str, Any]) -> str:
    return "blake2b " + hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=12).hexdigest()


def _axes(array: mx.array) -> list[int]:
    """The order of an array's axes in memory: products of matrices may round otherwise where they lie otherwise."""
    if array.dtype not in (mx.float32, mx.float16):  # bfloat16 has no view of its own
        return list(range(array.ndim))
    strides = memoryview(array).strides or ()  # type: ignore[arg-type]
    return sorted(range(array.ndim), key=lambda axis: -strides[axis] if array.shape[axis] > 1 else 0)


def _back(axes: list[int]) -> list[int]:
    return sorted(range(len(axes)), key=axes.__getitem__)
