"""Many clips of one command: which they are, where each goes, and what is said of those that fail.

Everything is checked before anything is loaded; a clip that is there already, made by the very same request, stays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_video import cli
from mlx_video.cli.parser import prompts_of
from mlx_video.models.families import RECIPES
from mlx_video.reading import MAX_JSON
from mlx_video.request import Request, prompts
from mlx_video.request.options import flag
from mlx_video.request.prompts import Asked
from mlx_video.types import Phase, Progress, RunError, UserError

if TYPE_CHECKING:
    from mlx_video.api import LTXPipeline
    from mlx_video.cli.events import Events
    from mlx_video.jobs.many import Fault
    from mlx_video.results.outputs import Place

MOST_TAKES = 1000
STDIN = "-"
ONE_CLIPS = ("keep", "latents", "preview", "sheet")
SoundOf = Callable[[Request, str], "str | None"]
"""Where a clip's sound goes by itself, by request and output."""


class _One(NamedTuple):
    request: Request
    place: Place


def run(args: argparse.Namespace, base: Request, sound_of: SoundOf) -> None:
    """Makes all clips that the flags ask for; base: the request of the flags. Raises RunError where some failed."""
    for name in ONE_CLIPS:
        if getattr(args, name):
            raise UserError(
                f"{flag(name)} is of one clip, and these are several; leave it out. The clips that are finished stay, "
                f"and the same command again makes the others."
            )
    clips = _clips(args, asked(args, base), sound_of)
    if args.plan and any(one.request.placeholder for one in clips):
        raise UserError("--plan and --placeholder exclude each other: a placeholder takes next to nothing.")
    from mlx_video.results.outputs import check_places

    check_places(one.place for one in clips)
    with cli.pipeline(args) as (pipe, bars):
        if args.plan:
            lines: list[str] = []
            plan = pipe.plan_many([one.request for one in clips], on_step=bars, on_message=lines.append)
            cli.show("\n".join([str(plan), *lines]))
            return
        work = _Work(clips, bars, args.metadata, args.output_audio is not None)
        work.make(pipe)
    seeds = f"seeds {clips[0].request.seed} to {clips[-1].request.seed}" if args.prompts is None else args.prompts
    what = f"{len(work.made)} of {len(clips)} clips, {clips[0].place.path} and on; {seeds}, "
    cli.done(args, bars, what, [path for number in sorted(work.made) for path in clips[number].place[:3:2]])
    if work.faults:
        listed = "".join(
            f"\n  {work.name(number)}: {cli.one_line(fault.args[0])}" for number, fault in sorted(work.faults.items())
        )
        raise RunError(f"{len(work.faults)} of {len(clips)} clips were not made:{listed}")


def asked(args: argparse.Namespace, base: Request) -> list[Asked]:
    """The requests that the flags and the file describe, takes among them; raises UserError for the first fault."""
    if not 1 <= args.takes <= MOST_TAKES:
        raise UserError(f"--takes {args.takes} is out of range; it must be from 1 to {MOST_TAKES}.")
    texts = prompts_of(args)
    if args.prompts is None:
        found = [Asked(replace(base, prompt=text)) for text in texts or [base.prompt]]
        for one in found:
            one.request.check(RECIPES)
    elif len(texts) > 1:
        raise UserError("--prompts and several --prompt exclude each other; put all of them into the file.")
    elif args.prompts == STDIN:
        found = prompts.parse(_standard_input(), Path("standard input"), base, RECIPES)
    else:
        found = prompts.read(args.prompts, base, RECIPES)
    if len(found) * args.takes > prompts.MOST:
        raise UserError(f"These are {len(found) * args.takes:,} clips; {prompts.MOST:,} is the most.")
    takes = range(args.takes)
    return [
        Asked(
            replace(one.request, seed=one.request.seed + take),
            one.output if one.output is None or args.takes == 1 else _numbered(one.output, take + 1),
        )
        for one in found
        for take in takes
    ]


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise UserError("--prompts - has nothing to read: standard input is closed.")
    try:
        found = sys.stdin.buffer.read(MAX_JSON + 1)
    except OSError as error:
        raise UserError(f"--prompts - cannot be read: {error.strerror or 'there is no standard input'}.") from error
    if len(found) > MAX_JSON:
        raise UserError(f"--prompts - has more than {MAX_JSON:,} bytes; no more are read of such a file.")
    return found


