"""Prompts to token ids, as T5's tokenizer.json or spiece.model says; knows no network and fetches nothing.

Either file is read by the `tokenizers` library; neither a class named in a config nor code from a folder takes part.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from mlx_video.models.ltx_2.text_encoder.tokens import MAX_TOKENIZER, Written, check_text, read_written
from mlx_video.models.ltx_video.text_encoder.pieces import Pieces, read_pieces
from mlx_video.reading import read_bytes
from mlx_video.types import UserError

PROMPT_TOKENS = 256
"""Ids of a prompt, the end included; the rest of a longer one is cut (Lightricks' text_encoder_max_tokens)."""
PAD, END = "<pad>", "</s>"
EXTRA_IDS = 100
"""T5's marks <extra_id_99> to <extra_id_0>, which follow the pieces and stand in no spiece.model."""


class Tokenizer:
    """Text to ids: stripped, `</s>` last, at most PROMPT_TOKENS of them, no padding."""

    def __init__(self, folder: Path):
        """Reads tokenizer.json or spiece.model in `folder`, in its tokenizer/ or in the tokenizer/ beside it.

        Raises UserError where there is none, or for what is no tokenizer of T5's.
        """
        path = tokenizer_file(folder)
        content = read_bytes(path, MAX_TOKENIZER)
        if path.suffix != ".json":
            content = _rules(read_pieces(content, str(path)), path)
        self.words = read_written(Written(str(path), content, {}, "T5"))
        # A file may ask for padding or cutting of its own.
        self.words.no_padding()
        self.words.no_truncation()
        self._end = self.words.token_to_id(END)
        if self._end is None:
            raise UserError(f"{path} has no token {END!r}, with which every prompt ends; it is not T5's.")

    def encode(self, prompt: str) -> list[int]:
        """Ids of `prompt`: 1 (for an empty one) to PROMPT_TOKENS of them. Raises UserError for text that is not
        Unicode. Source: Lightricks' LTXVideoPipeline.encode_prompt, without its padding.
        """
        check_text(prompt)
        ids: list[int] = self.words.encode(prompt.strip(), add_special_tokens=False).ids
        return [*ids[: PROMPT_TOKENS - 1], self._end]


def tokenizer_file(folder: Path) -> Path:
    """Where a text encoder's tokenizer is; raises UserError where there is none."""
    places = [folder, folder / "tokenizer", folder.parent / "tokenizer"]
    for place in places:
        for name in ("tokenizer.json", "spiece.model"):
            if (place / name).is_file():
                return place / name
    raise UserError(
        f"There is no tokenizer for the text encoder: neither {folder} nor its tokenizer/ has a tokenizer.json or a "
        f"spiece.model; put T5's there (tokenizer/ of Lightricks/LTX-Video)."
    )


def _rules(pieces: Pieces, path: Path) -> bytes:
    """T5's tokenizer.json from what a spiece.model holds. Source: transformers T5Tokenizer."""
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(EXTRA_IDS))]
    vocabulary = [*pieces.scores, *extra]
    ids = {text: i for i, (text, _) in enumerate(vocabulary)}
    if not {PAD, END} <= ids.keys():
        raise UserError(f"{path} has no tokens {PAD!r} and {END!r}; it is not T5's.")
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = sorted(ids[text] for text in (PAD, END, pieces.scores[pieces.unknown][0], *dict(extra)))
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    replaced = base64.b64encode(pieces.characters).decode()
    rules = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocabulary[i][0], **whole} for i in special],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": replaced} if replaced else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "model": {"type": "Unigram", "unk_id": pieces.unknown, "vocab": vocabulary, "byte_fallback": False},
    }
    return json.dumps(rules).encode()
