"""What runs take of a Hugging Face repo: a model, a text encoder or a LoRA, and where in its folder that then lies.

How the files are had (fetched, or outlined) is the caller's to say. Knows names of files; asks no network itself.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

from mlx_video.checkpoints.hub.fetch import Take, fetch
from mlx_video.checkpoints.hub.rules import BESIDE, PACK_TEXT, TEXT_ENCODERS, choose, choose_all, name_some
from mlx_video.reading import read_json
from mlx_video.types import UserError
from mlx_video.weights.store import read_header


def fetch_checkpoint(
    repo: str,
    variant: str,
    upsamplers: Collection[str] = ("spatial x2",),
    lora: bool = False,
    text_encoder: bool = True,
    parts: Collection[str] = (),
    take: Take = fetch,
) -> Path:
    """Fetches a model and returns its folder.

    variant: "distilled" or "dev"; upsamplers: with those of these kinds; lora: with the distilled LoRA; text_encoder:
    with the one in the repo, if it has one; parts: with these kinds of files, too. take: how its files are had. Raises
    UserError.
    """
    larger = ["upsampler" if kind == "spatial x2" else kind for kind in upsamplers]
    kinds = ["checkpoint", *larger, *(["lora"] if lora else []), *parts]
    heads: list[str] = []

    def choose_from(files: Collection[str]) -> list[str]:
        heads[:] = choose(files, "checkpoint", variant)[:1]
        return choose_all(repo, files, kinds, variant) + (choose(files, "text_encoder") if text_encoder else [])

    folder = take(repo, choose_from)
    if variant == "distilled" and not lora and _is_distilled_by_lora(folder / heads[0]):
        # No name tells it: one file is both variants, and the distilled one is it with the LoRA.
        kinds.append("lora")
        folder = take(repo, choose_from)
    return folder


def _is_distilled_by_lora(file: Path) -> bool:
    try:
        stated = read_json(file) if file.suffix == ".json" else read_header(file).metadata
    except UserError:
        return False  # what is wrong with the file is told where it is opened
    return stated.get("distilled_by") == "lora"


def fetch_offer(repo: str, take: Take = fetch) -> Path:
    """Fetches all of a model's repo that one run or another takes, and returns its folder."""

    def choose_from(files: Collection[str]) -> list[str]:
        models = [name for variant in ("distilled", "dev") for name in choose(files, "checkpoint", variant)]
        beside = [name for kind in BESIDE for name in choose(files, kind)]
        return list(dict.fromkeys([*(models or choose_all(repo, files, ["checkpoint"])), *beside]))

    return take(repo, choose_from)


def fetch_text_encoder(repo: str, take: Take = fetch) -> Path:
    """Fetches a Gemma repo, or the text encoder in a model's repo, and returns the folder with its config.json, or the
    one file that it is."""
    chosen: list[str] = []

    def choose_from(files: Collection[str]) -> list[str]:
        chosen[:] = choose_all(repo, files, ["text_encoder"], "")
        return chosen

    folder = take(repo, choose_from)
    if len(chosen) == 1 or chosen[0] == PACK_TEXT:
        return folder / chosen[0]  # of a split pack: one file with everything in it, or in files beside it
    inside = (folder / name for name in TEXT_ENCODERS)
    return folder if (folder / "config.json").is_file() else next(f for f in inside if (f / "config.json").is_file())


def fetch_lora(repo: str, take: Take = fetch) -> Path:
    """Fetches a LoRA from a repo that holds one .safetensors file, and returns that file."""

    def choose_from(files: Collection[str]) -> list[str]:
        weights = [name for name in files if name.endswith(".safetensors")]
        if len(weights) != 1:
            raise UserError(
                f"{repo} must hold one .safetensors file to be a LoRA, but holds {len(weights)} "
                f"({name_some(weights)}); download the one you want and give its path."
            )
        settings = str(PurePosixPath(weights[0]).with_name("adapter_config.json"))
        return weights + [name for name in files if name == settings]

    return next(take(repo, choose_from).rglob("*.safetensors"))
