"""The command `mlx_video.generate`: a prompt (with pictures and sound, if given) to a video with sound.

Turns flags into one `Request`, hands it to `LTXPipeline`, and saves the clip. Decides nothing about models.
"""

from __future__ import annotations

if __name__ == "__main__":
    from mlx_video import early

    early.guard()

import argparse
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlx_video import cli
from mlx_video.checkpoints import demo
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Request
from mlx_video.types import STAGE_LORA_OPTIONS, TILINGS, AudioIn, ImageAt, Lora, UserError

NAME = "mlx_video.generate"
EXAMPLES = """\
examples:
  {name} "a red circle rises" --model-repo demo
  {name} "waves at night" -n 97 -H 512 -W 768 -o waves.mp4
  {name} "she turns" --image first.png --image final.png last
  {name} "a jazz band" --pipeline dev --cfg-scale 3 --seed 7
  {name} "a jazz band" --pipeline dev --plan"""


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
    cli.add_prompt(parser)
    parser.add_argument(
        "--embedding",
        type=cli.path,
        metavar="FILE",
        help="a prompt that mlx_video.encode has written, in place of --prompt",
    )
    parser.add_argument(
        "--pipeline",
        choices=tuple(RECIPES),
        default="distilled",
        metavar="NAME",
        help="one of those above (default %(default)s)",
    )
    _add_clip(parser)
    cli.add_vae(cli.add_model(parser)).add_argument(
        "--quantize", type=cli.whole, choices=(4, 8),
        help="bits of the transformer's blocks, made while loading (default: as they are)",
    )  # fmt: skip
    cli.add_memory(parser).add_argument(
        "--plan", action="store_true", help="print what the run would take and fetch, and stop"
    )
    _add_inputs(parser)
    _add_guidance(parser)
    _add_output(parser)
    cli.add_general(parser)
    parser.set_defaults(**defaults)
    return parser


