"""Looks at a transformer in training: samples held-out prompts, decodes by the linear codec (or the trained decoder, when
given), measures. Cheap enough to run beside training; the finished model is measured by evaluate.py instead.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from . import configs, device, evaluate, measure, text, world
from .bank import newest
from .codec import COLOUR_CHANNELS, Codec
from .network import Network, audio_tokens


def load(path: str) -> Network:
    network = Network()
    state = device.read(path)
    network.load_state_dict(state["average"])
    network.share = state.get("share", 1.0)
    return network.bfloat16().eval()


@torch.no_grad()
def denoise(network, video, audio, sigmas, context, grid, **options):
    """Euler steps from noisy latents to clean ones."""
    for now, after in zip(sigmas[:-1], sigmas[1:]):
        sigma = torch.full((len(video),), now)
        v, a = network(video.bfloat16(), audio.bfloat16(), sigma, context, grid, **options)
        video, audio = video + (after - now) * v.float(), audio + (after - now) * a.float()
    return video, audio


def noise(count: int, grid, seed: int):
    generator, (f, h, w) = torch.Generator("cpu").manual_seed(seed), grid
    return device.normal((count, f * h * w, 128), generator), device.normal((count, audio_tokens(f), 128), generator)


def to_grid(tokens: torch.Tensor, grid) -> torch.Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)


@torch.no_grad()
def sample(network, sentences, grid, seed: int, tokenizer, registers: int | None = 24):
    ids, mask = text.tokenize(tokenizer, sentences)
    context = network.text.context(ids, mask, registers, getattr(network, "share", 1.0))
    return denoise(network, *noise(len(sentences), grid, seed), configs.DISTILLED_SIGMAS, context, grid), context


def nearest_sound(audio: torch.Tensor, table: torch.Tensor) -> int:
    """Index of the sound whose latents are closest."""
    return int(((table[:, : len(audio)] - audio) ** 2).mean((1, 2)).argmin())


def score(pairs, pixels: torch.Tensor, sounds) -> dict:
    """Share of clips that show what their meaning says; `sounds` are indices as in world.sounds()."""
    right = {k: 0 for k in ("shape", "colour", "motion", "background", "pitch", "beeping", "all")}
    for (meaning, _), clip, sound in zip(pairs, pixels, sounds):
        frames = ((clip.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
        seen = measure.look(frames)
        heard, _ = world.sounds()[sound]
        good = {
            "shape": seen["shape"] == meaning[0],
            "colour": seen["colour"] == meaning[1],
            "motion": seen["motion"] == meaning[2],
            "background": seen["background"] == meaning[3],
            "pitch": heard[4] == meaning[4],
        }
        good["all"] = all(good.values())
        good["beeping"] = (heard[2] == world.BOUNCES) == (meaning[2] == world.BOUNCES)
        for k, v in good.items():
            right[k] += v
    return {k: round(v / len(pairs), 3) for k, v in right.items()}


def sheet(pixels: torch.Tensor, path: str, every: int = 6, columns: int = 2) -> None:
    """A picture of clips, one strip each."""
    from PIL import Image

    strips = [
        ((c[:, ::every].permute(2, 1, 3, 0).flatten(1, 2) + 1) * 127.5).clamp(0, 255).byte().cpu().numpy()
        for c in pixels
    ]
    rows = [np.concatenate(strips[i : i + columns], 1) for i in range(0, len(strips) - columns + 1, columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def watch(folder: str, count: int = 42, name: str = "transformer", frames: int = 5, decoder=None) -> dict:
    network = load(newest(folder, name))
    codec = Codec(device.read(newest(folder, "codec")))
    table = device.read(newest(folder, "bank-audio"))["latents"]
    pairs, grid = evaluate.cases(count), (frames, 4, 4)
    torch.manual_seed(1)
    (video, audio), _ = sample(network, [p for _, p in pairs], grid, 3, text.build_tokenizer())
    latents = to_grid(video, grid)
    if decoder is None:
        pixels = codec.decode(latents)
    else:
        latents[:, COLOUR_CHANNELS:] = 0
        with torch.no_grad():
            pixels = torch.cat([decoder(z) for z in latents.split(8)]).clamp(-1, 1)
    sheet(pixels[:20], os.path.join(folder, f"watch-{name}.png"))
    return score(pairs, pixels, [nearest_sound(a, table) for a in audio])


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=42)
    parser.add_argument("--name", default="transformer")
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    arguments = parser.parse_args()
    state = device.read(newest(arguments.folder, arguments.name))
    print(
        f"step {state['step']} {state['elapsed']:.0f}s",
        watch(arguments.folder, arguments.count, arguments.name, arguments.frames),
    )
