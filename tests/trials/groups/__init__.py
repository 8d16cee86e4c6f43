"""The kinds of bad input, each a function that makes the case of a number, and how many of 1,500 each gets."""

from __future__ import annotations

from tests.trials import packs
from tests.trials.groups import (
    configs,
    conflicts,
    embeddings,
    films,
    flags,
    folders,
    headers,
    hostile,
    loras,
    pictures,
    sounds,
    tensors,
    texts,
)
from tests.trials.worker import Maker

GROUPS: dict[str, Maker] = {
    "flags": flags.make,
    "conflicts": conflicts.make,
    "prompts": texts.make,
    "truncated": headers.truncated,
    "header": headers.header,
    "tensors": tensors.tensors,
    "values": tensors.values,
    "hostile": hostile.hostile,
    "index": folders.index,
    "pickle": folders.pickled,
    "lora": loras.lora,
    "upsampler": configs.upsampler,
    "embedding": embeddings.embedding,
    "folder": folders.folder,
    "config": configs.checkpoint,
    "gemma": configs.gemma,
    "image": pictures.image,
    "upscale-image": pictures.upscale_image,
    "audio": sounds.audio,
    "video": films.video,
    "pack": packs.official,
    "foreign": packs.foreign,
}
SHARES = {
    "flags": 400, "conflicts": 90, "prompts": 30, "truncated": 60, "header": 110, "tensors": 60, "values": 50,
    "hostile": 40, "index": 50, "pickle": 30, "lora": 70, "upsampler": 40, "embedding": 50, "folder": 40, "config": 140,
    "gemma": 110, "image": 60, "upscale-image": 30, "audio": 60, "video": 50,
    "pack": 110, "foreign": 80,
}  # fmt: skip


def shares(total: int) -> dict[str, int]:
    """How many trials each group gets of `total`; at least one each."""
    whole = sum(SHARES.values())
    return {name: max(1, round(total * share / whole)) for name, share in SHARES.items()}
