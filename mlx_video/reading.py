"""Opens what a user or another file names: paths that may be none, regular files alone, JSON that says one thing.

Everything that others wrote is read through here, so that a pipe, a device, a prompt pasted as a path or JSON made to
exhaust its reader is one sentence, and nothing waits for ever. Knows no format.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import reprlib
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mlx_video.types import UserError

MAX_JSON = 8 << 20
"""Bytes of the largest JSON file that is read; an index of 5,000 tensors has 0.5 MB, Gemma's tokenizer_config 1.2."""
MAX_PART = 255
"""Bytes of a file's or a folder's name, on every file system in use."""
MAX_DEPTH = 64
"""How deep JSON may be nested; a checkpoint's config has 6 levels."""
MAX_DIGITS = 40
"""Of a whole number; tokenizer configs write 10^30 for "no limit"."""
_LONG = re.compile(rf"[0-9]{{{MAX_DIGITS}}}")
SHOWN = 60
"""Characters of somebody else's value that a message repeats."""


class UnfitJSON(ValueError):
    """JSON that different readers may take for different things, or that no reader should follow."""


# ------------------------------------------------------------------------------------------------ paths


def spelt_out(where: str | Path) -> Path:
    """The path that a text names, with `~` spelt out; whether anything is there is open.

    Raises ValueError, saying what is wrong with it, for what can be no path: empty, too long, with characters that no
    name has, the home of a user who does not exist; caused by an OSError where the system refuses, as in a circle of
    links.
    """
    text = str(where)
    if not text.strip():
        raise ValueError("is empty")
    fault: OSError | None = None
    try:
        longest = max(map(len, os.fsencode(text).split(b"/")))
        path = Path(text).expanduser()
        path.stat()
    except RuntimeError:
        user = text.partition("/")[0][1:]
        raise ValueError(f"cannot be had: there is no home of a user {user!r} here; write ./{text[:SHOWN]}") from None
    except ValueError:
        raise ValueError("has characters that no path has") from None
    except OSError as error:
        fault = error
    known = fault.errno if fault else None
    if longest > MAX_PART or known in (errno.ENAMETOOLONG, errno.EINVAL):
        # Of folders that are not there the system does not tell that a name is too long.
        raise ValueError(f"is too long for a path ({len(text)} characters; a prompt goes to --prompt)")
    if fault and known not in (errno.ENOENT, errno.ENOTDIR):
        raise ValueError(f"cannot be used: {fault.strerror or fault}") from fault
    return path


def path_of(where: str | Path, what: str = "", advice: str = "") -> Path:
    """As `spelt_out`; raises UserError, naming `what` (a flag, a noun) and with `advice`, for what can be no path."""
    try:
        return spelt_out(where)
    except ValueError as fault:
        raise UserError(
            f"{what} {shown(str(where))} {fault}{'; ' if advice else ''}{advice}.".lstrip()
        ) from fault.__cause__


def is_there(where: str | Path) -> bool:
    """Whether there is a file or folder of that name; False for what can be no path."""
    try:
        return bool(str(where)) and Path(where).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file to read its bytes; UserError where it is absent, unreadable or anything else than a file."""
    try:
        # Not blocking: a pipe would otherwise be waited for until somebody writes to it.
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise UserError(f"{path} is {_kind(mode)}; a file is needed.")
    return os.fdopen(number, "rb")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def check_kind(path: Path, what: str) -> None:
    """Raises UserError where what lies at `path` is neither a regular file nor a folder; `what`: as in `path_of`."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{what} {path} is {_kind(mode)}; a file or a folder is needed.")


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a regular file; UserError where it has more than `most`, or as `open_file` raises."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path} has {size:,} bytes; no more than {most:,} are read of such a file.")
        try:
            return file.read(most)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


# ------------------------------------------------------------------------------------------------ JSON


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError where there is none, it cannot be read, or is too large or not strict."""
    try:
        found = parse_json(read_bytes(path, MAX_JSON))
    except ValueError as error:
        raise UserError(f"{path} cannot be read: it is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a config: it holds no JSON object.")
    return found


def parse_json(raw: bytes | str) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError where it is none.

    UnfitJSON (a ValueError): nested too deep, a key twice in one object, half a surrogate, numbers that are none or
    beyond all use; Python's own reader takes most of it, and others take it otherwise or not at all.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnfitJSON(f"it is not UTF-8 at byte {error.start + 1}") from None
    try:
        # Python's own way of reading a number is the quick one, and right where nothing is as long as to be refused.
        whole = _whole if _LONG.search(text) else int
        found = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=whole, parse_float=_fraction
        )
    except RecursionError:
        raise UnfitJSON(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(found)
    if "\\ud" in text or "\\uD" in text:
        _check_text(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(one for one, other in pairwise(keys) if one == other)
        raise UnfitJSON(f"the key {shown(twice)} stands there twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise UnfitJSON(f"{text} is not a JSON number")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise UnfitJSON(f"it has a number of {len(text)} digits")
    return int(text)


def _fraction(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise UnfitJSON(f"the number {text[:SHOWN]} is beyond all use")
    return found


def _check_depth(found: Any) -> None:
    # By type, which is quick: headers have thousands of tensors, and the reader makes no other dicts and lists.
    level = [found] if type(found) is dict or type(found) is list else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    raise UnfitJSON(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_text(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UnfitJSON("it has half of a surrogate pair, which is no character") from error


def shown(value: object) -> str:
    """Somebody else's value for a message: as Python writes it, in one line of at most SHOWN characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = SHOWN
    short.maxlevel, short.maxdict, short.maxlist = 2, 4, 6
    text = short.repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
