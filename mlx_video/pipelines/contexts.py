"""Contexts on disk: a file that a user asks for, and a cache of the prompts encoded lately.

Both are safetensors whose metadata says which prompts, which text encoder and which connectors they come from, so that
an embedding never meets a checkpoint that it was not made for. Knows no networks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.media.files import check_input, check_place, replacing
from mlx_video.pipelines import contexts_npz
from mlx_video.pipelines.checkpoint import Checkpoint
from mlx_video.types import Context, RunError, UserError
from mlx_video.weights.store import Tensors
from mlx_video.weights.write import Pending, write

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", contexts_npz.SUFFIX)
FORMAT = "mlx_video contexts 1"
CACHE_VARIABLE = "MLX_VIDEO_CACHE"
"""Names the cache folder; "off" turns it off."""
CACHE_FILES = 32
"""Prompts kept; a real one takes 12.6 MB in 16 bit."""


def connectors_mark(checkpoint: Checkpoint) -> str:
    """What tells one checkpoint's connectors from another's: a digest of their learned registers."""
    tensors = checkpoint.part("connectors").tensors
    names = sorted(name for name in tensors.entries if name.endswith("learnable_registers"))
    return _digest(tensors, names)


def encoder_mark(folder: Path) -> str:
    """What tells one text encoder from another: its config, its tokenizer, its tensors' layout and its last norm."""
    tensors = Tensors.of_folder(folder)
    digest = hashlib.blake2b(digest_size=12)
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
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
    metadata = {"format": FORMAT, "prompts": json.dumps(dict(prompts)), "connectors": mark}
    with replacing(path) as temporary:
        if path.suffix.lower() == contexts_npz.SUFFIX:
            contexts_npz.write(temporary, arrays, metadata)
        else:
            # MLX's own writer does not say what keeps it from writing.
            pending = {name: Pending(array, array.dtype) for name, array in arrays.items()}
            write(temporary, pending, metadata, lambda _: None)


def load(path: Path, mark: str | None = None) -> tuple[dict[str, Context], dict[str, str]]:
    """Contexts and prompts of a file that `save` wrote.

    mark: of the checkpoint that will read them. Raises UserError where the file is none, or was made for another.
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
        raise UserError(f"{path} was encoded for another checkpoint; encode the prompt again with this --model-repo.")
    names = {name.rpartition(".")[0] for name in arrays}
    contexts = {name: Context(**{m: arrays[f"{name}.{m}"] for m in Context._fields}) for name in names}
    prompts = json.loads(metadata["prompts"]) if isinstance(metadata["prompts"], str) else metadata["prompts"]
    return contexts, dict(prompts) if isinstance(prompts, Mapping) else {}


class Cache:
    """The prompts encoded lately, by text and by everything that their contexts depend on."""

    def __init__(self, *marks: str):
        """marks: of connectors, text encoder and precision."""
        self._marks = "/".join(marks)
        self.folder = cache_folder()

    def get(self, text: str) -> Context | None:
        """The context of `text`, or None where it is not kept (or its file is damaged)."""
        if self.folder is None:
            return None
        path = self._path(text)
        try:
            contexts, _ = load(path)
        except UserError:
            return None
        path.touch()
        return contexts.get("positive")

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
        name = hashlib.blake2b(f"{self._marks}\n{text}".encode(), digest_size=16).hexdigest()
        return (self.folder or Path()) / f"{name}.safetensors"


def cache_folder() -> Path | None:
    """Where contexts are kept; None where MLX_VIDEO_CACHE is "off"."""
    named = os.environ.get(CACHE_VARIABLE)
    if named == "off":
        return None
    if named:
        return Path(named).expanduser()
    home = Path.home() / "Library/Caches" if sys.platform == "darwin" else Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "mlx_video" / "contexts"
