"""Lets a run be planned before its files are fetched: of safetensors files on the hub only the headers are read.

Files that are here are taken as they are. Of the others there are outlines (see `weights.store`) and small JSON files,
in a temporary folder that looks like the hub's cache: kilobytes where a checkpoint has 43 GB. Nothing that describes,
plans or checks can tell the difference, and whatever would read a tensor fails. Knows no model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mlx_video.checkpoints.hub import fetch as hub
from mlx_video.checkpoints.hub.rules import Choice, Chosen, Listing
from mlx_video.types import Listener, Phase, Progress, UserError
from mlx_video.weights import store

FIRST = 1 << 16
"""Bytes that are asked for at first: the whole header of a shard; one of a whole checkpoint has up to 1 MB."""
MAX_JSON = 4 << 20
"""Bytes of the largest JSON file that is taken whole: configs and indices. No plan needs a tokenizer."""


class Outlines:
    """The files that one run needs of the hub: outlines until they are fetched. Used in a `with` statement.

    On exit the outlines go, and a UserError that names one names the repo instead.
    """

    def __init__(self, report: Listener | None = None):
        """`report` is told how many files have been looked into."""
        self.wanted: dict[str, Chosen] = {}
        """What has been asked for so far, by repo."""
        self._report = report or (lambda progress: None)
        self._listings: dict[str, Listing] = {}
        self._root: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Outlines:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes all outlines."""
        if self._root is None:
            return
        self._root.cleanup()
        if isinstance(fault, UserError):
            raise UserError(self.named(str(fault))) from fault

    @property
    def absent(self) -> tuple[Chosen, ...]:
        """What is to be fetched."""
        return tuple(chosen for chosen in self.wanted.values() if chosen.absent)

    def find(self, repo: str, choose_from: Choice) -> Chosen:
        """Which files that is, and which of them are here; nothing but the repo's list is asked for, and that once."""
        return hub.find(repo, choose_from, self._listings)

    def take(self, repo: str, choose_from: Choice) -> Path:
        """The folder with the chosen files, or with outlines of those that are not here. Raises UserError."""
        chosen = self.find(repo, choose_from)
        before = self.wanted.get(repo)
        self.wanted[repo] = chosen if before is None else _both(before, chosen)
        return self._outlined(chosen) if chosen.folder is None else chosen.folder

    def fetch(self, report: Listener | None = None, say: Callable[[str], None] | None = None) -> None:
        """Fetches all that is absent, so that `take` gives it instead of outlines. Raises UserError.

        report: told of the download in megabytes; say: of each repo before.
        """
        hub.check_space(self.absent)
        for chosen in self.absent:
            if say is not None:
                say(hub.summary(chosen))
            hub.fetch_chosen(chosen, report)
        self.wanted.clear()

    def summary(self) -> list[str]:
        """For the user: what is to be fetched of each repo, and whether the disk has no room for it."""
        lines = [hub.summary(chosen) for chosen in self.wanted.values()]
        try:
            hub.check_space(self.absent)
        except UserError as fault:
            lines.append(str(fault))
        return lines

    def named(self, text: str) -> str:
        """`text` with the repos' ids in place of the folders with their outlines."""
        for chosen in self.wanted.values():
            text = text.replace(str(self._folder(chosen)), chosen.repo)
        return text

    def _folder(self, chosen: Chosen) -> Path:
        if self._root is None:
            self._root = tempfile.TemporaryDirectory(prefix="mlx_video-")
        # As in the cache, where a repo's name can be read off the path.
        return Path(self._root.name) / f"models--{chosen.repo.replace('/', '--')}" / "snapshots" / str(chosen.commit)

    def _outlined(self, chosen: Chosen) -> Path:
        folder = self._folder(chosen)
        for number, (name, size) in enumerate(chosen.files.items()):
            self._report(Progress(Phase.LOOK_UP, number, len(chosen.files)))
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                continue
            if name in chosen.here:
                path.symlink_to(chosen.here[name])
            elif name.endswith(".safetensors"):
                store.write_outline(path, size, _beginning(chosen, name, size))
            elif name.endswith(".json") and size <= MAX_JSON and not path.name.startswith("tokenizer"):
                path.write_bytes(hub.read_bytes(chosen, name, 0, size))
        self._report(Progress(Phase.LOOK_UP, len(chosen.files), len(chosen.files)))
        return folder


def _beginning(chosen: Chosen, name: str, size: int) -> bytes:
    """The first 8 bytes of a safetensors file and its header."""
    first = hub.read_bytes(chosen, name, 0, min(FIRST, size))
    end = 8 + store.header_length(first[:8], size, f"{chosen.repo}/{name}")
    rest = hub.read_bytes(chosen, name, len(first), end) if end > len(first) else b""
    return first[:end] + rest


def _both(one: Chosen, other: Chosen) -> Chosen:
    return one._replace(files={**one.files, **other.files}, here={**one.here, **other.here})
