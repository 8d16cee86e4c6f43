"""Several pictures in one: a strip of moments side by side, and a contact sheet of a film with times and its prompt.

Pictures are (H, W, 3) uint8 sRGB. Knows no latents.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlx_video.media.image import enlarged

MOMENTS = 8
"""Pictures of a strip at most."""
STRIP_ROWS = 128
"""Pixels of height that a strip has at least; smaller pictures are enlarged."""
GAP = 2
"""Pixels between the pictures of a strip."""
SHEET_MOMENTS, COLUMNS = 12, 4
"""Pictures of a contact sheet at most, and side by side."""
CELL = 320
"""Pixels of the longer side of a contact sheet's picture at most."""
EDGE, TIME_ROWS, LETTER = 12, 22, 14
"""Pixels: around the pictures of a contact sheet, beneath each for its time, and the size of letters."""
LETTER_WIDTH = 0.55
"""Of a letter's size, on average."""
PROMPT_LINES = 4
PAPER, INK = (250, 250, 250), (40, 40, 40)


def even(count: int, most: int) -> list[int]:
    """Up to `most` of `count` things, as evenly as can be, the first and the last among them."""
    kept = min(count, most)
    return sorted({round(k * (count - 1) / max(kept - 1, 1)) for k in range(kept)})


def strip(pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """MOMENTS pictures of one size side by side, in their order."""
    rows, columns = pictures[0].shape[:2]
    scale = -(-STRIP_ROWS // rows)
    chosen = [enlarged(pictures[k], rows * scale, columns * scale) for k in even(len(pictures), MOMENTS)]
    gap = np.full((rows * scale, GAP, 3), PAPER, np.uint8)
    return np.concatenate([part for picture in chosen for part in (gap, picture)][1:], axis=1)


class Moment(NamedTuple):
    """A picture of a contact sheet, small, and when it is shown."""

    seconds: float
    picture: np.ndarray


class Sheet:
    """Gathers a film's pictures on their way, and lays them out once the film is through."""

    def __init__(self, count: int, fps: float, prompt: str = ""):
        """count: frames of the film."""
        self._wanted, self._fps, self._prompt = set(even(count, SHEET_MOMENTS)), fps, prompt
        self._moments: list[Moment] = []

    def watch(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Hands frames on as they are."""
        for number, frame in enumerate(frames):
            if number in self._wanted:
                scale = min(CELL / max(frame.shape[:2]), 1.0)
                size = [max(round(side * scale), 1) for side in frame.shape[:2]]
                self._moments.append(Moment(number / self._fps, enlarged(frame, *size)))
            yield frame

    def whole(self) -> np.ndarray:
        """The sheet: pictures in rows, the time in seconds beneath each, the prompt at the foot."""
        from PIL import Image, ImageDraw, ImageFont

        rows, columns = self._moments[0].picture.shape[:2]
        across = min(len(self._moments), COLUMNS)
        down = -(-len(self._moments) // across)
        width = across * (columns + EDGE) + EDGE
        letters = max(int((width - 2 * EDGE) / (LETTER * LETTER_WIDTH)), 8)
        lines = textwrap.wrap(self._prompt, letters, max_lines=PROMPT_LINES, placeholder=" ...")
        foot = len(lines) * (LETTER + 6) + (EDGE if lines else 0)
        sheet = Image.new("RGB", (width, down * (rows + TIME_ROWS) + EDGE + foot), PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER)
        for place, (seconds, picture) in enumerate(self._moments):
            left = EDGE + place % across * (columns + EDGE)
            top = EDGE + place // across * (rows + TIME_ROWS)
            sheet.paste(Image.fromarray(picture), (left, top))
            pen.text((left, top + rows + 2), f"{seconds:.2f} s", INK, font)
        for number, line in enumerate(lines):
            pen.text((EDGE, sheet.height - foot + number * (LETTER + 6)), line, INK, font)
        return np.array(sheet)
