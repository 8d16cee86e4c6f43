"""Contexts on disk: a file that a user asks for, and a cache of the prompts encoded lately.

Both are safetensors whose metadata says which prompts, which text encoder and which connectors they come from, so that
an embedding never meets a checkpoint that it was not made for. Knows no networks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.jobs.texts import npz as contexts_npz
from mlx_video.lending.loader import Loader
from mlx_video.media.files import check_input, check_place, replacing
from mlx_video.reading import is_there, parse_json, shown
from mlx_video.types import CONTEXT_TOKENS, Context, RunError, UserError
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, checksum, write

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", contexts_npz.SUFFIX)
FORMAT = "mlx_video contexts 1"
ENTRY = 2
"""The form of a kept prompt; those of other forms are not looked at."""
_OTHER = "was encoded for another checkpoint; encode the prompt again with this --model-repo."
CACHE_VARIABLE = platform.CACHE_VARIABLE
CACHE_FILES = 32
"""Prompts kept; a real one takes 12.6 MB in 16 bit."""


def connectors_mark(checkpoint: Checkpoint) -> str:
    """What tells one checkpoint's connectors from another's: a digest of their learned registers."""
    tensors = checkpoint.part("connectors").tensors
    names = sorted(name for name in tensors.entries if name.endswith("learnable_registers"))
    return _digest(tensors, names)


def encoder_mark(source: TextSource) -> str:
    """What tells one text encoder from another: its config, its tokenizer, its tensors' layout and its last norm."""
    tensors = source.tensors
    digest = hashlib.blake2b(digest_size=12)
    for name in ("config.json", "tokenizer.json"):
        digest.update(source.read(name) or b"")
    digest.update(repr(sorted(tensors.entries.items())).encode())
    digest.update(_digest(tensors, [name for name in tensors.entries if name.endswith("model.norm.weight")]).encode())
    return digest.hexdigest()


