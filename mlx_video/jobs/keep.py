"""What a run keeps to go on from: its texts, each stage's latents, and where the part in hand stands after each step.

Of no folder everything is absent and nothing is kept, so that nobody else asks. Knows what a run is made of; knows no
form of files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints.provenance import mark_of
from mlx_video.diffusion.noise import NamedNoise
from mlx_video.reading import shown
from mlx_video.request import Request
from mlx_video.request.options import options_of
from mlx_video.results.kept import KeptFolder, Say
from mlx_video.results.stored import Stored
from mlx_video.types import Context, Modality, Noise, Tree, UserError

SHOWING = ("tiling", "stream", "video_decoder")
"""Options that change how latents are shown, not what they are: a run may go on with others."""
CONTEXTS, STATE, PARTS, STAGE = "contexts", "state", "parts", "stage-{}"


class Reached(NamedTuple):
    """Where a part of a stage stands: `step` steps are done."""

    step: int = 0
    x: Tree | None = None
    """Tokens; None for those that it begins with."""
    memory: Tree | None = None
    """The sampler's."""
    repeated: Tree = {}
    """Predictions that skipped steps repeat."""


class _Found(NamedTuple):
    groups: dict[str, dict[str, mx.array]]
    facts: dict[str, Any]


class Keep:
    """What one run has kept so far. See `keeping`."""

    def __init__(self, folder: KeptFolder | None = None, noise: NamedNoise | None = None):
        """noise: the run's, which is told what was drawn before."""
        self._folder, self._noise = folder, noise

    @property
    def found(self) -> Mapping[str, Any]:
        """What the run has found out besides arrays."""
        return {} if self._folder is None else self._folder.found

    def tell(self, **found: Any) -> None:
        """Keeps what was found out, in plain values."""
        if self._folder is not None:
            self._folder.tell(**found)

    def _put(self, name: str, groups: Mapping[str, Mapping[Any, mx.array]], **facts: Any) -> None:
        if self._folder is not None:
            arrays = {f"{group}/{key}": array for group, some in groups.items() for key, array in some.items()}
            self._folder.put(name, arrays, **facts, drawn=sorted(self._noise.drawn if self._noise else ()))

    def _get(self, name: str, **facts: Any) -> _Found | None:
        """Groups of arrays, and facts; None where there are none, or of other `facts`."""
        found = None if self._folder is None else self._folder.get(name, **facts)
        if found is None:
            return None
        groups: dict[str, dict[str, mx.array]] = {}
        for key, array in found[0].items():
            group, _, own = key.partition("/")
            groups.setdefault(group, {})[own] = array
        if self._noise is not None:
            self._noise.passed(found[1]["drawn"])
        return _Found(groups, found[1])

    # ------------------------------------------------------------------------------------------------ what is kept

    def contexts(self, prompts: Mapping[str, str], make: Callable[[], dict[str, Context]]) -> dict[str, Context]:
        """Those of the prompts, kept or made now."""
        kept = self._get(CONTEXTS, prompts=dict(prompts))
        if kept is not None:
            return {name: Context(**kept.groups[name]) for name in prompts}
        made = make()
        if self._folder is not None:
            mx.eval(made)
            self._put(CONTEXTS, {name: context._asdict() for name, context in made.items()}, prompts=dict(prompts))
        return made

    def stage(self, number: int) -> tuple[Tree, mx.array | None] | None:
        """The latents and the keyframes that a finished stage ended with."""
        kept = self._get(STAGE.format(number))
        return None if kept is None else (_tree(kept.groups["latents"]), kept.groups.get("keyframes", {}).get("all"))

    def put_stage(self, number: int, latents: Tree, keyframes: mx.array | None) -> None:
        """Keeps what a stage ended with."""
        beside = {} if keyframes is None else {"keyframes": {"all": keyframes}}
        self._put(STAGE.format(number), {"latents": latents, **beside})

    def parts(self, number: int) -> tuple[int, list[mx.array], list[mx.array]]:
        """How many parts of a stage are done, their latents and their keyframes."""
        kept = self._get(PARTS, stage=number)
        if kept is None:
            return 0, [], []
        return kept.facts["parts"], [kept.groups["made"]["video"]], list(kept.groups.get("fresh", {}).values())

    def put_parts(self, number: int, parts: int, made: list[mx.array], fresh: list[mx.array]) -> None:
        """Keeps the parts of a stage that are done."""
        if self._folder is not None:
            groups = {name: mx.concatenate(some, axis=2) for name, some in (("made", made), ("fresh", fresh)) if some}
            mx.eval(groups)
            self._put(PARTS, {name: {"video": array} for name, array in groups.items()}, stage=number, parts=parts)

    def reached(self, number: int, part: int) -> Reached:
        """Where a part of a stage stands."""
        kept = self._get(STATE, stage=number, part=part)
        if kept is None:
            return Reached()
        x, memory, repeated = (_tree(kept.groups.get(group, {})) for group in ("x", "memory", "repeated"))
        return Reached(kept.facts["step"], x, memory or None, repeated)

    def put_reached(self, number: int, part: int, now: Reached) -> None:
        """Keeps where a part of a stage stands, in place of where it stood."""
        groups = {"x": now.x or {}, "memory": now.memory or {}, "repeated": now.repeated}
        self._put(STATE, groups, stage=number, part=part, step=now.step)

    # ------------------------------------------------------------------------------------------------ the end

    @property
    def result(self) -> Tree | None:
        """The finished clip's latents."""
        stored = None if self._folder is None else self._folder.result
        return None if stored is None else dict(stored.latents)

    def finish(self, clip: Stored) -> None:
        """Keeps the clip in place of everything on the way to it."""
        if self._folder is not None:
            self._folder.finish(clip)


