"""Trains the transformer and its text path on the banks by flow matching, for a given time.

A step draws one kind of batch (KINDS): plain text to audio and video; with a picture given for the first frame, for
another one, or for both ends, now and then beside a prompt that says otherwise; with the sound given; with the modalities
apart or a block without attention, as guidance asks; at 128, 256 or 512 pixels and from one to thirteen latent frames.
Most noise levels are those of the 8-step list and of the second stage. Prompts are dropped now and then, half of them in
favour of sentences that say nothing, so that a negative prompt is "no prompt".

Weights and activations are bfloat16 with a float32 master copy; what is kept is a running average of the master. The
learning rate follows the time that the process has computed, however busy the machine is. State is saved every few
minutes and training goes on from it.
"""

from __future__ import annotations

import os
import random
import signal
import time

import torch

from . import configs, device, prompts, text, world
from .bank import VideoBank, first_weights, newest, save, sound_places
from .codec import COLOUR_CHANNELS, RAMPS, load
from .muon import Muon
from .network import ISOLATED, UNATTENDED, Network, audio_tokens
from .text import NEVER

REGISTERS = 12  # drawn for each prompt
SIGMAS = torch.tensor(configs.DISTILLED_SIGMAS[:-1])
SIGMA_WEIGHTS = torch.tensor([0.20, 0.06, 0.06, 0.08, 0.20, 0.20, 0.12, 0.08])
LISTED = 0.65  # share of noise levels drawn from the list
REFINE = torch.tensor(configs.REFINE_SIGMAS[:-1])
REFINE_WEIGHTS = torch.tensor([0.6, 0.25, 0.15])
REFINED = 0.65  # share of clips of 256 pixels at the second stage's levels; dev works at all levels there
SHAPE_WEIGHTS = torch.tensor([0.6, 1.0, 0.7, 1.7])  # how often each shape is drawn: the star is the hardest
BATCH = {128: 32, 256: 8, 512: 2}  # clips of 5 latent frames; fewer of longer ones
LENGTHS = {
    128: ((5, 4, 3, 2, 1, 8, 13), (46, 28, 7, 5, 3, 4, 7)),
    256: ((5, 4, 3, 2, 1, 8, 13), (48, 28, 7, 4, 3, 4, 6)),
    512: ((5, 4, 1), (5, 3, 2)),
}  # and their shares
# What is asked of a batch, and how often: a picture for the first frame, for another one, for the first and the last; a
# sound; the two extra passes of guidance; else text alone.
KINDS = {
    "text": 0.81,
    "first": 0.05,
    "other": 0.025,
    "ends": 0.025,
    "sound": 0.04,
    "isolated": 0.03,
    "unattended": 0.02,
}
PICTURES = ("first", "other", "ends")
CONTRADICTED = 0.3  # of the prompts beside a picture speak of another thing: the picture decides how things look
PICTURE_NOISE = 0.15  # what the encoder makes of a picture is not quite the codec's
PERTURBED = {"isolated": ISOLATED, "unattended": UNATTENDED}
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
    if size > 128:
        refine = REFINE[torch.multinomial(REFINE_WEIGHTS, batch, True)]
        if distilled or size == 512:
            return refine
        full = torch.where(torch.rand(batch) < 0.5, spread, listed)
        return torch.where(torch.rand(batch) < REFINED, refine, full)
    return listed if distilled else torch.where(torch.rand(batch) < LISTED, listed, spread)


def other_look(meaning) -> tuple:
    """A meaning that moves and sounds the same, of any shape, colour and background."""
    _, _, motion, _, pitch = meaning
    return (random.randrange(4), random.randrange(6), motion, random.randrange(4), pitch)


