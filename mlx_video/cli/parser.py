"""From words of a command line to values: a parser that is made of tables of options, and readers of numbers and paths.

Knows the recipes' data, for what `--help` says of defaults; opens no file.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, is_dataclass, replace
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

from mlx_video.models.families import DEFAULT, RECIPES
from mlx_video.reading import shown, spelt_out
from mlx_video.request import Request, kinds
from mlx_video.request.options import Option, option, options_of
from mlx_video.types import DTYPES, UserError

GROUPS = (
    "", "refinement", "clip", "many clips", "model", "memory", "pictures and sound to start from", "prompt enhancement",
    "LoRA", "guidance", "output",
)  # fmt: skip
"""As `--help` shows them."""
ABOUT = {"guidance": "only for the pipelines named; the default is the recipe's"}
LONGEST_NUMBER = 19
"""Digits of a whole number that 64 bits hold."""


@dataclass(frozen=True)
class Talk:
    """How much a command says."""

    verbose: bool = option(False, "", "log what is loaded and why")
    quiet: bool = option(False, "", "no bars and no closing line")
    progress: str = option("bars", "", "json tells all that happens on standard error as lines of JSON, for programs",
                           choices=("bars", "json"))  # fmt: skip


@dataclass(frozen=True)
class Model(Talk):
    """What runs and within what; commands hand it to `LTXPipeline.from_pretrained`."""

    model_repo: str = option(
        "Lightricks/LTX-2", "--weights --ltx-weights REPO|FOLDER|FILE", "Hugging Face id or short name (ltx-2, "
        "ltx-2.3, ltx-2.5), converted folder, MLX pack, official .safetensors file or its folder (default {default})",
        group="model",
    )  # fmt: skip
    text_encoder_repo: str | None = option(
        None,
        "--gemma-path REPO|FOLDER|FILE",
        "Gemma 3 (LTX-2.5: Gemma 4), where it does not lie beside the checkpoint",
    )
    dtype: str | None = option(
        None, "", "precision of transformer and text (default: what this machine computes best in)", choices=DTYPES
    )
    vae_dtype: str | None = option(
        None, "", "precision of autoencoders and upsamplers (default: float32 on a Mac, where 16 bit overflows or is "
        "several times less exact; bfloat16 on CUDA)",
        choices=DTYPES, commands=("generate", "upscale"),
    )  # fmt: skip
    quantize: int | None = option(
        None, "", "bits of the transformer's blocks, made while loading (default: as they are)",
        choices=(4, 8), commands=("generate",),
    )  # fmt: skip
    low_memory: bool | None = option(
        None, "", "read large networks from disk part by part (default: where they do not fit)", group="memory"
    )
    memory_limit: float | None = option(None, "GIB", "what a run may take (default: what the machine has to give)")
    plan: bool = option(False, "", "print what the run would take and fetch, and stop", commands=("generate",))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, as all our messages are."""

    def __init__(self, **settings: Any):
        """Takes no abbreviations: a flag added later must not change what an old command line means."""
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)
        self.remembered: tuple[str, ...] = ()
        """Options of which it matters whether they were given, besides what they say: `said` of what is parsed."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; an unknown flag is answered with the one that was meant."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if re.fullmatch(r"-[^-]--|--[^=]+=--", word):
                self.error(f"{word[:-2].rstrip('=')}: -- by itself is no value")
            flag, _, value = word.partition("=")
            switch = self._option_string_actions.get(flag)
            if "=" in word and switch is not None and switch.nargs == 0:
                self.error(f"{flag} takes no value, {value!r} or any other; write {' or '.join(switch.option_strings)}")
        asked = {name: self.get_default(name) for name in self.remembered}
        found, unknown = self.parse_known_args(words, namespace or argparse.Namespace(**dict.fromkeys(asked)))
        if unknown:
            self.error(self._unknown(unknown))
        found.said = {name for name in asked if getattr(found, name) is not None}
        for name in asked.keys() - found.said:
            setattr(found, name, asked[name])
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
        self.exit(2, f"{self.prog}: {one_line(message)} (see --help)\n")

    def take_prompt(self) -> Parser:
        """Lets the prompt stand by itself, too; `prompt_of` reads it. Returns itself."""
        self.add_argument("text", nargs="?", metavar="PROMPT", help="what the clip shows and sounds like")
        return self

    def take(self, command: str, *tables: type, **defaults: Any) -> Parser:
        """Adds a flag for each option of the tables that `command` has, by groups; returns itself.

        defaults: where they are an alias's own. A flag of a Request that is not given is None else, so that the model
        may say what it is then.
        """
        options = [one for table in tables for one in options_of(table) if command in (one.commands or (command,))]
        rows = [row for one in options for row in (one, *one.also)]
        groups: dict[str, Any] = {"": self}
        for row in sorted(rows, key=lambda row: GROUPS.index(row.group)):
            if row.group not in groups:
                groups[row.group] = self.add_argument_group(row.group, ABOUT.get(row.group))
            settings = _settings(replace(row, default=defaults.get(row.name, row.default)))
            groups[row.group].add_argument(*_flags_of(row), **settings)
        if Request in tables:
            self.set_defaults(**{row.name: None for row in options_of(Request) if not row.also})
        self.set_defaults(**defaults)
        return self


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


def one_line(message: str) -> str:
    """A message of one line: a name in it may hold anything, and what would move a terminal's cursor is spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


