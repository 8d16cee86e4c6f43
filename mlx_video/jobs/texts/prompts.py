"""Prompts to contexts: borrows Gemma, lets it go, then borrows the connectors. Knows no sampling.

Gemma may first write a prompt out. A prompt encoded lately comes from the cache, and then neither network is loaded.
`Encode` keeps contexts in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlx_video import platform
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.jobs.demand import Networks, encoding
from mlx_video.jobs.texts.embeddings import SUFFIXES, Cache, connectors_mark, save
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.media.files import check_apart, check_place
from mlx_video.models.families import RECIPES
from mlx_video.planning.plan import make_plan
from mlx_video.request import kinds
from mlx_video.types import Context, Listener, Phase, UserError, Watch

if TYPE_CHECKING:
    from mlx_video.jobs.settings import Settings
    from mlx_video.runner import Runner

AT_ONCE = 16
"""Texts that the text encoder reads together at most: its hidden states of one take 75 MB at 12B, for 200 tokens."""

SHOWN = 200
"""Characters at most of what is cut off a prompt."""


def enhanced(settings: Settings, source: TextSource, watch: Watch, kept: str | None = None) -> Settings:
    """The settings with the prompt that Gemma made of the user's, which is reported token by token.

    kept: the one that it made before, if it did.
    """
    asked = settings.request
    prompt = _write(settings, source, watch) if kept is None else kept
    watch.say(f"enhanced prompt: {prompt}")
    return replace(settings, request=replace(asked, prompt=prompt), original_prompt=asked.prompt)


def _write(settings: Settings, source: TextSource, watch: Watch) -> str:
    asked = settings.request
    options: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    steps = platform.Steps(Phase.ENHANCE, asked.max_tokens or source.text.MAX_TOKENS, watch.report)
    prompt: str = source.text.enhance(
        source.path,
        source.tensors.load,
        asked.prompt,
        image=asked.image[0].path if asked.image else None,
        seed=asked.seed,
        on_token=lambda: steps.tell(steps.done + 1, end=False),
        **{name: value for name, value in options.items() if value is not None},
    )
    steps.total = max(steps.done, 1)  # of fewer tokens than it might have been
    steps.tell(steps.done)
    return prompt


def cut_off(source: TextSource, prompts: Mapping[str, str]) -> Iterator[str]:
    """For each of `prompts` (name -> text) that is longer than the text encoder reads: how long, and what it misses.

    Reads its tokenizer alone, and that only for texts that may be too long: no token is less than a byte.
    """
    limit = source.text.CONTEXT_TOKENS
    for name, text in prompts.items():
        if len(text.encode(errors="replace")) < limit or (found := source.tokenizer().cut(text)) is None:
            continue
        words = " ".join("".join(c if c.isprintable() else " " for c in found.words).split())
        if len(words) > SHOWN:
            words = f"{words[: SHOWN // 2]} ... {words[-SHOWN // 2 :]}"
        whose = "prompt" if name == "positive" else f"{name} prompt"
        yield (
            f"The {whose} has {found.tokens:,} tokens and the text encoder reads {found.limit:,}; "
            f'the last {found.tokens - found.limit:,} are cut off: "{words}".'
        )


def encode_prompts(
    loader: Loader,
    source: TextSource,
    prompts: Mapping[str, str],
    report: Listener,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Context]:
    """Contexts of `prompts` (name -> text) under the same names; a text that occurs twice is encoded once.

    say: told what of a text is cut off, before anything is loaded.
    """
    for sentence in cut_off(source, prompts):
        say(sentence)
    cache = Cache.of(loader, source)
    kept = {text: cache.get(text) for text in prompts.values()}
    contexts = {text: context for text, context in kept.items() if context is not None}
    new = [text for text, context in kept.items() if context is None]
    steps = platform.Steps(Phase.TEXT, len(new) + 1, report)
    for begin in range(0, len(new), AT_ONCE):
        for text, context in _encode(loader, source, new[begin : begin + AT_ONCE], steps).items():
            contexts[text] = context
            cache.put(text, context)
    steps.tell(steps.total)
    return {name: contexts[text] for name, text in prompts.items()}


def _encode(loader: Loader, source: TextSource, texts: list[str], steps: platform.Steps) -> dict[str, Context]:
    with loader.borrow_text_encoder(source) as encoder:
        hidden = encoder.encode(texts)
    steps.tell(steps.done + len(texts))
    contexts = {}
    origin = Origin.of(loader, "connectors").with_text_encoder(source)
    with loader.borrow("connectors") as connectors:
        for text, states in zip(texts, hidden, strict=True):
            contexts[text] = connectors(states)
            origin.check("encoding the prompt", contexts[text])
    return contexts


class Encode:
    """A prompt and the negative one to a file for `embedding=`."""

    ways: Ways

    def __init__(self, prompt: str, path: str | Path, variant: str = "distilled", negative_prompt: str | None = None):
        """variant: of the checkpoint; negative_prompt: None for the one that guided pipelines have."""
        self._prompt, self._path, self._variant, self._negative = prompt, path, variant, negative_prompt

    def check(self, watch: Watch) -> None:
        """Raises UserError for values of the wrong kind, an empty prompt, and a file that cannot be written."""
        for name, given, hint in (("prompt", self._prompt, str), ("negative_prompt", self._negative, str | None)):
            kinds.check(name, given, hint)
        if not self._prompt.strip():
            raise UserError("The prompt is empty; say what the clip should show.")
        self._path = check_place(kinds.taken("path", self._path, str), SUFFIXES)
        kinds.check("variant", self._variant, Literal["distilled", "dev"])

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Raises UserError where the text encoder does not go with the checkpoint, or the file is one of theirs."""
        recipe = next(recipe for recipe in RECIPES.values() if recipe.variant == self._variant)
        checkpoint = runner.checkpoint(recipe, take=outlines.take)
        checkpoint, self._source = locate.text_encoder(runner.text_encoder, checkpoint, outlines.take)
        files = {f"a file of the model, {file.name}": file for file in checkpoint.files}
        check_apart([Path(self._path)], {**files, **self._source.files})
        negative = checkpoint.family.negative_prompt if self._negative is None else self._negative
        self._prompts = {"positive": self._prompt, "negative": negative}
        self._loader = runner.loader(checkpoint)
        demand = encoding(Networks.of(self._loader, self._source), list(self._prompts.values()))
        self._loader.ways = self.ways = make_plan(demand, runner.memory).ways
        return ()

    def run(self, watch: Watch) -> None:
        """Writes the file."""
        encoded = encode_prompts(self._loader, self._source, self._prompts, watch.report, watch.say)
        save(Path(self._path), encoded, self._prompts, connectors_mark(self._loader.checkpoint))
