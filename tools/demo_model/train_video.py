"""Trains the two halves of the video VAE to agree with the linear codec.

The decoder learns pixels from codec latents (with some noise, as a transformer's latents have), on windows around the
shape. The encoder learns codec latents from pixels; its ramps are zero, as a given picture's are in training.

Both follow the time that they have computed, like the transformer's training, save their state and go on from it.
"""

from __future__ import annotations

import os
import random
import time

import numpy as np
import torch

from . import device, world
from .bank import newest, save
from .codec import COLOUR_CHANNELS, RAMP_HEIGHT, RAMPS, Codec, load
from .muon import Muon
from .reference import build, set_statistics

SAVE_SECONDS = 120
FOREIGN = 0.08  # share of pictures from outside the world


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Decibels of pixels in [-1, 1], mean over clips."""
    return float((-10 * ((a.float() - b) ** 2).mean((1, 2, 3, 4)).div(4).clamp(min=1e-9).log10()).mean())


def draw_window(rng: np.random.Generator) -> torch.Tensor:
    """Pixels of a window that holds a part of the shape, on the latents' own grid; now and then of something else."""
    size = random.choice((128, 256, 256, 256, 512))
    count, frames, side = random.choice(((12, 9, 64), (12, 9, 64), (12, 1, 128), (6, 9, 96), (3, 17, 96)))
    count = device.batch(count)
    if random.random() < FOREIGN:
        return world.foreign(count, frames, side)
    first = 8 * random.randrange(0, (33 - frames) // 8 + 1)
    scenes = world.draw_scenes([random.choice(world.TRAINED) for _ in range(count)], rng)
    x, y, r = (a[:, first + frames // 2] * size for a in world.trajectory(scenes, first + frames))
    corner = lambda centre: (
        ((centre - side / 2 + r * torch.randn(count) * 0.6) / 32).round().mul(32).clamp(0, size - side)
    )
    return world.render(scenes, frames, size, first=first, window=(corner(y), corner(x), side, side))


def encoder_of(folder: str, codec: Codec):
    """pixels -> normalised latents, as the trained encoder has them."""
    encoder = build("video_encoder").eval()
    encoder.load_state_dict(device.read(newest(folder, "video_encoder"))["averaged"])
    set_statistics(encoder, codec.mean, codec.scale)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with device.mixed():
            return encoder(pixels.bfloat16().contiguous(memory_format=torch.channels_last_3d)).float()

    return encode


class HalfTrainer:
    """`half`: "decoder" or "encoder"."""

    def __init__(
        self,
        folder: str,
        half: str,
        minutes: float,
        learning_rate: float = 0.02,
        start: dict | None = None,
        name: str | None = None,
    ):
        self.folder, self.half, self.seconds = folder, half, minutes * 60
        self.path = os.path.join(folder, (name or f"video_{half}") + ".pt")
        self.codec = load(folder)
        self.importance = self.codec.importance()[:, None, None, None]
        torch.manual_seed(0), random.seed(0)
        self.rng = np.random.default_rng(0)
        self.network = build(f"video_{half}")
        if start:
            self.network.load_state_dict(start)
        set_statistics(self.network, self.codec.mean, self.codec.scale)
        self.network.to(memory_format=torch.channels_last_3d)
        self.named = list(self.network.named_parameters())
        self.optimiser = Muon(self.named, lr=learning_rate)
        self.average = [p.detach().clone() for _, p in self.named]
        self.step, self.elapsed, self.checking = 0, 0.0, False
        if os.path.exists(self.path):
            state = device.read(self.path)
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            for a, b in zip(self.average, state["average"]):
                a.copy_(b)
            self.step, self.elapsed = state["step"], state["elapsed"]
            random.seed(self.step), torch.manual_seed(self.step)
            self.rng = np.random.default_rng(self.step)
        picks, rng = random.Random(5), np.random.default_rng(5)
        self.check = {
            s: world.render(world.draw_scenes([picks.choice(world.HELD_OUT) for _ in range(8)], rng), 17, s)
            for s in (128, 256)  # what is reported
        }

    def save(self) -> None:
        averaged = dict(self.network.state_dict())
        averaged.update({n: a.clone() for (n, _), a in zip(self.named, self.average)})
        save(
            dict(
                network=self.network.state_dict(),
                averaged=averaged,
                average=self.average,
                optimiser=self.optimiser.state_dict(),
                step=self.step,
                elapsed=self.elapsed,
            ),
            self.path,
        )

    def run_network(self, x: torch.Tensor) -> torch.Tensor:
        with device.mixed():
            return self.network(x.bfloat16().contiguous(memory_format=torch.channels_last_3d)).float()

    def latents(self, pixels: torch.Tensor) -> torch.Tensor:
        z = self.codec.normalise(self.codec.project(pixels))
        z[:, COLOUR_CHANNELS:] = 0
        return z

    def loss(self, pixels: torch.Tensor):
        z = self.latents(pixels)
        if self.half == "encoder":
            error = (self.run_network(pixels) - z) ** 2
            colours = (error[:, :COLOUR_CHANNELS] * self.importance).mean()
            return colours + 0.05 * error[:, COLOUR_CHANNELS:].mean(), float(colours.detach())
        level = torch.rand(len(z), 1, 1, 1, 1) * 0.4
        z[:, RAMPS] = (torch.rand(len(z), 3, 1, 1, 1) * 2 - 1) * RAMP_HEIGHT
        error = self.run_network(z + level * torch.randn_like(z)) - pixels
        return error.abs().mean() + 0.5 * (error**2).mean(), float((error.detach() ** 2).mean()) / 4

    @torch.no_grad()
    def validate(self) -> str:
        kept = [p.detach().clone() for _, p in self.named]
        for (_, p), a in zip(self.named, self.average):
            p.copy_(a)
        words, self.checking = [], True
        for size, pixels in self.check.items():
            z = self.latents(pixels)
            if self.half == "decoder":
                words.append(f"{size}: {psnr(self.run_network(z).clamp(-1, 1), pixels):.2f} dB")
            else:
                out = self.run_network(pixels)
                words.append(
                    f"{size}: R2 {1 - float(((out - z) ** 2).mean() / z.var()):.4f} "
                    f"codec {psnr(self.codec.decode(out), pixels):.2f} dB"
                )
        for (_, p), k in zip(self.named, kept):
            p.copy_(k)
        self.checking = False
        return ", ".join(words)

    def run(self) -> None:
        clock, saved, reported, losses = time.process_time(), time.time(), time.time(), []
        while self.elapsed < self.seconds:
            part = self.elapsed / self.seconds
            loss, measured = self.loss(draw_window(self.rng))
            for _, p in self.named:
                p.grad = None
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.named], 1.0)
            if torch.isfinite(norm):
                self.optimiser.step(min(1.0, (self.step + 1) / 20) * (1 - part) ** 0.7)
            with torch.no_grad():
                torch._foreach_lerp_(
                    self.average, [p.detach() for _, p in self.named], 1 - min(0.99, 1 - 1 / (self.step / 4 + 2))
                )
            losses.append(measured)
            self.step += 1
            now, spent = time.time(), time.process_time()
            self.elapsed += spent - clock
            clock = spent
            if now - reported > 60:
                mean = float(np.mean(losses))
                shown = f"{-10 * np.log10(mean):.2f} dB" if self.half == "decoder" else f"mse {mean:.4f}"
                print(
                    f"{self.half} {self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} train {shown} "
                    f"held out {self.validate()}",
                    flush=True,
                )
                losses, reported, clock = [], time.time(), time.process_time()
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = time.time()
        print(f"{self.half} done, step {self.step}, held out {self.validate()}", flush=True)
        self.save()
