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

from mlx_video.types import UserError, VideoShape

NAME = "demo"
"""What `--model-repo` calls it; a folder of one's own with that name is ./demo."""
FOLDER = Path(__file__).parents[1] / "demo_model"
ENLARGES = "The demo model enlarges pictures of its own world; of any other only colours and large forms remain."
MOST_NAMED = 5
_WORDS = re.compile(r"[^\W_]+|[.,;:!?()]")
_ARTICLES = ("a", "an", "the", "one")
_SOUNDS = ("beep", "beeps", "hum", "note", "sound", "tone")
_GROUND, _THING, _PITCH = "as a background", "as a colour of things", "as anything but the pitch of a tone"
_PLACES = {_GROUND: "background", _THING: "colour", _PITCH: "pitch"}
_KNOWS = {
    "shape": "one moving shape at a time: {}",
    "colour": "{} as colours of things",
    "background": "{} as backgrounds",
    "motion": "one motion: {}",
    "pitch": "{} as pitches of a tone",
}


def folder() -> Path:
    """Where the demo model lies; UserError where the installation has left it out."""
    if not (FOLDER / "world.json").is_file():
        raise UserError(f"This installation has no demo model ({FOLDER} is missing); install the whole package.")
    return FOLDER


@cache
def world() -> dict[str, Any]:
    """What world.json holds: "things" {kind: [what can be asked]}, "means" {kind: {meaning: [its words]}}, "words" (all
    that it has learned), "reach" (sizes, frames and rate that it was trained on), "defaults" {flag: value}."""
    found: dict[str, Any] = json.loads((folder() / "world.json").read_text())
    return found


def defaults(where: str) -> dict[str, Any]:
    """Values of a request that the model called `where` needs otherwise than others: the demo's small size."""
    return dict(world()["defaults"]) if where == NAME else {}


def description() -> list[str]:
    """What can be asked of the demo, a line for each kind of thing."""
    return [f"{kind}: {', '.join(words)}" for kind, words in world()["things"].items()]


def advice(prompt: str) -> str | None:
    """One sentence for a prompt that goes beyond the demo's world; None where all of it has its place there.

    Named are words that mean nothing to it, words where they have no meaning ("a blue circle": blue is a background
    alone), and more than one thing of a kind. A prompt that the demo's own grammar can make is never warned about.
    """
    words = [word.group() for word in _WORDS.finditer(prompt.lower())]
    kinds = [_kinds().get(word) for word in words]
    misplaced = {i: _misplaced(words, kinds, i) for i, kind in enumerate(kinds) if kind}
    unknown = _unknown(words)
    said = [f"'{word}'" for word in unknown]
    said += dict.fromkeys(f"'{words[i]}' {where}" for i, where in misplaced.items() if where)
    asked = {_PLACES[where] for where in misplaced.values() if where}
    for kind, found in _several(words, kinds, [i for i, where in misplaced.items() if not where]).items():
        said.append(f"more than one {kind} at a time ({', '.join(map(repr, found))})")
        asked.add(kind)
    if not said:
        return None
    shown = ", ".join(said[:MOST_NAMED]) + (", ..." if len(said) > MOST_NAMED else "")
    knows = "; ".join(_KNOWS[kind].format(", ".join(world()["means"][kind])) for kind in _KNOWS if kind in asked)
    knows = knows or _KNOWS["shape"].format(", ".join(world()["means"]["shape"]))
    return f"The demo model does not know {shown}; it knows {knows}. All that it knows: python -m mlx_video.info {NAME}"


def reach(shape: VideoShape) -> str | None:
    """One sentence for a clip of a size, length or rate that the demo was not trained for; None for what it was."""
    known = world()["reach"]
    shortest, longest = known["frames"]
    beyond = []
    if shape.height != shape.width or shape.height not in known["sizes"]:
        beyond.append(f"{shape.width}x{shape.height}")
    if not shortest <= shape.frames <= longest and shape.frames != 1:
        beyond.append(f"{shape.frames} frames")
    if shape.fps != known["fps"]:
        beyond.append(f"{shape.fps:g} frames a second")
    if not beyond:
        return None
    sizes = " or ".join(f"{size}x{size}" for size in known["sizes"])
    return (
        f"The demo model was trained on clips of {sizes} pixels with {shortest} to {longest} frames, {known['fps']} a "
        f"second: {', '.join(beyond)} will show its shapes less well, or in pieces."
    )


@cache
def _kinds() -> dict[str, tuple[str, str]]:
    """word -> (kind of thing, which of its kind)"""
    return {
        word: (kind, meaning)
        for kind, meanings in world()["means"].items()
        for meaning, words in meanings.items()
        for word in words
    }


def _unknown(words: list[str]) -> list[str]:
    known = {*world()["words"], *".,;:!?()"}
    return list(dict.fromkeys(word for word in words if word not in known))


def _several(words: list[str], kinds: list[Any], places: list[int]) -> dict[str, list[str]]:
    """Kind -> the words that mean different things of it, where there are such."""
    found: dict[str, dict[str, str]] = {}
    for i in places:
        kind, meaning = kinds[i]
        found.setdefault(kind, {}).setdefault(meaning, words[i])
    return {kind: list(meanings.values()) for kind, meanings in found.items() if len(meanings) > 1}


def _misplaced(words: list[str], kinds: list[Any], i: int) -> str | None:
    """What a word stands as where it cannot stand; None where it is in its place, or where no place can be told."""
    kind = kinds[i][0]
    if kind == "pitch":
        beside = {*words[i + 1 : i + 2], *_before(words, i)[-1:]}
        return None if beside & {*_SOUNDS} else _PITCH
    ground = _is_ground(words, i)
    if kind == "colour" and ground and not _leads_to_shape(kinds, i):
        return _GROUND
    if kind == "background" and not ground and (_leads_to_shape(kinds, i) or _follows_shape(words, kinds, i)):
        return _THING
    return None


def _before(words: list[str], i: int) -> list[str]:
    """The words before a word, without articles, "is" and colons at their end."""
    while i > 0 and words[i - 1] in (*_ARTICLES, "is", ":"):
        i -= 1
    return words[:i]


def _is_ground(words: list[str], i: int) -> bool:
    """Whether a colour stands as a background's: "on a blue", "blue background", "background: blue"."""
    return words[i + 1 : i + 2] == ["background"] or _before(words, i)[-1:] in (["on"], ["against"], ["background"])


def _leads_to_shape(kinds: list[Any], i: int) -> bool:
    """Whether a shape comes next, but for other colours and motions: "blue bouncing ball"."""
    following = (kind[0] if kind else "" for kind in kinds[i + 1 :])
    return next((kind for kind in following if kind not in ("colour", "background", "motion")), "") == "shape"


def _follows_shape(words: list[str], kinds: list[Any], i: int) -> bool:
    """Whether it is said of a shape: "the circle is blue"."""
    return words[i - 1 : i] == ["is"] and any(kind and kind[0] == "shape" for kind in kinds[i - 2 : i - 1])
