"""The demo model that ships inside the package, and the small world that it knows.

Its folder is an ordinary checkpoint folder with one file more, world.json: what can be asked for, and every word that
means something to it. Knows no networks.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from mlx_video.types import UserError

NAME = "demo"
"""What `--model-repo` calls it; a folder of one's own with that name is ./demo."""
FOLDER = Path(__file__).parents[1] / "demo_model"


def folder() -> Path:
    """Where the demo model lies; UserError where the installation has left it out."""
    if not (FOLDER / "world.json").is_file():
        raise UserError(f"This installation has no demo model ({FOLDER} is missing); install the whole package.")
    return FOLDER


@cache
def world() -> dict[str, Any]:
    """{"things": {kind: [words]}, "words": [every word that means something], "defaults": {flag: value}}."""
    return json.loads((folder() / "world.json").read_text())


def defaults(where: str) -> dict[str, Any]:
    """Values of a request that the model called `where` needs otherwise than others: the demo's small size."""
    return dict(world()["defaults"]) if where == NAME else {}


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that mean nothing to the demo, in their order, each once."""
    known = set(world()["words"])
    return list(dict.fromkeys(word for word in re.findall(r"[^\W\d_]+", prompt.lower()) if word not in known))


def description() -> list[str]:
    """What can be asked of the demo, a line for each kind of thing."""
    return [f"{kind}: {', '.join(words)}" for kind, words in world()["things"].items()]


def advice(prompt: str) -> str | None:
    """One sentence for a prompt that goes beyond the demo's world; None where it knows every word."""
    unknown = unknown_words(prompt)
    if not unknown:
        return None
    shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    return (
        f"The demo model knows only its small world of moving shapes and does not know: {shown}. "
        f"What it knows: python -m mlx_video.info {NAME}"
    )
