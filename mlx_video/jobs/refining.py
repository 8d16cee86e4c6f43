"""What refining an upscaled video needs besides its latents: texts, and a transformer that is ready for the schedule.

`open` reads headers and refuses what cannot work; `refiner` encodes the prompt. Knows no pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub.fetch import Take
from mlx_video.diffusion.noise import NamedNoise
from mlx_video.jobs import text
from mlx_video.jobs.ready import Setup
from mlx_video.jobs.refine import RECIPES
from mlx_video.jobs.upscale import Refiner
from mlx_video.lending.adapters import Adapters
from mlx_video.lending.distilled import choose
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader
from mlx_video.planning.settings import Settings, resolve
from mlx_video.request import Request
from mlx_video.types import Progress

log = logging.getLogger(__name__)


class Refining(NamedTuple):
    """A refinement that the checkpoint can make; nothing in it holds weights."""

    settings: Settings
    loader: Loader
    encoder: Path
    """The text encoder's folder."""
    adapters: Adapters

    @classmethod
    def open(cls, request: Request, setup: Setup, loader: Loader, take: Take) -> Refining:
        """Checks checkpoint, text encoder and LoRAs against each other; raises UserError where they do not fit.

        take: how files on the hub are had.
        """
        recipe = RECIPES[loader.checkpoint.variant or "distilled"]
        loras = choose(request, setup.loras, recipe, loader.checkpoint, take)
        loader.checkpoint = checkpoint = replace(loader.checkpoint, distilled_lora=loras.distilled)
        if recipe.distilled_lora:
            advice = "with a dev checkpoint --refine needs its .safetensors file there."
            checkpoint.need("distilled LoRA", checkpoint.distilled_lora, advice)
        settings = resolve(loras.request, recipe, checkpoint)
        encoder = locate.text_encoder(setup.text_encoder, checkpoint, take)
        for component in ("connectors", "transformer"):
            loader.check(component, **settings.build_options(component))
        adapters = Adapters.open(loras.own, settings, checkpoint, log.info, take)
        return cls(settings, loader, encoder, adapters)

    def refiner(self, draws: NamedNoise, report: Callable[[Progress], None]) -> Refiner:
        """The same with the prompt encoded."""
        settings, loader, adapters = self.settings, self.loader, self.adapters
        contexts = text.encode_prompts(loader, self.encoder, {"positive": settings.request.prompt}, report)

        @contextmanager
        def borrow() -> Iterator[Any]:
            with loader.borrow("transformer", **settings.build_options("transformer")) as transformer:
                adapters.fuse(transformer)(settings.lora_strengths[0])
                yield transformer

        return Refiner(contexts, borrow, draws, Origin.of(loader, "transformer", loras=adapters.used))
