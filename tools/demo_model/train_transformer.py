"""Trains the transformer and its text path on the banks by flow matching, for a given wall-clock time.

A step draws one kind of batch: plain text to audio and video; with the first frame given (image to video); with the sound
given (audio to video); with the modalities apart (for modality guidance); at 128 or at 256 pixels. Half of the noise
levels are those of the 8-step list, half are spread. Prompts are dropped now and then, half of them in favour of
sentences that say nothing, so that a negative prompt is "no prompt".

Weights and activations are bfloat16 with a float32 master copy; what is kept is a running average of the master. The
learning rate follows the clock, so a busy machine shortens training but never leaves it unfinished. State is saved every
few minutes and training goes on from it.
"""

from __future__ import annotations

import os
import random
import signal
import time

import torch

from . import configs, prompts, text, world
from .bank import VideoBank, save
from .codec import COLOUR_CHANNELS, RAMPS
from .muon import Muon
from .network import ISOLATED, UNATTENDED, Network, audio_tokens
from .text import NEVER

REGISTERS = 12  # drawn for each prompt
SIGMAS = torch.tensor(configs.DISTILLED_SIGMAS[:-1])
SIGMA_WEIGHTS = torch.tensor([0.20, 0.06, 0.06, 0.08, 0.20, 0.20, 0.12, 0.08])
LISTED = 0.65  # share of noise levels drawn from the list
REFINE = torch.tensor(configs.REFINE_SIGMAS[:-1])
REFINE_WEIGHTS = torch.tensor([0.6, 0.25, 0.15])
BATCH = {128: 32, 256: 8}
AUDIO_WEIGHT = 0.4
EMPTY_WEIGHT = 0.1  # of the two channels that hold nothing
SAVE_SECONDS = 150
EXCHANGE_STEPS = 20
# A thousand registers drown a dozen words at first; they are given their full weight little by little between these
# parts of the time.
REGISTERS_FROM, REGISTERS_FULL = 0.2, 0.45


def draw_sigmas(batch: int, size: int, distilled: bool) -> torch.Tensor:
    spread = torch.sigmoid(torch.randn(batch) * 1.3 + 1.2)
    listed = SIGMAS[torch.multinomial(SIGMA_WEIGHTS, batch, True)]
    if size == 256:
        refine = REFINE[torch.multinomial(REFINE_WEIGHTS, batch, True)]
        if distilled:
            return refine
        full = torch.where(torch.rand(batch) < 0.5, spread, listed)
        return torch.where(torch.rand(batch) < 0.9, refine, full)
    return listed if distilled else torch.where(torch.rand(batch) < LISTED, listed, spread)


def draw_sentences(meanings, distilled: bool) -> list[str]:
    """A sentence for each meaning; some say nothing."""
    out = []
    for meaning in meanings:
        dice = 1.0 if distilled else random.random()
        if dice < 0.04:
            out.append("")
        elif dice < 0.09:
            out.append(prompts.noise_sentence(random.randint(1, 12)))
        else:
            out.append(prompts.sentence(meaning, complete=False))
    return out


