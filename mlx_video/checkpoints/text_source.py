"""A text encoder as it lies on the disk: a folder with its config, its tokenizer and its tensors; headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_video.models.family import Family
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

if TYPE_CHECKING:
    from mlx_video.checkpoints.checkpoint import Checkpoint


class TextSource(NamedTuple):
    """A text encoder that its family knows."""

    text: Any
    """The family's own module for texts; see `Family.text`."""
    folder: Path
    config: Any
    """As that module reads it: `width`, `layers`, `quantization`, ..."""
    tensors: Tensors

    @classmethod
    def open(cls, family: Family, folder: Path) -> TextSource:
        """Raises UserError where the folder holds no text encoder of the family, or tensors that no weights are."""
        text, tensors = family.text(), Tensors.of_folder(folder)
        tensors.check_floats(tensors.entries, float8=False)
        return cls(text, folder, text.read_config(folder, tensors.entries), tensors)

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where the checkpoint was made for another one."""
        self.text.check_fits(self.config, checkpoint.config, **checkpoint.part("connectors").measured)

    def network(self) -> Any:
        """The network without weights."""
        return self.text.network(self.config, self.tensors.entries)

    def path_of(self, name: str) -> str | None:
        """Where a tensor belongs in the network."""
        return names.module_path(self.text.NETWORK, name)

    @property
    def what(self) -> str:
        """For messages."""
        return f"text encoder of {self.folder}"

    @property
    def files(self) -> Mapping[str, Path]:
        """All that lies in the folder, by what messages call it."""
        return {f"a file of the model, {file.name}": file for file in sorted(self.folder.iterdir())}
