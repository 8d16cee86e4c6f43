"""The command `mlx_video.convert`: an official checkpoint to a folder with one part per component.

Turns flags into one job of `jobs.convert`. Decides nothing about formats.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse

from mlx_video import cli
from mlx_video.types import UserError

NAME = "mlx_video.convert"


def build_parser(name: str = NAME) -> cli.Parser:
    """All flags of the command; `name` is an alias's."""
    parser = cli.Parser(
        prog=name,
        usage=f"{name} [--source REPO|FOLDER|FILE] [--output FOLDER] [flags]",
        description="Convert an official LTX-2 checkpoint to a folder with one part per component.\n\nexamples:\n"
        "  mlx_video.convert --source Lightricks/LTX-2 --output ./LTX-2-distilled\n"
        "  mlx_video.convert --source ./LTX-2 --output ./LTX-2-q8 --quantize 8",
    )
    parser.add_argument(
        "--source", "--hf-path", type=cli.path, default="Lightricks/LTX-2", metavar="REPO|FOLDER|FILE",
        help="Hugging Face id, checkpoint file or its folder (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", "--mlx-path", "-o", type=cli.path, default="mlx_model", metavar="FOLDER",
        help="written whole or not at all; must not exist (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--variant",
        choices=("distilled", "dev"),
        default="distilled",
        help="which checkpoint, where the source has both (default %(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="of the weights (default: as in the source)"
    )
    parser.add_argument(
        "--quantize",
        type=cli.whole,
        choices=(4, 8),
        help="bits of the transformer's blocks (default: as in the source)",
    )
    parser.add_argument(
        "--quantize-text-encoder", type=cli.whole, choices=(4, 8), metavar="{4,8}",
        help="put a copy of the text encoder in so many bits into the folder",
    )  # fmt: skip
    parser.add_argument(
        "--group-size", type=cli.whole, choices=(32, 64, 128),
        help="neighbouring weights that share a scale, where there is quantizing (default 64)",
    )  # fmt: skip
    parser.add_argument(
        "--text-encoder-repo", type=cli.path, metavar="REPO|FOLDER",
        help="noted in the folder as its text encoder (default: what lies beside the source)",
    )  # fmt: skip
    parser.add_argument("--no-audio", dest="audio", action="store_false", help="leave out everything for sound")
    cli.add_general(parser)
    return parser


def convert(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.group_size is not None and not (args.quantize or args.quantize_text_encoder):
        raise UserError("--group-size has no effect without --quantize or --quantize-text-encoder.")
    import mlx.core as mx

    from mlx_video import platform
    from mlx_video.jobs.convert import Convert, Wishes
    from mlx_video.runner import Runner
    from mlx_video.types import Watch
    from mlx_video.weights.quantize import Quantization

    platform.prepare()
    bars = cli.Bars(args.quiet)
    how = Quantization.of(args.quantize, args.group_size) if args.quantize else None
    text_how = Quantization.of(args.quantize_text_encoder, args.group_size) if args.quantize_text_encoder else None
    wishes = Wishes(getattr(mx, args.dtype) if args.dtype else None, args.audio, how, text_quantization=text_how)
    try:
        runner = Runner(args.source, text_encoder=args.text_encoder_repo)
        made = runner.run(Convert(args.output, args.variant, wishes), Watch(bars, say=bars.say))
    finally:
        bars.close()
    if args.quiet:
        return
    if how is not None:
        listed = ", ".join(f"{error:.1e} in {bits} bit" for bits, error in sorted(made.errors.items(), reverse=True))
        cli.say(f"relative error of block 0's output against the source: {listed} (groups of {how.group_size})")
    cli.say(f"{args.output}: converted from {made.source}, in {cli.clock(bars.seconds)}")


def main(argv: list[str] | None = None, name: str = NAME) -> int:
    """Entry point; `name` is an alias's."""
    return cli.run(lambda: build_parser(name), convert, argv)


if __name__ == "__main__":
    raise SystemExit(main())
