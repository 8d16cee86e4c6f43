"""The command `mlx_video.encode`: a prompt to a file, so that a later `generate --embedding` needs no text encoder.

Turns flags into one call of `LTXPipeline.encode`. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
from dataclasses import MISSING, dataclass

from mlx_video import cli
from mlx_video.cli.parser import Model
from mlx_video.request.options import option


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What is to be encoded, and where to."""

    prompt: str | None = option(None, "-p TEXT", "the same, as a flag")
    negative_prompt: str | None = option(None, "TEXT", "for guided pipelines (default: a list of flaws)")
    output_path: str = option(MISSING, "--output -o FILE", "the embedding: .safetensors, or .npz for NumPy")
    variant: str = option("distilled", "", "of the checkpoint (default {default})", choices=("distilled", "dev"))


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.encode",
        usage="mlx_video.encode PROMPT -o FILE [flags]",
        description="Encode a prompt once; generate --embedding FILE then runs without Gemma.\n\n"
        'example:\n  mlx_video.encode "waves at night" -o waves.safetensors',
    )
    return parser.take_prompt().take("encode", Encoding, Model)


def encode(args: argparse.Namespace) -> None:
    """Runs the command."""
    prompt = cli.prompt_of(args)
    with cli.pipeline(args) as (pipe, bars):
        pipe.encode(
            prompt, args.output_path, variant=args.variant, negative_prompt=args.negative_prompt,
            on_step=bars, on_message=bars.say,
        )  # fmt: skip
    cli.done(args, bars, f"{args.output_path}: the prompt, for generate --embedding; ")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, encode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
