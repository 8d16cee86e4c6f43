"""What a user sees of a run's pictures: a strip in a file, replaced at each step, and in terminals that show pictures.

iTerm2 and WezTerm take OSC 1337 (iterm2.com/documentation-images.html), kitty and Ghostty kitty's graphics protocol
(sw.kovidgoyal.net/kitty/graphics-protocol); elsewhere, within tmux or screen, and in a pipe there is the file alone.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlx_video.types import Progress, RunError, UserError

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["iterm", "kitty"]
PIECE = 4096
"""Bytes of base64 that kitty takes in one command."""
_PROGRAMS: Mapping[str, Protocol] = {"iTerm.app": "iterm", "WezTerm": "iterm", "ghostty": "kitty"}
_TERMS: Mapping[str, Protocol] = {"xterm-kitty": "kitty", "xterm-ghostty": "kitty", "wezterm": "iterm"}


def protocol_of(environment: Mapping[str, str], terminal: bool) -> Protocol | None:
    """How pictures are shown where standard error is a `terminal` of such an environment; None: they are not."""
    term = environment.get("TERM", "")
    between = "TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux"))
    if not terminal or between or term == "dumb":
        return None
    if term in _TERMS:
        return _TERMS[term]
    if "KITTY_WINDOW_ID" in environment:
        return "kitty"
    if environment.get("LC_TERMINAL") == "iTerm2":  # which ssh passes on
        return "iterm"
    return _PROGRAMS.get(environment.get("TERM_PROGRAM", ""))


def inline(png: bytes, protocol: Protocol) -> str:
    """What a terminal is sent to show a PNG where the cursor is."""
    data = base64.b64encode(png).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(png)};preserveAspectRatio=1:{data}\x07"
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    controls = ["a=T,f=100,q=2,", *[""] * (len(pieces) - 1)]
    more = [1] * (len(pieces) - 1) + [0]
    return "".join(
        f"\x1b_G{control}m={last};{piece}\x1b\\" for control, last, piece in zip(controls, more, pieces, strict=True)
    )


def beside(video: str, kind: str) -> Path | None:
    """The picture of a `kind` that belongs to a video: waves.mp4 has waves.preview.png; None where that has no name."""
    path = Path(video)
    return path.with_name(f"{path.stem}.{kind}.png") if path.name else None


class Preview:
    """Takes the pictures of one clip's run and shows them; the last strip stays beside the video."""

    def __init__(self, path: Path, every: int, say: Callable[[str], None]):
        """every: of so many steps one is shown, and each stage's last; say: writes a line to standard error."""
        self._path, self._every, self._say = path, every, say
        self._protocol = protocol_of(os.environ, sys.stderr is not None and sys.stderr.isatty())
        self._written = True

    def __call__(self, progress: Progress, frames: np.ndarray) -> None:
        """As `on_picture`. A strip that cannot be written is told once, and the run goes on."""
        from mlx_video.media.image import save_image
        from mlx_video.media.sheet import strip

        if not self._written or (progress.done % self._every and progress.done != progress.total):
            return
        try:
            save_image(self._path, strip(frames))
        except (UserError, RunError) as fault:
            self._written = False
            self._say(f"There are no more previews: {fault}")
            return
        if self._protocol is not None:
            self._say(inline(self._path.read_bytes(), self._protocol))
