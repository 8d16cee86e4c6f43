"""`python -m bench.fits` prints what fits on which Mac: the planner's words on the published files' headers.

Nothing is measured: each cell is the plan of one run, made for a Mac that is only described. The README's table is
this one; `python -m bench.fits README.md` puts it there anew.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
from pathlib import Path

from mlx_video.platform import GIB
from mlx_video.request import Request
from tests.support import macs

PROMPT = "A red fox walks through deep snow at dawn; its breath steams, the snow creaks, a raven calls. " * 5
RUN = Request(prompt=PROMPT, width=768, height=512, num_frames=121)
GENERATIONS = ("2", "2.3", "2.5")
COLUMNS = {"as published": None, "`--quantize 8`": 8, "`--quantize 4`": 4}
MACS = (
    ("M1", "applegpu_g13g", 16),
    ("M4", "applegpu_g16g", 16),
    ("M4", "applegpu_g16g", 24),
    ("M4", "applegpu_g16g", 32),
    ("M1 Max", "applegpu_g13s", 32),
    ("M1 Max", "applegpu_g13s", 64),
    ("M4 Max", "applegpu_g16s", 48),
    ("M4 Max", "applegpu_g16s", 64),
    ("M4 Max", "applegpu_g16s", 128),
    ("M3 Ultra", "applegpu_g15d", 96),
    ("M5 Max", "applegpu_g17s", 48),
    ("M5 Max", "applegpu_g17s", 128),
)
"""Chip, what MLX calls its GPU, GB of memory."""
STREAMED = "\\*"
"""Marks cells whose transformer is read block by block."""
SAME = "the same"
"""Stands in a cell that says what the one before it says."""


def _span(values: list[str], unit: str) -> str:
    """`37 GiB`, or `5 to 10 GiB` where the generations differ."""
    return " to ".join(dict.fromkeys(values)) + f" {unit}"


def _time(seconds: list[float]) -> str:
    if seconds[-1] < 100:
        return _span([f"{max(round(value, -1), 10):.0f}" for value in seconds], "s")
    return _span([f"{value / 60:.0f}" for value in seconds], "min")


def cell(folders: dict[str, Path], architecture: str, gigabytes: int, bits: int | None) -> str:
    """Peak, way and time of a run on a Mac of so much memory: one for all generations where they go the same way."""
    with macs.mac(gigabytes, architecture):
        plans = {generation: macs.plan(folder, RUN, bits=bits) for generation, folder in folders.items()}
        # By the rates of that Mac, so while it is there.
        found = {name: (plan.peak, plan.seconds, plan.ways.stream_transformer) for name, plan in plans.items()}
    if len({streamed for _, _, streamed in found.values()}) == 1:
        return _words(list(found.values()))
    alike: dict[str, list[str]] = {}
    for generation, one in found.items():
        alike.setdefault(_words([one]), []).append(generation)
    return "; ".join(f"LTX-{' and '.join(generations)} {words}" for words, generations in alike.items())


def _words(found: list[tuple[int, float, bool]]) -> str:
    peaks = [f"{peak / GIB:.0f}" for peak in sorted(peak for peak, _, _ in found)]
    streamed = STREAMED if found[0][2] else ""
    return f"{_span(peaks, 'GiB')}{streamed}, {_time(sorted(seconds for _, seconds, _ in found))}"


def report(folder: Path) -> str:
    """The table, as Markdown, with one line for Macs that do alike; the files of holes are made in `folder`."""
    made = {generation: macs.make(folder / generation, generation) for generation in GENERATIONS}
    rows = []
    for chip, architecture, size in MACS:
        cells = [cell(made, architecture, size, bits) for bits in COLUMNS.values()]
        shown = [SAME if before == now else now for before, now in itertools.pairwise(["", *cells])]
        rows.append((chip, size, shown))
    lines = [["Mac", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for (chip, cells), alike in itertools.groupby(rows, key=lambda row: (row[0], row[2])):
        sizes = [size for _, size, _ in alike]
        many = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
        lines.append([f"{chip}, {many} GB", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(path: Path, table: str) -> None:
    """Puts `table` in place of the one in a Markdown file, which is known by its head."""
    head = re.escape(table.splitlines()[0])
    text, count = re.subn(rf"^{head}\n(?:\|.*\n?)+", lambda _: table + "\n", path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{path} has {count} tables that begin with {table.splitlines()[0]}, and should have one.")
    path.write_text(text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made_now = report(Path(place))
    print(made_now)
    for name in sys.argv[1:]:
        put(Path(name), made_now)
