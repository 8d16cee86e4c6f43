"""Prompts of every sort: a prompt is data, so nothing in it is wrong, and it comes back in the film's own comment."""

from __future__ import annotations

import json
import unicodedata
from functools import partial
from pathlib import Path

from tests.trials.case import Case, Run
from tests.trials.draw import source
from tests.trials.material import PROMPT, SIZE, Material

PIECES = (
    "a red ball", "\n", "\r\n", "\t", "  ", "\0", "\x07", "\x1b[31m", "é", "e\u0301", "\u202eleft\u202c", "\u200b",
    "\ufeff", "中文", "עברית",
    "😀", "👨‍👩‍👧", "\ud83d", "\udcff", '"', "'", "\\", "%s", "{}", "{0.__class__}", "$(reboot)", "`x`", "<bos>",
    "<eos>", "<start_of_turn>",
    "</s>", "--no-audio", "; rm -rf x", "../..", "\u2028", "1e999", "null", "=cmd", "\ufffe", "𝔞", "a" * 200,
    "word " * 300,
)  # fmt: skip


def make(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A few pieces in a row, or a great many; also as a negative prompt and for `encode`."""
    draw = source(seed, "prompts", number)
    text = "".join(draw.choice(PIECES) for _ in range(draw.choice((1, 2, 4, 8, 30))))
    if number % 7 == 6:
        text = draw.choice(("x", "a red ball, ", "😀")) * draw.choice((10_000, 100_000))
    line: tuple[str, ...] = (*SIZE, "-n", "1", "--no-audio", "--model-repo", str(material.model), "-o", "out.mp4")
    what = ascii(text[:60])
    if number % 5 == 4:
        line = (f"--prompt={PROMPT}", f"--negative-prompt={text}", "--pipeline", "dev", "--steps", "2", *line)
        return Case("prompts", f"negative {what}", "generate", line, ("prompt",), "valid")
    return Case(
        "prompts", what, "generate", (f"--prompt={text}", *line), ("prompt",), "valid", check=partial(_comes_back, text)
    )


def _comes_back(text: str, run: Run, folder: Path) -> str | None:
    import av

    with av.open(str(folder / "out.mp4")) as container:
        comment = container.metadata.get("mlx_video", "")
    try:
        kept = json.loads(comment).get("prompt")
    except ValueError:
        return "the film's comment is not JSON"
    # What no text file can hold, lone surrogates and NUL, may be replaced.
    whole = all(unicodedata.category(letter) not in ("Cs", "Cc", "Cn") for letter in text)
    return None if kept == text or not whole else "the film's comment has another prompt"
