"""Reads a sentencepiece model (`spiece.model`): its pieces, their scores, and its table of character replacements.

The file is a protocol buffer: fields one after the other, each a number that says which and of what kind, then its
value. Only the few fields that a unigram tokenizer needs are taken; the others are passed over. Source of the fields:
sentencepiece_model.proto. Knows no tokenizer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from mlx_video.types import UserError

Value = int | bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""How a field's value is written; the kinds between are none that files have."""
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
"""Fields of the model."""
_TEXT, _SCORE, _KIND = 1, 2, 3
"""Fields of a piece."""
_MODEL_TYPE, _UNIGRAM = 3, 1
"""A field of the trainer's part, which is unigram where it is absent."""
_BYTE_FALLBACK = 35
_CHARACTERS = 2
"""A field of the normalizer's part: how characters are replaced, in the library's own compiled form."""
NORMAL, UNKNOWN = 1, 2
"""Kinds of pieces; a piece that does not say is normal."""
MAX_PIECES = 1 << 21


class Pieces(NamedTuple):
    """What a unigram tokenizer is made of."""

    scores: list[tuple[str, float]]
    """Each piece with its logarithmic probability; the place in the list is its id."""
    unknown: int
    """The id that stands for what no piece spells."""
    characters: bytes
    """As the `tokenizers` library's Precompiled normaliser takes it; empty where nothing is replaced."""


def read_pieces(content: bytes, where: str) -> Pieces:
    """From a file's content; `where` is for messages. Raises UserError for what is no unigram model."""
    try:
        return _pieces(content, where)
    except (ValueError, struct.error) as error:
        raise UserError(f"{where} is not a sentencepiece model: {error}.") from error


def _pieces(content: bytes, where: str) -> Pieces:
    scores: list[tuple[str, float]] = []
    unknown: list[int] = []
    characters = b""
    for field, value in _fields(content):
        if field == _PIECES:
            text, score, kind = _piece(_inside(value))
            if kind == UNKNOWN:
                unknown.append(len(scores))
            scores.append((text, score))
        elif field == _TRAINER:
            settings = dict(_fields(_inside(value)))
            if settings.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or settings.get(_BYTE_FALLBACK):
                raise UserError(f"{where} is not T5's: it is no plain unigram model.")
        elif field == _NORMALIZER:
            characters = _inside(dict(_fields(_inside(value))).get(_CHARACTERS, b""))
    _check_characters(characters)
    if len(unknown) != 1 or len(scores) > MAX_PIECES:
        raise ValueError(f"it has {len(scores):,} pieces, {len(unknown)} of them for what is not known")
    return Pieces(scores, unknown[0], characters)


def _piece(content: bytes) -> tuple[str, float, int]:
    found = dict(_fields(content))
    score = found.get(_SCORE, b"\0\0\0\0")
    (value,) = struct.unpack("<f", _inside(score))
    kind = found.get(_KIND, NORMAL)
    if not isinstance(kind, int):
        raise ValueError("a piece's kind is no number")
    return _inside(found.get(_TEXT, b"")).decode(), value, kind


def _check_characters(table: bytes) -> None:
    # The library ends the process's thread over one that it cannot take apart: the size of a trie of 32-bit units in 4
    # bytes, the trie, and the replacements as text.
    if not table:
        return
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or 4 + size > len(table):
        raise ValueError("its table of characters is damaged")
    table[4 + size :].decode()


def _inside(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a text or a part should")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and values of one message, in the file's order; numbers of fixed size as their bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            number, at = _varint(content, at)
            yield field, number
            continue
        if kind == _BYTES:
            size, at = _varint(content, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field is of the kind {kind}")
        if at + size > len(content):
            raise ValueError("it ends within a field")
        yield field, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise ValueError("it ends within a number")
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