def _digest(tensors: Tensors, names: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, array in sorted(tensors.load(names).items()):
        digest.update(name.encode())
        digest.update(np.array(array.astype(mx.float32)).tobytes())
    return digest.hexdigest()


def save(path: Path, contexts: Mapping[str, Context], prompts: Mapping[str, str], mark: str) -> None:
    """Writes contexts (by name, such as "positive") with their prompts, whole or not at all; .npz as it is named."""
    path = check_place(path, SUFFIXES)
    arrays = {f"{name}.{m}": getattr(context, m) for name, context in contexts.items() for m in context._fields}
    metadata = {"format": FORMAT, "prompts": json.dumps(dict(prompts)), "connectors": mark, "sum": checksum(arrays)}
    with replacing(path) as temporary:
        if path.suffix.lower() == contexts_npz.SUFFIX:
            contexts_npz.write(temporary, arrays, metadata)
        else:
            # MLX's own writer does not say what keeps it from writing.
            pending = {name: Pending(array, array.dtype) for name, array in arrays.items()}
            write(temporary, pending, metadata, lambda _: None)


class Widths(NamedTuple):
    """Values of a token in the contexts that a checkpoint's connectors make."""

    video: int
    audio: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Widths:
        """Those of a checkpoint's own connectors."""
        text = checkpoint.family.text()
        return cls(*text.context_widths(checkpoint.config, **checkpoint.part("connectors").measured))


def load(
    path: Path,
    mark: str | None = None,
    widths: Widths | None = None,
    wanted: Collection[str] = (),
    *,
    sealed: bool = False,
) -> tuple[dict[str, Context], dict[str, str]]:
    """Contexts and prompts of a file that `save` wrote, whole and finite.

    mark, widths: of the checkpoint that will read them; wanted: prompts that have to be there; sealed: whether a file
    without a checksum is refused. Raises UserError where the file is none, is damaged, or was made for another
    checkpoint.
    """
    if path.suffix.lower() == contexts_npz.SUFFIX:
        arrays, found = contexts_npz.read(check_input(path, "an embedding"))
        metadata: Mapping[str, object] = found
    else:
        tensors = Tensors([path])
        arrays, metadata = tensors.load(), tensors.metadata
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not an embedding; make one with python -m mlx_video.encode --prompt TEXT -o FILE.")
    if mark is not None and metadata.get("connectors") != mark:
        raise UserError(f"{path} {_OTHER}")
    prompts = _prompts(path, metadata.get("prompts"))
    _check_arrays(path, arrays, prompts)
    for name, array in arrays.items():
        if widths is not None and array.shape[-1] != getattr(widths, name.rpartition(".")[2]):
            raise UserError(f"{path} {_OTHER}")
    missing = [name for name in wanted if name not in prompts]
    if missing:
        raise UserError(
            f"{path} has no {' and no '.join(missing)} prompt, but {shown(list(prompts))}; encode it again with "
            f"python -m mlx_video.encode."
        )
    for name, array in arrays.items():
        if not mx.all(mx.isfinite(array)).item():
            raise _damaged(path, f"tensor {name} has values that are not finite")
    said = metadata.get("sum")
    if said != checksum(arrays) and (said is not None or sealed):
        raise _damaged(path, "its bytes are not those that were written")
    return {name: Context(**{m: arrays[f"{name}.{m}"] for m in Context._fields}) for name in prompts}, prompts


def _prompts(path: Path, stated: object) -> dict[str, str]:
    try:
        found = parse_json(stated) if isinstance(stated, str) else stated
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise _damaged(path, "its metadata says no prompts")
    return found


def _check_arrays(path: Path, arrays: Mapping[str, mx.array], prompts: Mapping[str, str]) -> None:
    names = {f"{name}.{m}" for name in prompts for m in Context._fields}
    if not names or arrays.keys() != names:
        raise _damaged(path, f"it has {len(arrays)} tensors for the prompts {shown(list(prompts))}")
    for name, array in arrays.items():
        kinds = (mx.float32, mx.float16, mx.bfloat16)
        if array.dtype not in kinds or array.ndim != 3 or array.shape[:2] != (1, CONTEXT_TOKENS) or not array.size:
            raise _damaged(
                path,
                f"tensor {name} is {array.dtype} {list(array.shape)}; it should be float32, float16 or bfloat16 "
                f"[1, {CONTEXT_TOKENS}, width]",
            )


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is a damaged embedding: {why}; encode the prompt again.")


class Cache:
    """The prompts encoded lately, by text and by everything that their contexts depend on."""

    def __init__(self, *marks: str):
        """marks: of connectors, text encoder and precision."""
        self._marks = "/".join(marks)
        self.folder = cache_folder()

    @classmethod
    def of(cls, loader: Loader, source: TextSource) -> Cache:
        """That of a run; what marks it is read from the files only where prompts are kept at all."""
        cache = cls()
        if cache.folder is not None:
            cache._marks = "/".join((connectors_mark(loader.checkpoint), encoder_mark(source), str(loader.dtype)))
        return cache

    def get(self, text: str) -> Context | None:
        """The context of `text`, or None where it is not kept, or what is kept is damaged; it is then made anew."""
        if self.folder is None:
            return None
        path = self._path(text)
        if not is_there(path):
            return None
        try:
            contexts, prompts = load(path, sealed=True)
            if prompts != {"positive": text}:
                raise _damaged(path, "it is of another prompt")
        except UserError as fault:
            log.info("A kept prompt is made anew: %s", fault)
            return None
        with contextlib.suppress(OSError):
            path.touch()
        return contexts["positive"]

    def put(self, text: str, context: Context) -> None:
        """Keeps a context and lets the oldest go. A cache that cannot be written costs only time."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(self._path(text), {"positive": context}, {"positive": text}, self._marks)
            for old in sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)[:-CACHE_FILES]:
                old.unlink()
        except (OSError, UserError, RunError) as error:
            log.info("The prompt was not kept for the next run: %s", error)

    def _path(self, text: str) -> Path:
        name = hashlib.blake2b(f"{ENTRY}\n{self._marks}\n{text}".encode(), digest_size=16).hexdigest()
        return (self.folder or Path()) / f"{name}.safetensors"


def cache_folder() -> Path | None:
    """Where contexts are kept; None where MLX_VIDEO_CACHE is "off"."""
    return platform.cache_folder("contexts")
