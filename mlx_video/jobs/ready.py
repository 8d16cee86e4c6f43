"""A run as far as headers and the user's own files tell: everything that can be refused is refused here.

Works as well on outlines of files that are still on the hub. Reads no tensor of a network and fetches nothing itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.jobs import embeddings as contexts
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs.demand import Networks, generating
from mlx_video.lending.adapters import Adapters
from mlx_video.lending.distilled import choose
from mlx_video.lending.loader import Loader
from mlx_video.planning.plan import Memory, Plan, make_plan
from mlx_video.planning.settings import Settings, resolve
from mlx_video.reading import path_of
from mlx_video.request import Request
from mlx_video.types import Context, Lora, Recipe
from mlx_video.weights.quantize import Quantization


class Setup(NamedTuple):
    """What a caller says once, for all that a pipeline will make; see `LTXPipeline.from_pretrained`."""

    where: str
    dtype: mx.Dtype | None
    text_encoder: str | None
    loras: tuple[Lora, ...]
    quantization: Quantization | None
    memory: Memory
    vae_dtype: mx.Dtype | None = None

    def loader(self, checkpoint: Checkpoint) -> Loader:
        """Lends the checkpoint's networks as they are wanted."""
        return Loader(checkpoint, self.dtype, self.quantization, vae_dtype=self.vae_dtype)


class Ready(NamedTuple):
    """A run that has been found possible; nothing in it holds weights."""

    settings: Settings
    loader: Loader
    encoder: Path | None
    """The text encoder's folder; None where the prompt is encoded already, in `embedded`."""
    embedded: dict[str, Context]
    adapters: Adapters
    media: conditions.Media
    plan: Plan
    messages: tuple[str, ...]
    """What the user should know, such as a LoRA's coverage."""

    @classmethod
    def open(cls, request: Request, recipe: Recipe, setup: Setup, checkpoint: Checkpoint, outlines: Outlines) -> Ready:
        """Raises UserError where request, checkpoint, text encoder, LoRAs, inputs and memory do not go together."""
        loras = choose(request, (*setup.loras, *request.lora), recipe, checkpoint, outlines.take)
        checkpoint = replace(checkpoint, distilled_lora=loras.distilled)
        settings = resolve(loras.request, recipe, checkpoint)
        encoder = None
        if request.embedding is None:
            encoder = locate.text_encoder(setup.text_encoder, checkpoint, outlines.take)
        loader = setup.loader(checkpoint)
        for component in settings.components:
            loader.check(component, **settings.build_options(component))
        advice = (demo.advice(request.prompt), demo.reach(request.shape)) if setup.where == demo.NAME else ()
        doubts = [message for message in (checkpoint.doubt, *advice) if message is not None]
        messages = [*settings.notes, *loras.told(settings.lora_strengths), *doubts]
        adapters = Adapters.open(loras.own, settings, checkpoint, messages.append, outlines.take)
        embedded = _embedded(settings, checkpoint, outlines)
        plan = make_plan(generating(Networks.of(loader, encoder, adapters.sizes), settings), setup.memory)
        media = conditions.read(settings)
        return cls(settings, loader, encoder, embedded, adapters, media, plan, tuple(messages))


def _embedded(settings: Settings, checkpoint: Checkpoint, outlines: Outlines) -> dict[str, Context]:
    path = settings.request.embedding
    if path is None:
        return {}
    # What tells one checkpoint's connectors from another's is in their tensors, which outlines do not have.
    mark = None if outlines.absent else contexts.connectors_mark(checkpoint)
    found, _ = contexts.load(path_of(path, "--embedding"), mark, contexts.Widths.of(checkpoint), settings.prompts)
    return {name: found[name] for name in settings.prompts}
