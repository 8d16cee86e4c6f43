"""Prompts to token ids, as Gemma 3's own tokenizer.json says; knows no network and fetches nothing.

The file is read by the `tokenizers` library itself: it holds the whole rule (normaliser, merges, added tokens), and
neither a class named in a config nor code from the folder takes part.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlx_video.models.ltx_2.config import CONTEXT_TOKENS
from mlx_video.reading import read_bytes, read_json, shown
from mlx_video.types import UserError

MAX_TOKENIZER = 256 << 20
"""Bytes of a tokenizer.json; Gemma 3's has 33 MB."""


class Tokenizer:
    """Text to ids: stripped, beginning-of-sequence first, no end-of-sequence, at most CONTEXT_TOKENS ids."""

    def __init__(self, folder: Path):
        """Reads tokenizer.json (and, for the name of its first token, tokenizer_config.json) in or beside `folder`.

        Raises UserError where the file is absent or cannot be read.
        """
        path = tokenizer_file(folder)
        self.words = _read(path)
        """The `tokenizers` library's own."""
        # A file may ask for padding or cutting of its own.
        self.words.no_padding()
        self.words.no_truncation()
        name = _first_token(path.with_name("tokenizer_config.json"))
        self._first = self.words.token_to_id(name)
        if self._first is None:
            raise UserError(f"{path} has no token {name!r}, with which every prompt begins; it is not Gemma 3's.")

    def encode(self, prompt: str) -> list[int]:
        """Ids of `prompt`: 1 (for an empty prompt) to CONTEXT_TOKENS of them.

        Raises UserError for text that is not Unicode. Source: ltx_core LTXGemmaTokenizer.tokenize_with_weights, without
        its padding.
        """
        check_text(prompt)
        ids = self.words.encode(prompt.strip(), add_special_tokens=False).ids
        return [self._first, *ids][:CONTEXT_TOKENS]


def check_text(prompt: str) -> None:
    """Raises UserError for text that is not Unicode, as a command line in another encoding may give."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The prompt is not valid text at character {error.start + 1}; give it in UTF-8.") from error


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer.json of a text encoder's folder, or of the `tokenizer` folder beside it (diffusers' layout)."""
    places = folder / "tokenizer.json", folder.parent / "tokenizer" / "tokenizer.json"
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"There is no tokenizer for the text encoder: neither {places[0]} nor {places[1]} is there.")


def _read(path: Path):
    from tokenizers import Tokenizer as Backend

    try:
        found = Backend.from_buffer(read_bytes(path, MAX_TOKENIZER))
    except ValueError as error:
        raise UserError(f"{path} is not a tokenizer: {error}.") from error
    for part in (found.normalizer, found.pre_tokenizer, found.decoder):
        if part is not None and _has_pattern(json.loads(part.__getstate__())):
            raise UserError(
                f"{path} cuts text by a regular expression of its own, which may never end; Gemma 3's has none."
            )
    return found


def _has_pattern(value: object) -> bool:
    """Whether a part of a tokenizer, as JSON, holds a regular expression."""
    inside: list[object] = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (isinstance(value, dict) and "Regex" in value) or any(map(_has_pattern, inside))


def _first_token(path: Path) -> str:
    token = read_json(path).get("bos_token") if path.is_file() else None
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise UserError(f"{path} says bos_token = {shown(token)}; it should be a text.")
    return token or "<bos>"
