"""What the commands share: argument groups, bars, messages and exit statuses. The only place that prints.

Exit status: 0 done, 2 something that the user can fix (one sentence, no traceback), 130 interrupted, 1 a fault (one
sentence where its cause is known, else its traceback). Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from mlx_video import early
from mlx_video.bars import Bars, clock
from mlx_video.models.families import FAMILIES
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.types import RunError, UserError

__all__ = ["Bars", "Parser", "clock", "run", "say", "show"]

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of one part of a path, and of a whole one, on the systems that this runs on."""
LONGEST_NUMBER = 19
"""Digits of a whole number that 64 bits hold."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, as all our messages are."""

    def __init__(self, **settings: Any):
        """Takes no abbreviations: a flag added later must not change what an old command line means."""
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; an unknown flag is answered with the one that was meant."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if re.fullmatch(r"-[^-]--|--[^=]+=--", word):
                self.error(f"{word[:-2].rstrip('=')}: -- by itself is no value")
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found

    def _unknown(self, words: list[str]) -> str:
        flags = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not flags:
            return f"{words[0]!r} stands by itself, and no argument takes it"
        names = [name for action in self._actions for name in action.option_strings]
        near = difflib.get_close_matches(flags[0], names, n=1)
        return f"there is no {flags[0]}" + (f"; did you mean {near[0]}?" if near else "")

    def error(self, message: str) -> NoReturn:
        """Prints the message alone, without the usage, and exits with 2."""
        self.exit(2, f"{self.prog}: {_one_line(message)} (see --help)\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Flags with their help beside them as far as a terminal of 80 columns has room for both."""

    def __init__(self, prog: str, **settings: Any):
        super().__init__(prog, max_help_position=30, **settings)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # All names, then what they take once, as Python 3.13 has it.
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        taken = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {taken}"


def run(
    build_parser: Callable[[], Parser], action: Callable[[argparse.Namespace], None], argv: list[str] | None = None
) -> int:
    """Parses, acts, and turns what happens into an exit status. Every command's `main` is one call of this."""
    _open_streams()
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
            say(f"{parser.prog}: {_one_line(str(fault))}")
            return 2
        except RunError as fault:
            say(f"{parser.prog}: {fault}")
            return 1
        except KeyboardInterrupt:
            say(f"{parser.prog}: interrupted; nothing was written.")
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


def _one_line(message: str) -> str:
    # A name may hold anything; what would move a terminal's cursor is spelt out.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def say(message: str) -> None:
    """One line for the user, on standard error so that it never mixes with output."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        print(message, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """What the user asked to see, on standard output; characters that it cannot show are spelt out."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


# ---------------------------------------------------------------------------------------------------- values


def whole(text: str) -> int:
    """A whole number in plain digits."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    if len(text.lstrip("+-0")) > LONGEST_NUMBER:
        raise argparse.ArgumentTypeError(f"a whole number of {len(text)} digits is out of range")
    return int(text)


def number(text: str) -> float:
    """A number in plain digits, or a fraction of two."""
    parts = text.split("/")
    plain = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)"
    if len(parts) > 2 or not all(re.fullmatch(plain, part, re.IGNORECASE) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or a fraction")
    values = [float(part) for part in parts]
    if values[1:] == [0.0]:
        raise argparse.ArgumentTypeError(f"{text!r} divides by zero")
    return values[0] / values[1] if len(values) == 2 else values[0]


def path(text: str) -> str:
    """A path (or a Hugging Face id) that a system can be asked for, with `~` spelt out."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError("the path holds a NUL character")
    whole_path = os.fsencode(text)
    if len(whole_path) > LONGEST_PATH or max(map(len, whole_path.split(b"/"))) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"{text[:40]}... is too long for a path: a name has at most {LONGEST_NAME} bytes"
        )
    spelt_out = os.path.expanduser(text)
    if text.startswith("~") and spelt_out == text:
        raise argparse.ArgumentTypeError(f"{text}: there is no user {text.partition('/')[0][1:]!r}; write ./{text}")
    return spelt_out


def default_of(option: str, fmt: str = "{:g}") -> str:
    """How `--help` states an option's default: by recipe, or by generation where the recipe leaves it open."""
    groups: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        if option in recipe.options:
            if option in recipe.defaults:
                text = fmt.format(recipe.defaults[option]) if recipe.defaults[option] is not None else "off"
            else:
                known = ((f"LTX-{one.name}", one.defaults) for one in FAMILIES["LTX-2"].generations)
                text = ", ".join(f"{fmt.format(values[option])} for {name}" for name, values in known)
            groups.setdefault(text, []).append(recipe.name)
    if len(groups) == 1:
        return f"default {next(iter(groups))}; {', '.join(next(iter(groups.values())))} only"
    return "default " + "; ".join(f"{text} in {', '.join(names)}" for text, names in groups.items())


def add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Where the weights come from and in what precision they compute; returns the group of these flags."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model-repo", "--weights", "--ltx-weights", type=path, default="Lightricks/LTX-2",
        metavar="REPO|FOLDER|FILE",
        help="Hugging Face id, converted folder, MLX pack, official .safetensors file or its folder "
        "(default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--text-encoder-repo", "--gemma-path", type=path, metavar="REPO|FOLDER",
        help="Gemma 3, where it does not lie beside the checkpoint",
    )  # fmt: skip
    group.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"),
        help="precision of transformer and text (default: what this machine computes best in)",
    )  # fmt: skip
    return group


def add_vae(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    """In what precision pixels and sound are made of latents, for commands that do; returns the group."""
    group.add_argument(
        "--vae-dtype", choices=("float16", "bfloat16", "float32"),
        help="precision of autoencoders and upsamplers (default: float32 on a Mac, where 16 bit overflows or is "
        "several times less exact; bfloat16 on CUDA)",
    )  # fmt: skip
    return group


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """What to show, by itself or after a flag; `prompt_of` reads it."""
    parser.add_argument("text", nargs="?", metavar="PROMPT", help="what the clip shows and sounds like")
    parser.add_argument("--prompt", "-p", metavar="TEXT", help="the same, as a flag")


def prompt_of(args: argparse.Namespace) -> str:
    """The prompt, empty where there is none; raises UserError where it is given twice."""
    if args.text is not None and args.prompt is not None:
        raise UserError(f"The prompt is given twice, as {_short(args.text)} and as --prompt; leave one of them out.")
    return args.text if args.text is not None else args.prompt or ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:30]}...")


def model_name(where: str) -> str:
    """What the closing line calls a model: the last part of a path, a Hugging Face id as it is."""
    return os.path.basename(where.rstrip("/")) if os.path.exists(where) else where


def add_memory(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How a run keeps within its memory; returns the group."""
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--low-memory", action=argparse.BooleanOptionalAction,
        help="read large networks from disk part by part (default: where they do not fit)",
    )  # fmt: skip
    group.add_argument(
        "--memory-limit", type=number, metavar="GIB", help="what a run may take (default: what the machine has to give)"
    )
    return group


def add_general(parser: argparse.ArgumentParser) -> None:
    """Flags that every command has."""
    parser.add_argument("--verbose", action="store_true", help="log what is loaded and why")
    parser.add_argument("--quiet", action="store_true", help="no bars and no closing line")
