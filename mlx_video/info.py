"""The command `mlx_video.info`: what lies at a path or in a repo, from file headers alone.

Turns one argument into one call of `checkpoints.describe`. Decides nothing about formats.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse

from mlx_video import cli
from mlx_video.cli.parser import path


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.info",
        usage="mlx_video.info [REPO|FOLDER|FILE] [--verbose]",
        description="Show what a checkpoint is: generation, variant, precision, parts, sizes.",
    )
    parser.add_argument(
        "path",
        nargs="?",
        type=path,
        metavar="REPO|FOLDER|FILE",
        help="what generate's --model-repo takes; of a Hugging Face repo only headers are fetched; demo lists the "
        "demo's world; nothing: the published models, with sizes and licences",
    )
    parser.add_argument("--verbose", action="store_true", help="log what is read")
    return parser


def info(args: argparse.Namespace) -> None:
    """Runs the command."""
    from mlx_video import platform
    from mlx_video.checkpoints import demo, locate
    from mlx_video.checkpoints.describe import describe, describe_repo
    from mlx_video.checkpoints.hub import models

    if args.path is None:
        cli.show("\n".join(models.listed()))
        return
    where = models.full_name(args.path)
    hub_id = locate.is_hub_id(where)
    lines = describe_repo(where) if hub_id else describe(locate.existing(where, "PATH"))
    if args.path == demo.NAME:
        lines += ["", "The demo knows this small world and nothing else:", *demo.description()]
    lines += ["", f"This machine: {'; '.join(platform.describe())}", *platform.shortcomings()]
    cli.show("\n".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, info, argv)


if __name__ == "__main__":
    raise SystemExit(main())
