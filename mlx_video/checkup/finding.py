"""What an examination ends with: a verdict, a sentence and figures; and the text that is fit to be sent to others.

Knows nothing of what is examined.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """From the best to the worst."""

    OK = "ok"
    LOOK = "look"
    """Runs work, but slower than they need, or not all of them."""
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One topic."""

    topic: str
    verdict: Verdict
    said: str
    """A sentence or a few figures; may name folders, which `block` leaves out."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: plain values, with the unit in the name."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.verdict:<6} {self.topic:<12} {self.said}"


def worst(findings: Iterable[Finding]) -> Verdict:
    """The verdict on all of them; ok where there are none."""
    order = list(Verdict)
    return max((one.verdict for one in findings), key=order.index, default=Verdict.OK)


def summary(findings: Sequence[Finding]) -> str:
    """One sentence: what is wrong, else what is worth a look."""
    found = worst(findings)
    if found is Verdict.OK:
        return "Nothing is wrong with this installation and this machine."
    topics = ", ".join(one.topic for one in findings if one.verdict is found)
    return f"Something is wrong: {topics}." if found is Verdict.WRONG else f"Nothing is wrong; worth a look: {topics}."


def block(findings: Sequence[Finding]) -> str:
    """All of it for an issue, as Markdown; without folders, the user's name and tokens."""
    lines = [shareable(str(one)) for one in findings]
    return "\n".join(["```", f"mlx_video.doctor: {worst(findings)}", *lines, "```"])


_SECRET = re.compile(r"\bhf_\w+")
_REST = r"[\w.~@%+=:,/-]*[\w~@%+=/-]"
"""Of a path; a sentence's comma or stop behind it is none of it."""
_PATH = re.compile(rf"(?<![\w.:/])~?/{_REST}")


def shareable(text: str) -> str:
    """The text with every path as (path) and every token of the hub as (token)."""
    known = {Path.home(), Path(tempfile.gettempdir()), *(Path(os.environ[n]) for n in ("HF_HOME",) if n in os.environ)}
    for folder in sorted((str(one) for one in known if one != Path("/")), key=len, reverse=True):
        # A user's folder may have spaces in its name, after which no pattern sees the path go on.
        text = re.sub(rf"{re.escape(folder)}(?:{_REST})?", "(path)", text)
    return _PATH.sub("(path)", _SECRET.sub("(token)", text))
