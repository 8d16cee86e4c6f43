"""The two-stage distilled pipeline on a training folder, with the reference's modules: text to frames and sound.

For looking at all parts together while they are being trained: `python -m tools.demo_model.chain FOLDER`. What is measured
is what evaluate.py measures, without files between. It does not know the package.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch

from . import configs, device, evaluate, text, watch
from .bank import newest
from .codec import Codec
from .network import Network
from .reference import build, set_statistics
from .train_lora import merged


class Chain:
    def __init__(self, folder: str, lora: bool):
        read = lambda name: device.read(newest(folder, name))
        self.network = Network()
        self.network.load_state_dict(merged(folder) if lora else read("transformer")["average"])
        self.network = self.network.bfloat16().eval()
        self.codec, self.tokenizer = Codec(read("codec")), text.build_tokenizer()
        self.upsampler, self.decoder = build("upsampler").eval(), build("video_decoder").eval()
        self.upsampler.load_state_dict(read("upsampler")["network"])
        polished = os.path.exists(os.path.join(folder, "polish.pt"))
        self.decoder.load_state_dict(read("polish" if polished else "video_decoder")["averaged"])
        self.audio_decoder, self.vocoder = build("audio_decoder").eval(), build("vocoder").eval()
        for name, network in (("audio_decoder", self.audio_decoder), ("vocoder", self.vocoder)):
            network.load_state_dict({k.removeprefix(name + "."): v for k, v in read(name)["networks"].items()})
        bank = read("bank-audio")
        set_statistics(self.audio_decoder, bank["mean"], bank["scale"])

    @torch.no_grad()
    def __call__(self, sentences, frames: int, seed: int, registers: int | None = None):
        """Pixels (N, 3, 8F - 7, 256, 256), waves (N, samples), and the first stage's latents."""
        grid, large = (frames, 4, 4), (frames, 8, 8)
        (video, audio), context = watch.sample(self.network, sentences, grid, seed, self.tokenizer, registers)
        first = watch.to_grid(video, grid)
        raised = self.codec.normalise(self.upsampler(self.codec.restore(first))).flatten(2).transpose(1, 2)
        noise_v, noise_a = watch.noise(len(sentences), large, seed + 1)
        s = configs.REFINE_SIGMAS[0]
        video, audio = watch.denoise(
            self.network,
            raised + s * (noise_v - raised),
            audio + s * (noise_a - audio),
            configs.REFINE_SIGMAS,
            context,
            large,
        )
        latents = watch.to_grid(video, large)
        with device.mixed():
            pixels = self.decoder(latents).float().clamp(-1, 1)
        picture = self.audio_decoder(audio.unflatten(2, (8, 16)).transpose(1, 2))
        return pixels, self.vocoder(picture).mean(1), first


def run(folder: str, count: int, frames: int, lora: bool, seed: int, registers: int | None) -> dict:
    chain, pairs, rows, shown = Chain(folder, lora), evaluate.cases(count), [], []
    for start in range(0, len(pairs), 6):
        batch = pairs[start : start + 6]
        pixels, waves, _ = chain([p for _, p in batch], frames, seed + start, registers)
        for (meaning, _), clip, wave in zip(batch, pixels, waves):
            image = ((clip.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
            rows.append(evaluate.judge(meaning, image, wave.cpu().numpy(), configs.VOCODER_RATE))
        shown.append(pixels[:, :, :, ::2, ::2])
    watch.sheet(torch.cat(shown)[:24], os.path.join(folder, "chain.png"))
    result = {k: round(float(np.mean([r[k] for r in rows])), 3) for k in (*evaluate.ATTRIBUTES, "all")}
    lags = [r["lag"] for r in rows if r["lag"] is not None]
    return {
        "clips": len(rows),
        **result,
        "beep_to_contact_s": round(float(np.mean(lags)), 3) if lags else None,
        "overlap": round(float(np.mean([r["seen"]["overlap"] for r in rows])), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument(
        "--registers", type=int, default=None, help="drawn registers; all 1024 context tokens if left out"
    )
    a = parser.parse_args()
    print(run(a.folder, a.count, a.frames, a.lora, a.seed, a.registers), flush=True)
