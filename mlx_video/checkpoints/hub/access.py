"""What may be had of Hugging Face and what is here already, without fetching: for `mlx_video.doctor`.

Imports huggingface_hub, as `fetch` does.
"""

from __future__ import annotations

from pathlib import Path

from mlx_video.checkpoints.hub.fetch import Unreachable, explained, files_in
from mlx_video.checkpoints.hub.rules import Choice
from mlx_video.types import UserError


class NotHere(UserError):
    """Nothing of a repo was fetched yet."""


def has_token() -> bool:
    """Whether there is a token of the hub; it is shown to nobody."""
    from huggingface_hub import get_token

    return get_token() is not None


def is_reachable_and_open(repo: str) -> bool:
    """Whether the files of a repo may be fetched, by one small request; False where the hub cannot be asked.

    Raises UserError, saying what to do, where they may not.
    """
    from huggingface_hub import HfApi

    try:
        with explained(repo):
            HfApi().auth_check(repo)
    except Unreachable:
        return False
    return True


def take_here(repo: str, choose_from: Choice) -> Path:
    """As `fetch`, of what was fetched before alone.

    Raises NotHere where that is nothing, and UserError where it is not all, naming the files whose content is gone.
    """
    folder = _newest(repo)
    if folder is None:
        raise NotHere(f"{repo} was not fetched yet.")
    gone = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if not path.exists()]
    try:
        wanted = choose_from(files_in(folder))
        absent = [name for name in wanted if not (folder / name).exists()]
    except UserError as fault:
        if gone:
            raise UserError(f"{', '.join(gone)} of {repo} was not fetched whole.") from fault
        raise
    if absent:
        raise UserError(f"{', '.join(absent)} of {repo} was not fetched.")
    return folder


def _newest(repo: str) -> Path | None:
    """The folder of a repo's latest state, whole or not; huggingface_hub's own list leaves out what is not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    states = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots"
    return max(states.iterdir(), key=lambda path: path.stat().st_mtime, default=None) if states.is_dir() else None
