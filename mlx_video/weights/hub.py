"""Fetches what a run needs from Hugging Face: only those files, resumed, into the cache that all programs share.

Checks the disk before it starts, and says in one sentence what is wrong where a repo is unknown, gated or out of reach.
What was fetched before works without a network. The only place that imports huggingface_hub.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlx_video.types import Listener, Progress, UserError
from mlx_video.weights.hub_files import TEXT_ENCODERS, choose, choose_all, name_some

log = logging.getLogger(__name__)

KNOWN = (
    "Lightricks/LTX-2",
    "Lightricks/LTX-2.3",
    "google/gemma-3-12b-it",
    "google/gemma-3-12b-it-qat-q4_0-unquantized",
)
"""Repos that a misspelled id may have meant."""
SPARE = 1 << 30
"""Bytes that a download leaves free."""
MEGABYTE = 1_000_000
RESUMED_FROM = 64 * MEGABYTE
"""Size in bytes from which on a file that broke off is worth going on with."""


class Listing(NamedTuple):
    """What a repo holds at one commit: file name -> bytes."""

    commit: str | None
    files: Mapping[str, int]


class _Unreachable(Exception):
    """The hub cannot be asked; what was fetched before may still do."""


def fetch_checkpoint(
    repo: str,
    variant: str,
    *,
    upsampler: bool = True,
    lora: bool = False,
    text_encoder: bool = True,
    others: Collection[str] = (),
    report: Listener | None = None,
) -> Path:
    """Fetches a model and returns its folder.

    variant: "distilled" or "dev"; upsampler, lora: with the spatial x2 upsampler and the distilled LoRA; text_encoder:
    with the one in the repo, if it has one; others: further kinds of `choose`. `report` is told of the download in
    megabytes. Raises UserError.
    """
    kinds = ["checkpoint", *(["upsampler"] if upsampler else []), *(["lora"] if lora else []), *others]

    def plan(files: Collection[str]) -> list[str]:
        return choose_all(repo, files, kinds, variant) + (choose(files, "text_encoder") if text_encoder else [])

    return fetch(repo, plan, report)


def fetch_text_encoder(repo: str, report: Listener | None = None) -> Path:
    """Fetches a Gemma repo, or the text encoder in a model's repo, and returns the folder with its config.json."""
    folder = fetch(repo, lambda files: choose_all(repo, files, ["text_encoder"], ""), report)
    inside = (folder / name for name in TEXT_ENCODERS)
    return folder if (folder / "config.json").is_file() else next(f for f in inside if (f / "config.json").is_file())


def fetch_lora(repo: str, report: Listener | None = None) -> Path:
    """Fetches a LoRA from a repo that holds one .safetensors file, and returns that file."""

    def plan(files: Collection[str]) -> list[str]:
        weights = [name for name in files if name.endswith(".safetensors")]
        if len(weights) != 1:
            raise UserError(
                f"{repo} must hold one .safetensors file to be a LoRA, but holds {len(weights)} "
                f"({name_some(weights)}); download the one you want and give its path."
            )
        settings = str(PurePosixPath(weights[0]).with_name("adapter_config.json"))
        return weights + [name for name in files if name == settings]

    folder = fetch(repo, plan, report)
    return next(folder.rglob("*.safetensors"))


