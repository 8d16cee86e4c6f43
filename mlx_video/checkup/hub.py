"""Hugging Face as this machine sees it: a token, gated repos, and which published models are here and whole."""

from __future__ import annotations

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub import access
from mlx_video.checkpoints.hub.models import MODELS, Published
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.models.families import RECIPES
from mlx_video.types import UserError

GATED = (MODELS["ltx-2.5"].repo, "google/gemma-3-12b-it")
"""Repos whose licences are to be accepted first."""


def examine_access() -> Finding:
    """Whether there is a token, and what it may fetch; that a machine is offline is no fault."""
    token = access.has_token()
    said = ["a token is there" if token else "no token, which gated repos need (`hf auth login`)"]
    figures: dict[str, object] = {"token": token}
    verdict = Verdict.OK
    for repo in GATED:
        try:
            if not access.is_reachable_and_open(repo):
                said.append("Hugging Face cannot be reached, so access was not asked for")
                figures["reachable"] = False
                break
            figures[repo] = True
        except UserError as fault:
            verdict, figures[repo] = Verdict.LOOK, False
            said.append(str(fault).removesuffix("."))
    else:
        if verdict is Verdict.OK:
            said.append(f"{' and '.join(GATED)} may be fetched")
    return Finding("hub", verdict, "; ".join(said), figures)


def examine_models() -> list[Finding]:
    """A finding for each published model that is here, whole or not; one for all where there is none."""
    found = [one for name, model in MODELS.items() if (one := _examine(name, model)) is not None]
    return found or [Finding("models", Verdict.OK, "none here yet; the first run fetches what it needs")]


def _examine(name: str, model: Published) -> Finding | None:
    recipe = RECIPES["distilled"]
    try:
        checkpoint = open_checkpoint(locate.checkpoint(model.repo, recipe, take=access.take_here), recipe.variant)
    except access.NotHere:
        return None
    except UserError as fault:
        said = f"not whole: {str(fault).removesuffix('.')}; a run fetches what is missing"
        return Finding(name, Verdict.LOOK, said, {"whole": False})
    if checkpoint.text_encoder is None:
        return _with_another_encoder(name)
    try:
        locate.text_encoder(None, checkpoint, access.take_here)
    except UserError as fault:
        return Finding(name, Verdict.LOOK, f"its text encoder: {str(fault).removesuffix('.')}", {"whole": False})
    return Finding(name, Verdict.OK, "whole, with its text encoder", {"whole": True})


def _with_another_encoder(name: str) -> Finding:
    encoder = GATED[1]
    try:
        access.take_here(encoder, lambda files: [file for file in files if file.endswith((".safetensors", ".json"))])
    except UserError:
        said = f"whole, but {encoder} is not here (--text-encoder-repo names it, or another Gemma 3 12B)"
        return Finding(name, Verdict.LOOK, said, {"whole": True, "text_encoder": False})
    return Finding(name, Verdict.OK, f"whole, and {encoder} is here", {"whole": True, "text_encoder": True})
