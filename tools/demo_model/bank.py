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

from . import mel, world
from .codec import EVENNESS, RMS, Codec

AUDIO_TOKENS = 34  # of 33 frames at 24 fps, 25 latents a second
FRAMES = 33


def save(value, path: str) -> None:
    """Whole or not at all."""
    torch.save(value, path + ".part")
    os.replace(path + ".part", path)


def make_video(folder: str, codec: Codec, size: int, passes: int) -> None:
    """bank-SIZE-PASS.pt: dict(latents (N, tokens, 128) half, meaning (N, 4), phase (N,), grid (F, h, w))"""
    for number in range(passes):
        path = os.path.join(folder, f"bank-{size}-{number:02d}.pt")
        if os.path.exists(path):
            continue
        started, rng = time.time(), np.random.default_rng([size, number])
        meanings = [world.TRAINED[i] for i in rng.permutation(len(world.TRAINED))]
        latents, phases = [], []
        for start in range(0, len(meanings), 8):
            scenes = world.draw_scenes(meanings[start : start + 8], rng)
            z = codec.encode(world.render(scenes, FRAMES, size))
            latents.append(z.flatten(2).transpose(1, 2).half())
            phases.append(scenes.phase)
        save(
            dict(
                latents=torch.cat(latents),
                phase=torch.cat(phases),
                meaning=torch.tensor(meanings),
                grid=tuple(z.shape[2:]),
            ),
            path,
        )
        print(f"bank {size} pass {number + 1}/{passes} {time.time() - started:.0f}s", flush=True)


class VideoBank:
    """All passes of one size that exist so far."""

    def __init__(self, folder: str, size: int):
        self.pattern, self.files = os.path.join(folder, f"bank-{size}-*.pt"), []
        self.refresh()

    def refresh(self) -> bool:
        files = sorted(glob.glob(self.pattern))
        if files == self.files or not files:
            return bool(files)
        parts = [torch.load(f) for f in files]
        self.files, self.grid = files, parts[0]["grid"]
        self.latents, self.phase, self.meaning = (
            torch.cat([p[k] for p in parts]) for k in ("latents", "phase", "meaning")
        )
        return True

    def __len__(self):
        return len(self.latents) if self.files else 0


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
