"""A file of requests, for many clips at once: a line each, or TOML's tables. All of it is checked before anything runs.

A line is a prompt, or a JSON object with any option of a Request and `output`; empty lines and those that begin with #
are passed over. A .toml file has a table [[clip]] for each, and above them what all of them share. Paths are relative
to the file. Knows options and their rules; opens no file but this one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.reading import MAX_JSON, is_there, parse_json, path_of, read_bytes, shown
from mlx_video.request import kinds
from mlx_video.request.generating import Request
from mlx_video.request.spelling import keywords
from mlx_video.types import UserError
from mlx_video.types.recipes import Recipe

MOST = 10_000
"""Clips of one file."""
OUTPUT = "output"
"""The one key that is no option of a Request: where the clip goes."""
_FILES = ("image", "audio_file", "embedding")
_ON_HUB = ("lora", "distilled_lora", "prompt_writer")
"""Options that may be ids on the hub: relative to the file where they are there."""
_TABLE = re.compile(r"\s*\[\[\s*[\"']?clip[\"']?\s*\]\]")


class Asked(NamedTuple):
    """What a line asks for."""

    request: Request
    output: str | None = None


@dataclass(frozen=True)
class _Entry:
    """One request as it is written: options by name as the file has them, and the line of each."""

    line: int
    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, name: str) -> int:
        return self.lines.get(name, self.line)


def read(path: str | Path, base: Request, recipes: Mapping[str, Recipe]) -> list[Asked]:
    """The requests of a file, in order; what a line leaves open is `base`'s.

    Raises UserError, naming the line and the key, for what is no request, and for a file that cannot be read.
    """
    file = path_of(path, "--prompts", "give a file with a request a line")
    return parse(read_bytes(file, MAX_JSON), file, base, recipes)


def parse(raw: bytes, file: Path, base: Request, recipes: Mapping[str, Recipe]) -> list[Asked]:
    """As `read`, of bytes that stand for those of `file`, in whose folder paths begin."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8 (byte {error.start + 1}).") from error
    entries = list(_tables(text, file) if file.suffix.lower() == ".toml" else _lines(text, file))
    if not entries:
        raise UserError(f"{file} asks for nothing: it has no line that is a prompt or a JSON object.")
    if len(entries) > MOST:
        raise UserError(f"{file} asks for {len(entries):,} clips; {MOST:,} is the most.")
    return [_asked(entry, file, base, recipes) for entry in entries]


def _lines(text: str, file: Path) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        if not said.startswith("{"):
            yield _Entry(number, {"prompt": said})
            continue
        try:
            found = parse_json(said)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: it is not JSON ({error}).") from error
        yield _Entry(number, found)


def _tables(text: str, file: Path) -> Iterator[_Entry]:
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not TOML: {error}.") from error
    clips = found.pop("clip", [])
    if not isinstance(clips, list) or not all(isinstance(one, dict) for one in clips):
        raise UserError(f"{file} has clip = {shown(clips)}; write a table [[clip]] for each.")
    written = text.splitlines()
    starts = [number for number, line in enumerate(written, 1) if _TABLE.match(line)]
    starts = [*starts, *[1] * len(clips)][: len(clips)]  # tables may be written in a line, and a text may look like one
    shared = _keys(written, 1, starts[0] if starts else len(written))
    for i, (values, start) in enumerate(zip(clips, starts, strict=True)):
        end = starts[i + 1] if i + 1 < len(starts) else len(written) + 1
        yield _Entry(start, {**found, **values}, {**shared, **_keys(written, start, end)})


def _keys(written: Sequence[str], start: int, end: int) -> dict[str, int]:
    keys = ((number, re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", written[number - 1])) for number in range(start, end))
    return {key[1]: number for number, key in keys if key}


# ------------------------------------------------------------------------------------------------ one request


def _asked(entry: _Entry, file: Path, base: Request, recipes: Mapping[str, Recipe]) -> Asked:
    hints = {**kinds.hints_of(Request), OUTPUT: str}
    values: dict[str, Any] = {}
    for key, value in entry.values.items():
        where, name = f"{file}, line {entry.line_of(key)}", key.replace("-", "_")
        if name not in hints:
            near = get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else "a clip has those that --help lists, and output."
            raise UserError(f"{where}: there is no option {shown(key)}; {hint}")
        if name in values:
            raise UserError(f"{where}: {name} is given twice.")
        try:
            values[name] = _located(name, kinds.taken(name, _plain(value, hints[name]), hints[name]), file)
        except UserError as fault:
            raise UserError(f"{where}: {fault.args[0]}") from fault
    output = values.pop(OUTPUT, None)
    request = replace(base, **values)
    try:
        request.check(recipes)
    except UserError as fault:
        said = keywords(fault.args[0])
        blamed = [entry.line_of(key) for key in entry.values if key.replace("-", "_") in said]
        raise UserError(f"{file}, line {(blamed or [entry.line])[0]}: {said}") from fault
    return Asked(request, output)


def _plain(value: Any, hint: Any) -> Any:
    """What JSON and TOML write for a value, as callers in Python would: objects and lists that begin with a path."""
    several = kinds.item_of(hint)
    kind = next((one for one in (several, *kinds.members(hint)) if is_dataclass(one)), None)
    if kind is None:
        return value
    if several and isinstance(value, list) and not _is_one(value):
        return [_single(one, kind) for one in value]
    return _single(value, kind)


def _is_one(value: list[Any]) -> bool:
    return len(value) > 1 and isinstance(value[0], str) and not isinstance(value[1], (list, dict)) and (
        not isinstance(value[1], str) or value[1] == "last"
    )  # fmt: skip


def _single(value: Any, kind: Any) -> Any:
    if isinstance(value, dict):
        names = [one.name for one in fields(kind)]
        for key in value:
            if key not in names:
                near = get_close_matches(str(key), names, n=1)
                raise UserError(
                    f"there is no {shown(key)} in it; {f'did you mean {near[0]}?' if near else ', '.join(names)}"
                )
        if "path" not in value:
            raise UserError(f"{shown(value)} names no path.")
        return kind(**{name: kinds.plain(one, kinds.hints_of(kind)[name]) for name, one in value.items()})
    if isinstance(value, list) and value and isinstance(value[0], str) and len(value) <= len(fields(kind)):
        hints = list(kinds.hints_of(kind).values())[: len(value)]
        return kind(*(kinds.plain(one, hint) for one, hint in zip(value, hints, strict=True)))
    return value


def _located(name: str, value: Any, file: Path) -> Any:
    """Paths, from the folder of the file."""
    if name not in (*_FILES, *_ON_HUB, OUTPUT) or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(_located(name, one, file) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, path=_located(name, value.path, file))  # type: ignore[attr-defined]
    beside = path_of(value, name)
    beside = beside if beside.is_absolute() else file.absolute().parent / beside
    return value if name in _ON_HUB and not is_there(beside) else str(beside)
