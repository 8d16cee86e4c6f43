"""A clip of noise where a generation was asked for: of the same size, rate and length, in seconds and without weights.

For trying sizes and files: the request is checked, pictures and sounds are read, and what is written is what a run
would write but for what it shows and sounds like. Opens no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.provenance import described
from mlx_video.diffusion.noise import seeded
from mlx_video.diffusion.tokens import latent_shape
from mlx_video.jobs import inputs as conditions
from mlx_video.jobs.clip import Clip, Sound
from mlx_video.media.files import check_input
from mlx_video.models.families import FAMILIES
from mlx_video.planning.settings import Settings, noted
from mlx_video.request import Request
from mlx_video.types import SPACE_SCALE, TIME_SCALE, AudioShape, Lora, Modality, Progress, Recipe, Tree, VideoShape

TOLD = "This is a placeholder: noise in place of every network, and nothing of the model was read."
SAMPLE_RATE = 24_000
"""Samples a second of the noise: LTX-2's own rate."""
LOUDNESS = 0.05
"""Standard deviation of the noise, of 1."""
Report = Callable[[Progress], None]


def make(request: Request, recipe: Recipe, loras: Sequence[Lora], say: Callable[[str], None]) -> Clip:
    """The clip; `say` is told that it is one of noise. Raises UserError for inputs that cannot be read."""
    for lora in loras:
        if not locate.is_hub_id(lora.path):
            locate.existing(lora.path, "--lora")
    if request.embedding is not None:
        check_input(request.embedding, "an embedding")
    modalities: tuple[Modality, ...] = ("video",) if request.audio is False else ("video", "audio")
    settings = noted(
        Settings(
            request=request,
            recipe=recipe,
            steps=request.steps,
            guidance={},
            negative_prompt=request.negative_prompt,
            batched=False,
            lora_strengths=(),
            image_crf=FAMILIES["LTX-2"].generations[0].defaults["image_crf"],
            modalities=modalities,
        )
    )
    media = conditions.read(settings)
    for note in (TOLD, *settings.notes):
        say(note)
    draws, shape = seeded(request.seed), settings.shape
    latents: Tree = {"video": draws("placeholder/video", latent_shape(shape))}
    if "audio" in modalities:
        latents["audio"] = draws("placeholder/audio", latent_shape(AudioShape.of(shape)))
    sound: Callable[[Report], Sound] | None = None
    if media.sound is not None:
        sound = partial(_given, media.sound)
    elif "audio" in modalities:
        sound = partial(_noise, request)
    frames = partial(_frames, latents["video"], request.shape, shape)
    said, files = described(settings, None), conditions.files_of(request)
    return Clip(request.shape, latents, frames, sound, said, files)


def _frames(latent: mx.array, shown: VideoShape, made: VideoShape, report: Report) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8: each latent cell a square of one colour, for as long as a latent frame lasts."""
    top, left = made.margins(shown.height, shown.width)
    colours = np.array(mx.clip(latent[0, :3] * 48 + 128, 0, 255).astype(mx.uint8)).transpose(1, 2, 3, 0)
    for number in range(shown.frames):
        cells = colours[-(-number // TIME_SCALE)]
        picture = cells.repeat(SPACE_SCALE, axis=0).repeat(SPACE_SCALE, axis=1)
        report(Progress("decode", number + 1, shown.frames))
        yield np.ascontiguousarray(picture[top : top + shown.height, left : left + shown.width])


def _noise(request: Request, report: Report) -> Sound:
    samples = round(request.shape.seconds * SAMPLE_RATE)
    draw = np.array(seeded(request.seed)("placeholder/waveform", (2, samples)))
    report(Progress("waveform", 1, 1))
    return np.clip(draw * LOUDNESS, -1, 1).astype(np.float32), SAMPLE_RATE


def _given(sound: Sound, report: Report) -> Sound:
    return sound
