"""Trains the spatial x2 upsampler on pairs of latents of one scene drawn at 128 and 256, and at 256 and 512 pixels.

It works on latents that are not normalised, as in the pipelines; the loss is taken on normalised ones. Whole clips only:
its group norms average over a clip, a clip being anything from one picture to five latent frames. Noise on the input
stands for the errors of a generated first stage; a part of the inputs is what the video encoder makes of the pixels, as
when a finished clip or a photograph is upscaled, and a part of those is nothing of this world.
"""

from __future__ import annotations

import os
import random
import time

import numpy as np
import torch

from . import device, world
from .bank import FRAMES, VideoBank, first_weights, newest, save, scenes_of
from .codec import COLOUR_CHANNELS, RAMPS, load
from .muon import Muon
from .reference import build
from .train_video import encoder_of

ENCODED = 64  # clips of a size that the encoder reads, of 17 frames: a clip takes it seconds
FOREIGN = 96  # pictures that are nothing of this world
CHECKED = 8  # first clips of every set, kept for checks
FRAMES_OF = ((5, 4, 2, 1), (6, 4, 1, 2))  # latent frames of a training clip, and their shares


@torch.no_grad()
def make_pairs(folder: str) -> None:
    """halves-SIZE.pt: codec latents of the SIZE bank's scenes at half the size (the scenes are drawn again).
    pairs-SIZE.pt: (small, large) latents of some of them as the encoder reads the small ones.
    foreign.pt: the same for pictures from outside the world, at both sizes."""
    codec = load(folder)
    encode = encoder_of(folder, codec)
    for size in (256, 512):
        path = os.path.join(folder, f"halves-{size}.pt")
        if not os.path.exists(path):
            scenes = (s for number in range(len(VideoBank(folder, size).files)) for s in scenes_of(size, number))
            save(torch.cat([codec.encode(world.render(s, FRAMES, size // 2)).half() for s in scenes]), path)
        path = os.path.join(folder, f"encoded-{size}.pt")
        if not os.path.exists(path):
            read = []
            for scenes in scenes_of(size, 0):
                read.append(encode(world.render(scenes, 17, size // 2)).half())
                if sum(map(len, read)) >= ENCODED:
                    break
            save(torch.cat(read), path)
    path = os.path.join(folder, "foreign.pt")
    if not os.path.exists(path):
        torch.manual_seed(0)
        pairs = []
        for size in (256, 512):
            large = world.foreign(FOREIGN, 9, size)
            small = torch.nn.functional.avg_pool3d(large, (1, 2, 2))
            parts = zip(large.split(4), small.split(4))
            pairs.append([torch.cat(x).half() for x in zip(*((encode(b), codec.encode(a)) for a, b in parts))])
        save(pairs, path)


@torch.no_grad()
def raise_bank(folder: str) -> None:
    """raised-SIZE.pt: what a trained upsampler makes of the small halves with noise, in the order of the SIZE bank.
    The second stage starts from such latents; the transformer trains on them."""
    codec, network = load(folder), build("upsampler").eval()
    network.load_state_dict(device.read(newest(folder, "upsampler"))["network"])
    for size in (256, 512):
        raised = []
        for z in device.read(os.path.join(folder, f"halves-{size}.pt")).split(8 if size == 256 else 2):
            z = z.float() + torch.rand(len(z), 1, 1, 1, 1) * 0.7 * torch.randn(z.shape)
            with device.mixed():
                out = network(codec.restore(z)).float()
            raised.append(codec.normalise(out).flatten(2).transpose(1, 2).half())
        save(torch.cat(raised), os.path.join(folder, f"raised-{size}.pt"))


class UpsamplerTrainer:
    def __init__(self, folder: str, minutes: float):
        self.folder, self.seconds, self.path = folder, minutes * 60, os.path.join(folder, "upsampler.pt")
        torch.manual_seed(0), random.seed(0)
        self.codec, self.small, self.large, self.encoded = load(folder), {}, {}, {}
        self.importance = self.codec.importance()[:, None, None, None]
        for size in (256, 512):
            bank = VideoBank(folder, size)
            self.small[size] = device.read(os.path.join(folder, f"halves-{size}.pt"))
            self.large[size] = bank.latents.transpose(1, 2).unflatten(2, bank.grid)
            self.encoded[size] = device.read(os.path.join(folder, f"encoded-{size}.pt"))
        self.foreign = dict(zip((256, 512), device.read(os.path.join(folder, "foreign.pt"))))
        self.network = build("upsampler")
        layouts = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
        for module in self.network.modules():  # a contiguous kernel can get NaN for its bfloat16 gradient
            if type(module) in layouts:
                module.to(memory_format=layouts[type(module)])
        first = first_weights(folder, "upsampler")
        if first:
            self.network.load_state_dict(first["network"])
        self.optimiser = Muon(list(self.network.named_parameters()), lr=0.01 if first else 0.02)
        self.step, self.elapsed = 0, 0.0
        if os.path.exists(self.path):
            state = device.read(self.path)
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.elapsed = state["step"], state["elapsed"]

    def upsample(self, z: torch.Tensor) -> torch.Tensor:
        raw = self.codec.restore(z)
        with device.mixed():
            out = self.network(raw.contiguous(memory_format=torch.channels_last_3d)).float()
        return self.codec.normalise(out)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Small and large latents of some clips, and whether the small ones have ramps."""
        size = 256 if random.random() < 0.6 else 512
        frames, count = random.choices(*FRAMES_OF)[0], device.batch(8 if size == 256 else 3)
        dice, given = random.random(), False
        if dice < 0.1:
            small, large = self.foreign[size]
            rows = torch.randint(len(small), (count,))
        elif dice < 0.4:
            small, large = self.encoded[size], self.large[size]
            rows = torch.randint(CHECKED, len(small), (count,))
        else:
            small, large, given = self.small[size], self.large[size], True
            rows = torch.randint(CHECKED, len(small), (count,))
        small = small[rows, :, :frames].float()
        return small, large[rows, :, : small.shape[2]].float(), given

    def loss(self, small, large, given: bool, noise: float = 0.3):
        error = (self.upsample(small + noise * random.random() * torch.randn_like(small)) - large) ** 2
        colours = (error[:, :COLOUR_CHANNELS] * self.importance).mean()
        rest = 0.03 * error[:, RAMPS].mean() + 0.01 * error[:, RAMPS.stop :].mean()
        return colours + (rest if given else 0.0), float(colours.detach())

    @torch.no_grad()
    def check(self) -> str:
        """Unexplained part, in pixels, of the variance of clips that are not trained on, from the codec's and the encoder's
        latents."""
        words = []
        for size in (256, 512):
            for name, source in (("", self.small[size]), (" encoded", self.encoded[size])):
                small = source[:CHECKED, :, :5].float()
                large = self.large[size][:CHECKED, :, : small.shape[2]].float()
                _, error = self.loss(small, large, True, 0.0)
                spread = (large[:, :COLOUR_CHANNELS].var((0, 2, 3, 4)) * self.importance.flatten()).mean()
                words.append(f"{size}{name} {error / float(spread):.4f}")
        return ", ".join(words)

    def run(self) -> None:
        clock, saved, reported, errors = time.process_time(), time.time(), time.time(), []
        while self.elapsed < self.seconds:
            loss, error = self.loss(*self.draw())
            for p in self.network.parameters():
                p.grad = None
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimiser.step(min(1.0, (self.step + 1) / 20) * (1 - self.elapsed / self.seconds) ** 0.7)
            errors.append(error)
            self.step += 1
            now, spent = time.time(), time.process_time()
            self.elapsed += spent - clock
            clock = spent
            if now - reported > 60:
                print(
                    f"upsampler {self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} mse {np.mean(errors):.4f} "
                    f"unseen {self.check()}",
                    flush=True,
                )
                errors, reported, clock = [], time.time(), time.process_time()
            if now - saved > 60:
                self.save()
                saved = now
        self.save()

    def save(self) -> None:
        save(
            dict(
                network=self.network.state_dict(),
                optimiser=self.optimiser.state_dict(),
                step=self.step,
                elapsed=self.elapsed,
            ),
            self.path,
        )
