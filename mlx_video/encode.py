"""The command `mlx_video.encode`: a prompt to a file, so that a later `generate --embedding` needs no text encoder.

Turns flags into one call of `LTXPipeline.encode`. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse

from mlx_video import cli


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.encode",
        usage="mlx_video.encode PROMPT -o FILE [flags]",
        description="Encode a prompt once; generate --embedding FILE then runs without Gemma.\n\n"
        'example:\n  mlx_video.encode "waves at night" -o waves.safetensors',
    )
    cli.add_prompt(parser)
    parser.add_argument("--negative-prompt", metavar="TEXT", help="for guided pipelines (default: a list of flaws)")
    parser.add_argument(
        "--output-path", "--output", "-o", type=cli.path, required=True, metavar="FILE",
        help="the embedding: .safetensors, or .npz for NumPy",
    )  # fmt: skip
    parser.add_argument(
        "--variant", choices=("distilled", "dev"), default="distilled", help="of the checkpoint (default %(default)s)"
    )
    cli.add_model(parser)
    cli.add_memory(parser)
    cli.add_general(parser)
    return parser


def encode(args: argparse.Namespace) -> None:
    """Runs the command."""
    prompt = cli.prompt_of(args)
    from mlx_video.api import LTXPipeline

    bars = cli.Bars(args.quiet)
    try:
        with LTXPipeline.from_pretrained(
            args.model_repo, dtype=args.dtype, text_encoder=args.text_encoder_repo,
            low_memory=args.low_memory, memory_limit=args.memory_limit,
        ) as pipe:  # fmt: skip
            pipe.encode(
                prompt, args.output_path, variant=args.variant, negative_prompt=args.negative_prompt,
                on_step=bars, on_message=bars.say,
            )  # fmt: skip
    finally:
        bars.close()
    if not args.quiet:
        made = f"{cli.model_name(args.model_repo)}, in {cli.clock(bars.seconds)}"
        cli.say(f"{args.output_path}: the prompt, for generate --embedding; {made}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, encode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
