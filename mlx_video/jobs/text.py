"""Prompts to contexts: borrows Gemma, lets it go, then borrows the connectors. Knows no sampling.

Gemma may first write a prompt out. A prompt encoded lately comes from the cache, and then neither network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_video import platform
from mlx_video.jobs.embeddings import Cache, connectors_mark, encoder_mark
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import text_tensors
from mlx_video.types import Context, Progress

if TYPE_CHECKING:
    from mlx_video.lending.loader import Loader
    from mlx_video.planning.settings import Settings


def enhanced(
    settings: Settings, folder: Path, report: Callable[[Progress], None], on_message: Callable[[str], None]
) -> Settings:
    """The settings with the prompt that Gemma made of the user's, which is reported token by token."""
    from mlx_video.models.ltx_2.text_encoder.enhance import MAX_TOKENS, enhance

    asked = settings.request
    options: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    platform.peak_memory()
    written, most = 0, asked.max_tokens or MAX_TOKENS
    report(Progress("enhance", 0, most))

    def counted() -> None:
        nonlocal written
        written += 1
        if written < most:
            report(Progress("enhance", written, most))

    prompt = enhance(
        folder,
        lambda: text_tensors(folder).load(),
        asked.prompt,
        image=asked.image[0].path if asked.image else None,
        seed=asked.seed,
        on_token=counted,
        **{name: value for name, value in options.items() if value is not None},
    )
    report(Progress("enhance", written, max(written, 1), platform.peak_memory()))
    on_message(f"enhanced prompt: {prompt}")
    return replace(settings, request=replace(asked, prompt=prompt), original_prompt=asked.prompt)


def encode_prompts(
    loader: Loader, folder: Path, prompts: Mapping[str, str], report: Callable[[Progress], None]
) -> dict[str, Context]:
    """Contexts of `prompts` (name -> text) under the same names; a text that occurs twice is encoded once."""
    cache = Cache(connectors_mark(loader.checkpoint), encoder_mark(folder), str(loader.dtype))
    kept = {text: cache.get(text) for text in prompts.values()}
    contexts = {text: context for text, context in kept.items() if context is not None}
    new = [text for text, context in kept.items() if context is None]
    platform.peak_memory()
    report(Progress("text", 0, len(new) + 1))
    if new:
        for text, context in _encode(loader, folder, new, report).items():
            contexts[text] = context
            cache.put(text, context)
    report(Progress("text", len(new) + 1, len(new) + 1, platform.peak_memory()))
    return {name: contexts[text] for name, text in prompts.items()}


def _encode(loader: Loader, folder: Path, texts: list[str], report: Callable[[Progress], None]) -> dict[str, Context]:
    with loader.borrow_text_encoder(folder) as encoder:
        hidden = encoder.encode(texts)
    report(Progress("text", len(texts), len(texts) + 1))
    contexts = {}
    origin = Origin.of(loader, "connectors").with_text_encoder(folder)
    with loader.borrow("connectors") as connectors:
        for text, states in zip(texts, hidden, strict=True):
            contexts[text] = connectors(states)
            origin.check("encoding the prompt", contexts[text])
    return contexts