# ---------------------------------------------------------------------------------------------------- flags


def _flags_of(row: Option) -> list[str]:
    # A switch that is on by default is one to switch off.
    name = "--no-" + row.flag[2:] if row.hint is bool and row.default is True else row.flag
    return [name, *(word for word in row.words.split() if word.startswith("-"))]


def _metavar(row: Option) -> Any:
    words = [word for word in row.words.split() if not word.startswith("-")]
    return (words[0], " ".join(words[1:])) if len(words) > 1 else "".join(words) or None


def _settings(row: Option) -> dict[str, Any]:
    """What argparse takes of an option besides its flags."""
    default = f"{row.default:g}" if isinstance(row.default, float) else str(row.default)
    help = row.help.replace("{default}", default)
    help = help.replace("{recipes}", _by_recipe(row)) if "{recipes}" in help else help
    found: dict[str, Any] = {"dest": row.name, "default": row.default, "help": help}
    if row.hint is bool:
        return {**found, "action": "store_false" if row.default is True else "store_true"}
    if row.hint == bool | None:
        return {**found, "action": argparse.BooleanOptionalAction}
    metavar = _metavar(row)
    found |= {"metavar": metavar, "type": reader_of(row.hint, metavar)}
    if row.default is MISSING:
        found |= {"default": None, "required": True}
    choices = tuple(RECIPES) if row.name == "pipeline" else row.choices
    if row.several:
        return {**found, "action": "append"}
    if choices and (row.hint is str or metavar is None):
        found["choices"] = choices
    item = kinds.item_of(row.hint)
    if is_dataclass(item):
        return {**found, "nargs": "+", "action": "append", "default": [], "type": str}
    return {**found, "nargs": "+", "type": reader_of(item)} if item else found


def reader_of(hint: Any, metavar: Any = "") -> Callable[[str], Any]:
    """What makes a value of that kind of a text; it raises ArgumentTypeError."""
    if any(word in str(metavar) for word in ("FILE", "FOLDER", "REPO")):
        return path
    parts = kinds.members(hint)
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    if int in parts:
        return partial(whole, words=words)
    return number if float in parts else str


def given(args: argparse.Namespace, table: type) -> dict[str, Any]:
    """What the flags of a table say, by name; without those that were left out and have no default.

    Raises UserError where words of a flag that takes several are none of its values.
    """
    found = {}
    for row in options_of(table):
        value = getattr(args, row.name)
        if is_dataclass(kinds.item_of(row.hint)):
            value = tuple(_made(row, words) for words in value)
        if value is not None:
            found[row.name] = kinds.plain(value, row.hint)
    return found


def prompt_of(args: argparse.Namespace) -> str:
    """The prompt, empty where there is none; raises UserError where it is given twice."""
    return "".join(prompts_of(args)[:1])


def prompts_of(args: argparse.Namespace) -> list[str]:
    """The prompts, of which a command that takes several may have more than one; raises UserError as `prompt_of`."""
    flags = args.prompt if isinstance(args.prompt, list) else [args.prompt]
    texts = [text for text in (args.text, *flags) if text is not None]
    if args.text is not None and len(texts) > 1:
        short = repr(texts[0] if len(texts[0]) <= 30 else f"{texts[0][:30]}...")
        raise UserError(f"The prompt is given twice, as {short} and as --prompt; leave one of them out.")
    return texts


def _made(row: Option, words: Sequence[str]) -> Any:
    kind = kinds.item_of(row.hint)
    hints = kinds.hints_of(kind)
    said, takes = f"{row.flag} {' '.join(words)}", ", ".join(word for word in row.words.split() if word[0] != "-")
    if len(words) > len(hints):
        raise UserError(f"{said} has {len(words)} values; it takes at most {takes}.")
    try:
        readers = [path if name == "path" else reader_of(hint) for name, hint in hints.items()]
        return kind(*(read(word) for read, word in zip(readers[: len(words)], words, strict=True)))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{said}: {error}; it takes {takes}.") from None


def _by_recipe(row: Option) -> str:
    """How `--help` states an option's default: by recipe, or by generation where the recipe leaves it open."""
    option = row.name
    groups: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        if row.used and row.used(recipe):
            if option in recipe.defaults:
                text = f"{recipe.defaults[option]:g}"
            else:
                alike: dict[str, list[str]] = {}
                for one in DEFAULT.generations:
                    alike.setdefault(f"{one.defaults[option]:g}", []).append(one.name)
                text = ", ".join(f"{value} for LTX-{' and '.join(names)}" for value, names in alike.items())
            groups.setdefault(text, []).append(recipe.name)
    if len(groups) == 1:
        return f"default {next(iter(groups))}; {', '.join(next(iter(groups.values())))} only"
    return "default " + "; ".join(f"{text} in {', '.join(names)}" for text, names in groups.items())


# ---------------------------------------------------------------------------------------------------- values


def whole(text: str, words: Sequence[str] = ()) -> int | str:
    """A whole number in plain digits, or one of the words that may stand for one."""
    if text in words:
        return text
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number{''.join(f' or {word!r}' for word in words)}")
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
    try:
        spelt_out(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the path {'' if not text.strip() else shown(text) + ' '}{error}") from None
    return os.path.expanduser(text)  # not as Path writes it: ./demo is a folder, demo is a name
