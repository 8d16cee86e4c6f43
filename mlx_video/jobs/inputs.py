"""What a user hands over besides the prompt, made ready: pictures for each stage's size, and sound to follow.

`read` opens the files (cheap, before any network); `encode` borrows the encoders. Knows media and encoders; knows no
sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.diffusion.conditioning import (
    AppendKeyframe,
    Condition,
    Freeze,
    GenerateKeyframe,
    ReplaceFrame,
    keyframe_places,
)
from mlx_video.jobs.stages import Inputs
from mlx_video.lending.finite import Origin
from mlx_video.request import Request
from mlx_video.types import AudioShape, Context, ImageAt, Listener, Modality, Phase, VideoShape

if TYPE_CHECKING:
    from mlx_video.jobs.settings import Settings
    from mlx_video.lending.loader import Loader
    from mlx_video.results.look import Sound


LOOK_AHEAD = 0.1
"""Seconds beyond the clip's end that the last mel frames look at (half a window of 64 ms, and the resampler)."""


@dataclass(frozen=True)
class Media:
    """The user's files, read."""

    images: Mapping[int, tuple[np.ndarray, ...]]
    """By stage number: each picture at that stage's size, (H, W, 3) float32 in [-1, 1], in the order given."""
    sound: Sound | None
    """The part of the sound that the clip plays, at its own rate, as long as the clip."""
    heard: Sound | None
    """What the encoder hears: the same and, where the file goes on, a little more."""


def files_of(request: Request) -> dict[str, str]:
    """The files that a request names, by flag and value; a LoRA's may be an id on the hub."""
    named = [("--image", image.path) for image in request.image] + [("--lora", lora.path) for lora in request.lora]
    named += [("--audio-file", request.audio_file.path)] if request.audio_file else []
    named += [("--embedding", request.embedding)] if request.embedding else []
    named += [("--distilled-lora", request.distilled_lora)] if request.distilled_lora else []
    return {f"{flag} {path}": path for flag, path in named}


def read(settings: Settings) -> Media:
    """Opens every file that the request names; raises UserError where one cannot be read."""
    from mlx_video.media.audio import fit, read_audio
    from mlx_video.media.image import compress, fill, read_image

    request = settings.request
    pictures = [
        compress(read_image(image.path), settings.image_crf if image.crf is None else image.crf)
        for image in request.image
    ]
    images = {}
    for number, stage in enumerate(settings.recipe.stages, 1):
        shown, made = stage.of(request.shape), stage.of(settings.shape)
        images[number] = tuple(
            _around(fill(picture, shown.height, shown.width), made) / np.float32(127.5) - np.float32(1)
            for picture in pictures
        )
    if request.audio_file is None:
        return Media(images, None, None)
    seconds = settings.shape.seconds
    waveform, rate = read_audio(Path(request.audio_file.path), request.audio_file.start, seconds + LOOK_AHEAD)
    played, samples = round(settings.shown.seconds * rate), round(seconds * rate)
    return Media(images, (fit(waveform, played), rate), (fit(waveform, max(samples, waveform.shape[1])), rate))


def _around(picture: np.ndarray, made: VideoShape) -> np.ndarray:
    """A picture (H, W, 3) of the clip's size with its edges repeated all around, up to the size that is made."""
    rows, columns = picture.shape[:2]
    top, left = made.margins(rows, columns)
    around = ((top, made.height - rows - top), (left, made.width - columns - left), (0, 0))
    return np.pad(picture, around, mode="edge")


def encode(
    media: Media,
    contexts: Mapping[str, Context],
    settings: Settings,
    loader: Loader,
    report: Listener,
) -> Inputs:
    """Everything that steers the run, as arrays. Encoders are borrowed only where there is something to encode."""
    conditions = _encode_images(media, settings, loader, report) if settings.request.image else {}
    places = keyframe_places(settings.request.num_generated_keyframes, settings.request.num_frames)
    conditions[1, "video"] = [*conditions.get((1, "video"), ()), *map(GenerateKeyframe, places)]
    if media.heard is None:
        return Inputs(contexts, conditions)
    heard = Freeze(_encode_sound(media.heard, settings, loader, report))
    if "negative" in contexts:
        # A sound that is given is not to be steered away from: its text is the prompt's in every pass.
        unsteered = contexts["negative"]._replace(audio=contexts["positive"].audio)
        contexts = {**contexts, "negative": unsteered}
    sounds: dict[tuple[int, Modality], list[Condition]] = {
        (number, "audio"): [heard] for number, _ in enumerate(settings.recipe.stages, 1)
    }
    return Inputs(contexts, {**conditions, **sounds})


def _encode_images(
    media: Media, settings: Settings, loader: Loader, report: Listener
) -> dict[tuple[int, Modality], list[Condition]]:
    request = settings.request
    steps = platform.Steps(Phase.IMAGES, len(media.images) * len(request.image), report)
    conditions: dict[tuple[int, Modality], list[Condition]] = {}
    origin = Origin.of(loader, "video_encoder")
    with loader.borrow("video_encoder") as encoder:
        for number, pictures in media.images.items():
            shown = conditions[number, "video"] = []
            for image, picture in zip(request.image, pictures, strict=True):
                latent = (
                    encoder(mx.array(picture)[None, None].astype(loader.vae_dtype))
                    .transpose(0, 4, 1, 2, 3)
                    .astype(mx.float32)
                )
                origin.check(f"encoding the picture {image.path}", latent)
                # At its time, where frames are doubled; the reference (v1.2.0) keeps the number, which is too early.
                index = image.index(request.num_frames) * settings.recipe.stages[number - 1].rate
                shown.append(_condition(image, latent, index))
                steps.tell(steps.done + 1)
    return conditions


def _condition(image: ImageAt, latent: mx.array, index: int) -> Condition:
    """The first frame is replaced; a picture anywhere else guides from beside the clip, as the reference has it."""
    if index == 0:
        return ReplaceFrame(latent, 0, image.strength)
    return AppendKeyframe(latent, index, image.strength)


def _encode_sound(sound: Sound, settings: Settings, loader: Loader, report: Listener) -> mx.array:
    steps = platform.Steps(Phase.SOUND, 1, report)
    waveform, rate = sound
    with loader.borrow("audio_encoder") as encoder:
        latent = encoder(mx.array(encoder.hear(waveform, rate))[None].astype(loader.vae_dtype)).astype(mx.float32)
        Origin.of(loader, "audio_encoder").check("encoding the sound", latent)
    steps.tell(1)
    return _fit(latent, AudioShape.of(settings.shape).frames)


def _fit(latent: mx.array, frames: int) -> mx.array:
    # The sound is as long as the clip, so this cuts or repeats one latent at most, where rounding differs.
    have = latent.shape[2]
    if have >= frames:
        return latent[:, :, :frames]
    return mx.concatenate([latent, mx.repeat(latent[:, :, -1:], frames - have, axis=2)], axis=2)
