"""Fetches what a run needs from Hugging Face: only those files, resumed, into the cache that all programs share.

Says what it will fetch and checks the disk before it starts, and says in one sentence what is wrong where a repo is
unknown, gated or out of reach. What was fetched before works without a network. Also reads single bytes of files, for
`checkpoints.hub.outlines`. It and `checkpoints.hub.access` alone import
huggingface_hub.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from mlx_video.checkpoints.hub.models import MODELS
from mlx_video.checkpoints.hub.rules import Choice, Chosen, Listing, check_names
from mlx_video.types import Listener, Phase, Progress, UserError, amount

log = logging.getLogger(__name__)

KNOWN = (
    *(model.repo for model in MODELS.values()),
    "google/gemma-3-12b-it",
    "google/gemma-3-12b-it-qat-q4_0-unquantized",
)
"""Repos that a misspelled id may have meant."""
SPARE = 1 << 30
"""Bytes that a download leaves free."""
MEGABYTE = 1_000_000
RESUMED_FROM = 64 * MEGABYTE
"""Size in bytes from which on a file that broke off is worth going on with."""
PIECE = 1 << 16
"""Bytes that are read at a time of a file that is only looked into."""


Take = Callable[[str, Choice], Path]
"""Makes files of a repo available and gives the folder that holds them: `fetch`, or `Outlines.take`."""


class Unreachable(Exception):
    """The hub cannot be asked; what was fetched before may still do."""


def find(repo: str, choose_from: Choice, listings: dict[str, Listing] | None = None) -> Chosen:
    """The files that `choose_from` picks from the repo's list; `listings` remembers the list, and spares asking again.

    Without a network, what was fetched before is taken if it holds all that is picked. Raises UserError.
    """
    listings = {} if listings is None else listings
    try:
        listing = listings[repo] = listings.get(repo) or list_files(repo)
    except Unreachable as fault:
        for folder in _cached(repo):
            with contextlib.suppress(UserError):
                names = choose_from(files_in(folder))
                log.info("%s: no network; taking what was fetched before, in %s", repo, folder)
                here = {name: folder / name for name in names}
                return Chosen(repo, None, {name: path.stat().st_size for name, path in here.items()}, here)
        raise UserError(f"{repo} cannot be fetched, and is not here from before: {fault}.") from fault
    files = {name: listing.files[name] for name in choose_from(listing.files)}
    check_names(repo, files)
    here = {name: path for name in files if (path := _place(repo, name, listing)) is not None}
    return Chosen(repo, listing.commit, files, here)


def _place(repo: str, name: str, listing: Listing) -> Path | None:
    """Where a file lies; None where it is not here. One that an earlier commit had is linked and not fetched again."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    path = try_to_load_from_cache(repo, name, revision=listing.commit)
    content = listing.contents.get(name)
    if not isinstance(path, str) and content is not None and _blob(repo, content).exists():
        with contextlib.suppress(Unreachable), explained(repo):
            path = hf_hub_download(repo, name, revision=listing.commit)
    return Path(path) if isinstance(path, str) else None


