"""Latents of drawn clips and of every sound, made once: training the transformer reads only these.

A bank holds only meanings that are not held out. Files appear one by one (pass after pass over all of them), so that
training can begin after the first.
"""

from __future__ import annotations

import glob
import os
import time

import numpy as np
import torch

from . import device, mel, world
from .codec import EVENNESS, RMS, Codec

AUDIO_TOKENS = 34  # of 33 frames at 24 fps, 25 latents a second
FRAMES = 41  # one latent more than the world moves for; see lengthen
LONGEST = 13  # latent frames (97 frames)
SOUND_REPEAT = 25  # latents of sound in a second
LARGE_CLIPS = 120  # in a pass at 512 pixels
REPEAT = 3  # latents (24 frames): two whole periods of a bounce


def save(value, path: str) -> None:
    """Whole or not at all."""
    torch.save(value, path + ".part")
    os.replace(path + ".part", path)


def newest(folder: str, name: str) -> str:
    """The file of a part: its own, else the one that it starts from."""
    own, first = (os.path.join(folder, *parts, name + ".pt") for parts in ((), ("start",)))
    return first if os.path.exists(first) and not os.path.exists(own) else own


def first_weights(folder: str, name: str) -> dict | None:
    """What a part begins with where training is to go on from a model; None where it begins from nothing."""
    path = os.path.join(folder, "start", name + ".pt")
    return device.read(path) if os.path.exists(path) else None


def scenes_of(size: int, number: int):
    """The scenes of one pass over the trained meanings, a few at a time, always the same."""
    rng = np.random.default_rng([size, number])
    meanings = [world.TRAINED[i] for i in rng.permutation(len(world.TRAINED))]
    step = 8 if size <= 256 else 2
    for start in range(0, len(meanings) if size <= 256 else LARGE_CLIPS, step):
        yield world.draw_scenes(meanings[start : start + step], rng)


def make_video(folder: str, codec: Codec, size: int, passes: int) -> None:
    """bank-SIZE-PASS.pt: dict(latents (N, tokens, 128) half, meaning (N, 4), phase (N,), grid (F, h, w))"""
    for number in range(passes):
        path = os.path.join(folder, f"bank-{size}-{number:02d}.pt")
        if os.path.exists(path):
            continue
        started, latents, scenes = time.time(), [], []
        for some in scenes_of(size, number):
            z = codec.encode(world.render(some, FRAMES, size))
            latents.append(z.flatten(2).transpose(1, 2).half())
            scenes.append(some)
        save(
            dict(
                latents=torch.cat(latents),
                phase=torch.cat([s.phase for s in scenes]),
                meaning=torch.cat([s.meaning[:, :4] for s in scenes]),
                grid=tuple(z.shape[2:]),
            ),
            path,
        )
        print(f"bank {size} pass {number + 1}/{passes} {time.time() - started:.0f}s", flush=True)


def lengthen(motion: torch.Tensor, frames: int) -> torch.Tensor:
    """(N, frames): which latent of a bank's clip stands in each place of a clip of any length. After the path's end all
    is as in the last latent; a bounce begins again and again, from the second latent on (the first is one frame)."""
    place = torch.arange(frames)[None].expand(len(motion), -1)
    again = torch.where(place > REPEAT, (place - 1) % REPEAT + 1, place)
    return torch.where(motion[:, None] == world.BOUNCES, again, place.clamp(max=(FRAMES - 1) // 8))


def sound_places(tokens: int) -> torch.Tensor:
    """(tokens,): which latent of a bank's sound stands in each place of one of any length. Every sound repeats itself
    within a second; the first and last latents, which hear the recording's ends, are not repeated."""
    place = torch.arange(tokens)
    if tokens <= AUDIO_TOKENS:
        return place
    return torch.where(place < SOUND_REPEAT + 5, place, (place - 5) % SOUND_REPEAT + 5)


class VideoBank:
    """All passes of one size that exist so far: latents (N, tokens, 128), what they show, and the scenes themselves."""

    def __init__(self, folder: str, size: int):
        self.pattern, self.files = os.path.join(folder, f"bank-{size}-*.pt"), []
        self.refresh()

    def refresh(self) -> bool:
        files = sorted(glob.glob(self.pattern))
        if files == self.files or not files:
            return bool(files)
        parts = [device.read(f) for f in files]
        self.files, self.grid = files, parts[0]["grid"]
        self.latents, self.phase, self.meaning = (
            torch.cat([p[k] for p in parts]) for k in ("latents", "phase", "meaning")
        )
        size, numbers = self.grid[1] * 32, [int(f[-5:-3]) for f in files]
        self.scenes = world.join([s for number in numbers for s in scenes_of(size, number)])
        return True

    def __len__(self):
        return len(self.latents) if self.files else 0

    def clips(self, rows: torch.Tensor, frames: int, latents: torch.Tensor | None = None) -> torch.Tensor:
        """(len(rows), frames * h * w, 128) of the bank, or of other latents in the same order."""
        f, h, w = self.grid
        source = (self.latents if latents is None else latents)[rows].unflatten(1, (f, h * w))
        places = lengthen(self.meaning[rows, 2], frames)
        return source[torch.arange(len(rows))[:, None], places].flatten(1, 2).float()


@torch.no_grad()
def make_audio(encoder) -> dict:
    """Latents (sounds, 34, 128) of every sound by a trained encoder whose statistics are still 0 and 1, normalised;
    with the statistics that do it."""
    samples = (4 * AUDIO_TOKENS - 4) * mel.HOP
    waves = torch.stack([world.tone(m, k, samples, mel.RATE) for m, k in world.sounds()])
    pictures = mel.log_mel(waves)[:, None].expand(-1, 2, -1, -1)
    z = encoder(pictures).float()  # (N, 8, T, 16)
    z = z.transpose(1, 2).flatten(2)
    mean, spread = z.mean((0, 1)), z.std((0, 1))
    scale = spread.clamp(min=0.01 * float(spread.max())) ** EVENNESS
    scale = scale * (((z - mean) / scale) ** 2).mean().sqrt() / RMS
    return dict(latents=(z - mean) / scale, mean=mean, scale=scale)