def _add_clip(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clip")
    for name, short in (("--height", "-H"), ("--width", "-W")):
        group.add_argument(
            name, short, type=cli.whole, metavar="PX",
            help="multiple of 32; best of 64, which all pipelines but dev work in (default 512; 256 for the demo)",
        )  # fmt: skip
    group.add_argument(
        "--num-frames", "--frames", "-n", type=cli.whole, metavar="N",
        help="1 + 8k; others are rounded to the nearest (default 33)",
    )  # fmt: skip
    group.add_argument("--strict-frames", action="store_true", help="refuse a number of frames that is not 1 + 8k")
    group.add_argument(
        "--steps", type=cli.whole, metavar="N",
        help=f"denoising steps; fewer are a quick look ({cli.default_of('steps')})",
    )  # fmt: skip
    group.add_argument(
        "--fps",
        type=cli.number,
        default=24.0,
        metavar="X",
        help="frames per second, such as 24, 29.97 or 30000/1001 (default 24)",
    )
    group.add_argument(
        "--seed", "-s", type=cli.whole, default=42, metavar="N", help="same seed, same clip (default %(default)s)"
    )
    group.add_argument(
        "--audio", "-a", action=argparse.BooleanOptionalAction,
        help="make sound with the video (default: yes, unless the checkpoint has none)",
    )  # fmt: skip
    group.add_argument(
        "--placeholder", action="store_true",
        help="noise in place of every network: no weights, and in seconds a file of the right size and length",
    )  # fmt: skip


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures and sound to start from")
    group.add_argument(
        "--image", "-i", action="append", nargs="+", default=[], metavar=("FILE", "FRAME STRENGTH CRF"),
        help="the clip shows this picture at FRAME (0 = first, the default; last; negative counts from the end), held "
        "at STRENGTH (1), after an H.264 round trip at CRF (the checkpoint's own); repeatable: first and last work",
    )  # fmt: skip
    group.add_argument("--image-frame-idx", type=_frame, metavar="N", help="FRAME of a single --image")
    group.add_argument("--image-strength", type=cli.number, metavar="X", help="STRENGTH of a single --image")
    group.add_argument(
        "--audio-file",
        type=cli.path,
        metavar="FILE",
        help="sound, or a video's track, that the clip follows and is given",
    )
    group.add_argument(
        "--audio-start-time",
        type=cli.number,
        metavar="S",
        help="where in --audio-file to begin, in seconds (default 0)",
    )
    group = parser.add_argument_group("prompt enhancement")
    group.add_argument(
        "--enhance-prompt", action="store_true", help="let Gemma write the prompt out (seeing the first picture)"
    )
    group.add_argument("--max-tokens", type=cli.whole, metavar="N", help="longest enhanced prompt (default 512)")
    group.add_argument(
        "--temperature", type=cli.number, metavar="X", help="0 always picks the likeliest word (default 0.7)"
    )
    group = parser.add_argument_group("LoRA")
    group.add_argument(
        "--lora", action="append", nargs="+", default=[], metavar=("FILE|FOLDER|REPO", "STRENGTH"),
        help="add a LoRA, at strength 1 unless given; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--lora-path", type=cli.path, metavar="FILE|FOLDER|REPO", help="the same as --lora, with --lora-strength"
    )
    group.add_argument(
        "--lora-strength",
        type=cli.number,
        metavar="X",
        help="strength of --lora-path (default 1); without it, of the distilled LoRA in dev-two-stage",
    )
    group.add_argument(
        "--distilled-lora", type=cli.path, metavar="FILE|FOLDER|REPO",
        help="the LoRA of the two-stage pipelines, where it does not lie beside the checkpoint",
    )  # fmt: skip
    for stage in (1, 2):
        name = f"lora_strength_stage_{stage}"
        group.add_argument(
            _flag(name),
            type=cli.number,
            metavar="X",
            help=f"of the distilled LoRA in stage {stage} ({cli.default_of(name)})",
        )


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("guidance", "only for the pipelines named; the default is the recipe's")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what to steer away from (default: a list of flaws)")
    for name, text in (
        ("cfg_scale", "how strongly the prompt steers the video"),
        ("audio_cfg_scale", "how strongly the prompt steers the sound"),
        ("cfg_rescale", "0 to 1: how far guidance is scaled back to its natural strength"),
        ("stg_scale", "spatio-temporal guidance"),
        ("modality_scale", "how strongly sound and picture steer each other"),
    ):
        flags = {"cfg_scale": ("--cfg-scale", "--cfg")}.get(name, (_flag(name),))
        group.add_argument(*flags, type=cli.number, metavar="X", dest=name, help=f"{text} ({cli.default_of(name)})")
    group.add_argument(
        "--stg-blocks",
        type=cli.whole,
        nargs="+",
        metavar="N",
        help="blocks that spatio-temporal guidance perturbs (default 29 of 48 in LTX-2, 28 of 48 in LTX-2.3)",
    )
    group.add_argument(
        "--apg",
        action=argparse.BooleanOptionalAction,
        help="adaptive projected guidance in place of plain CFG (default: no)",
    )
    group.add_argument(
        "--guidance-batch", action=argparse.BooleanOptionalAction,
        help="run the passes of a guided step as one batch: same numbers, more memory (default: no)",
    )  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output-path", "--output", "-o", type=cli.path, default="output.mp4", metavar="FILE",
        help="the video (default %(default)s)",
    )  # fmt: skip
    group.add_argument("--output-audio", type=cli.path, metavar="FILE.wav", help="the sound by itself, too")
    group.add_argument(
        "--save-frames", action="store_true", help="every frame as a PNG, in a folder named after the video"
    )
    group.add_argument(
        "--tiling", choices=TILINGS, default="auto", help="decode in tiles to save memory (default %(default)s)"
    )
    group.add_argument(
        "--stream", action="store_true", help="decode in short spans, so that frames leave as they are made"
    )
    parser.set_defaults(sound_beside=False)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def request_of(args: argparse.Namespace) -> Request:
    """The request that the flags describe; raises UserError where two of them contradict."""
    _spread_lora_strength(args)
    read: dict[str, Any] = {
        "prompt": cli.prompt_of(args),
        "stg_blocks": None if args.stg_blocks is None else tuple(args.stg_blocks),
        "lora": _loras(args),
        "image": _images(args),
        "audio_file": _sound(args),
    }
    if args.audio is None and args.output_audio is not None:
        read["audio"] = True  # who asks for the sound by itself asks for sound
    values = {**{field.name: getattr(args, field.name) for field in fields(Request)}, **read}
    given = {name: value for name, value in values.items() if value is not None}
    return Request(**{**demo.defaults(args.model_repo), **given})


def _images(args: argparse.Namespace) -> tuple[ImageAt, ...]:
    for name in ("image_frame_idx", "image_strength"):
        if getattr(args, name) is not None and len(args.image) != 1:
            raise UserError(f"{_flag(name)} needs exactly one --image; write --image FILE FRAME STRENGTH for several.")
    return tuple(_image(values, args.image_frame_idx, args.image_strength) for values in args.image)


def _image(values: list[str], frame: int | str | None, strength: float | None) -> ImageAt:
    path, *rest = values
    if len(rest) > 3:
        raise UserError(
            f"--image {' '.join(values)} has {len(values)} values; it takes a file, a frame, a strength and a CRF."
        )
    try:
        readers: tuple[Callable[[str], Any], ...] = (_frame, cli.number, cli.whole)
        path = cli.path(path)
        given = [read(text) for read, text in zip(readers[: len(rest)], rest, strict=True)]
    except argparse.ArgumentTypeError as error:
        raise UserError(
            f"--image {' '.join(values)}: {error}; write FILE, then a frame (a number or last), a strength, a CRF."
        ) from None
    if frame is not None:
        given[:1] = [frame]
    if strength is not None:
        given = [*(given or [0])[:1], strength, *given[2:]]
    return ImageAt(path, *given)


