"""Networks that do not fit into memory: one part at a time has its weights, and the next part's are being read.

A part is a block of the transformer or a layer of the text encoder. For each visit its tensors are read from disk anew
and made ready exactly as `loader.give_weights` makes a whole network's, so the numbers are the same; after it they go.
As many parts as memory holds may stay, ready as they are, after their first visit. Knows files, names, quantization and
LoRAs; knows no particular network and no step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_video import platform
from mlx_video.types import UserError
from mlx_video.weights import lora, names, quantize, widen
from mlx_video.weights.names import Form
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors, state_of


@dataclass(frozen=True)
class Ways:
    """How a run keeps within its memory; `planning.plan` chooses. Only `room` can change a number."""

    stream_text: bool = True
    """Read the text encoder and the connectors layer by layer, once for all prompts and once for each. For 8 layers
    of 1024 that took 0.78 to 0.95 of the CPU seconds of reading them whole."""
    stream_transformer: bool = False
    """Read the transformer block by block, in every step."""
    kept: int = 0
    """Of a transformer that is read so, how many blocks stay in memory from their first visit on."""
    step_aside: bool = False
    """Let the transformer go while latents are upsampled between stages, and read it anew."""
    keep_text: bool = True
    """Keep LTX-2's keys and values of the texts from step to step."""
    room: int | None = None
    """Bytes that arrays may take; --tiling auto cuts pictures that do not fit. None: half of all that there is."""
    limit: int | None = None
    """What arrays and freed buffers may take together, where the user has set a limit."""

    def beside(self, weights: int, outside: int = 0) -> int:
        """Bytes that work may take beside so many of weights; outside: what the process holds meanwhile besides arrays,
        which counts where the user has set a limit.
        """
        room = platform.memory_limit() // 2 if self.room is None else self.room
        return max(room - weights - (outside if self.limit is not None else 0), 1)

    def streams(self, component: str) -> bool:
        """Whether a component is read part by part."""
        return {"transformer": self.stream_transformer, "connectors": self.stream_text}.get(component, False)


class Files(NamedTuple):
    """Where a network's tensors are: the files, with what its names begin, and how they are written."""

    tensors: Tensors
    prefixes: tuple[str, ...]
    form: Form


