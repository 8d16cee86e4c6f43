"""What the commands share: argument groups, bars, messages and exit statuses. The only place that prints.

Exit status: 0 done, 2 something that the user can fix (one sentence, no traceback), 130 interrupted, 1 a fault (one
sentence where its cause is known, else its traceback). Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mlx_video.pipelines.recipes import GENERATIONS, RECIPES
from mlx_video.types import Progress, RunError, UserError

GIB = 1 << 30


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, as all our messages are."""

    def __init__(self, **settings: Any):
        """Takes no abbreviations: a flag added later must not change what an old command line means."""
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Prints the message alone, without the usage, and exits with 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def run(
    build_parser: Callable[[], Parser], action: Callable[[argparse.Namespace], None], argv: list[str] | None = None
) -> int:
    """Parses, acts, and turns what happens into an exit status. Every command's `main` is one call of this."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(
        format="%(message)s",
        level=logging.DEBUG if getattr(args, "verbose", False) else logging.WARNING,
        stream=sys.stderr,
    )
    os.environ.setdefault("MLX_VIDEO_BLAS", "on")  # the process is ours
    try:
        os.getcwd()
    except FileNotFoundError:
        print(f"{parser.prog}: the working folder is not there any more; go to another.", file=sys.stderr)
        return 2
    _end_on_terminate()
    try:
        action(args)
    except UserError as fault:
        print(f"{parser.prog}: {fault}", file=sys.stderr)
        return 2
    except RunError as fault:
        print(f"{parser.prog}: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _end_on_terminate() -> None:
    # A plain SIGTERM would leave temporary files behind; an exception lets everyone tidy up.
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, stop)


def say(message: str) -> None:
    """One line for the user, on standard error so that it never mixes with output."""
    print(message, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """What the user asked to see, on standard output."""
    print(text, flush=True)


class Bars:
    """Draws one bar per phase with time left and, at its end, the phase's peak memory; silent off a terminal."""

    def __init__(self, quiet: bool = False):
        """`quiet` draws and says nothing even on a terminal."""
        self.quiet = quiet
        self.shown = sys.stderr.isatty() and not quiet
        self.phase: str | None = None
        self.bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Takes one report of a run."""
        if not self.shown:
            return
        if progress.phase != self.phase:
            self.close()
            from tqdm import tqdm

            self.phase = progress.phase
            self.bar = tqdm(
                total=progress.total, desc=f"{progress.phase:>9}", file=sys.stderr, leave=True, dynamic_ncols=True,
                bar_format="{desc} {bar} {n_fmt}/{total_fmt} {elapsed}, {remaining} left{postfix}",
            )  # fmt: skip
        self.bar.update(progress.done - self.bar.n)
        if progress.peak is not None:
            self.bar.set_postfix_str(f"peak {progress.peak / GIB:.2f} GiB")
            self.close()

    def say(self, message: str) -> None:
        """One line for the user between the bars."""
        self.close()
        if not self.quiet:
            say(message)

    def close(self) -> None:
        """Ends the bar that is shown, if any."""
        if self.bar is not None:
            self.bar.close()
        self.bar, self.phase = None, None


def default_of(option: str, fmt: str = "{:g}") -> str:
    """How `--help` states an option's default: by recipe, or by generation where the recipe leaves it open."""
    groups: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        if option in recipe.options:
            if option in recipe.defaults:
                text = fmt.format(recipe.defaults[option]) if recipe.defaults[option] is not None else "off"
            else:
                text = ", ".join(f"{fmt.format(values[option])} for LTX-{name}" for name, values in GENERATIONS.items())
            groups.setdefault(text, []).append(recipe.name)
    if len(groups) == 1:
        return f"default {next(iter(groups))}; {', '.join(next(iter(groups.values())))} only"
    return "default " + "; ".join(f"{text} in {', '.join(names)}" for text, names in groups.items())


def add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Where the weights come from and in what precision they compute; returns the group of these flags."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model-repo", "--weights", default="Lightricks/LTX-2", metavar="REPO|FOLDER|FILE",
        help="Hugging Face id, converted folder, MLX pack, official .safetensors file or its folder "
        "(default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--text-encoder-repo", metavar="REPO|FOLDER", help="Gemma 3, where it does not lie beside the checkpoint"
    )
    group.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"),
        help="precision to compute in (default: what this machine computes best in)",
    )  # fmt: skip
    return group


def add_memory(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How a run keeps within its memory; returns the group."""
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--low-memory", action=argparse.BooleanOptionalAction,
        help="read large networks from disk part by part (default: where they do not fit)",
    )  # fmt: skip
    group.add_argument(
        "--memory-limit", type=float, metavar="GIB", help="what a run may take (default: what the machine has to give)"
    )
    return group


def add_general(parser: argparse.ArgumentParser) -> None:
    """Flags that every command has."""
    parser.add_argument("--verbose", action="store_true", help="log what is loaded and why")
    parser.add_argument("--quiet", action="store_true", help="no bars and no closing line")
