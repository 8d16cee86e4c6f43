"""Last part of the video decoder's training: on latents that the second stage itself has made.

The transformer's latents are not quite the codec's: edges wobble. A decoder that has seen such latents beside the true
pixels draws clean shapes from them. Half of the examples stay codec latents, so that it also remains a codec.
"""

from __future__ import annotations

import os
import random

import torch

from . import configs, device, text, watch, world
from .bank import VideoBank, newest, save
from .network import Network, audio_tokens
from .prompts import sentence
from .train_lora import merged
from .train_transformer import SHAPE_WEIGHTS
from .train_video import HalfTrainer, encoder_of

SIDE = 128  # pixels of a window
LATENTS = 3  # latent frames of a window
FRAMES = 5  # latent frames of a clip


@torch.no_grad()
def make_outputs(folder: str, count: int, lora: bool = False) -> None:
    """outputs.pt: second-stage latents (count, 128, 5, 8, 8) half for the first scenes of the 256 bank."""
    network = Network()
    network.load_state_dict(merged(folder) if lora else device.read(newest(folder, "transformer"))["average"])
    network = network.bfloat16().eval()
    clips, tokenizer, grid = VideoBank(folder, 256), text.build_tokenizer(), (FRAMES, 8, 8)
    raised = device.read(os.path.join(folder, "raised-256.pt"))
    table = device.read(newest(folder, "bank-audio"))["latents"][:, : audio_tokens(FRAMES)]
    out, rng, s = [], random.Random(0), configs.REFINE_SIGMAS[0]
    for rows in torch.arange(count).split(8):
        meanings = [(*m, rng.randrange(3)) for m in clips.meaning[rows].tolist()]
        ids, mask = text.tokenize(tokenizer, [sentence(m, rng) for m in meanings])
        context = network.text.context(ids, mask, 16)
        audio = table[[world.sound_index(m[2], m[4], k) for m, k in zip(meanings, clips.phase[rows].tolist())]]
        video = clips.clips(rows, FRAMES, raised)
        noisy = lambda x: x + s * (torch.randn_like(x) - x)
        video, _ = watch.denoise(network, noisy(video), noisy(audio), configs.REFINE_SIGMAS, context, grid)
        out.append(watch.to_grid(video, grid).half())
    save(torch.cat(out), os.path.join(folder, "outputs.pt"))


class PolishTrainer(HalfTrainer):
    def __init__(self, folder: str, minutes: float, start: dict, learning_rate: float = 0.008):
        super().__init__(folder, "decoder", minutes, learning_rate, start=start, name="polish")
        self.encode = encoder_of(folder, self.codec)
        self.outputs = device.read(os.path.join(folder, "outputs.pt"))
        self.scenes = VideoBank(folder, 256).scenes[: len(self.outputs)]
        self.odds = SHAPE_WEIGHTS[self.scenes.meaning[:, 0]]

    def latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """The codec's, now and then the encoder's: what a given picture becomes."""
        if self.checking or random.random() < 0.6:
            return super().latents(pixels)
        with torch.no_grad():
            return self.encode(pixels)

    def loss(self, pixels: torch.Tensor):
        if random.random() < 0.4:
            return super().loss(pixels)
        i = torch.multinomial(self.odds, device.batch(3), True)
        pick = self.scenes[i]
        first = random.randrange(0, self.outputs.shape[2] - LATENTS + 1)
        x, y, _ = (a[:, 8 * first + 8] * 256 for a in world.trajectory(pick, 8 * FRAMES - 7))
        corner = lambda c: ((c - SIDE / 2) / 32 + torch.randn(len(i)) * 0.4).round().clamp(0, (256 - SIDE) // 32).long()
        top, left = corner(y), corner(x)
        n = SIDE // 32
        z = torch.stack(
            [self.outputs[k, :, first : first + LATENTS, t : t + n, u : u + n] for k, t, u in zip(i, top, left)]
        )
        goal = world.render(pick, 8 * LATENTS - 7, 256, first=8 * first, window=(top * 32.0, left * 32.0, SIDE, SIDE))
        skip = 5 if first else 0  # a block of 8 frames is no first frame
        error = (self.run_network(z.float()) - goal)[:, :, skip:]
        return error.abs().mean() + 0.5 * (error**2).mean(), float((error.detach() ** 2).mean()) / 4
