"""What a caller says once, and the one way from a job to its result: check, headers, plan, fetch, open again, run.

Of files that are still on the hub the headers come first, so that what cannot run is refused before a byte of weights
is fetched. Whatever a listener raises cancels a run. Knows no particular job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import mlx.core as mx

from mlx_video import platform
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.hub.fetch import Take, fetch
from mlx_video.checkpoints.hub.models import full_name
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.models.families import RECIPES
from mlx_video.planning.plan import Memory
from mlx_video.types import Lora, UserError, Watch
from mlx_video.types.recipes import Recipe
from mlx_video.weights.quantize import Quantization

Made = TypeVar("Made", covariant=True)


class Job(Protocol[Made]):
    """Something that can be asked for. `check`, `open` (twice, where files are fetched in between), then `run`."""

    ways: Ways
    """How it keeps within its memory; known once it is open."""

    def check(self, watch: Watch) -> None:
        """Raises UserError for what can be told without a model."""

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Opens what it needs, by headers alone; returns what the user should know. Raises UserError."""

    def run(self, watch: Watch) -> Made:
        """Does it."""


@dataclass
class Runner:
    """One model, with what `LTXPipeline.from_pretrained` was told of it. Holds no weights between jobs."""

    where: str
    dtype: mx.Dtype | None = None
    text_encoder: str | None = None
    loras: tuple[Lora, ...] = ()
    quantization: Quantization | None = None
    memory: Memory = field(default_factory=Memory)
    vae_dtype: mx.Dtype | None = None
    _checkpoints: dict[str, Checkpoint] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Short names of published models stand for their repos."""
        self.where = full_name(self.where)
        self.text_encoder = None if self.text_encoder is None else full_name(self.text_encoder)

    def run(self, job: Job[Made], watch: Watch) -> Made:
        """What the job makes."""
        job.check(watch)
        self.open(job, watch)
        with platform.computing(job.ways.limit):
            return job.run(watch)

    def open(self, job: Job[Made], watch: Watch, *, plan: bool = False) -> None:
        """Opens a checked job, on files that are all here then; plan: on headers alone, which fetches no other."""
        with self._outlines(watch) as outlines:
            with platform.computing():
                messages = job.open(self, outlines)
            if plan:
                messages += tuple(outlines.summary())
            elif outlines.absent:
                outlines.fetch(watch.report, watch.say)
                self._checkpoints.clear()
                with platform.computing():
                    messages = job.open(self, outlines)
        for message in messages:
            watch.say(message)

    @contextmanager
    def _outlines(self, watch: Watch) -> Iterator[Outlines]:
        with Outlines(watch.report) as outlines:
            try:
                yield outlines
            finally:
                if outlines.absent:
                    self._checkpoints.clear()  # some lie in a folder that goes now

    def close(self) -> None:
        """Gives cached memory back."""
        self._checkpoints.clear()
        mx.clear_cache()

    # ------------------------------------------------------------------------------------------------ for jobs

    def checkpoint(
        self,
        recipe: Recipe,
        *,
        text_encoder: bool = True,
        lora: bool = True,
        upsamplers: tuple[str, ...] = (),
        parts: tuple[str, ...] = (),
        take: Take = fetch,
    ) -> Checkpoint:
        """The checkpoint that `recipe` runs on; fetched if it is on the hub, and described once.

        lora: False where the distilled one comes from elsewhere; upsamplers: kinds that are needed besides the recipe's
        own; parts: files of a split pack that not every run takes; take: how files on the hub are had.
        """
        wanted = text_encoder and self.text_encoder is None
        brought = [*(["text"] if wanted else []), *([] if lora else ["other LoRA"])]
        key = "/".join((recipe.name, *recipe.upsamplers, *upsamplers, *parts, *brought))
        found = self._checkpoints.get(key)
        if found is None:
            path = locate.checkpoint(
                self.where, recipe, text_encoder=wanted, lora=lora, upsamplers=upsamplers, parts=parts, take=take
            )
            found = self._checkpoints[key] = open_checkpoint(path, recipe.variant)
        return found

    def any_checkpoint(self, take: Take) -> Checkpoint:
        """One that is open already, else whichever variant is there: their decoders are the same."""
        if known := next(iter(self._checkpoints.values()), None):
            return known
        try:
            return self.checkpoint(RECIPES["distilled"], text_encoder=False, take=take)
        except UserError as fault:
            try:
                return self.checkpoint(RECIPES["dev"], text_encoder=False, take=take)
            except UserError:
                raise fault from None

    def loader(self, checkpoint: Checkpoint) -> Loader:
        """Lends the checkpoint's networks as they are wanted."""
        return Loader(checkpoint, self.dtype, self.quantization, vae_dtype=self.vae_dtype)
