"""Trains the audio VAE and the vocoder on the world's few sounds.

Three jobs: "autoencoder" trains both halves on log-mel pictures; its encoder is then frozen and gives the audio bank.
"audio_decoder" goes on with the decoder alone, on the bank's normalised latents with noise. "vocoder" learns waveforms
from log-mel pictures, half of them as the trained decoder draws them. A waveform is the same in every 10 ms, so plain
regression is enough (world.tone).
"""

from __future__ import annotations

import os
import random
import time

import torch

from . import configs, device, mel, world
from .bank import AUDIO_TOKENS, newest, save
from .muon import Muon
from .reference import build, set_statistics

FRAME = configs.VOCODER_RATE // 100  # samples of one mel frame
CROP = 44  # mel frames of a vocoder example
EDGE = 2 * FRAME  # samples at both ends of a crop that do not count
MEL_FRAMES = 4 * AUDIO_TOKENS - 3


def spectral_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = 0.0
    for size, hop in ((256, 64), (1024, 256), (2048, 480)):
        window = torch.hann_window(size)
        x, y = (torch.stft(w, size, hop, size, window, return_complex=True).abs() for w in (a, b))
        total = (
            total + 0.5 * (x - y).norm() / (y.norm() + 1e-3) + 0.2 * ((x + 1e-2).log() - (y + 1e-2).log()).abs().mean()
        )
    return total / 3


class AudioTrainer:
    """`job` is "autoencoder", "audio_decoder" or "vocoder"."""

    def __init__(self, folder: str, job: str, minutes: float, start: dict | None = None):
        self.folder, self.job, self.seconds = folder, job, minutes * 60
        self.path = os.path.join(folder, job + ".pt")
        torch.manual_seed(0), random.seed(0)
        names = {"autoencoder": ("audio_encoder", "audio_decoder")}.get(job, (job,))
        self.networks = torch.nn.ModuleDict({n: build(n) for n in names})
        for half in names[: 2 * (job == "autoencoder")]:
            set_statistics(self.networks[half], torch.zeros(128), torch.ones(128))
        if job == "autoencoder":
            with torch.no_grad():
                out = self.networks["audio_decoder"].conv_out
                getattr(out, "conv", out).bias.fill_(-8.0)  # the mean of a log-mel picture
        for name, weights in (start or {}).items():
            self.networks[name].load_state_dict(weights)
        samples = (MEL_FRAMES - 1) * mel.HOP
        self.pictures = mel.log_mel(torch.stack([world.tone(m, k, samples, mel.RATE) for m, k in world.sounds()]))
        self.waves = torch.stack(
            [world.tone(m, k, MEL_FRAMES * FRAME, configs.VOCODER_RATE) for m, k in world.sounds()]
        )
        if job != "autoencoder":
            bank = device.read(newest(folder, "bank-audio"))
            self.latents = bank["latents"].unflatten(2, (8, 16)).transpose(1, 2).contiguous()  # (N, 8, T, 16)
            if job == "audio_decoder":
                set_statistics(self.networks[job], bank["mean"], bank["scale"])
            else:
                self.drawn = self.draw_pictures()
        self.optimiser = Muon(list(self.networks.named_parameters()), lr=0.01)
        self.step, self.elapsed = 0, 0.0
        if os.path.exists(self.path):
            state = device.read(self.path)
            self.networks.load_state_dict(state["networks"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.elapsed = state["step"], state["elapsed"]

    @torch.no_grad()
    def draw_pictures(self) -> torch.Tensor:
        """What the trained decoder makes of every sound, (N, frames, 64)."""
        decoder = build("audio_decoder")
        state = device.read(newest(self.folder, "audio_decoder"))["networks"]
        decoder.load_state_dict({k.removeprefix("audio_decoder."): v for k, v in state.items()})
        return decoder(self.latents)[:, 0]

    def loss(self):
        rows = torch.randint(len(self.pictures), (6,))
        if self.job == "vocoder":
            first = random.randrange(0, MEL_FRAMES - CROP)
            source = self.drawn if random.random() < 0.5 else self.pictures
            picture = source[rows, first : first + CROP]
            picture = picture + random.choice((0, 0.02, 0.1, 0.25)) * torch.randn_like(picture)
            wave = self.networks["vocoder"](picture[:, None].expand(-1, 2, -1, -1))[..., EDGE:-EDGE]
            goal = self.waves[rows, None, first * FRAME : (first + CROP) * FRAME][..., EDGE:-EDGE].expand_as(wave)
            error = (wave - goal).abs().mean()
            return 5 * error + spectral_loss(wave[:, 0], goal[:, 0]), float(error.detach())
        if self.job == "autoencoder":
            first = 4 * random.randrange(0, 12)
            goal = self.pictures[rows, None, first : first + 57].expand(-1, 2, -1, -1)
            with device.mixed():
                z = self.networks["audio_encoder"](goal)
                picture = self.networks["audio_decoder"](z + 0.3 * torch.randn_like(z)).float()
            extra = 2e-3 * (z.float() ** 2).mean()
        else:
            count = random.randint(18, AUDIO_TOKENS)
            z = self.latents[rows, :, :count]
            level = torch.rand(len(z), 1, 1, 1) * 0.5
            with device.mixed():
                picture = self.networks["audio_decoder"](z + level * torch.randn_like(z)).float()
            goal, extra = self.pictures[rows, None, : 4 * count - 3].expand(-1, 2, -1, -1), 0.0
        n = min(picture.shape[2], goal.shape[2])
        error = picture[:, :, :n] - goal[:, :, :n]
        return error.abs().mean() + 0.1 * (error**2).mean() + extra, float(error.detach().abs().mean())

    def save(self) -> None:
        save(
            dict(
                networks=self.networks.state_dict(),
                optimiser=self.optimiser.state_dict(),
                step=self.step,
                elapsed=self.elapsed,
            ),
            self.path,
        )

    def run(self) -> None:
        clock, saved, reported, errors = time.process_time(), time.time(), time.time(), []
        while self.elapsed < self.seconds:
            loss, error = self.loss()
            for p in self.networks.parameters():
                p.grad = None
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimiser.step(min(1.0, (self.step + 1) / 20) * (1 - self.elapsed / self.seconds) ** 0.7)
            errors.append(error)
            self.step += 1
            now, spent = time.time(), time.process_time()
            self.elapsed += spent - clock
            clock = spent
            if now - reported > 30:
                print(
                    f"{self.job} {self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} L1 "
                    f"{sum(errors) / len(errors):.4f}",
                    flush=True,
                )
                errors, reported = [], now
            if now - saved > 60:
                self.save()
                saved = now
        self.save()