def _blob(repo: str, content: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / content


def fetch(
    repo: str, choose_from: Choice, report: Listener | None = None, say: Callable[[str], None] = log.info
) -> Path:
    """Fetches the files that `choose_from` picks from the repo's list, and returns the folder that holds them.

    Without a network, what was fetched before is taken if it holds all that is picked. `report` is told of the download
    in megabytes, `say` before it begins. Raises UserError.
    """
    chosen = find(repo, choose_from)
    if chosen.folder is not None:
        return chosen.folder
    check_space([chosen])
    say(summary(chosen))
    return fetch_chosen(chosen, report)


def fetch_chosen(chosen: Chosen, report: Listener | None = None) -> Path:
    """Fetches what is absent of the files that were chosen, and returns the folder that holds them all."""
    from huggingface_hub import hf_hub_download

    repo, commit, absent = chosen.repo, chosen.commit, chosen.absent
    bar = _bar(report, sum(absent.values())) if report else None
    path = ""
    for name in chosen.files:
        try:
            with explained(repo):
                if absent.get(name, 0) >= RESUMED_FROM:
                    _bring(repo, name, commit, bar)
                path = hf_hub_download(repo, name, revision=commit, tqdm_class=bar if name in absent else None)
        except Unreachable as fault:
            raise UserError(
                f"The download of {name} from {repo} broke off ({fault}); the same command resumes it."
            ) from fault
    return Path(path).parents[name.count("/")]


def _bring(repo: str, name: str, commit: str | None, bar: Any) -> None:
    """Puts a large file into the hub's cache, going on where an earlier run stopped.

    huggingface_hub keeps nothing of a download that breaks off (since 2.4, against broken locks on network disks), and
    a checkpoint has 43 GB. Once the bytes lie in the cache under the file's ETag, `hf_hub_download` merely links them.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, name, revision=commit)
    found = get_hf_file_metadata(url)
    blob = _blob(repo, str(found.etag))
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

    with explained(repo):
        info = HfApi().model_info(repo, files_metadata=True)
    files = info.siblings or []
    contents = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in files}
    return Listing(info.sha, {file.rfilename: file.size or 0 for file in files}, contents)


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


def files_in(folder: Path) -> list[str]:
    """Names of what is whole in such a folder: a link to content that is gone is no file."""
    return sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())


def read_bytes(chosen: Chosen, name: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file on the hub, fewer where it ends before; no more of it is read. Raises UserError."""
    from huggingface_hub import constants, errors, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url, timeout = hf_hub_url(chosen.repo, name, revision=chosen.commit), constants.HF_HUB_DOWNLOAD_TIMEOUT
    found, broken = bytearray(), None
    try:
        with explained(chosen.repo):
            with http_stream_backoff("GET", url, max_retries=2, headers=headers, timeout=timeout) as response:
                hf_raise_for_status(response)
                # A server that takes no ranges begins at the file's beginning, and would go on to its end.
                skipped = start if response.status_code == 200 else 0
                try:
                    for piece in response.iter_bytes(chunk_size=PIECE):
                        found += piece
                        if len(found) >= skipped + stop - start:
                            break
                except errors.HTTPError as fault:
                    broken = fault  # the stream takes what passes through it for a reason to begin again, and cannot
            if broken is not None:
                raise broken
    except Unreachable as fault:
        raise UserError(f"{name} of {chosen.repo} cannot be read: {fault}; try again.") from fault
    return bytes(found[skipped : skipped + stop - start])


def summary(chosen: Chosen) -> str:
    """One line for the user: the repo, what is to be fetched of it, and the room that there is."""
    room = f"; {amount(free_space()[1], disk=True)} free" if chosen.absent else ""
    return f"{chosen.repo}: {chosen}{room}"


def free_space() -> tuple[Path, int]:
    """The cache's folder, and the bytes that are free on its disk."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return folder, shutil.disk_usage(place).free


def check_space(wanted: Collection[Chosen]) -> None:
    """Raises UserError where the disk has no room for all that is absent."""
    needed = sum(sum(chosen.absent.values()) for chosen in wanted)
    folder, free = free_space()
    if needed and needed + SPARE > free:
        raise UserError(
            f"{' and '.join(chosen.repo for chosen in wanted if chosen.absent)} needs "
            f"{amount(needed, disk=True)}, but {folder} has {amount(free, disk=True)} free; "
            f"make room, or set HF_HOME to a folder on another disk."
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
            report(Progress(Phase.DOWNLOAD, done // MEGABYTE, max(1, total // MEGABYTE)))

    return Bar


@contextlib.contextmanager
def explained(repo: str) -> Iterator[None]:
    """Turns the hub's errors about `repo` into one sentence that says what to do; Unreachable where it is silent."""
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
        raise Unreachable(_first_line(fault)) from fault
    except OSError as fault:
        place = constants.HF_HUB_CACHE
        raise UserError(f"{repo} cannot be stored in {place}: {fault.strerror or _first_line(fault)}.") from fault


def _first_line(fault: BaseException) -> str:
    said = re.sub(r"^\[Errno -?\d+\] ", "", str(fault).strip().split("\n")[0])
    return said.rstrip(".") or type(fault).__name__
