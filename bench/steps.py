"""One denoising step of a guided run: passes one by one and as a batch, against a single pass; and one of res_2s.

A transformer with LTX-2.3's structure, 4 blocks of 512 / 256, random weights. Knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from bench.measure import alternate, table
from mlx_video.diffusion import conditioning
from mlx_video.diffusion.denoise import Denoise, blend, guided
from mlx_video.diffusion.noise import seeded
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer import Prepared, Transformer
from mlx_video.types import AudioShape, Context, Guidance, Modality, State, VideoShape
from tests.support import small

WIDTH = {
    "num_attention_heads": 8, "attention_head_dim": 64, "cross_attention_dim": 512, "audio_num_attention_heads": 8,
    "audio_attention_head_dim": 32, "audio_cross_attention_dim": 256, "num_layers": 4,
}  # fmt: skip
GUIDANCE = Guidance(cfg_scale=3.0, stg_scale=1.0, stg_blocks=(2,), modality_scale=3.0, rescale=0.7)


SHAPE = VideoShape(41, 256, 256, 24.0)
NEWER = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
"""What LTX-2.5's config says besides."""


def make(generation: str) -> tuple[Transformer, dict[Modality, State], Prepared]:
    """A transformer, what it begins with for a clip of 384 video tokens with its sound, and what its calls share."""
    config = small.config("2.3")
    config["transformer"] |= WIDTH | (NEWER if generation == "2.5" else {})
    network = Transformer(TransformerConfig.read(config))
    mx.eval(network.parameters())
    shapes: dict[Modality, VideoShape | AudioShape] = {"video": SHAPE, "audio": AudioShape.of(SHAPE)}
    noise = seeded(0)
    states = {m: conditioning.start(s, noise, f"stage1/{m}") for m, s in shapes.items()}
    contexts = {
        name: Context(mx.random.normal((1, 1024, 512)), mx.random.normal((1, 1024, 256)))
        for name in ("positive", "negative")
    }
    positions = {m: s.positions for m, s in states.items()}
    return network, states, network.prepare(contexts, positions, None, states["video"].keyframes)


def prepare(generation: str) -> Callable[[], object]:
    """One pass, with everything around it in place."""
    network, states, prepared = make(generation)
    x = {m: s.latent for m, s in states.items()}
    mx.eval(x)
    return lambda: network(x, dict.fromkeys(x, 0.9), prepared)


def report(rounds: int) -> str:
    """The table for a clip of 384 video tokens with its sound."""
    network, states, prepared = make("2.3")
    x = {m: s.latent for m, s in states.items()}

    def denoiser(batched: bool, steered: bool) -> Denoise:
        def call(x, sigma, passes, still=frozenset()):
            return network(x, sigma, prepared, passes, batched=batched, still=still)

        return guided(call, states, dict.fromkeys(states, GUIDANCE) if steered else {})

    single, one_by_one, together = denoiser(False, False), denoiser(False, True), denoiser(True, True)

    def res_2s():
        return next(SAMPLERS["res_2s"].run(x, (0.9, 0.8), one_by_one, blend=blend(states))).x

    cases = {
        "one pass": lambda: single(x, 0.9, 0),
        "guided, four passes one by one": lambda: one_by_one(x, 0.9, 0),
        "guided, four passes as a batch": lambda: together(x, 0.9, 0),
        "guided res_2s step": res_2s,
    }
    timings = alternate(cases, rounds)
    base = timings["one pass"].seconds
    rows = [
        [name, f"{t.seconds:.3f}", f"{t.seconds / base:.2f}", f"{t.peak / 2**20:.0f}"] for name, t in timings.items()
    ]
    title = f"A step of 4 blocks, 512 / 256 wide, {SHAPE.tokens} video tokens"
    return table(title, ["case", "s", "x one pass", "peak MiB"], rows)