def _frame(text: str) -> int | str:
    if text == "last":
        return text
    try:
        return cli.whole(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"frame {text!r} is neither a whole number nor 'last'") from None


def _sound(args: argparse.Namespace) -> AudioIn | None:
    if args.audio_file is None:
        if args.audio_start_time is not None:
            raise UserError(f"--audio-start-time {args.audio_start_time:g} has no effect without --audio-file.")
        return None
    if args.audio is not None:
        flag = "--audio" if args.audio else "--no-audio"
        raise UserError(f"--audio-file and {flag} exclude each other: with a sound file the clip is given that sound.")
    return AudioIn(args.audio_file, args.audio_start_time or 0.0)


def _spread_lora_strength(args: argparse.Namespace) -> None:
    # Without a LoRA of the user's own, --lora-strength is the distilled LoRA's, as older instructions have it.
    if args.lora_strength is None or args.lora_path is not None:
        return
    stages = [name for name in STAGE_LORA_OPTIONS if name in RECIPES[args.pipeline].options]
    if len(stages) != 1:
        raise UserError(
            f"--lora-strength {args.lora_strength:g} has no effect without --lora-path in the {args.pipeline} "
            f"pipeline; dev-two-stage-hq takes --lora-strength-stage-1 and --lora-strength-stage-2."
        )
    if getattr(args, stages[0]) is not None:
        raise UserError(
            f"--lora-strength and {_flag(stages[0])} both set the distilled LoRA's strength; give one of them."
        )
    setattr(args, stages[0], args.lora_strength)
    args.lora_strength = None


def _loras(args: argparse.Namespace) -> tuple[Lora, ...]:
    found = [_lora(values) for values in args.lora]
    if args.lora_path is not None:
        found.append(Lora(args.lora_path, 1.0 if args.lora_strength is None else args.lora_strength))
    return tuple(found)


def _lora(values: list[str]) -> Lora:
    if len(values) > 2:
        raise UserError(f"--lora {' '.join(values)} has {len(values)} values; it takes a path and at most a strength.")
    try:
        return Lora(cli.path(values[0]), *map(cli.number, values[1:]))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--lora {' '.join(values)}: {error}; write a path, and a strength if it is not 1.") from None


def _sound_path(args: argparse.Namespace, request: Request) -> str | None:
    """Where the sound goes by itself: where the user says, or beside the video by the name of an alias."""
    made, video = request.audio is not False and request.audio_file is None, Path(args.output_path)
    if args.output_audio is None and args.sound_beside and made and video.name:
        return str(video.with_suffix(".wav"))
    return args.output_audio


def generate(args: argparse.Namespace) -> None:
    """Runs the command: everything cheap is checked before anything heavy is loaded."""
    request = request_of(args)
    request.check(RECIPES)
    if args.plan and args.placeholder:
        raise UserError("--plan and --placeholder exclude each other: a placeholder takes next to nothing.")
    from mlx_video.api import LTXPipeline
    from mlx_video.jobs.inputs import files_of
    from mlx_video.jobs.result import Look, check_outputs

    sound = _sound_path(args, request)
    look = Look(request.shape, sound=None if request.audio is False else "latents")
    check_outputs(args.output_path, look, audio=sound, frames=args.save_frames, inputs=files_of(request))
    bars = cli.Bars(args.quiet)
    try:
        with LTXPipeline.from_pretrained(
            args.model_repo, dtype=args.dtype, text_encoder=args.text_encoder_repo, quantize=args.quantize,
            low_memory=args.low_memory, memory_limit=args.memory_limit, vae_dtype=args.vae_dtype,
        ) as pipe:  # fmt: skip
            if args.plan:
                lines: list[str] = []
                plan = pipe.plan(request, on_step=bars, on_message=lines.append)
                cli.show("\n".join([str(plan), *lines]))
                return
            clip = pipe.run(request, on_step=bars, on_message=bars.say)
            if clip.silent and args.output_audio is None:
                sound = None
            clip.save(args.output_path, audio_path=sound, frames=args.save_frames, on_step=bars)
    finally:
        bars.close()
    if not args.quiet:
        made = f"seed {request.seed}, {cli.model_name(args.model_repo)}, in {cli.clock(bars.seconds)}"
        cli.say(f"{args.output_path}: {clip}; {made}")


def main(argv: list[str] | None = None, name: str = NAME, defaults: Mapping[str, Any] | None = None) -> int:
    """Entry point; `name` and `defaults` are an alias's."""
    return cli.run(lambda: build_parser(name, **(defaults or {})), generate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
