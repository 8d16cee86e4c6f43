"""One trial: a command line on prepared files, what may come of it, and how what came of it is judged.

Knows nothing of how trials are made or where they run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VERDICTS = (
    "clear", "accepted", "unclear", "traceback", "silent", "hang", "memory", "crash", "partial files", "wrong status",
    "lost input",
)  # fmt: skip
"""How a trial can end. clear: refused in at most three lines that name the value or the option. accepted: ran, and what
it made is what it should be. silent: exit status 0 and something else."""
GOOD = ("clear", "accepted")
MAX_LINES = 3
PYTHON_WORDS = re.compile(
    r"Traceback|NoneType|\b\w*(?:Key|Type|Value|Index|Attribute|Unicode\w*|Runtime|Recursion|OS|Overflow)Error\b"
    r"|object at 0x|<class |<function|std::|\[Errno|not subscriptable|has no attribute|unhashable|unsupported operand"
    r"|bad_cast|\bdict_keys\b|PosixPath|np\.float|Warning:|list index|invalid literal|codec can't"
)
"""What a person who never wrote Python should not have to read."""


@dataclass(frozen=True)
class Case:
    """A trial.

    names: a refusal has to name one of them. expect: "refused" (nothing else will do), "same" (refused, or without any
    effect on what `twin`, the undisturbed command line, makes), "right" (refused, or a result that can be read and is
    neither damaged nor of one colour), "valid" (as "right", whatever it shows). fault: whether ending with status 1 and
    a sentence will do as well: some things are only seen once it runs. check: says what is wrong with an accepted
    result, or None.
    """

    group: str
    what: str
    command: str
    line: tuple[str, ...]
    names: tuple[str, ...] = ()
    expect: str = "right"
    twin: tuple[str, ...] | None = None
    outputs: tuple[str, ...] = ("out.mp4",)
    fault: bool = False
    check: Callable[[Run, Path], str | None] | None = None

    @property
    def title(self) -> str:
        """The trial in one printable line."""
        return f"{self.command}: {self.what}"[:300].encode("ascii", "backslashreplace").decode().replace("\n", "\\n")


@dataclass
class Run:
    """What came of a command: its exit status (None where an exception left it), what it said, and what it made.

    changed: files that were there before and are not as they were. made: files that were not there.
    """

    status: int | None
    said: str
    made: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    seconds: float = 0.0
    grown: int = 0
    """Bytes by which the process's peak lies above where it began."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with an accepted result."""


@dataclass(frozen=True)
class Verdict:
    """How a trial ended, and why it is not as it should be."""

    case: str
    group: str
    number: int
    verdict: str
    why: str = ""
    said: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether that is as it should be."""
        return self.verdict in GOOD


def closing(said: str) -> list[str]:
    """The lines of a command's last message: from the last line that begins with a command's name on."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("mlx_video.")]
    return lines[starts[-1] :] if starts else lines


def judge(case: Case, run: Run) -> tuple[str, str]:
    """(verdict, why) of a run that came to an end by itself."""
    lost = [name for name in run.changed if name not in case.outputs]
    if lost:
        return "lost input", f"changed: {', '.join(lost)}"
    if run.status is None or "Traceback (most recent call last)" in run.said:
        return "traceback", closing_of_traceback(run.said)
    stray = [name for name in run.made if not any(name == out or name.startswith(out + "/") for out in case.outputs)]
    if run.status == 0:
        if stray:
            return "partial files", f"left beside the result: {', '.join(stray)}"
        if case.expect == "refused":
            return "silent", "taken, where it cannot be right"
        if run.faults:
            return "silent", "; ".join(run.faults)
        return "accepted", ""
    if run.made:
        return "partial files", f"left by a run that ended with {run.status}: {', '.join(run.made)}"
    if run.status != 2 and not (case.fault and run.status == 1):
        return "wrong status", f"exit status {run.status}"
    return unclear_because(case, run)


def unclear_because(case: Case, run: Run) -> tuple[str, str]:
    """(verdict, why) of a refusal, by what it says."""
    lines = closing(run.said)
    if not lines:
        return "unclear", "no word"
    if len(lines) > MAX_LINES:
        return "unclear", f"{len(lines)} lines"
    text = "\n".join(lines)
    given = "\n".join(case.line)
    words = [found[0] for found in PYTHON_WORDS.finditer(run.said) if found[0] not in given]
    if words:
        return "unclear", f"Python's word {words[0]!r}"
    if case.names and not any(name and name.lower() in text.lower() for name in case.names):
        return "unclear", f"names none of {short(case.names)}"
    return "clear", ""


def closing_of_traceback(said: str) -> str:
    """The last line of a traceback, with the last place in the package that it names."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ") and "mlx_video" in line]
    place = re.sub(r'File ".*?(mlx_video/[^"]*)", line (\d+), in (\w+)', r"\1:\2 \3", places[-1]) if places else ""
    return f"{lines[-1] if lines else ''} @ {place}"[:400]


def short(values: Sequence[str]) -> str:
    """Some of the values, for a message."""
    return ", ".join(repr(value[:60]) for value in values[:4])
