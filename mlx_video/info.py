"""The command `mlx_video.info`: what lies at a path, from file headers alone.

Turns one argument into one call of `pipelines.describe`. Decides nothing about formats.
"""

from __future__ import annotations

import argparse

from mlx_video import cli


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.info",
        description="Show what a checkpoint is: generation, variant, precision, components and their sizes.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="what generate's --model-repo takes, if it is on this machine; demo lists the demo's world",
    )
    parser.add_argument("--verbose", action="store_true", help="log what is read")
    return parser


def info(args: argparse.Namespace) -> None:
    """Runs the command."""
    from mlx_video.pipelines import demo, locate
    from mlx_video.pipelines.describe import describe

    lines = describe(locate.existing(args.path, "PATH"))
    if args.path == demo.NAME:
        lines += ["", "The demo knows this small world and nothing else:", *demo.description()]
    cli.show("\n".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, info, argv)


if __name__ == "__main__":
    raise SystemExit(main())
