"""Lightricks' published models by short names, with what one needs to know before a download. Facts; asks nobody."""

from __future__ import annotations

from typing import NamedTuple

from mlx_video.reading import is_there
from mlx_video.types import amount


class Published(NamedTuple):
    """A model on Hugging Face."""

    repo: str
    what: str
    size: int
    """Bytes that a distilled run fetches, its text encoder among them."""
    licence: str


_UP_TO_23 = "LTX-2 Community License Agreement (5 January 2026)"
MODELS: dict[str, Published] = {
    "ltx-2": Published("Lightricks/LTX-2", "19B, with sound; takes Gemma 3 12B", 69_000_000_000, _UP_TO_23),
    "ltx-2.3": Published("Lightricks/LTX-2.3", "22B, with sound; takes Gemma 3 12B", 72_000_000_000, _UP_TO_23),
    "ltx-2.5": Published(
        "Lightricks/LTX-2.5", "22B, with sound; brings its own Gemma 4 12B", 71_100_000_000,
        "LTX-2.x Community License Agreement (11 August 2026); gated: accept it on the repo's page, then log in",
    ),
}  # fmt: skip
"""Sizes from the files' headers, rounded up to whole GB where Gemma 3 comes from a repo of its own."""


def full_name(where: str) -> str:
    """The repo of a short name; anything else, and whatever lies here under that name, as it is."""
    known = MODELS.get(where.lower())
    return where if known is None or is_there(where) else known.repo


def listed() -> list[str]:
    """For the user: a block of lines for each."""
    lines = ["Published models; --model-repo takes the short names too:"]
    for name, one in MODELS.items():
        lines += ["", f"{name:<10}{one.repo}: {one.what}", f"{'':10}{amount(one.size, disk=True)} for a distilled run"]
        lines += [f"{'':10}{one.licence}"]
    return [*lines, "", "demo      small weights that come with this package, for trying out"]
