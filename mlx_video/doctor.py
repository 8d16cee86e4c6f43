"""The command `mlx_video.doctor`: whether it is the user, the machine or the model, in under a minute.

Turns flags into a round of examinations, prints their verdicts, and ends with a block to paste into an issue. Exit
status 1 where something is wrong. Measures nothing itself.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_video import cli
from mlx_video.cli.parser import Talk
from mlx_video.types import RunError

if TYPE_CHECKING:
    from mlx_video.checkup.finding import Finding


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.doctor",
        usage="mlx_video.doctor [flags]",
        description="Look at this installation and this machine: versions, memory, disk, access to models and models\n"
        "that are here; run the demo against recorded results; measure how fast matrices, networks and the\n"
        "disk are. Under a minute; exit status 1 where something is wrong.",
    )
    parser.add_argument("--quick", action="store_true", help="only look, measure nothing")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object, for programs")
    return parser.take("doctor", Talk)


def doctor(args: argparse.Namespace) -> None:
    """Runs the command; raises RunError where something is wrong."""
    os.environ["MLX_VIDEO_CACHE"] = "off"  # the text encoder is to run, and to leave nothing
    from mlx_video import platform
    from mlx_video.checkup.finding import Verdict, block, summary, worst
    from mlx_video.checkup.rounds import examinations, examine

    bars = cli.bars_for(args)
    platform.prepare()
    found: list[Finding] = []
    try:
        for one in examine(examinations(args.quick), bars):
            found.append(one)
            if not args.json:
                cli.show(str(one))
    finally:
        bars.close()
    if args.json:
        cli.show(as_json(found))
    else:
        cli.show(f"\n{summary(found)}\n\nTo paste into an issue (it names no folder, user or token):\n{block(found)}")
    if worst(found) is Verdict.WRONG:
        raise RunError(summary(found))


def as_json(found: Sequence[Finding]) -> str:
    """The findings, with nothing in them that is not to be shared."""
    from mlx_video.checkup.finding import shareable, summary, worst

    rows = [
        {"topic": one.topic, "verdict": one.verdict, "said": shareable(one.said), "figures": dict(one.figures)}
        for one in found
    ]
    whole = {"verdict": worst(found), "summary": summary(found), "findings": rows}
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False, default=str)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, doctor, argv)


if __name__ == "__main__":
    raise SystemExit(main())
