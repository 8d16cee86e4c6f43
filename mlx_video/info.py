"""The command `mlx_video.info`: what lies at a path or in a repo, from file headers alone.

Turns one argument into one call of `checkpoints.describe`. Decides nothing about formats.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_video import cli
from mlx_video.cli.parser import path

MADE = (".mp4", ".m4v", ".mov", ".mkv", ".png", ".wav")
"""Suffixes of files that this package writes its settings into."""


def build_parser() -> cli.Parser:
    """All flags of the command."""
    parser = cli.Parser(
        prog="mlx_video.info",
        usage="mlx_video.info [REPO|FOLDER|FILE] [--verbose]",
        description="Show what a checkpoint is (generation, variant, precision, parts, sizes),\n"
        "what a LoRA is (base, rank, alpha, dead layers), or how a clip was made.",
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
    from mlx_video.checkpoints.describe_lora import describe_lora
    from mlx_video.checkpoints.hub import models

    if args.path is None:
        cli.show("\n".join(models.listed()))
        return
    if Path(args.path).suffix.lower() in MADE and Path(args.path).is_file():
        cli.show("\n".join(_settings_of(Path(args.path))))
        return
    if (stored := _stored(Path(args.path))) is not None:
        cli.show("\n".join(stored))
        return
    where = models.full_name(args.path)
    if (lora := _lora(where)) is not None:
        cli.show("\n".join(map(cli.one_line, describe_lora(lora))))
        return
    hub_id = locate.is_hub_id(where)
    lines = describe_repo(where) if hub_id else describe(locate.existing(where, "PATH"))
    if args.path == demo.NAME:
        lines += ["", "The demo knows this small world and nothing else:", *demo.description()]
    lines += ["", f"This machine: {'; '.join(platform.describe())}", *platform.shortcomings()]
    cli.show("\n".join(lines))


def _lora(where: str) -> Path | None:
    """The LoRA that lies at a path, if one does."""
    from mlx_video.checkpoints import demo, locate
    from mlx_video.checkpoints.describe_lora import lora_at

    if where == demo.NAME or locate.is_hub_id(where):
        return None
    return lora_at(locate.existing(where, "PATH"))


def _settings_of(path: Path) -> list[str]:
    """What a finished file says of how it was made."""
    from mlx_video.media import settings

    return [str(path), *_listed(settings.read(path))]


def _stored(path: Path) -> list[str] | None:
    """What a stored clip, or a folder that a run is kept in, says of how it was made; None for anything else."""
    from mlx_video.results.clip import Clip
    from mlx_video.results.kept import asked_of, told
    from mlx_video.results.stored import said_by

    if (said := said_by(path)) is not None:
        return [str(path), *_listed({"latents": str(Clip.open(path)), **said})]
    if (asked := asked_of(path)) is not None:
        return [str(path), *_listed({"kept so far": told(path), **asked})]
    return None


def _listed(said: Mapping[str, Any]) -> list[str]:
    texts = {
        name: each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for name, each in said.items()
    }
    return [f"  {cli.one_line(name):<20}{cli.one_line(text)}" for name, text in texts.items()]


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.run(build_parser, info, argv)


if __name__ == "__main__":
    raise SystemExit(main())
