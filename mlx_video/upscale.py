"""The command `mlx_video.upscale`: a picture or video to a larger one, or to twice the frames.

Turns flags into one call of `LTXPipeline.upscale` and saves the result. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse

from mlx_video import cli
from mlx_video.types import TILINGS


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.upscale",
        usage="mlx_video.upscale --input FILE --output FILE [flags]",
        description="Upscale a picture or a video; its sound is kept.\n\nexamples:\n"
        "  mlx_video.upscale --input photo.png --output larger.png\n"
        '  mlx_video.upscale --input a.mp4 --output b.mp4 --refine --prompt "waves"',
    )
    parser.add_argument(
        "--input", "-i", type=cli.path, required=True, metavar="FILE",
        help="a picture or a video of any size and length",
    )  # fmt: skip
    parser.add_argument(
        "--output-path", "--output", "-o", type=cli.path, required=True, metavar="FILE",
        help="of the same kind: picture or video",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=cli.number, default=2.0, metavar="X",
        help="of height and width: 2, 1.5 (LTX-2.3), or 1 to keep the size (default 2)",
    )  # fmt: skip
    parser.add_argument(
        "--fps-scale", type=cli.whole, default=1, metavar="N",
        help="2 puts a frame between any two, at twice the rate (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tiling", choices=TILINGS, default="auto", help="work in tiles to save memory (default %(default)s)"
    )
    group = parser.add_argument_group("refinement")
    group.add_argument("--refine", action="store_true", help="add detail by denoising a little; needs --prompt")
    group.add_argument("--prompt", "-p", default="", metavar="TEXT", help="what the picture or video shows")
    group.add_argument(
        "--steps", type=cli.whole, metavar="N", help="1 to 3: fewer begin with less noise and change less (default 3)"
    )
    group.add_argument(
        "--seed", "-s", type=cli.whole, default=42, metavar="N", help="same seed, same detail (default %(default)s)"
    )
    cli.add_vae(cli.add_model(parser))
    cli.add_memory(parser)
    cli.add_general(parser)
    return parser


def upscale(args: argparse.Namespace) -> None:
    """Runs the command: everything cheap is checked before anything heavy is loaded."""
    from mlx_video.api import LTXPipeline
    from mlx_video.jobs.upscale import Upscaling

    asked = Upscaling(
        args.input, args.scale, args.fps_scale, args.refine, args.prompt, args.steps, args.seed, args.tiling
    )
    bars = cli.Bars(args.quiet)
    try:
        with LTXPipeline.from_pretrained(
            args.model_repo, dtype=args.dtype, text_encoder=args.text_encoder_repo,
            low_memory=args.low_memory, memory_limit=args.memory_limit, vae_dtype=args.vae_dtype,
        ) as pipe:  # fmt: skip
            result = pipe.run_upscaling(asked, output=args.output_path, on_step=bars, on_message=bars.say)
            result.save(args.output_path, on_step=bars)
    finally:
        bars.close()
    if not args.quiet:
        seed = f"seed {args.seed}, " if args.refine else ""
        made = f"{seed}{cli.model_name(args.model_repo)}, in {cli.clock(bars.seconds)}"
        cli.say(f"{args.output_path}: {result}; {made}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, upscale, argv)


if __name__ == "__main__":
    raise SystemExit(main())
