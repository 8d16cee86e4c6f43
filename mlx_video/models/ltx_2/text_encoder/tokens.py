"""Prompts to token ids, as the text encoder's own tokenizer.json says; knows no network and fetches nothing.

The file is read by the `tokenizers` library itself: it holds the whole rule (normaliser, merges, added tokens), and
neither a class named in a config nor code from the folder takes part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.reading import read_bytes, read_json, shown
from mlx_video.types import CONTEXT_TOKENS, UserError

MAX_TOKENIZER = 256 << 20
"""Bytes of a tokenizer.json; Gemma 3's has 33 MB, Gemma 4's 32."""
_CHARACTERS = r"(?:\[\^?(?:\\[nrts]|[^\[\]\\&-])+\]|\\[nrts]|[\w ])[+*]?"
_ONE_AT_A_TIME = re.compile(rf"{_CHARACTERS}(?:\|{_CHARACTERS})*")
"""Regular expressions that look at no character twice: runs of one set of characters, or of another, such as lines."""


class Written(NamedTuple):
    """A tokenizer as it is written: the content of tokenizer.json and of tokenizer_config.json."""

    where: str
    """For messages: the file that the first is, or lies in."""
    rules: bytes
    settings: Mapping[str, Any]
    """Of which only the name of the first token is taken."""
    whose: str = "Gemma 3"

    @classmethod
    def of_folder(cls, folder: Path, whose: str = "Gemma 3") -> Written:
        """From the files in or beside `folder`; raises UserError where one is absent or cannot be read."""
        path = tokenizer_file(folder)
        settings = path.with_name("tokenizer_config.json")
        return cls(str(path), read_bytes(path, MAX_TOKENIZER), read_json(settings) if settings.is_file() else {}, whose)

    @property
    def first_token(self) -> str:
        """The name of the token with which every prompt begins."""
        token = self.settings.get("bos_token")
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None and not isinstance(token, str):
            settings = Path(self.where).with_name("tokenizer_config.json")
            raise UserError(f"{settings} says bos_token = {shown(token)}; it should be a text.")
        return token or "<bos>"


class Cut(NamedTuple):
    """A prompt that is longer than the text encoder reads."""

    tokens: int
    """That it has."""
    limit: int
    """That are read, the first that there are."""
    words: str
    """What is not read."""


class Tokenizer:
    """Text to ids: stripped, beginning-of-sequence first, no end-of-sequence, at most CONTEXT_TOKENS ids."""

    def __init__(self, source: Path | Written):
        """Reads a folder, or takes what has been read. Raises UserError for what is no tokenizer."""
        written = source if isinstance(source, Written) else Written.of_folder(source)
        self.words = read_written(written)
        """The `tokenizers` library's own."""
        # A file may ask for padding or cutting of its own.
        self.words.no_padding()
        self.words.no_truncation()
        name = written.first_token
        self._first = self.words.token_to_id(name)
        if self._first is None:
            raise UserError(
                f"{written.where} has no token {name!r}, with which every prompt begins; it is not {written.whose}'s."
            )

    def encode(self, prompt: str) -> list[int]:
        """Ids of `prompt`: 1 (for an empty prompt) to CONTEXT_TOKENS of them.

        Raises UserError for text that is not Unicode. Source: ltx_core LTXGemmaTokenizer.tokenize_with_weights, without
        its padding.
        """
        check_text(prompt)
        return self._begun(self.words.encode(prompt.strip(), add_special_tokens=False).ids)[:CONTEXT_TOKENS]

    def cut(self, prompt: str) -> Cut | None:
        """What `encode` leaves out of a prompt; None where it takes all. Raises UserError as `encode` does."""
        check_text(prompt)
        text = prompt.strip()
        found = self.words.encode(text, add_special_tokens=False)
        count = len(self._begun(found.ids))
        if count <= CONTEXT_TOKENS:
            return None
        kept = CONTEXT_TOKENS - (count - len(found.ids))
        return Cut(count, CONTEXT_TOKENS, text[found.offsets[kept][0] :])

    def _begun(self, ids: list[int]) -> list[int]:
        return [self._first, *ids]


class Gemma4Tokenizer(Tokenizer):
    """The same for Gemma 4, whose own rules put no token first: it is put there where the prompt does not begin so.

    Source: the tokenizer of Lightricks' ltx-core 1.2.0 (`text_encoders/gemma/tokenizer.py`).
    """

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == [self._first] else [self._first, *ids]


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


def read_written(written: Written) -> Any:
    """The `tokenizers` library's own from what is written; raises UserError for what is no tokenizer."""
    from tokenizers import Tokenizer as Backend

    try:
        found = Backend.from_buffer(written.rules)
    except ValueError as error:
        raise UserError(f"{written.where} is not a tokenizer: {error}.") from error
    for part in (found.normalizer, found.pre_tokenizer, found.decoder):
        if part is not None and _may_not_end(json.loads(part.__getstate__())):
            raise UserError(
                f"{written.where} cuts text by a regular expression of its own, which may never end; {written.whose}'s "
                f"has none."
            )
    return found


def _may_not_end(value: object) -> bool:
    """Whether a part of a tokenizer, as JSON, holds a regular expression that is not known to end soon."""
    inside: list[object] = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    pattern = value.get("Regex") if isinstance(value, dict) else None
    return (pattern is not None and not _ONE_AT_A_TIME.fullmatch(str(pattern))) or any(map(_may_not_end, inside))