def fetch(repo: str, plan: Callable[[Collection[str]], list[str]], report: Listener | None = None) -> Path:
    """Fetches the files that `plan` picks from the repo's list, and returns the folder that holds them.

    Without a network, what was fetched before is taken if it holds all that `plan` picks. Raises UserError.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        listing = list_files(repo)
    except _Unreachable as fault:
        for folder in _cached(repo):
            with contextlib.suppress(UserError):
                plan(_files_in(folder))
                log.info("%s: no network; taking what was fetched before, in %s", repo, folder)
                return folder
        raise UserError(f"{repo} cannot be fetched, and is not here from before: {fault}.") from fault
    wanted = plan(listing.files)
    there = {n for n in wanted if isinstance(try_to_load_from_cache(repo, n, revision=listing.commit), str)}
    absent = {name: listing.files[name] for name in wanted if name not in there}
    _check_space(repo, sum(absent.values()))
    bar = _bar(report, sum(absent.values())) if report else None
    path = ""
    for name in wanted:
        try:
            with _explained(repo):
                if absent.get(name, 0) >= RESUMED_FROM:
                    _bring(repo, name, listing.commit, bar)
                path = hf_hub_download(repo, name, revision=listing.commit, tqdm_class=bar if name in absent else None)
        except _Unreachable as fault:
            raise UserError(
                f"The download of {name} from {repo} broke off ({fault}); the same command resumes it."
            ) from fault
    return Path(path).parents[wanted[-1].count("/")]


def _bring(repo: str, name: str, commit: str | None, bar: Any) -> None:
    """Puts a large file into the hub's cache, going on where an earlier run stopped.

    huggingface_hub keeps nothing of a download that breaks off (since 2.4, against broken locks on network disks), and
    a checkpoint has 43 GB. Once the bytes lie in the cache under the file's ETag, `hf_hub_download` merely links them.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, name, revision=commit)
    found = get_hf_file_metadata(url)
    blob = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / str(found.etag)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.part")
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise UserError(f"{name} from {repo} is being downloaded by another program; wait for it.") from fault
        start = file.tell()
        http_get(
            url,
            file,
            resume_size=start,
            headers=build_hf_headers(),
            expected_size=found.size,
            displayed_filename=name,
            tqdm_class=bar,
        )
        file.flush()
        # Of a file in large storage the ETag is the SHA-256; checked where two runs made the file.
        if start and len(blob.name) == 64 and _sha256(part) != blob.name:
            part.unlink()
            raise UserError(f"{name} from {repo} arrived damaged and was removed; run this again.")
        part.rename(blob)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(repo: str) -> Listing:
    """What `repo` holds now. Raises UserError where it is unknown, private or misspelled."""
    from huggingface_hub import HfApi

    with _explained(repo):
        info = HfApi().model_info(repo, files_metadata=True)
    return Listing(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or []})


def _cached(repo: str) -> list[Path]:
    """Folders with an earlier state of `repo`, the newest first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    states = [state for r in repos if r.repo_type == "model" and r.repo_id == repo for state in r.revisions]
    return [state.snapshot_path for state in sorted(states, key=lambda state: -state.last_modified)]


def _files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())


def _check_space(repo: str, needed: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed and needed + SPARE > free:
        raise UserError(
            f"{repo} needs {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; make room, or set HF_HOME "
            f"to a folder on another disk."
        )


def _bar(report: Listener, total: int) -> Any:
    """A progress bar class that draws nothing and tells `report` of all files together, in megabytes."""
    from tqdm import tqdm

    done = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any):
            settings.pop("name", None)
            super().__init__(*args, **{**settings, "disable": True})
            self.update(settings.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done = min(total, done + int(n or 0))
            report(Progress("download", done // MEGABYTE, max(1, total // MEGABYTE)))

    return Bar


@contextlib.contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns the hub's errors about `repo` into one sentence that says what to do; _Unreachable where it is silent."""
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{repo}"
    login = "log in with `hf auth login`" if get_token() is None else "check that your token may read it"
    try:
        yield
    except errors.HFValidationError as fault:
        raise UserError(f"{repo!r} is not a Hugging Face id; they look like {KNOWN[0]}.") from fault
    except errors.GatedRepoError as fault:
        raise UserError(f"{repo} is gated: accept its licence at {page} and {login}, then run this again.") from fault
    except errors.RepositoryNotFoundError as fault:
        near = difflib.get_close_matches(repo, KNOWN, n=2, cutoff=0.7)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" If it is private, {login}."
        raise UserError(f"There is no model {repo} on Hugging Face that you may see.{hint}") from fault
    except errors.HfHubHTTPError as fault:
        status = fault.response.status_code
        advice = login if status in (401, 403) else "try again later"
        raise UserError(f"Hugging Face answered {status} for {repo} ({_first_line(fault)}); {advice}.") from fault
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as fault:
        raise _Unreachable(_first_line(fault)) from fault
    except OSError as fault:
        place = constants.HF_HUB_CACHE
        raise UserError(f"{repo} cannot be stored in {place}: {fault.strerror or _first_line(fault)}.") from fault


def _first_line(fault: BaseException) -> str:
    return str(fault).strip().split("\n")[0].rstrip(".") or type(fault).__name__
