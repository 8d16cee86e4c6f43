"""Clips of many requests, phase by phase: all texts, all inputs, all denoising, then decoding, clip by clip.

A network is read once for all of them: see `lending.shelf`. A clip that fails is left out, and the others go on. Each
is what it would be by itself, bit for bit. Knows jobs; knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_video import platform
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.jobs.generate import Generate
from mlx_video.jobs.placeholder import Placeholder
from mlx_video.jobs.texts.prompts import AT_ONCE as TEXTS_AT_ONCE
from mlx_video.jobs.texts.prompts import cut_off, encode_prompts
from mlx_video.lending.shelf import SMALL, Shelf
from mlx_video.lending.visits import Ways
from mlx_video.lending.weighing import weigh_upsampler
from mlx_video.planning.plan import Need, Plan, make_plan
from mlx_video.planning.tally import Tally
from mlx_video.planning.together import Together
from mlx_video.request import Request
from mlx_video.request.generating import MAX_TOKENS
from mlx_video.results.clip import Clip
from mlx_video.types import Context, RunError, UserError, Watch

if TYPE_CHECKING:
    from mlx_video.runner import Runner

AT_ONCE = 32
"""Clips that go through the phases together at most. What waits of each in the end is its texts and its latents, 20 MB
for five seconds of LTX-2; and who stops a long night's work has what was finished before the last 32.
"""
Fault = UserError | RunError
Failed = Callable[[int, Fault], None]
"""Told the number of a clip, from 0, and why it is not made."""
Made = Callable[[int, Mapping[str, Any]], bool]
"""Asked by number and settings whether a clip is there already."""
Turns = dict[int, Generator[Clip | None, None, None]]


@dataclass
class _Member:
    number: int
    job: Generate | Placeholder
    request: Request


class Many:
    """The clips of several requests."""

    ways: Ways
    plan: Plan | None = None
    """None where every clip is a placeholder."""

    def __init__(self, requests: Iterable[Request], failed: Failed, there: Made = lambda number, settings: False):
        """failed: told of each clip that is left out, as soon as that is known. there: those that are left alone."""
        self._asked, self._failed, self._there = list(requests), failed, there

    def check(self, watch: Watch) -> None:
        """What needs no model. Raises UserError, with the clip's number, for the first that cannot be asked."""
        if not self._asked:
            raise UserError("No clip is asked for; give one request at least.")
        told: dict[str, None] = {}
        quiet = replace(watch, say=lambda sentence: told.setdefault(sentence))
        self._members = []
        for number, request in enumerate(self._asked):
            job = (Placeholder if request.placeholder is True else Generate)(request)
            try:
                job.check(quiet)
            except UserError as fault:
                raise UserError(f"Clip {number + 1} of {len(self._asked)}: {fault.args[0]}") from fault
            self._members.append(_Member(number, job, request))
        for sentence in told:
            watch.say(sentence)

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Opens all; those that cannot be made are left out. Raises UserError where that is all, for one reason."""
        messages: dict[str, None] = {}
        self._faults: dict[int, Fault] = {}
        self._live: list[_Member] = []
        known: dict[Request, Generate] = {}
        for member in self._members:
            try:
                said = self._open(member, known, runner, outlines)
            except UserError as fault:
                self._faults[member.number] = fault
                continue
            messages.update(dict.fromkeys(said))
            self._live.append(member)
        reasons = {fault.args[0] for fault in self._faults.values()}
        if not self._live and len(reasons) == 1:
            raise next(iter(self._faults.values()))
        if not outlines.absent:
            self._live = [one for one in self._live if not self._is_there(one)]
        self._plan(runner)
        return tuple(messages)

    def _open(
        self, member: _Member, known: dict[Request, Generate], runner: Runner, outlines: Outlines
    ) -> tuple[str, ...]:
        if isinstance(member.job, Placeholder):
            return member.job.open(runner, outlines)
        alike = replace(member.request, seed=0)
        if alike in known:  # takes differ by their seeds alone
            member.job = known[alike].with_seed(member.request.seed)
            return ()
        messages = member.job.open(runner, outlines)
        member.job.forget_files()
        known[alike] = member.job
        return messages

    def _is_there(self, member: _Member) -> bool:
        return isinstance(member.job, Generate) and self._there(member.number, member.job.described)

    def _plan(self, runner: Runner) -> None:
        jobs = [one.job for one in self._live if isinstance(one.job, Generate)]
        self.ways = Ways()
        if jobs:
            plan = make_plan(_together(jobs).demand(), runner.memory)
            told = f"{len(jobs)} clips, phase by phase: every network is read once for up to {AT_ONCE} of them."
            self.plan = replace(plan, choices=(*plan.choices, *([told] if len(jobs) > 1 else [])))
            self.ways = plan.ways

    def run(self, watch: Watch) -> Iterator[tuple[int, Clip]]:
        """The clips by number, in order, as they are made; to be decoded one by one, while this goes on.

        Closing it lets the networks go.
        """
        if self.plan is not None:
            watch.expect(self.plan.expected)
            for sentence in self.plan.choices:
                watch.say(sentence)
        for number, fault in self._faults.items():
            self._failed(number, fault)
        shelf = Shelf()
        for one in self._live:
            if isinstance(one.job, Generate):
                one.job.go(self.ways)
                one.job.opened.loader.shelf = shelf
        try:
            for begin in range(0, len(self._live), AT_ONCE):
                members = self._live[begin : begin + AT_ONCE]
                with platform.computing(self.ways.limit):
                    clips = _Round(members, watch, self._failed).run()
                for member in members:
                    if member.number in clips:
                        yield member.number, clips.pop(member.number)
        finally:
            with platform.computing():
                shelf.close()


class _Round:
    """Clips that go through the phases together."""

    def __init__(self, members: Sequence[_Member], watch: Watch, failed: Failed):
        self._watch, self._failed = watch, failed
        self._jobs = {one.number: one.job for one in members if isinstance(one.job, Generate)}
        self._simple = {one.number: one.job for one in members if isinstance(one.job, Placeholder)}
        phases = {number: [need.name for need in job.plan.phases] for number, job in self._jobs.items()}
        self._tally = Tally(watch.report, phases)
        self._clips: dict[int, Clip] = {}

    def run(self) -> dict[int, Clip]:
        """By number; nothing of them is decoded yet."""
        for number, job in list(self._jobs.items()):
            self._try(number, partial(job.write, self._of(number)))
        contexts = self._contexts()
        turns = {number: job.turns(contexts[number], self._of(number)) for number, job in self._jobs.items()}
        with ExitStack() as stack:
            for one in turns.values():
                stack.callback(one.close)
            for _ in ("lengths", "inputs"):
                self._next(turns)
            while turns:
                first = self._jobs[next(iter(turns))].opened.steps
                group = {number: turns.pop(number) for number in list(turns) if self._steps(number) == first}
                while group:
                    self._next(group)
        for number, simple in self._simple.items():
            self._clips[number] = simple.run(self._of(number))
        return self._clips

    def _steps(self, number: int) -> tuple[Any, ...]:
        return self._jobs[number].opened.steps

    def _next(self, turns: Turns) -> None:
        """One turn of each; those that have come to their end, or fail, have no more."""
        for number, one in list(turns.items()):
            over = object()
            made = self._try(number, partial(next, one, over))
            if number not in self._jobs or made is over:
                del turns[number]
            elif made is not None:
                self._clips[number] = made

    def _contexts(self) -> dict[int, Mapping[str, Context]]:
        """Of each clip by name; texts of one text encoder and one checkpoint are encoded together."""
        found: dict[int, Mapping[str, Context]] = {}
        alike: dict[Any, list[int]] = {}
        for number, job in self._jobs.items():
            run = job.opened
            if run.encoder is None:
                found[number] = job.embedded
            else:
                alike.setdefault((run.encoder.path, run.loader.checkpoint.source), []).append(number)
        for numbers in alike.values():
            try:
                found.update(self._encoded(numbers))
            except (UserError, RunError):  # one of them may be at fault: by itself it is known
                for number in numbers:
                    found.update(self._try(number, partial(self._encoded, [number])) or {})
        return found

    def _encoded(self, numbers: Sequence[int]) -> dict[int, Mapping[str, Context]]:
        run = self._jobs[numbers[0]].opened
        assert run.encoder is not None
        prompts = {number: self._jobs[number].opened.settings.prompts for number in numbers}
        texts = {text: text for own in prompts.values() for text in own.values()}
        for sentence in dict.fromkeys(told for own in prompts.values() for told in cut_off(run.encoder, own)):
            self._watch.say(sentence)
        contexts = encode_prompts(run.loader, run.encoder, texts, self._watch.report)
        return {number: {name: contexts[text] for name, text in own.items()} for number, own in prompts.items()}

    def _try(self, number: int, act: Callable[[], Any]) -> Any:
        """What `act` gives; None where it fails, and then the clip is left out."""
        try:
            return act()
        except (UserError, RunError) as fault:
            self._jobs.pop(number)
            self._clips.pop(number, None)
            self._tally.drop(number)
            self._failed(number, fault)
            return None

    def _of(self, number: int) -> Watch:
        return replace(self._watch, report=self._tally.of(number))


def _together(jobs: Sequence[Generate]) -> Together:
    """What the clips of one round take; takes have one demand."""
    alike: dict[int, tuple[Generate, int]] = {}
    for job in jobs:
        alike[id(job.demand)] = (job, alike.get(id(job.demand), (job, 0))[1] + 1)
    different = [job for job, _ in alike.values()]
    small: dict[tuple[Any, ...], int] = {}
    for job in different:
        small.update(_small(job))
    waiting = min(AT_ONCE, len(jobs)) * max(job.waiting for job in different)
    demands = [(job.demand, count) for job, count in alike.values()]
    return Together(demands, waiting, sum(small.values()), partial(_texts, different), SMALL)


def _small(job: Generate) -> dict[tuple[Any, ...], int]:
    """Bytes of the networks that stay on the shelf, whatever comes."""
    loader, settings = job.opened.loader, job.opened.settings
    sizes = {name: job.networks.weights(name).whole for name in settings.components}
    sizes |= {kind: weigh_upsampler(loader, kind).whole for kind in settings.recipe.upsamplers}
    return {(loader.checkpoint.source, name): size for name, size in sizes.items() if size <= SMALL}


def _texts(jobs: Sequence[Generate], ways: Ways) -> Need | None:
    """All texts, so many at once as are read together."""
    reading = [job for job in jobs if job.networks.encoder is not None]
    if not reading:
        return None
    networks, settings = reading[0].networks, [job.opened.settings for job in reading]
    texts = sorted({text for one in settings for text in one.prompts.values()}, key=len, reverse=True)
    parts = [texts[begin : begin + TEXTS_AT_ONCE] for begin in range(0, len(texts), TEXTS_AT_ONCE)]
    assert networks.encoder is not None
    needs = [networks.texts(networks.encoder, part, ways) for part in parts]
    written = [one.request.max_tokens or MAX_TOKENS for one in settings if one.request.enhance_prompt]
    if written:  # each may become as long as that
        longest = networks.texts(networks.encoder, texts[:1], ways, max(written))
        needs[0] = needs[0]._replace(work=max(needs[0].work, longest.work * len(parts[0])))
    return needs[0]._replace(flops=sum(need.flops for need in needs), read=sum(need.read for need in needs))
