"""`python -m bench.fits` prints what fits on which Mac: the planner's words on the published files' headers.

Nothing is measured: each cell is the plan of one run, made for a Mac that is only described. The README's table is
this one.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from mlx_video.pipelines.plan import GIB
from mlx_video.request import Request
from tests import macs, real_keys

PROMPT = "A red fox walks through deep snow at dawn; its breath steams, the snow creaks, a raven calls. " * 5
RUN = Request(prompt=PROMPT, width=768, height=512, num_frames=121)
BITS = (None, 8, 4)
CHIPS = {
    **dict.fromkeys((16, 24, 32), ("M4", "applegpu_g16g")),
    **dict.fromkeys((48, 64, 96, 128), ("M4 Max", "applegpu_g16s")),
}
STREAMED = "\\*"
"""Marks cells whose transformer is read block by block."""


def cell(folder: Path, gigabytes: int, bits: int | None) -> str:
    """Peak, way and time of a run on a Mac of so much memory."""
    with macs.mac(gigabytes, CHIPS[gigabytes][1]):
        plan = macs.plan(folder, RUN, bits=bits)
        return f"{plan.peak / GIB:.0f} GiB{STREAMED if plan.ways.stream_transformer else ''}, {plan.time}"


def report(folder: Path) -> str:
    """The table, as Markdown, with one line for Macs that do alike; the files of holes are made in `folder`."""
    made = {generation: macs.make(folder / generation, generation) for generation in real_keys.GENERATIONS}
    columns = {
        f"LTX-{generation}" + (f", `--quantize {bits}`" if bits else ""): (path, bits)
        for generation, path in made.items()
        for bits in BITS
    }
    rows = {
        size: (chip, *(cell(path, size, bits) for path, bits in columns.values())) for size, (chip, _) in CHIPS.items()
    }
    lines = [["Mac", *columns], ["---"] * (1 + len(columns))]
    for (chip, *cells), alike in itertools.groupby(rows, key=rows.__getitem__):
        sizes = list(alike)
        many = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
        lines.append([f"{many} GB, {chip}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(report(Path(folder)))
