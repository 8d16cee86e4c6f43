"""The command `mlx_video.generate`: a prompt (with pictures and sound, if given) to a video with sound.

Turns flags into one `Request`, hands it to `LTXPipeline`, and saves the clip. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlx_video import cli
from mlx_video.checkpoints import demo
from mlx_video.cli.decoding import decode
from mlx_video.cli.parser import Model, given, prompts_of
from mlx_video.cli.pictures import Preview, beside
from mlx_video.cli.stopping import Stopping
from mlx_video.models.families import RECIPES
from mlx_video.request import Request, options
from mlx_video.request.options import flag, option
from mlx_video.types import AudioIn, ImageAt, Lora, Phase, UserError

NAME = "mlx_video.generate"
EXAMPLES = """\
examples:
  {name} "a red circle rises" --model-repo demo
  {name} "waves at night" -n 97 -H 512 -W 768 -o waves.mp4
  {name} "she turns" --image first.png --image final.png last
  {name} "a jazz band" --pipeline dev --cfg-scale 3 --seed 7
  {name} "a jazz band" --pipeline dev --plan
  {name} "a jazz band" --takes 8 -o jazz.mp4
  {name} --prompts list.txt -o out.mp4"""


@dataclass(frozen=True)
class Outputs:
    """Where the clip goes."""

    output_path: str = option("output.mp4", "--output -o FILE", "the video (default {default})", group="output")
    output_audio: str | None = option(None, "FILE.wav", "the sound by itself, too")
    save_frames: bool = option(False, "", "every frame as a PNG, in a folder named after the video")
    preview: bool = option(
        False, "", "a strip of pictures after each step, as FILE.preview.png and in terminals that show pictures"
    )
    preview_every: int | None = option(
        None, "N", "a preview every N steps (default 1)", limits=(1, 1000), needs="preview"
    )
    sheet: bool = option(False, "", "a contact sheet beside the video, as FILE.sheet.png")
    metadata: bool = option(True, "", "leave the settings out of what is written")
    again: str | None = option(
        None, "FILE", "make what this package has written once more: its settings, but for those given here",
    )  # fmt: skip
    keep: str | None = option(
        None, "FOLDER", "keep what is done, step by step: the same command again goes on from there, and Ctrl-C ends "
        "after the step in hand",
    )  # fmt: skip
    latents: bool = option(False, "", "what was decoded, too, as NAME.latents.safetensors beside the video")
    decode: str | None = option(
        None, "FILE|FOLDER", "decode such latents, or those of --keep, once more: with another --tiling, "
        "--video-decoder, --output-path or, without sound, --fps",
    )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Many clips of one command."""

    takes: int = option(
        1, "N", "so many clips of each request, with seeds from --seed up; -o out.mp4 makes out-0001.mp4 and so on",
        group="many clips",
    )  # fmt: skip
    prompts: str | None = option(
        None, "FILE", "a clip for each line: a prompt, or a JSON object with any options and its own output; or a "
        ".toml with tables [[clip]]; - is standard input",
    )  # fmt: skip