def _numbered(path: str, number: int) -> str:
    """out.mp4 as out-0001.mp4."""
    file = Path(path)
    return str(file.with_name(f"{file.stem}-{number:04}{file.suffix}")) if file.name else path


def _clips(args: argparse.Namespace, asked: Sequence[Asked], sound_of: SoundOf) -> list[_One]:
    from mlx_video.jobs.inputs import files_of
    from mlx_video.results.look import Look
    from mlx_video.results.outputs import Place

    clips = []
    for number, one in enumerate(asked, 1):
        path = one.output or _numbered(args.output_path, number)
        sound = sound_of(one.request, path)
        if args.output_audio is not None:
            sound = _numbered(args.output_audio, number)
        recipe = one.request.check(RECIPES)
        look = Look(recipe.stages[-1].of(one.request.shape), sound=None if one.request.silent else "latents")
        clips.append(_One(one.request, Place(path, look, sound, args.save_frames, files_of(one.request))))
    return clips


class _Work:
    """Makes and saves the clips, and keeps what becomes of each."""

    def __init__(self, clips: Sequence[_One], bars: cli.Bars | Events, metadata: bool, wants_sound: bool):
        from mlx_video.planning.tally import Tally

        self._clips, self._bars, self._metadata, self._wants_sound = clips, bars, metadata, wants_sound
        self._saving = Tally(bars, {number: [Phase.DECODE] for number in range(len(clips))})
        self.made: list[int] = []
        """Those that were there already among them."""
        self.faults: dict[int, Fault] = {}

    def name(self, number: int) -> str:
        """For the user."""
        return f"clip {number + 1}, {self._clips[number].place.path}"

    def make(self, pipe: LTXPipeline) -> None:
        """All of them. A KeyboardInterrupt says how many are finished, which stay."""
        requests = [one.request for one in self._clips]
        made = pipe.run_many(
            requests, on_step=self._bars, on_message=self._bars.say, on_error=self._fail, is_there=self._is_there
        )
        try:
            with closing(made):
                for number, clip in made:
                    self._save(number, clip)
        except KeyboardInterrupt:
            said = f"interrupted; {len(self.made)} of {len(self._clips)} clips are finished."
            raise KeyboardInterrupt(said) from None

    def _save(self, number: int, clip: Any) -> None:
        place, report = self._clips[number].place, self._saving.of(number)

        def decoding(progress: Progress) -> None:
            if progress.phase == Phase.DECODE:  # the waveform before it would end the line of all clips
                report(progress)

        sound = None if clip.silent and not self._wants_sound else place.audio
        try:
            clip.save(place.path, audio_path=sound, frames=place.frames, metadata=self._metadata, on_step=decoding)
            cli.check_made(clip, place.path)
        except (UserError, RunError) as fault:
            self._fail(number, fault)
            return
        self.made.append(number)
        self._bars.say(f"{place.path}: {clip}; seed {self._clips[number].request.seed}")

    def _fail(self, number: int, fault: Fault) -> None:
        self._saving.drop(number)
        self.faults[number] = fault
        self._bars.say(f"{self.name(number)} is left out: {cli.one_line(fault.args[0])}")

    def _is_there(self, number: int, settings: Mapping[str, Any]) -> bool:
        from mlx_video.results.outputs import is_made

        place = self._clips[number].place
        if not is_made(place, settings):
            return False
        self._saving.drop(number)
        self.made.append(number)
        self._bars.say(f"{place.path} is there, made by this very request; it stays.")
        return True
