"""A command with something failing in its process: `python -m tests.trials.child FAULT[:DETAIL] COMMAND ...`."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

OWN = errno.errorcode
"""By which a detail names an error: EIO, ENOSPC, ..."""


def failing(call: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """`call`, but for its call number `at` (from 0) and all later ones, which raise."""
    count = iter(range(1 << 62))

    def instead(*args: Any, **kwargs: Any) -> Any:
        if next(count) >= at:
            raise error
        return call(*args, **kwargs)

    return instead


def _os_error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


def renaming(detail: str) -> None:
    """Every rename fails."""
    os.replace = os.rename = failing(os.replace, 0, _os_error(detail))


def writing_weights(detail: str) -> None:
    """MLX cannot write any more than a few bytes, and says so in its own words."""
    import mlx.core as mx

    def write(file: Any, arrays: Any, metadata: Any = None) -> None:
        with open(file, "wb") as opened:
            opened.write(b"\0" * 100)
        raise RuntimeError(f"[write] Unable to write {sum(a.nbytes for a in arrays.values())} bytes to file.")

    mx.save_safetensors = write


class _Film:
    """A container whose `mux` fails from a call on."""

    def __init__(self, container: Any, at: int, error: BaseException):
        self._container = container
        self.mux = failing(container.mux, at, error)

    def __enter__(self) -> _Film:
        self._container.__enter__()
        return self

    def __exit__(self, *what: Any) -> Any:
        return self._container.__exit__(*what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)


def encoding(detail: str) -> None:
    """The encoder gives up, or the disk under the film does, at packet N: "N:EIO", "N:encoder"."""
    import av

    opened = av.open
    at, _, why = detail.partition(":")
    error = (
        av.error.ExternalError(0x5458_4545, "Generic error in an external library")
        if why == "encoder"
        else _os_error(why)
    )

    def open_film(*args: Any, **kwargs: Any) -> Any:
        container = opened(*args, **kwargs)
        writes = "w" in (args[1:2] or [kwargs.get("mode", "r")])[0]
        return _Film(container, int(at), error) if writes else container

    av.open = open_film


def opening(detail: str) -> None:
    """Films cannot be opened for writing."""
    import av

    opened = av.open

    def open_film(*args: Any, **kwargs: Any) -> Any:
        if "w" in (args[1:2] or [kwargs.get("mode", "r")])[0]:
            raise _os_error(detail)
        return opened(*args, **kwargs)

    av.open = open_film


def not_finite(detail: str) -> None:
    """From attention number N on everything is NaN."""
    import mlx.core as mx

    attend, count = mx.fast.scaled_dot_product_attention, iter(range(1 << 62))

    def attention(*args: Any, **kwargs: Any) -> Any:
        made = attend(*args, **kwargs)
        return made * mx.array(float("nan"), made.dtype) if next(count) >= int(detail) else made

    mx.fast.scaled_dot_product_attention = attention


def clock(detail: str) -> None:
    """Clocks go backwards by an hour at each look."""
    for name in ("time", "monotonic", "perf_counter"):
        asked = iter(range(1 << 62))
        setattr(time, name, lambda asked=asked: 1e9 - 3600.0 * next(asked))


def gone(detail: str) -> None:
    """The working folder is not there any more."""
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(os.getcwd())


def limit(detail: str) -> None:
    """A limit of the system: "AS:BYTES", "FSIZE:BYTES", "NOFILE:COUNT"."""
    name, _, most = detail.partition(":")
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(most), int(most)))


def closed(detail: str) -> None:
    """Standard streams that were closed by whoever started the command."""
    for number in map(int, detail.split(",")):
        os.close(number)
        if number == 1:
            sys.stdout = None  # type: ignore[assignment]
        elif number == 2:
            sys.stderr = None  # type: ignore[assignment]


FAULTS: dict[str, Callable[[str], None]] = {
    "renaming": renaming, "writing-weights": writing_weights, "encoding": encoding, "opening": opening,
    "not-finite": not_finite,
    "clock": clock, "gone": gone, "limit": limit, "closed": closed,
}  # fmt: skip


def main() -> int:
    """Sets the fault up and runs the command."""
    fault, command, *line = sys.argv[1:]
    name, _, detail = fault.partition(":")
    module = importlib.import_module(f"mlx_video.{command}")
    FAULTS[name](detail)
    return module.main(line)


if __name__ == "__main__":
    raise SystemExit(main())