class Reader(torch.nn.Module):
    """Linear heads that read the whole meaning from every single context token, words and registers alike.

    Their loss teaches the small text path to spread the meaning over all tokens. Without it the transformer has to find,
    for every attribute, one word among a thousand tokens, and takes thousands of steps to. Not part of the model.
    """

    COUNTS = (4, 6, 7, 4, 3)
    WEIGHT = 0.1

    def __init__(self):
        super().__init__()
        widths = (configs.VIDEO_WIDTH, configs.AUDIO_WIDTH)
        self.heads = torch.nn.ModuleList([torch.nn.Linear(w, sum(self.COUNTS)) for w in widths])
        self.optimiser = torch.optim.Adam(self.parameters(), lr=3e-3)

    def loss(self, context, meanings: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """`told` (B,): whether the sentence says anything."""
        *contexts, bias = context
        counts = told[:, None] & (bias[:, 0, 0] > NEVER / 2)
        total = 0.0
        for head, tokens in zip(self.heads, contexts):
            scores, goal = head(tokens.float()[counts]), meanings[:, None].expand(-1, tokens.shape[1], -1)[counts]
            for part, kind in zip(scores.split(self.COUNTS, -1), goal.unbind(-1)):
                total = total + torch.nn.functional.cross_entropy(part, kind)
        return total


class Trainer:
    """One run of training; `distilled` restricts it to the noise levels of the distilled pipeline."""

    distilled = False

    def __init__(self, folder: str, name: str, minutes: float, learning_rate: float, worker: int = 0):
        """`worker` 1 starts from what worker 0 has saved and shares its weights with it; only worker 0 saves."""
        self.folder, self.path, self.worker = folder, os.path.join(folder, name + ".pt"), worker
        self.shared = [os.path.join(folder, f"{name}-worker{i}.pt") for i in (worker, 1 - worker)]
        self.read_at = 0.0
        self.seconds, self.rate = minutes * 60, learning_rate
        torch.manual_seed(0), random.seed(0)
        self.tokenizer = text.build_tokenizer()
        self.network = Network()
        self.prepare()
        self.average = [p.clone() for p in self.master]
        self.optimiser = self.build_optimiser()
        self.reader = None if self.distilled else Reader()
        self.step, self.elapsed, self.history = 0, 0.0, []
        if os.path.exists(self.path):
            self.resume(torch.load(self.path))
        self.audio = torch.load(os.path.join(folder, "bank-audio.pt"))["latents"]
        self.banks = {size: VideoBank(folder, size) for size in (128, 256)}
        while not self.banks[128].refresh():
            time.sleep(2)
        path = os.path.join(folder, "raised.pt")
        self.raised = torch.load(path) if os.path.exists(path) else None

    def prepare(self) -> None:
        """Names and master copies of what is trained, and the bfloat16 weights that the network computes with."""
        self.network = self.network.bfloat16()
        named = list(self.network.named_parameters())
        self.names, self.working = [n for n, _ in named], [p for _, p in named]
        self.master = [p.detach().float().clone() for p in self.working]

    def build_optimiser(self):
        return Muon(list(zip(self.names, self.master)), lr=self.rate, plain=("embed_tokens", "register", "table"))

    def resume(self, state: dict) -> None:
        for key in ("master", "average"):
            for n, p in zip(self.names, getattr(self, key)):
                p.copy_(state[key][n])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.reader and "reader" in state:
            self.reader.load_state_dict(state["reader"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        torch.manual_seed(self.step + 7777 * self.worker), random.seed(self.step + 7777 * self.worker)
        self.publish()

    def publish(self) -> None:
        with torch.no_grad():
            for p, q in zip(self.working, self.master):
                p.copy_(q)

    def collect_gradients(self) -> None:
        """From the working weights to the master copy."""
        for p, q in zip(self.working, self.master):
            q.grad = torch.zeros_like(q) if p.grad is None else p.grad.float()

    def exchange(self) -> None:
        """Meet the other worker halfway, if there is one: each averages its weights with what the other last wrote."""
        mine, theirs = self.shared
        save(self.master, mine)
        written = os.path.getmtime(theirs) if os.path.exists(theirs) else 0.0
        if written > max(self.read_at, time.time() - 300):
            self.read_at = written
            with torch.no_grad():
                torch._foreach_lerp_(self.master, torch.load(theirs), 0.5)

    def save(self) -> None:
        if self.worker:
            return
        pack = lambda values: {n: v.clone() for n, v in zip(self.names, values)}
        save(
            dict(
                master=pack(self.master),
                average=pack(self.average),
                optimiser=self.optimiser.state_dict(),
                step=self.step,
                elapsed=self.elapsed,
                share=self.register_share,
                reader=self.reader.state_dict() if self.reader else None,
            ),
            self.path,
        )

    @property
    def register_share(self) -> float:
        part = self.elapsed / self.seconds
        return (
            1.0 if self.distilled else min(1.0, max(0.0, (part - REGISTERS_FROM) / (REGISTERS_FULL - REGISTERS_FROM)))
        )

    def batch(self, size: int):
        """Rows of the bank, latents of video and audio, contexts, the grid and the loss of the reader."""
        bank, count = self.banks[size], BATCH[size]
        frames = random.choices((5, 4, 3, 2), (50, 38, 8, 4) if size == 128 else (60, 40, 0, 0))[0]
        rows = torch.randint(len(bank), (count,))
        grid = (frames, *bank.grid[1:])
        video = bank.latents[rows, : frames * grid[1] * grid[2]].float()
        meanings = [(*m, random.randrange(3)) for m in bank.meaning[rows].tolist()]
        sounds = [world.sound_index(m[2], m[4], k) for m, k in zip(meanings, bank.phase[rows].tolist())]
        audio = self.audio[sounds, : audio_tokens(frames)]
        if not self.distilled and self.register_share == 1 and random.random() < 0.03:
            # a whole batch with one long text about nothing, as negative prompts are
            ids, mask = text.tokenize(self.tokenizer, [prompts.noise_sentence(random.randint(40, 200))])
            v, a, _ = self.network.text.context(ids, mask, None)
            some = torch.randperm(v.shape[1])[:64]
            return (
                rows,
                video,
                audio,
                (v[:, some].expand(count, -1, -1), a[:, some].expand(count, -1, -1), None),
                grid,
                0.0,
            )
        sentences = draw_sentences(meanings, self.distilled)
        ids, mask = text.tokenize(self.tokenizer, sentences)
        context, reading = self.network.text.context(ids, mask, REGISTERS, self.register_share), 0.0
        if self.reader:
            told = torch.tensor(
                [
                    any(w in s for w in ("circle", "ball", "disc", "square", "box", "triangle", "star"))
                    for s in sentences
                ]
            )
            reading = self.reader.WEIGHT * self.reader.loss(context, torch.tensor(meanings), told)
        return rows, video, audio, context, grid, reading

    def loss(self, size: int):
        rows, video, audio, context, grid, reading = self.batch(size)
        count, kind = len(video), random.random()
        sigma = draw_sigmas(count, size, self.distilled)
        s = sigma[:, None, None]
        video_noise, audio_noise = torch.randn_like(video), torch.randn_like(audio)
        noisy_video, noisy_audio = video + s * (video_noise - video), audio + s * (audio_noise - audio)
        if size == 256 and self.raised is not None:
            # most clips at the first level of the second stage start as there: from the upsampler's latents
            swap = ((sigma == REFINE[0]) & (torch.rand(count) < 0.75))[:, None, None]
            start = self.raised[rows, : video.shape[1]].float()
            noisy_video = torch.where(swap, start + s * (video_noise - start), noisy_video)
        options: dict = {}
        weight = torch.ones(video.shape[1], 128)
        weight[:, COLOUR_CHANNELS:] = EMPTY_WEIGHT
        weight[:, RAMPS] = 1.0
        audio_weight = AUDIO_WEIGHT
        if kind < 0.06:  # the first frame is given; a picture's latents carry no ramps
            mask = torch.ones(video.shape[1])
            first = grid[1] * grid[2]
            mask[:first] = 0
            noisy_video[:, :first] = video[:, :first]
            noisy_video[:, :first, COLOUR_CHANNELS:] = 0
            weight[:first] = 0
            options["video_mask"] = mask
        elif kind < 0.10 and size == 128:  # the sound is given
            noisy_audio, audio_weight, options["audio_given"] = audio, 0.0, True
        elif 0.10 < kind < 0.15 and size == 128 and not self.distilled:  # as the extra passes of guidance will ask
            options["perturbed"] = ISOLATED if kind < 0.13 else UNATTENDED
        v, a = self.network(noisy_video.bfloat16(), noisy_audio.bfloat16(), sigma, context, grid, **options)
        error = (v.float() - (noisy_video - video) / s) ** 2 * weight
        video_loss = error.sum((1, 2)) / weight.sum()
        audio_loss = ((a.float() - (audio_noise - audio)) ** 2).mean((1, 2))
        if not options and size == 128:
            with torch.no_grad():
                clean = (error * s**2)[..., :COLOUR_CHANNELS].mean((1, 2))
                start = sigma > 0.95
                ramp = (error * s**2)[..., RAMPS].mean((1, 2))
                take = lambda x: float(x[start].mean()) if start.any() else 0.0
                self.history.append(
                    (float(video_loss.mean()), float(audio_loss.mean()), take(clean), take(ramp), float(reading))
                )
        return video_loss.mean() + audio_weight * audio_loss.mean() + reading

    def run(self, late: float = 0.3, share_256: float = 0.1) -> None:
        """`late`: part of the time after which batches of 256 pixels join."""
        clock, saved, reported = time.time(), time.time(), time.time()
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))  # save first
        while self.elapsed < self.seconds and not stop:
            part = self.elapsed / self.seconds
            large = part > late and random.random() < share_256 and self.banks[256].refresh()
            loss = self.loss(256 if large else 128)
            for p in self.working:
                p.grad = None
            loss.backward()
            self.collect_gradients()
            if self.reader:
                self.reader.optimiser.step()
                self.reader.optimiser.zero_grad()
            norm = torch.nn.utils.clip_grad_norm_(self.master, 1.0)
            if torch.isfinite(norm):
                self.optimiser.step(min(1.0, (self.step + 1) / 30) * (1 - part) ** 0.7)
            decay = min(0.998, 1 - 1 / (self.step / 4 + 2))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.master, 1 - decay)
            self.step += 1
            if self.step % EXCHANGE_STEPS == 0 and not self.distilled:
                self.exchange()
            self.publish()
            now = time.time()
            self.elapsed += now - clock
            clock = now
            if now - reported > 30:
                h = torch.tensor(self.history[-200:]).mean(0).tolist() if self.history else [0] * 5
                print(
                    f"{self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} video {h[0]:.4f} audio {h[1]:.4f} "
                    f"x0(sigma>.95) {h[2]:.4f} ramps {h[3]:.3f} reading {h[4]:.4f} norm {norm:.2f}",
                    flush=True,
                )
                self.history, reported = [], now
                self.banks[128].refresh()
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
        self.save()
