"""Trains the spatial x2 upsampler on pairs of latents of one scene drawn at 128 and at 256 pixels.

It works on latents that are not normalised, as in the pipelines; the loss is taken on normalised ones. Whole clips only:
its group norms average over a clip. Noise on the input stands for the errors of a generated first stage.
"""

from __future__ import annotations

import os
import random
import time

import numpy as np
import torch

from . import world
from .bank import FRAMES, VideoBank, save
from .codec import COLOUR_CHANNELS, RAMPS, Codec
from .muon import Muon
from .reference import build


@torch.no_grad()
def make_pairs(folder: str) -> None:
    """Latents at 128 pixels of exactly the scenes of the 256 bank (its random numbers are drawn again)."""
    path = os.path.join(folder, "pairs.pt")
    if os.path.exists(path):
        return
    codec, large = Codec(torch.load(os.path.join(folder, "codec.pt"))), VideoBank(folder, 256)
    small = []
    for number in range(len(large.files)):
        rng = np.random.default_rng([256, number])
        meanings = [world.TRAINED[i] for i in rng.permutation(len(world.TRAINED))]
        for start in range(0, len(meanings), 8):
            scenes = world.draw_scenes(meanings[start : start + 8], rng)
            small.append(codec.encode(world.render(scenes, FRAMES, 128)).half())
    save(torch.cat(small), path)


@torch.no_grad()
def raise_bank(folder: str) -> None:
    """raised.pt: what a trained upsampler makes of the pairs' small halves with noise, in the order of the 256 bank.
    The second stage starts from such latents; the transformer trains on them."""
    codec, network = Codec(torch.load(os.path.join(folder, "codec.pt"))), build("upsampler").eval()
    network.load_state_dict(torch.load(os.path.join(folder, "upsampler.pt"))["network"])
    raised = []
    for z in torch.load(os.path.join(folder, "pairs.pt")).split(8):
        z = z.float() + torch.rand(len(z), 1, 1, 1, 1) * 0.7 * torch.randn(z.shape)
        with torch.autocast("cpu", torch.bfloat16):
            out = network(codec.restore(z)).float()
        raised.append(codec.normalise(out).flatten(2).transpose(1, 2).half())
    save(torch.cat(raised), os.path.join(folder, "raised.pt"))


class UpsamplerTrainer:
    def __init__(self, folder: str, minutes: float):
        self.folder, self.seconds, self.path = folder, minutes * 60, os.path.join(folder, "upsampler.pt")
        torch.manual_seed(0), random.seed(0)
        make_pairs(folder)
        self.codec = Codec(torch.load(os.path.join(folder, "codec.pt")))
        self.small, bank = torch.load(os.path.join(folder, "pairs.pt")), VideoBank(folder, 256)
        self.small = self.small[: len(bank)]
        self.large = bank.latents.transpose(1, 2).unflatten(2, bank.grid)[: len(self.small)]
        self.network = build("upsampler")
        layouts = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
        for module in self.network.modules():  # a contiguous kernel can get NaN for its bfloat16 gradient
            if type(module) in layouts:
                module.to(memory_format=layouts[type(module)])
        self.optimiser = Muon(list(self.network.named_parameters()), lr=0.02)
        self.step, self.elapsed = 0, 0.0
        if os.path.exists(self.path):
            state = torch.load(self.path)
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.elapsed = state["step"], state["elapsed"]

    def upsample(self, z: torch.Tensor) -> torch.Tensor:
        raw = self.codec.restore(z)
        with torch.autocast("cpu", torch.bfloat16):
            out = self.network(raw.contiguous(memory_format=torch.channels_last_3d)).float()
        return self.codec.normalise(out)

    def loss(self, rows, noise: float = 0.3):
        frames = random.choice((5, 5, 4))
        small, large = self.small[rows, :, :frames].float(), self.large[rows, :, :frames].float()
        error = (self.upsample(small + noise * random.random() * torch.randn_like(small)) - large) ** 2
        colours = error[:, :COLOUR_CHANNELS].mean()
        return colours + 0.03 * error[:, RAMPS].mean() + 0.01 * error[:, RAMPS.stop :].mean(), float(colours)

    def run(self) -> None:
        clock, saved, reported, errors = time.time(), time.time(), time.time(), []
        test = torch.arange(0, 16)
        while self.elapsed < self.seconds:
            loss, error = self.loss(torch.randint(16, len(self.small), (8,)))
            for p in self.network.parameters():
                p.grad = None
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimiser.step(min(1.0, (self.step + 1) / 20) * (1 - self.elapsed / self.seconds) ** 0.7)
            errors.append(error)
            self.step += 1
            now = time.time()
            self.elapsed += now - clock
            clock = now
            if now - reported > 30:
                with torch.no_grad():
                    _, checked = self.loss(test, 0.0)
                print(
                    f"upsampler {self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} mse {np.mean(errors):.4f} "
                    f"unseen {checked:.4f} of {float(self.large[test, :COLOUR_CHANNELS].float().var()):.2f}",
                    flush=True,
                )
                errors, reported = [], now
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
