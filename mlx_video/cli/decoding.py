"""`generate --decode`: latents that were stored, to a video once more, and shown otherwise where that is asked.

Knows flags and hands them over; decides nothing about decoders.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_video import cli
from mlx_video.cli.parser import given, prompt_of
from mlx_video.cli.pictures import beside
from mlx_video.request import Request
from mlx_video.request.options import flag, options_of
from mlx_video.types import UserError

if TYPE_CHECKING:
    from mlx_video.results.clip import Clip

SHOWING = ("tiling", "stream", "video_decoder", "fps", "audio")
"""Options of a request that say how latents are shown."""
OTHERS = ("again", "keep", "plan", "prompts", "preview", "preview_every", "dtype", "quantize", "text_encoder_repo")
"""Flags that are of making latents."""


def decode(args: argparse.Namespace, latents: str | None) -> None:
    """Decodes what `--decode` names and saves it, under the names that a run has; latents: a file for them, too."""
    asked = _showing(args)
    from mlx_video.results.clip import Clip
    from mlx_video.results.outputs import check_outputs
    from mlx_video.results.stored import check_file

    clip = Clip.open(args.decode)
    _take_model(args, clip)
    look = clip.look.otherwise(**asked)
    inputs = {f"--decode {args.decode}": args.decode}
    sheet = beside(args.output_path, "sheet") if args.sheet else None
    check_outputs(
        args.output_path, look, audio=args.output_audio, frames=args.save_frames, pictures=[sheet] if sheet else [],
        inputs=inputs,
    )  # fmt: skip
    if latents is not None:
        check_file(Path(latents))
    with cli.pipeline(args) as (pipe, bars):
        clip = pipe.open(args.decode, **asked, on_step=bars, on_message=bars.say)
        if latents is not None:
            clip.store(latents, metadata=args.metadata)
        clip.save(
            args.output_path, audio_path=args.output_audio, frames=args.save_frames, metadata=args.metadata,
            sheet=sheet, on_step=bars,
        )  # fmt: skip
    cli.done(args, bars, f"{args.output_path}: {clip}; ")
    cli.check_made(clip, args.output_path)


def _showing(args: argparse.Namespace) -> dict[str, Any]:
    """What is asked of how the latents are shown; raises UserError for every other flag of a request."""
    asked = {**given(args, Request), "prompt": prompt_of(args)}
    # What stands for a part of an option, and flags that are of a run, are where they were parsed to.
    names = [part.name for one in options_of(Request) for part in one.also]
    asked |= {name: getattr(args, name) for name in (*names, *OTHERS)}
    asked["takes"] = args.takes if args.takes != 1 else None
    for name, value in asked.items():
        left_out = value is None or value is False or value in ("", ())
        if name not in SHOWING and not left_out:
            raise UserError(f"{flag(name)} has no effect with --decode, whose latents are made already.")
    return {name: value for name, value in asked.items() if name in SHOWING}


def _take_model(args: argparse.Namespace, clip: Clip) -> None:
    """The model that the latents say, where the flags name none."""
    said = clip.metadata
    for name in ("model_repo", "vae_dtype"):
        given_here = name in args.said if name == "model_repo" else getattr(args, name) is not None
        if not given_here and isinstance(said.get(name), str):
            setattr(args, name, said[name])
    if "model_repo" not in (*args.said, *said) and "model" in said:
        raise UserError(
            f"--decode {args.decode} was made by {said['model']}, a file of somebody's own; name it with --model-repo."
        )