NOTHING = Keep()
"""Of runs that keep nothing."""


def _tree(group: Mapping[str, mx.array]) -> Tree:
    modalities: tuple[Modality, ...] = ("video", "audio")
    return {m: group[m] for m in modalities if m in group}


@contextmanager
def keeping(path: Path | None, asked: Callable[[], Mapping[str, Any]], noise: NamedNoise, say: Say) -> Iterator[Keep]:
    """What a run that is asked for so has kept in a folder, which no other run can use meanwhile; None: nothing.

    Raises UserError where the folder keeps another run, naming the first difference.
    """
    if path is None:
        yield Keep()
        return
    with KeptFolder.opened(path, say) as folder:
        plain = json.loads(json.dumps(asked(), default=str))
        if folder.asked is not None and (other := difference(folder.asked, plain)):
            raise UserError(f"{path} keeps {other}; give another folder, or what that run was asked.")
        folder.begin(plain)
        yield Keep(folder, noise)


# ---------------------------------------------------------------------------------------------------- whose it is


def identity(
    described: Mapping[str, Any],
    loras: Sequence[tuple[Path, float]],
    encoder: str | None,
    noise: Noise | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that the latents of a run follow from, in plain values.

    described: as `provenance.described` gives it; loras: files of all, with strengths; encoder: the text encoder's
    mark, None where the prompt is encoded already; noise: as it was handed in.
    """
    asked = {name: value for name, value in described.items() if name not in SHOWING}
    if loras:
        asked["loras"] = [f"{path.name} {strength:g}" for path, strength in loras]
        asked["files"] = {**described.get("files", {}), **{path.name: mark_of(path) for path, _ in loras}}
    marks = {"text_encoder": encoder, "noise": None if noise is None else _mark_of_noise(noise)}
    return {**asked, **{name: mark for name, mark in marks.items() if mark is not None}}


def _mark_of_noise(noise: Noise | Mapping[str, Any]) -> str:
    if callable(noise):
        return "a function's"  # which cannot be told from another
    digest = hashlib.blake2b(digest_size=8)
    for name, array in sorted(noise.items()):
        digest.update(str(name).encode())
        try:
            plain = array.astype(mx.float32) if isinstance(array, mx.array) else array
            digest.update(np.ascontiguousarray(plain, np.float32).data)
        except (TypeError, ValueError):
            digest.update(b"?")  # drawing it says what is wrong
    return digest.hexdigest()


def difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """What tells a kept run from one that is asked for, in words: the first difference; None where there is none."""
    options = {one.name: one.flag for one in options_of(Request)}
    for name in [*options, *sorted({*kept, *asked} - {*options, "files"}), "files"]:
        was, now = kept.get(name), asked.get(name)
        if was == now:
            continue
        if name == "files":
            return _other_file(was or {}, now or {})
        if name in ("noise", "text_encoder"):
            return f"a run with another {name.replace('_', ' ')}" if was and now else f"a run {_with(name, was)}"
        label = options.get(name, name.replace("_", " "))
        return f"a run {_with(label, was)}, and this one is {_with(label, now)}"
    return None


def _with(label: str, value: Any) -> str:
    if value is None or value is False:
        return f"without {label.replace('_', ' ')}"
    return (
        f"with {label}"
        if value is True
        else f"with {label} {value if isinstance(value, int | float) else _short(value)}"
    )


def _short(value: Any) -> str:
    return value if isinstance(value, str) and value and " " not in value and len(value) < 80 else shown(value)


def _other_file(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            marks = f"({was.get(name, 'none')} there, {now.get(name, 'none')} here: size and digest)"
            return f"a run with another {name} {marks}"
    return "a run with other files"
