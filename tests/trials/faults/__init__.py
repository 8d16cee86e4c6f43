"""The kinds of faults, and how many of 300 each gets."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.trials.case import Verdict
from tests.trials.faults import caches, disks, downloads, parts, signals
from tests.trials.faults.process import Found, Place

KINDS: dict[str, Callable[[int, int, Place], Found]] = {
    "signals": signals.signals,
    "download": downloads.download,
    "disk": disks.disk,
    "limits": disks.limits,
    "cache": caches.damaged_cache,
    "injected": parts.injected,
    "names": signals.names,
}
SHARES = {"signals": 110, "download": 18, "disk": 50, "limits": 32, "cache": 34, "injected": 44, "names": 12}


def shares(total: int) -> dict[str, int]:
    """How many trials each kind gets of `total`; at least one each."""
    whole = sum(SHARES.values())
    return {name: max(1, round(total * share / whole)) for name, share in SHARES.items()}


def attempt(group: str, number: int, seed: int, scratch: Path, limit: float) -> Verdict:
    """Makes one fault of a kind and judges what came of it."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{group}-"))
    begun = time.monotonic()
    try:
        title, verdict, why, said = KINDS[group](number, seed, Place(scratch, folder, limit))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(title, group, number, verdict, why, said[-3000:], time.monotonic() - begun)
