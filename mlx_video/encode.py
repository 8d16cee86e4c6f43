"""The command `mlx_video.encode`: a prompt to a file, so that a later `generate --embedding` needs no text encoder.

Turns flags into one call of `LTXPipeline.encode`. Decides nothing about models.
"""

from __future__ import annotations

import argparse

from mlx_video import cli


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.encode", description="Encode a prompt once; generate --embedding FILE then runs without Gemma."
    )
    parser.add_argument("--prompt", "-p", required=True, metavar="TEXT", help="what the clip shows and sounds like")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="for guided pipelines (default: a list of flaws)")
    parser.add_argument(
        "--output-path", "--output", "-o", required=True, metavar="FILE.safetensors", help="the embedding"
    )
    parser.add_argument(
        "--variant", choices=("distilled", "dev"), default="distilled", help="of the checkpoint (default %(default)s)"
    )
    cli.add_model(parser)
    cli.add_memory(parser)
    cli.add_general(parser)
    return parser


def encode(args: argparse.Namespace) -> None:
    """Runs the command."""
    from mlx_video.pipelines.api import LTXPipeline

    bars = cli.Bars(args.quiet)
    try:
        with LTXPipeline.from_pretrained(
            args.model_repo, dtype=args.dtype, text_encoder=args.text_encoder_repo,
            low_memory=args.low_memory, memory_limit=args.memory_limit,
        ) as pipe:  # fmt: skip
            pipe.encode(
                args.prompt, args.output_path, variant=args.variant, negative_prompt=args.negative_prompt,
                on_step=bars, on_message=bars.say,
            )  # fmt: skip
    finally:
        bars.close()
    if not args.quiet:
        cli.say(f"{args.output_path}: the prompt, for generate --embedding")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, encode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
