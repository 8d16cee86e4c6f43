"""The autoencoders and vocoders: video in and out, tiled and not, clips of growing length, sound with and without BWE.

The demo model's networks for video (real structure, small width) and small random vocoders. Knows no pipeline.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from bench.measure import alternate, table
from mlx_video.checkpoints import demo
from mlx_video.models.ltx_2 import load
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.models.ltx_2.video_vae import Span, Tiling, decode_frames, encode_frames, plan_tiles
from tests.support import small

TILES = Tiling(Span(32, 8), Span(128, 64), Span(128, 64))


def report(rounds: int) -> str:
    """Three tables."""
    return "\n\n".join([_video(rounds), _length(rounds), _sound(rounds)])


def _spent(iterator) -> mx.array:
    last = None
    for chunk in iterator:
        mx.eval(chunk)
        last = chunk
    return last


def _video(rounds: int) -> str:
    decoder, encoder = load("video_decoder", demo.folder()), load("video_encoder", demo.folder())
    latent = mx.random.normal((1, 5, 8, 8, 128))
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 33, 256, 256, 3)).astype(np.float32)
    grid = (5, 8, 8)
    cases = {
        "decode whole": lambda: decoder(latent),
        "decode in pieces": lambda: _spent(decode_frames(decoder, latent, plan_tiles("none", grid))),
        "decode in tiles of 128 px, 32 frames": lambda: _spent(decode_frames(decoder, latent, TILES)),
        "encode in pieces": lambda: encode_frames(encoder, pixels, plan_tiles("none", grid)),
        "encode in tiles of 128 px, 32 frames": lambda: encode_frames(encoder, pixels, TILES),
    }
    rows = [[n, f"{t.seconds:.2f}", f"{t.peak / 2**20:.0f}"] for n, t in alternate(cases, rounds).items()]
    return table("The demo's video autoencoder, 33 frames of 256 x 256", ["case", "s", "peak MiB"], rows)


def _length(rounds: int) -> str:
    decoder = load("video_decoder", demo.folder())
    rows = []
    for frames in (33, 65, 129):
        latent = mx.random.normal((1, (frames - 1) // 8 + 1, 8, 8, 128))
        plan = plan_tiles("none", latent.shape[1:4], stream=True)
        timing = alternate({"it": lambda z=latent, p=plan: _spent(decode_frames(decoder, z, p))}, rounds)["it"]
        rows.append([str(frames), f"{timing.seconds:.2f}", f"{timing.peak / 2**20:.0f}"])
    return table("Streamed decoding, 256 x 256", ["frames", "s", "peak MiB"], rows)


def _sound(rounds: int) -> str:
    mel = mx.random.normal((1, 2, 51, 64))
    cases = {}
    for generation, name in (("2", "HiFi-GAN to 24 kHz"), ("2.3", "snake-beta with bandwidth extension to 48 kHz")):
        vocoder = COMPONENTS["vocoder"].build(small.config(generation))
        mx.eval(vocoder.parameters())
        cases[name] = lambda network=vocoder: network(mel)
    rows = [[n, f"{t.seconds:.3f}", f"{t.peak / 2**20:.0f}"] for n, t in alternate(cases, rounds).items()]
    return table("Small vocoders, half a second of sound", ["case", "s", "peak MiB"], rows)
