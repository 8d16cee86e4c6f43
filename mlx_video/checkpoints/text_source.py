"""A text encoder as it lies on the disk: config, tokenizer and tensors, in a folder or in one file; headers alone.

A single file holds its config in its metadata and the other files' bytes in tensors; one of another converter's pack
has them in files beside it (`text_pack`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints import text_pack
from mlx_video.models.family import Family
from mlx_video.reading import read_bytes, read_json
from mlx_video.types import UserError
from mlx_video.weights import names, widen
from mlx_video.weights.store import Tensors, read_header

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint


class TextSource(NamedTuple):
    """A text encoder that its family knows."""

    text: Any
    """The family's own module for texts; see `Family.text`."""
    path: Path
    """A folder of Hugging Face's form, or one file."""
    config: Any
    """As that module reads it: `width`, `layers`, `quantization`, `gemma_version`, ..."""
    tensors: Tensors
    """All that are no files: the network's, towers for pictures and sounds, a checkpoint's own projections."""
    within: Tensors | None = None
    """Of an official file: the tensors that are files, by those files' names."""

    @classmethod
    def open(cls, family: Family, path: Path) -> TextSource:
        """Raises UserError where at `path` is no text encoder of the family, or tensors that no weights are."""
        text = family.text()
        if not (path / "config.json").is_file():
            path = text_pack.file_in(path) or path
        if path.is_file():
            return cls._of_file(text, path)
        tensors = Tensors.of_folder(path)
        tensors.check_floats(tensors.entries, float8=False)
        return cls(text, path, text.read_config(path, tensors.entries), tensors)

    @classmethod
    def _of_file(cls, text: Any, file: Path) -> TextSource:
        everything = Tensors([file])
        if text.CONFIG_KEY not in everything.metadata and text_pack.config_of(file) is not None:
            return cls._of_pack(text, file, text_pack.bare(everything))
        config = text.read_embedded(file, everything.metadata, everything.entries)
        tensors = everything.renamed(lambda name: None if name in text.WITHIN else name)
        tensors.check_floats(widen.shapes(tensors.entries, tensors.entries, file), float8=False)
        within = everything.renamed(text.WITHIN.get)
        for name, entry in within.entries.items():
            if entry.dtype not in ("U8", "I8") or len(entry.shape) != 1 or entry.nbytes > text.MAX_TOKENIZER:
                raise UserError(
                    f"{file} holds {name} as {entry.dtype} {list(entry.shape)}; it should be a row of at most "
                    f"{text.MAX_TOKENIZER:,} bytes (U8)."
                )
        return cls(text, file, config, tensors, within)

    @classmethod
    def _of_pack(cls, text: Any, file: Path, tensors: Tensors) -> TextSource:
        tensors.metadata = {**tensors.metadata, text.CONFIG_KEY: text_pack.settings_of(file, tensors)}
        config = text.read_embedded(file, tensors.metadata, tensors.entries)
        tensors.check_floats(tensors.entries, float8=False)
        return cls(text, file, config, tensors)

    @staticmethod
    def lies_at(family: Family, path: Path) -> bool:
        """Whether a folder or a file has the form of a text encoder; raises UserError for a damaged file."""
        if path.is_dir():
            return (path / "config.json").is_file() or text_pack.file_in(path) is not None
        if path.suffix != ".safetensors" or not path.is_file():
            return False
        return text_pack.config_of(path) is not None or family.text().CONFIG_KEY in read_header(path).metadata

    @property
    def single(self) -> bool:
        """Whether its tensors are those of one file, not of a folder in Hugging Face's form."""
        return self.text.CONFIG_KEY in self.tensors.metadata

    def load(self, packed_as: mx.Dtype = mx.float32) -> dict[str, mx.array]:
        """The tensors by name, lazily; packed whole numbers as what they stand for."""
        return widen.widen(self.tensors.load(), self.tensors.entries, packed_as)

    @property
    def gemma_version(self) -> str | None:
        """What a checkpoint made for this very model calls it; None where checkpoints ask for no version."""
        return self.config.gemma_version  # type: ignore[no-any-return]

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where the checkpoint was made for another one."""
        self.text.check_fits(self.config, checkpoint.config, **checkpoint.part("connectors").measured)

    def check_writes(self) -> None:
        """Raises UserError where it is a model that only reads."""
        self.text.check_writes(self.config, self.path)

    def network(self) -> Any:
        """The network without weights."""
        return self.text.network(self.config, self.tensors.entries)

    def encoder(self, network: Any) -> Any:
        """A network with the tokenizer that belongs to it; raises UserError where that cannot be read."""
        return self.text.encoder(network, self.path, self.read if self.single else None)

    def tokenizer(self) -> Any:
        """Its tokenizer alone; raises UserError where that cannot be read."""
        return self.text.tokenizer(self.config, self.path, self.read if self.single else None)

    @property
    def settings(self) -> dict[str, Any]:
        """The content of its config.json."""
        if not self.single:
            return read_json(self.path / "config.json")
        return dict(cast(Mapping[str, Any], self.tensors.metadata[self.text.CONFIG_KEY]))

    def texts_within(self) -> dict[str, str]:
        """The files in or beside a single file, by name; empty for a folder. Raises UserError where one is no text."""
        found = {}
        for name in self.text.WITHIN.values() if self.single else ():
            content = self.read(name)
            if content is None:
                continue
            try:
                found[name] = content.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.path} has a damaged {name}: it is not UTF-8 at byte {error.start + 1}."
                ) from None
        return found

    def read(self, name: str) -> bytes | None:
        """The bytes of a file such as config.json or tokenizer.json; None where there is none.

        Of a single file config.json is what its metadata say, written anew.
        """
        if self.single and name == "config.json":
            return json.dumps(self.settings, indent=1).encode()
        if self.within is None:
            file = (self.path.parent if self.single else self.path) / name
            return read_bytes(file, self.text.MAX_TOKENIZER) if file.is_file() else None
        if name not in self.within:
            return None
        return np.array(self.within.load([name])[name].view(mx.uint8)).tobytes()

    @property
    def network_class(self) -> Any:
        """Of `network`, for its tensors' names and its parts."""
        return self.text.network_class(self.config)

    def path_of(self, name: str) -> str | None:
        """Where a tensor belongs in the network."""
        return names.module_path(self.network_class, name)

    @property
    def what(self) -> str:
        """For messages."""
        return f"text encoder of {self.path}"

    @property
    def files(self) -> Mapping[str, Path]:
        """All that it is made of, by what messages call it."""
        files = [self.path] if self.single else sorted(self.path.iterdir())
        if self.single and self.within is None:
            beside = (f"{self.path.stem}_config.json", text_pack.QUANTIZED, *self.text.WITHIN.values())
            files += [file for name in beside if (file := self.path.with_name(name)).is_file()]
        return {f"a file of the model, {file.name}": file for file in files}
