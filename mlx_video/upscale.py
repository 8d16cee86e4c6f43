"""The command `mlx_video.upscale`: a picture or video to a larger one, or to twice the frames.

Turns flags into one call of `LTXPipeline.upscale` and saves the result. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse

from mlx_video import cli
from mlx_video.cli.parser import Model, given
from mlx_video.request import Upscaling
from mlx_video.request.options import flag
from mlx_video.types import UserError


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.upscale",
        usage="mlx_video.upscale --input FILE --output FILE [flags]",
        description="Upscale a picture or a video; its sound is kept.\n\nexamples:\n"
        "  mlx_video.upscale --input photo.png --output larger.png\n"
        '  mlx_video.upscale --input a.mp4 --output b.mp4 --refine --prompt "waves"',
    )
    return parser.take("upscale", Upscaling, Model)


def upscale(args: argparse.Namespace) -> None:
    """Runs the command: everything cheap is checked before anything heavy is loaded."""
    asked = Upscaling(**given(args, Upscaling))
    asked.check()
    for name in ("text_encoder_repo", "dtype"):
        if getattr(args, name) is not None and not asked.refine:
            raise UserError(f"{flag(name)} has no effect without --refine.")
    with cli.pipeline(args) as (pipe, bars):
        result = pipe.run_upscaling(asked, output=args.output_path, on_step=bars, on_message=bars.say)
        result.save(args.output_path, on_step=bars)
    cli.done(args, bars, f"{args.output_path}: {result}; {f'seed {asked.seed}, ' if asked.refine else ''}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, upscale, argv)


if __name__ == "__main__":
    raise SystemExit(main())
