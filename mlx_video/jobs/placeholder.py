"""A clip of noise where a generation was asked for: of the same size, rate and length, in seconds and without weights.

For trying sizes and files: the request is checked, pictures and sounds are read, and what is written is what a run
would write but for what it shows and sounds like. Opens no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.provenance import described
from mlx_video.diffusion.noise import draws, seeded
from mlx_video.diffusion.tokens import latent_shape
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs.settings import Settings, noted
from mlx_video.lending.visits import Ways
from mlx_video.media.files import check_input
from mlx_video.models.families import DEFAULT, RECIPES
from mlx_video.request import Request
from mlx_video.results.clip import Clip
from mlx_video.results.look import Look, Sound
from mlx_video.types import SPACE_SCALE, TIME_SCALE, AudioShape, Listener, Modality, Noise, Phase, Progress, Tree, Watch

if TYPE_CHECKING:
    from mlx_video.runner import Runner

TOLD = "This is a placeholder: noise in place of every network, and nothing of the model was read."
SAMPLE_RATE = 24_000
"""Samples a second of the noise: LTX-2's own rate."""
LOUDNESS = 0.05
"""Standard deviation of the noise, of 1."""


class Placeholder:
    """One clip of noise."""

    ways = Ways()

    def __init__(self, request: Request, noise: Noise | Mapping[str, Any] | None = None):
        """noise: none of it is drawn, so a mapping has to be empty."""
        self._request, self._noise = request, noise

    def check(self, watch: Watch) -> None:
        """What needs no files; tells what is rounded."""
        self._recipe = self._request.check(RECIPES)
        self._request, notes = self._request.rounded()
        for note in notes:
            watch.say(note)
        draws(0, self._noise).finish()

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Reads the user's files; raises UserError for those that cannot be read."""
        request = self._request
        for lora in (*runner.loras, *request.lora):
            if not locate.is_hub_id(lora.path):
                locate.existing(lora.path, "--lora")
        if request.embedding is not None:
            check_input(request.embedding, "an embedding")
        modalities: tuple[Modality, ...] = ("video",) if request.audio is False else ("video", "audio")
        self._settings = noted(
            Settings(
                request=request,
                recipe=self._recipe,
                steps=request.steps,
                guidance={},
                negative_prompt=request.negative_prompt,
                batched=False,
                lora_strengths=(),
                image_crf=DEFAULT.generations[0].defaults["image_crf"],
                modalities=modalities,
            )
        )
        self._media = conditions.read(self._settings)
        return (TOLD, *self._settings.notes)

    def run(self, watch: Watch) -> Clip:
        """The clip."""
        settings, request, shape = self._settings, self._settings.request, self._settings.decoded
        noise, given = seeded(request.seed), self._media.sound
        latents: Tree = {"video": noise("placeholder/video", latent_shape(shape))}
        if "audio" in settings.modalities:
            latents["audio"] = noise("placeholder/audio", latent_shape(AudioShape.of(shape)))
        look = Look.cut(settings.shown, shape, latents, given, rate=settings.rate(self._recipe.stages[-1]))
        files = conditions.files_of(request)
        return Clip(
            latents, look, described(settings, None), _Squares(request.seed, shape.seconds), given=given, inputs=files
        )


class _Squares:
    """Decodes to squares of colour and to noise."""

    def __init__(self, seed: int, seconds: float):
        self._seed, self._seconds = seed, seconds

    def frames(self, latent: mx.array, look: Look, report: Listener) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8: each latent cell a square of one colour, for as long as a latent frame lasts."""
        colours = np.array(mx.clip(latent[0, :3] * 48 + 128, 0, 255).astype(mx.uint8)).transpose(1, 2, 3, 0)
        for number in range(look.shape.frames):
            cells = colours[-(-number // TIME_SCALE)]
            report(Progress(Phase.DECODE, number + 1, look.shape.frames))
            yield cells.repeat(SPACE_SCALE, axis=0).repeat(SPACE_SCALE, axis=1)

    def sound(self, latent: mx.array, report: Listener) -> Sound:
        """As long as the clip."""
        samples = round(self._seconds * SAMPLE_RATE)
        draw = np.array(seeded(self._seed)("placeholder/waveform", (2, samples)))
        report(Progress(Phase.WAVEFORM, 1, 1))
        return np.clip(draw * LOUDNESS, -1, 1).astype(np.float32), SAMPLE_RATE