def parts_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts by path, in the order in which they are visited."""
    for path in network.visited:
        found = functools.reduce(getattr, path.split("."), network)
        yield from (
            ((f"{path}.{i}", part) for i, part in enumerate(found)) if isinstance(found, list) else [(path, found)]
        )


def _staying(paths: Sequence[str], kept: int) -> frozenset[str]:
    """Which of the parts stay in memory where `kept` of them may.

    Those that are read lie evenly between them, each behind the ones that stay: a part is read while all since the one
    that was read before it compute. Side by side, each would be read behind a single part's computing, and the disk
    would rest during the others'.
    """
    count, read = len(paths), max(len(paths) - kept, 0)
    return frozenset(path for i, path in enumerate(paths) if (i + 1) * read // count == i * read // count)


class Streamed:
    """Takes the place of a network's own iterator over its parts; each has weights while it is visited, some longer."""

    def __init__(
        self,
        network: nn.Module,
        files: Files,
        what: str,
        *,
        dtype: mx.Dtype,
        quantization: Quantization | None = None,
    ):
        """Gives `network` the weights that lie outside its parts, lazily; its class states in `visited` what they are.

        quantization: to make of the parts. Raises UserError, naming `what`, where tensors do not fit one to one.
        """
        self._parts = parts = dict(parts_of(network))
        self._stay: frozenset[str] = frozenset()
        """Parts that keep their weights after a visit."""
        self._ready: set[str] = set()
        """Those of them that have theirs."""
        self.bytes_read = 0
        """From disk for parts, so far."""
        self._states = {file: state_of(file) for file in files.tensors.paths}
        self._files, self._dtype, self._quantization = files, dtype, quantization
        entries = files.tensors.entries
        loaded = self._load()
        arrays = self._widened(loaded)
        shapes = {name: array.shape for name, array in arrays.items()}
        self._places = names.places(network, shapes, what, form=files.form)
        self._names: dict[str, list[str]] = {path: [] for path in parts}
        resident = []
        for name, (path, axes) in self._places.items():
            owner, _ = self.split(path)
            if owner is None:
                resident.append((path, names.cast(names.moved(arrays[name], axes), dtype)))
            else:
                self._names[owner] += [n for n in (name, *widen.needed_for(name)) if n in entries]
        network.update(tree_unflatten(resident))
        self._loaded: dict[str, mx.array] | None = {n: loaded[n] for own in self._names.values() for n in own}
        # Arrays that nobody evaluates take no memory: between visits a part is as it was built.
        self._idle = {path: (part.leaf_modules(), part.parameters()) for path, part in parts.items()}
        self.adapt: Callable[[], Sequence[lora.Terms]] = tuple
        """Gives freshly read LoRA terms by path in the network, to be added one after the other in each call."""

    def split(self, path: str) -> tuple[str | None, str]:
        """The part that a path in the network leads into, and the rest of the path; None where it leads into none."""
        pieces = path.split(".")
        for count in range(1, len(pieces)):
            if (part := ".".join(pieces[:count])) in self._parts:
                return part, ".".join(pieces[count:])
        return None, path

    def __call__(self, results: object) -> Iterator[nn.Module]:
        """Visits every part once, in order. `results` is evaluated before a part's weights go, and after one that
        stays: it is to compute while the next is read.

        Raises UserError where a file is not what it was.
        """
        self._check_files(None)
        waiting, ahead = self._read(), None
        for path, part in self._parts.items():
            try:
                try:
                    if path in waiting:
                        self._fill(part, waiting.pop(path))
                        mx.eval(part.parameters())
                        self._settle(path, part)
                    following = next(iter(waiting), None)
                    if following is not None and following != ahead:
                        mx.async_eval(waiting[following].everything())
                        ahead = following
                except RuntimeError as error:
                    self._check_files(error)
                    raise
                if path in self._stay:  # from here on it is whole, whatever becomes of this call
                    self._ready.add(path)
                yield part
                mx.eval(results)
            finally:
                if path not in self._ready:
                    self._empty(path, part)

    def keep(self, count: int) -> None:
        """From now on so many parts stay in memory after a visit."""
        stay = _staying(list(self._parts), count)
        if stay != self._stay:
            self.let_go()
        self._stay = stay

    def let_go(self) -> None:
        """Empties the parts that stay; each is made anew, of what files and `adapt` then give, at its next visit."""
        while self._ready:
            path = self._ready.pop()
            self._empty(path, self._parts[path])

    def _check_files(self, cause: Exception | None) -> None:
        # Half a run with other weights would look like any other.
        for file, state in self._states.items():
            if state_of(file) != state:
                raise UserError(f"{file} changed while the run was reading it; start it again.") from cause

    def _read(self) -> dict[str, _Visit]:
        """What is to be read in a call, part by part, lazily."""
        wanted = {path: own for path, own in self._names.items() if path not in self._ready}
        if not wanted:
            return {}
        # A lazy array keeps what it has read as long as anyone holds it, so each call takes new ones: 50 ms for the
        # 5,947 tensors of LTX-2.3, most of it the file's header. The first call has those that names were told by.
        arrays, self._loaded = self._loaded or self._load(), None
        waiting = {path: _Visit({name: arrays[name] for name in own}, []) for path, own in wanted.items()}
        for terms in self.adapt():
            for visit in waiting.values():
                visit.terms.append({})
            for path, pairs in terms.items():
                owner, rest = self.split(path)
                if owner in waiting:
                    waiting[owner].terms[-1][rest] = pairs
        return waiting

    def _load(self) -> dict[str, mx.array]:
        # Reading has a line of its own: in the one of the computations it would wait for them.
        return self._files.tensors.load(self._files.prefixes, platform.shared_stream(mx.cpu, "reading"))

    def _fill(self, part: nn.Module, visit: _Visit) -> None:
        self.bytes_read += sum(array.nbytes for array in visit.arrays.values())
        ready = []
        # Bits are chosen from the weights as they are in the file.
        dtype = None if self._quantization else self._dtype
        for name, array in self._widened(visit.arrays).items():
            path, axes = self._places[name]
            ready.append((self.split(path)[1], names.cast(names.moved(array, axes), dtype)))
        part.update(tree_unflatten(ready))
        if self._quantization is not None:
            quantize.quantize([part], self._quantization, self._dtype)
        for terms in visit.terms:
            lora.add(part, terms)

    def _settle(self, path: str, part: nn.Module) -> None:
        # Layers that quantized ones have replaced still hold what those were made from, and are held for later.
        if self._quantization is None:
            return
        layers, parameters = self._idle[path]
        now, ready = part.leaf_modules(), part.parameters()
        part.update_modules(layers)
        part.update(parameters)
        part.update_modules(now)
        part.update(ready)

    def _empty(self, path: str, part: nn.Module) -> None:
        layers, parameters = self._idle[path]
        lora.detach(part)
        part.update_modules(layers)
        part.update(parameters)

    def _widened(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return widen.widen(arrays, self._files.tensors.entries, mx.float32)


def release(network: nn.Module) -> None:
    """Empties a network, whoever still holds it, and gives its memory back."""
    if isinstance(parts := getattr(network, "parts", None), Streamed):
        parts.let_go()
    network.clear()
    mx.clear_cache()


class _Visit(NamedTuple):
    """What a part is made from: tensors as the files have them, and LoRA terms in the order in which they are added."""

    arrays: dict[str, mx.array]
    terms: list[dict[str, Sequence[tuple[lora.Pair, float]]]]

    def everything(self) -> list[mx.array]:
        """All arrays, to be read ahead."""
        pairs = (pair for terms in self.terms for some in terms.values() for pair, _ in some)
        return [*self.arrays.values(), *(matrix for pair in pairs for matrix in (pair.down, pair.up))]
