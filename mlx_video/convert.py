"""The command `mlx_video.convert`: an official checkpoint to a folder with one part per component.

Turns flags into one job of `jobs.convert`. Decides nothing about formats.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
from dataclasses import dataclass

from mlx_video import cli
from mlx_video.cli.parser import Talk
from mlx_video.request.options import option
from mlx_video.types import DTYPES, UserError

NAME = "mlx_video.convert"


@dataclass(frozen=True)
class Converting:
    """What is to be converted, where to, and how."""

    source: str = option(
        "Lightricks/LTX-2", "--hf-path REPO|FOLDER|FILE", "Hugging Face id, checkpoint file or its folder "
        "(default {default})",
    )  # fmt: skip
    output: str = option(
        "mlx_model", "--mlx-path -o FOLDER", "written whole or not at all; must not exist (default {default})"
    )
    variant: str = option(
        "distilled", "", "which checkpoint, where the source has both (default {default})", choices=("distilled", "dev")
    )
    dtype: str | None = option(None, "", "of the weights (default: as in the source)", choices=DTYPES)
    quantize: int | None = option(
        None, "", "bits of the transformer's blocks (default: as in the source)", choices=(4, 8)
    )
    quantize_text_encoder: int | None = option(
        None, "", "put a copy of the text encoder in so many bits into the folder", choices=(4, 8)
    )
    group_size: int | None = option(
        None, "", "neighbouring weights that share a scale, where there is quantizing (default 64)",
        choices=(32, 64, 128),
    )  # fmt: skip
    text_encoder_repo: str | None = option(
        None, "REPO|FOLDER|FILE", "noted in the folder as its text encoder (default: what lies beside the source)"
    )
    audio: bool = option(True, "", "leave out everything for sound")


def build_parser(name: str = NAME) -> cli.Parser:
    """All flags of the command; `name` is an alias's."""
    parser = cli.Parser(
        prog=name,
        usage=f"{name} [--source REPO|FOLDER|FILE] [--output FOLDER] [flags]",
        description="Convert an official LTX-2 checkpoint to a folder with one part per component.\n\nexamples:\n"
        "  mlx_video.convert --source Lightricks/LTX-2 --output ./LTX-2-distilled\n"
        "  mlx_video.convert --source ./LTX-2 --output ./LTX-2-q8 --quantize 8",
    )
    return parser.take("convert", Converting, Talk)


def convert(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.group_size is not None and not (args.quantize or args.quantize_text_encoder):
        raise UserError("--group-size has no effect without --quantize or --quantize-text-encoder.")
    from mlx_video import platform
    from mlx_video.jobs.convert import Convert, Wishes
    from mlx_video.runner import Runner
    from mlx_video.types import Watch
    from mlx_video.weights.quantize import Quantization

    platform.prepare()
    bars = cli.bars_for(args)
    how = Quantization.of(args.quantize, args.group_size) if args.quantize else None
    text_how = Quantization.of(args.quantize_text_encoder, args.group_size) if args.quantize_text_encoder else None
    wishes = Wishes(platform.dtype_of(args.dtype), args.audio, how, text_quantization=text_how)
    try:
        runner = Runner(args.source, text_encoder=args.text_encoder_repo)
        made = runner.run(Convert(args.output, args.variant, wishes), Watch(bars, say=bars.say))
    finally:
        bars.close()
    cli.wrote(args.output)
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
