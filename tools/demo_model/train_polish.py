"""Last part of the video decoder's training: on latents that the second stage itself has made.

The transformer's latents are not quite the codec's: edges wobble. A decoder that has seen such latents beside the true
pixels draws clean shapes from them. Half of the examples stay codec latents, so that it also remains a codec.
"""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from . import configs, text, watch, world
from .bank import FRAMES, VideoBank, save
from .network import Network, audio_tokens
from .prompts import sentence
from .train_lora import merged
from .train_video import HalfTrainer

SIDE = 128  # pixels of a window
LATENTS = 3  # latent frames of a window


@torch.no_grad()
def make_outputs(folder: str, count: int, lora: bool = False) -> None:
    """outputs.pt: second-stage latents (count, 128, F, 8, 8) half for the first scenes of the 256 bank."""
    network = Network()
    network.load_state_dict(merged(folder) if lora else torch.load(os.path.join(folder, "transformer.pt"))["average"])
    network = network.bfloat16().eval()
    bank, tokenizer = VideoBank(folder, 256), text.build_tokenizer()
    raised = torch.load(os.path.join(folder, "raised.pt"))
    table = torch.load(os.path.join(folder, "bank-audio.pt"))["latents"][:, : audio_tokens(bank.grid[0])]
    out, rng, s = [], random.Random(0), configs.REFINE_SIGMAS[0]
    for start in range(0, count, 8):
        rows = range(start, start + 8)
        meanings = [(*bank.meaning[i].tolist(), rng.randrange(3)) for i in rows]
        ids, mask = text.tokenize(tokenizer, [sentence(m, rng) for m in meanings])
        context = network.text.context(ids, mask, 16)
        audio = table[[world.sound_index(m[2], m[4], int(bank.phase[i])) for m, i in zip(meanings, rows)]]
        video = raised[start : start + 8].float()
        noisy = lambda x: x + s * (torch.randn_like(x) - x)
        video, _ = watch.denoise(network, noisy(video), noisy(audio), configs.REFINE_SIGMAS, context, bank.grid)
        out.append(watch.to_grid(video, bank.grid).half())
    save(torch.cat(out), os.path.join(folder, "outputs.pt"))


def scenes_of_bank(count: int) -> world.Scenes:
    """The first scenes of the 256 bank, drawn again."""
    rng, parts = np.random.default_rng([256, 0]), []
    meanings = [world.TRAINED[i] for i in rng.permutation(len(world.TRAINED))]
    for start in range(0, count, 8):
        parts.append(world.draw_scenes(meanings[start : start + 8], rng))
    join = lambda name: torch.cat([getattr(p, name) for p in parts])[:count]
    return world.Scenes(join("meaning"), join("radius"), join("shift"), join("phase"))


class PolishTrainer(HalfTrainer):
    def __init__(self, folder: str, minutes: float, start: dict, learning_rate: float = 0.008):
        super().__init__(folder, "decoder", minutes, learning_rate, start=start, name="polish")
        self.outputs = torch.load(os.path.join(folder, "outputs.pt"))
        self.scenes = scenes_of_bank(len(self.outputs))

    def loss(self, pixels: torch.Tensor):
        if random.random() < 0.4:
            return super().loss(pixels)
        i = torch.randint(len(self.outputs) - 16, (3,)) + 16
        pick = world.Scenes(self.scenes.meaning[i], self.scenes.radius[i], self.scenes.shift[i], self.scenes.phase[i])
        first = random.randrange(0, self.outputs.shape[2] - LATENTS + 1)
        x, y, _ = (a[:, 8 * first + 8] * 256 for a in world.trajectory(pick, FRAMES))
        corner = lambda c: ((c - SIDE / 2) / 32 + torch.randn(len(i)) * 0.4).round().clamp(0, (256 - SIDE) // 32).long()
        top, left = corner(y), corner(x)
        n = SIDE // 32
        z = torch.stack(
            [self.outputs[k, :, first : first + LATENTS, t : t + n, u : u + n] for k, t, u in zip(i, top, left)]
        )
        goal = world.render(pick, 8 * LATENTS - 7, 256, first=8 * first, window=(top * 32.0, left * 32.0, SIDE, SIDE))
        skip = 5 if first else 0  # a block of 8 frames is no first frame
        error = (self.run_network(z.float()) - goal)[:, :, skip:]
        return error.abs().mean() + 0.5 * (error**2).mean(), float((error**2).mean()) / 4