def as_picture(latents: torch.Tensor) -> torch.Tensor:
    """Latents as the encoder gives them for a picture: without ramps, and not quite the codec's."""
    out = latents + PICTURE_NOISE * torch.randn_like(latents)
    out[..., COLOUR_CHANNELS:] = 0
    return out


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
        self.trained = first_weights(folder, name) is not None
        self.optimiser = self.build_optimiser()
        self.reader = None if self.distilled or self.trained else Reader()
        self.step, self.elapsed, self.history = 0, 0.0, {}
        if os.path.exists(self.path):
            self.resume(device.read(self.path))
        elif first := first_weights(folder, name):
            self.begin(first["average"])
        self.audio = device.read(newest(folder, "bank-audio"))["latents"]
        self.codec = load(folder)
        self.weight = torch.full((128,), EMPTY_WEIGHT)
        self.weight[:COLOUR_CHANNELS], self.weight[RAMPS] = self.codec.importance(), 1.0
        self.banks = {size: VideoBank(folder, size) for size in BATCH}
        paths = {size: os.path.join(folder, f"raised-{size}.pt") for size in (256, 512)}
        self.raised = {size: device.read(path) for size, path in paths.items() if os.path.exists(path)}

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

    def begin(self, weights: dict) -> None:
        """Go on from weights that were trained before, with nothing else of that training."""
        for values in (self.master, self.average):
            for n, p in zip(self.names, values):
                p.copy_(weights[n])
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
                torch._foreach_lerp_(self.master, device.read(theirs), 0.5)

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
        if self.distilled or self.trained:
            return 1.0
        return min(1.0, max(0.0, (part - REGISTERS_FROM) / (REGISTERS_FULL - REGISTERS_FROM)))

    def batch(self, size: int, frames: int, contradicted: bool):
        """Rows of the bank, latents of video and audio, contexts and the loss of the reader."""
        bank, count = self.banks[size], max(1, device.batch(BATCH[size]) * 5 // max(frames, 5))
        rows = torch.multinomial(SHAPE_WEIGHTS[bank.meaning[:, 0]], count, True)
        video = bank.clips(rows, frames)
        meanings = [(*m, random.randrange(3)) for m in bank.meaning[rows].tolist()]
        sounds = [world.sound_index(m[2], m[4], k) for m, k in zip(meanings, bank.phase[rows].tolist())]
        audio = self.audio[sounds][:, sound_places(audio_tokens(frames))]
        if not self.distilled and self.register_share == 1 and random.random() < 0.03:
            # a whole batch with one long text about nothing, as negative prompts are
            ids, mask = text.tokenize(self.tokenizer, [prompts.noise_sentence(random.randint(40, 200))])
            v, a, _ = self.network.text.context(ids, mask, None)
            some = torch.randperm(v.shape[1])[:64]
            return rows, video, audio, (v[:, some].expand(count, -1, -1), a[:, some].expand(count, -1, -1), None), 0.0
        said = [other_look(m) if contradicted and random.random() < CONTRADICTED else m for m in meanings]
        sentences = draw_sentences(said, self.distilled)
        ids, mask = text.tokenize(self.tokenizer, sentences)
        context, reading = self.network.text.context(ids, mask, REGISTERS, self.register_share), 0.0
        if self.reader:
            things = {word for words in prompts.SHAPE for word in words}
            told = torch.tensor([any(word in sentence for word in things) for sentence in sentences])
            reading = self.reader.WEIGHT * self.reader.loss(context, torch.tensor(said), told)
        return rows, video, audio, context, reading

    def given_picture(self, kind: str, size: int, rows: torch.Tensor, video, noisy, weight, grid) -> dict:
        """The options of Network.forward for pictures; writes the first frame into `noisy`, and takes it off `weight`."""
        first, options = grid[1] * grid[2], {}
        if kind != "other":
            mask = torch.ones(video.shape[1])
            mask[:first] = 0
            noisy[:, :first] = as_picture(video[:, :first])
            weight[:first] = 0
            options["video_mask"] = mask
        if kind != "first":
            last = 8 * grid[0] - 8
            frame = last if kind == "ends" else random.randrange(1, last + 1)
            pixels = world.render(self.banks[size].scenes[rows], 1, size, first=frame)
            latents = self.codec.encode(pixels).flatten(2).transpose(1, 2)
            options["picture"] = (frame, as_picture(latents).bfloat16())
        return options

    def loss(self, size: int):
        frames = random.choices(*LENGTHS[size])[0]
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        if (frames == 1 and kind in PICTURES) or (self.distilled and kind in PERTURBED):
            kind = "text"
        rows, video, audio, context, reading = self.batch(size, frames, kind in PICTURES)
        grid = (frames, *self.banks[size].grid[1:])
        sigma = draw_sigmas(len(video), size, self.distilled)
        s = sigma[:, None, None]
        video_noise, audio_noise = torch.randn_like(video), torch.randn_like(audio)
        noisy_video, noisy_audio = video + s * (video_noise - video), audio + s * (audio_noise - audio)
        if size in self.raised:
            # most clips at the first level of the second stage start as there: from the upsampler's latents
            swap = ((sigma == REFINE[0]) & (torch.rand(len(video)) < 0.75))[:, None, None]
            start = self.banks[size].clips(rows, frames, self.raised[size])
            noisy_video = torch.where(swap, start + s * (video_noise - start), noisy_video)
        options: dict = {}
        weight, audio_weight = self.weight.expand(video.shape[1], -1).clone(), AUDIO_WEIGHT
        if kind in PICTURES:
            options = self.given_picture(kind, size, rows, video, noisy_video, weight, grid)
        elif kind == "sound":
            noisy_audio, audio_weight, options["audio_given"] = audio, 0.0, True
        elif kind in PERTURBED:
            options["perturbed"] = PERTURBED[kind]
        v, a = self.network(noisy_video.bfloat16(), noisy_audio.bfloat16(), sigma, context, grid, **options)
        error = (v.float() - (noisy_video - video) / s) ** 2 * weight
        video_loss = error.sum((1, 2)) / weight.sum()
        audio_loss = ((a.float() - (audio_noise - audio)) ** 2).mean((1, 2))
        if kind == "text":
            self.note(size, error.detach() * s**2, sigma)
        return video_loss.mean() + audio_weight * audio_loss.mean() + reading

    def note(self, size: int, clean: torch.Tensor, sigma: torch.Tensor) -> None:
        """Keep the weighted error of the clean clip that the network sees at a level, for the report."""
        error = clean[..., :COLOUR_CHANNELS].mean((1, 2))
        for name, at in (("1.0", sigma == 1), ("0.9", (sigma - REFINE[0]).abs() < 1e-3), ("0.4", sigma == REFINE[2])):
            if at.any():
                self.history.setdefault(f"{size}@{name}", []).append(float(error[at].mean()))

    def run(self, late: float, shares: dict[int, float]) -> None:
        """`late`: part of the time after which sizes above 128 pixels join; `shares` of batches of each size then."""
        clock, saved, reported = time.process_time(), time.time(), time.time()
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))  # save first
        while self.elapsed < self.seconds and not stop:
            part = self.elapsed / self.seconds
            size = random.choices(list(shares), list(shares.values()))[0] if part > late else 128
            loss = self.loss(size)
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
            now, spent = time.time(), time.process_time()
            self.elapsed += spent - clock
            clock = spent
            if now - reported > 60:
                errors = " ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in sorted(self.history.items()))
                print(f"{self.elapsed:.0f}/{self.seconds:.0f}s step {self.step} {errors} norm {norm:.2f}", flush=True)
                self.history, reported = {}, now
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
        self.save()
