"""`python -m bench.fits` prints what fits on which Mac: the planner's words on the published files' headers.

Nothing is measured: each cell is the plan of one run, made for a Mac that is only described. The README's table is
this one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlx_video import LTXPipeline, platform
from mlx_video.pipelines.plan import GIB
from mlx_video.request import Request
from tests import macs, real_keys

PROMPT = "A red fox walks through deep snow at dawn; its breath steams, the snow creaks, a raven calls. " * 5
SIZE = {"width": 768, "height": 512, "num_frames": 121}
BITS = (None, 8, 4)
CHIPS = {
    **dict.fromkeys((16, 24, 32), ("M4", "applegpu_g16g")),
    **dict.fromkeys((48, 64, 96, 128), ("M4 Max", "applegpu_g16s")),
}
STREAMED = "\\*"
"""Marks cells whose transformer is read block by block."""


def cell(pipe: LTXPipeline, gigabytes: int) -> str:
    """Peak, way and time of a run on a Mac of so much memory."""
    with macs.mac(gigabytes, CHIPS[gigabytes][1]):
        plan = pipe.plan(Request(prompt=PROMPT, **SIZE))
        return f"{plan.peak / GIB:.0f} GiB{STREAMED if plan.ways.stream_transformer else ''}, {plan.time}"


def report(folder: Path) -> str:
    """The table, as Markdown; the files of holes are made in `folder`."""
    columns = {}
    for generation in real_keys.GENERATIONS:
        path = macs.make(folder / generation, generation)
        for bits in BITS:
            name = f"LTX-{generation}" + (f", `--quantize {bits}`" if bits else "")
            with LTXPipeline.from_pretrained(path, dtype="bfloat16", quantize=bits) as pipe:
                columns[name] = [cell(pipe, size) for size in CHIPS]
    lines = [["Mac", *columns], ["---"] * (1 + len(columns))]
    for row, (size, (chip, _)) in enumerate(CHIPS.items()):
        lines.append([f"{size} GB, {chip}", *(cells[row] for cells in columns.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    platform.prepare()
    with tempfile.TemporaryDirectory() as made:
        print(report(Path(made)))
