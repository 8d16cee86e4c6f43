"""What the commands share: from flags to an exit status, messages, the closing line. The only place that prints.

Exit status: 0 done, 2 something that the user can fix (one sentence, no traceback), 130 interrupted, 1 a fault (one
sentence where its cause is known, else its traceback). Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mlx_video import early
from mlx_video.cli.bars import Bars, clock
from mlx_video.cli.events import Events, asked_for, current
from mlx_video.cli.parser import Parser, one_line, prompt_of
from mlx_video.types import RunError, UserError

if TYPE_CHECKING:
    from mlx_video.api import LTXPipeline
    from mlx_video.results.clip import Clip

__all__ = ["Bars", "Parser", "bars_for", "check_made", "clock", "done", "one_line", "pipeline", "prompt_of", "run",
           "say", "show", "wrote"]  # fmt: skip


def run(
    build_parser: Callable[[], Parser], action: Callable[[argparse.Namespace], None], argv: list[str] | None = None
) -> int:
    """Parses, acts, and turns what happens into an exit status. Every command's `main` is one call of this."""
    _open_streams()
    if not asked_for(sys.argv[1:] if argv is None else argv):
        return _run(build_parser, action, argv)
    with Events() as events:
        events.status = _run(build_parser, action, argv)
    return events.status


def _run(
    build_parser: Callable[[], Parser], action: Callable[[argparse.Namespace], None], argv: list[str] | None
) -> int:
    parser = build_parser()
    with _ended_politely():
        try:
            args = parser.parse_args(argv)
            logging.basicConfig(
                format="%(message)s",
                level=logging.DEBUG if getattr(args, "verbose", False) else logging.WARNING,
                stream=sys.stderr,
            )
            _own_process()
            action(args)
        except UserError as fault:
            say(f"{parser.prog}: {one_line(fault.args[0])}")
            return 2
        except RunError as fault:
            say(f"{parser.prog}: {fault.args[0]}")
            return 1
        except MemoryError:
            say(f"{parser.prog}: this process may not take as much memory as the run needs (see ulimit -v).")
            return 1
        except KeyboardInterrupt as stop:
            said = stop.args[0] if stop.args else "interrupted; nothing was written."
            say(f"{parser.prog}: {one_line(said)}")
            return 130
    return 0


def _own_process() -> None:
    """What only a process that is ours may be asked for: a fast BLAS, and a working folder that is there."""
    os.environ.setdefault("MLX_VIDEO_BLAS", "on")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("The working folder is not there any more; go to another one.") from None


@contextlib.contextmanager
def _ended_politely() -> Iterator[None]:
    """A SIGTERM ends the run as Ctrl-C does, so that everyone tidies up; what was set before is set again after.

    In a thread other than the first signals cannot be had, and nothing is changed.
    """

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    wanted = {signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGINT) is early.end:
        wanted[signal.SIGINT] = stop
    try:
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set by something else than Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _open_streams() -> None:
    # A shell may start a program with its streams closed (2>&-); what it says then goes nowhere.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (as long as the process lives)


def say(message: str) -> None:
    """One line for the user, on standard error so that it never mixes with output."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        print(message, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """What the user asked to see, on standard output; characters that it cannot show are spelt out."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def bars_for(args: argparse.Namespace) -> Bars | Events:
    """What a run's progress is told to, as `--progress` says; raises UserError where nothing is to be told at all."""
    events = current()
    if events is not None and args.quiet:
        raise UserError("--quiet and --progress json exclude each other: the one says nothing, the other everything.")
    return Bars(args.quiet) if events is None else events


@contextlib.contextmanager
def pipeline(args: argparse.Namespace) -> Iterator[tuple[LTXPipeline, Bars | Events]]:
    """The pipeline that the flags name, and the bars of its run, which end with the block."""
    from mlx_video.api import LTXPipeline

    bars = bars_for(args)
    try:
        with LTXPipeline.from_pretrained(
            args.model_repo, dtype=args.dtype, text_encoder=args.text_encoder_repo,
            quantize=getattr(args, "quantize", None), low_memory=args.low_memory, memory_limit=args.memory_limit,
            vae_dtype=getattr(args, "vae_dtype", None),
        ) as pipe:  # fmt: skip
            yield pipe, bars
    finally:
        bars.close()


def wrote(path: str) -> None:
    """Notes for `--progress json` that a file or folder was written."""
    if (events := current()) is not None:
        events.outputs.append(path)


def done(args: argparse.Namespace, bars: Bars | Events, what: str, outputs: Iterable[object] | None = None) -> None:
    """The closing line: `what` was made, by which model (a path's last part, a Hugging Face id), how long it took.

    outputs: what was written, None among it for nothing, where that is not `--output` alone.
    """
    for path in [args.output_path] if outputs is None else filter(None, outputs):
        wrote(str(path))
    where = args.model_repo
    if not args.quiet:
        name = os.path.basename(where.rstrip("/")) if os.path.exists(where) else where
        say(f"{what}{name}, in {clock(bars.seconds)}")


def check_made(clip: Clip, path: str | Path) -> None:
    """Raises RunError where something is wrong with a saved clip: what, with figures, and where its latents are kept.

    They lie beside it, for `--decode`: another decoding, or a look at what went wrong.
    """
    if not clip.faults:
        return
    file = Path(path).with_suffix(".latents.safetensors")
    try:
        clip.store(file)
        kept = f"its latents are kept in {file}"
    except (UserError, RunError) as error:
        kept = f"its latents could not be kept ({str(error).rstrip('.')})"
    raise RunError(f"{' '.join(clip.faults)} {path} is written as it is, and {kept}.")