def build_parser(name: str = NAME, **defaults: Any) -> cli.Parser:
    """All flags; `name` and `defaults` are those of an alias of this command."""
    pipelines = "\n".join(
        textwrap.fill(f"  {recipe.name:17} {recipe.summary}", 79, subsequent_indent=" " * 20)
        for recipe in RECIPES.values()
    )
    parser = cli.Parser(
        prog=name,
        usage=f"{name} PROMPT [flags]",
        description=f"Make a video with sound from a prompt.\n\npipelines:\n{pipelines}\n\n"
        f"{EXAMPLES.format(name=name)}",
    )
    parser.take_prompt().take("generate", Outputs, Batch, Request, Model, **{"sound_beside": False, **defaults})
    parser.remembered = ("model_repo",)  # --again may name one, too
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """The request that the flags describe; raises UserError where two of them contradict."""
    before = _before(args, said=_given(args))
    _spread_lora_strength(args)
    asked = {**demo.defaults(args.model_repo), **before, **_given(args)}
    if args.image or not before.get("image"):
        asked["image"] = _images(args, asked.get("image", ()))
    if args.audio_file is not None or not before.get("audio_file"):
        asked["audio_file"] = _sound(args)
    if args.lora_path is not None:
        strength = 1.0 if args.lora_strength is None else args.lora_strength
        asked["lora"] = (*asked.get("lora", ()), Lora(args.lora_path, strength))
    if args.audio is None and args.output_audio is not None:
        asked["audio"] = True  # who asks for the sound by itself asks for sound
    return Request(**asked)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, without those that say nothing."""
    said = {**given(args, Request), "prompt": cli.prompt_of(args)}
    return {name: value for name, value in said.items() if value not in ("", ())}


def _before(args: argparse.Namespace, said: Mapping[str, Any]) -> dict[str, Any]:
    """The request that `--again` names, and its model for `args` where they name none."""
    if args.again is None:
        return {}
    from mlx_video.results import again

    found = again.read(args.again, without=said)
    for note in found.notes:
        cli.say(note)
    for name, value in found.model.items():
        given_here = name in args.said if name == "model_repo" else getattr(args, name) is not None
        if not given_here:
            setattr(args, name, value)
    if "model_repo" not in (*args.said, *found.model):
        raise UserError(
            f"--again {args.again} was made by {found.made_by}, a file of somebody's own; name it with --model-repo."
        )
    return found.request


def _images(args: argparse.Namespace, images: tuple[ImageAt, ...]) -> tuple[ImageAt, ...]:
    single = {"frame": args.image_frame_idx, "strength": args.image_strength}
    changes = {name: value for name, value in single.items() if value is not None}
    if changes and len(images) != 1:
        name = "image_frame_idx" if "frame" in changes else "image_strength"
        raise UserError(f"{flag(name)} needs exactly one --image; write --image FILE FRAME STRENGTH for several.")
    return tuple(replace(image, **changes) for image in images)


def _sound(args: argparse.Namespace) -> AudioIn | None:
    if args.audio_file is None:
        if args.audio_start_time is not None:
            raise UserError(f"--audio-start-time {args.audio_start_time:g} has no effect without --audio-file.")
        return None
    if args.audio:
        raise UserError("--audio-file and --audio exclude each other: with a sound file the clip is given that sound.")
    return AudioIn(args.audio_file, args.audio_start_time or 0.0)


def _spread_lora_strength(args: argparse.Namespace) -> None:
    # Without a LoRA of the user's own, --lora-strength is the distilled LoRA's, as older instructions have it.
    if args.lora_strength is None or args.lora_path is not None:
        return
    pipeline = args.pipeline or Request.pipeline
    stages = RECIPES[pipeline].lora_options
    if len(stages) != 1:
        raise UserError(
            f"--lora-strength {args.lora_strength:g} has no effect without --lora-path in the {pipeline} "
            f"pipeline; dev-two-stage-hq takes --lora-strength-stage-1 and --lora-strength-stage-2."
        )
    if getattr(args, stages[0]) is not None:
        raise UserError(
            f"--lora-strength and {flag(stages[0])} both set the distilled LoRA's strength; give one of them."
        )
    setattr(args, stages[0], args.lora_strength)
    args.lora_strength = None


def _sound_path(args: argparse.Namespace, request: Request, output: str | None = None) -> str | None:
    """Where the sound goes by itself: where the user says, or beside the video by the name of an alias."""
    made, video = not request.silent and request.audio_file is None, Path(output or args.output_path)
    if args.output_audio is None and args.sound_beside and made and video.name:
        return str(video.with_suffix(".wav"))
    return args.output_audio


def _latents_path(args: argparse.Namespace) -> str | None:
    """Where latents go, if they are asked for."""
    video = Path(args.output_path)
    return str(video.with_name(f"{video.stem}.latents.safetensors")) if args.latents and video.name else None


def generate(args: argparse.Namespace) -> None:
    """Runs the command: everything cheap is checked before anything heavy is loaded."""
    options.check(Outputs(**given(args, Outputs)))
    latents = _latents_path(args)
    if args.decode is not None:
        decode(args, latents)
        return
    if args.prompts is not None or args.takes != 1 or len(prompts_of(args)) > 1:
        from mlx_video.cli import many

        many.run(args, request_of(args), partial(_sound_path, args))
        return
    request = request_of(args)
    recipe = request.check(RECIPES)
    if args.preview and args.placeholder:
        raise UserError("--preview has no effect with --placeholder, which makes no steps; leave one of them out.")
    if args.plan and args.placeholder:
        raise UserError("--plan and --placeholder exclude each other: a placeholder takes next to nothing.")
    if args.plan and args.latents:
        raise UserError("--latents has no effect with --plan, which makes none.")
    from mlx_video.jobs.inputs import files_of
    from mlx_video.results.kept import told
    from mlx_video.results.look import Look
    from mlx_video.results.outputs import check_outputs
    from mlx_video.results.stored import check_file

    sound = _sound_path(args, request)
    look = Look(recipe.stages[-1].of(request.shape), sound=None if request.silent else "latents")
    strip, sheet = (beside(args.output_path, kind) if getattr(args, kind) else None for kind in ("preview", "sheet"))
    check_outputs(
        args.output_path, look, audio=sound, frames=args.save_frames, pictures=[one for one in (strip, sheet) if one],
        inputs=files_of(request),
    )  # fmt: skip
    if latents is not None:
        check_file(Path(latents))
    with cli.pipeline(args) as (pipe, bars):
        if args.plan:
            lines: list[str] = []
            plan = pipe.plan(request, on_step=bars, on_message=lines.append)
            if args.keep is not None:
                lines.append(f"{args.keep} keeps of a run so far: {told(Path(args.keep))}.")
            cli.show("\n".join([str(plan), *lines]))
            return
        phases = [stage.phase or Phase.STAGE.numbered(number) for number, stage in enumerate(recipe.stages, 1)]
        stopping = Stopping(args.keep, phases, bars, bars.say)
        with stopping.listening():
            clip = pipe.run(
                request, keep=args.keep, on_step=stopping, on_kept=stopping.kept, on_message=bars.say,
                on_picture=Preview(strip, args.preview_every or 1, bars.say) if strip else None,
            )  # fmt: skip
            if latents is not None:
                clip.store(latents, metadata=args.metadata)
            sound = None if clip.silent and args.output_audio is None else sound
            clip.save(
                args.output_path, audio_path=sound, frames=args.save_frames, metadata=args.metadata, sheet=sheet,
                on_step=bars,
            )  # fmt: skip
    outputs = [args.output_path, sound, sheet, strip, latents]
    cli.done(args, bars, f"{args.output_path}: {clip}; seed {request.seed}, ", outputs)
    cli.check_made(clip, args.output_path)


def main(argv: list[str] | None = None, name: str = NAME, defaults: Mapping[str, Any] | None = None) -> int:
    """Entry point; `name` and `defaults` are an alias's."""
    return cli.run(lambda: build_parser(name, **(defaults or {})), generate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
