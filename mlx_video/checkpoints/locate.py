"""From what a user writes (a path, a Hugging Face id, `demo`) to a folder or file on this machine.

Knows how to tell the three apart and what a run needs of a repo; fetching itself is `hub.fetch`'s. `take` says how
files of a repo are had: `hub.fetch.fetch`, or `Outlines.take` while a run is only planned.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from mlx_video.checkpoints import demo
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.hub import repos
from mlx_video.checkpoints.hub.fetch import Take, fetch, find
from mlx_video.checkpoints.hub.rules import choose
from mlx_video.checkpoints.layouts import split
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.reading import check_kind, is_there, path_of, shown
from mlx_video.types import UserError
from mlx_video.types.recipes import Recipe


def is_hub_id(where: str) -> bool:
    """Whether `where` has the form of a Hugging Face id and is nothing on this machine: "owner/name"."""
    parts = where.split("/")
    return not is_there(where) and len(parts) == 2 and all(parts) and not where.startswith((".", "~"))


def existing(where: str, flag: str) -> Path:
    """The path that `where` names; UserError naming near neighbours where nothing is there."""
    if where == demo.NAME:
        return demo.folder()
    path = path_of(where, flag)
    if not path.exists():
        parent = path.parent
        near = difflib.get_close_matches(path.name, _names_in(parent), n=2)
        hint = f" Did you mean {' or '.join(str(parent / name) for name in near)}?" if near else ""
        raise UserError(f"{flag} {where} is neither a file or folder here nor a Hugging Face id (owner/name).{hint}")
    check_kind(path, flag)
    return path


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def checkpoint(
    where: str,
    recipe: Recipe,
    *,
    text_encoder: bool = True,
    lora: bool = True,
    upsamplers: Collection[str] = (),
    parts: Collection[str] = (),
    take: Take = fetch,
) -> Path:
    """The checkpoint that `--model-repo` names; of a Hugging Face repo, what `recipe` needs of it.

    text_encoder: False where the run takes its contexts or its text encoder from elsewhere; lora: False where it takes
    the distilled LoRA from elsewhere; upsamplers: kinds that are needed besides the recipe's own; parts: files of a
    split pack that not every run takes.
    """
    if is_hub_id(where):
        kinds, brought = tuple(dict.fromkeys((*recipe.upsamplers, *upsamplers))), lora and recipe.distilled_lora
        return repos.fetch_checkpoint(where, recipe.variant, kinds, brought, text_encoder, parts, take)
    return existing(where, "--model-repo")


def source(where: str, variant: str, take: Take = fetch) -> Path:
    """The checkpoint that `convert --source` names, with all that a converted folder holds of it."""
    if is_hub_id(where):
        dev = variant == "dev"
        return repos.fetch_checkpoint(where, variant, lora=dev, text_encoder=False, take=take)
    return existing(where, "--source")


def own_text_encoder(where: str) -> str | None:
    """The id of a repo that has a text encoder of its own, which `source` leaves there; None for all else."""
    if not is_hub_id(where):
        return None
    return where if find(where, lambda files: choose(files, "text_encoder")).files else None


def text_encoder(where: str | None, found: Checkpoint, take: Take = fetch) -> tuple[Checkpoint, TextSource]:
    """The one that the user names, else the one that the checkpoint has; checked to belong to it.

    Also the checkpoint with what a text encoder's file brings of it: the projections of a split pack.
    """
    advice = found.family.text().advice(found.generation.name)
    name = where if where is not None else found.need("text encoder", found.text_encoder, advice)
    if where is None and not is_there(name) and not is_hub_id(name) and name != demo.NAME:
        raise UserError(f"{found.source} names {shown(name)} as its text encoder, which is not there; {advice}")
    source = _text_source(name, "--text-encoder-repo", found, take)
    found = split.with_projections(found, source.tensors)
    source.check_fits(found)
    return found, source


def prompt_writer(where: str | None, encoder: TextSource, found: Checkpoint, take: Take = fetch) -> TextSource:
    """The model that writes prompts out: the one that the user names, else the text encoder itself.

    Raises UserError where that is none that writes.
    """
    source = encoder if where is None else _text_source(where, "--prompt-writer", found, take)
    source.check_writes()
    return source


def _text_source(name: str, flag: str, found: Checkpoint, take: Take) -> TextSource:
    path = repos.fetch_text_encoder(name, take) if is_hub_id(name) else existing(name, flag)
    return TextSource.open(found.family, path / "gemma" if name == demo.NAME else path)


def lora(where: str, take: Take = fetch) -> Path:
    """A LoRA's file or folder; of a Hugging Face repo its one file."""
    return repos.fetch_lora(where, take) if is_hub_id(where) else existing(where, "--lora")
