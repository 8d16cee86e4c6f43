"""What reading weights costs beside using them: a step streamed from disk, whole or in part, a quantized one, a text's
real tokens.

A checkpoint of medium size (`bench.middle`), in the file cache. Peaks are what a run alone would have held: what the
step adds, and the weights of its own network. Knows no pipeline.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import mlx.core as mx

from bench import middle
from bench.measure import MIB, alternate, table
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion import conditioning
from mlx_video.diffusion.noise import seeded
from mlx_video.lending.loader import Loader, parameter_bytes
from mlx_video.lending.visits import Ways, parts_of
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.types import CONTEXT_TOKENS, AudioShape, Context, VideoShape
from mlx_video.weights.quantize import Quantization

CLIPS = {"384 video tokens": VideoShape(41, 256, 256, 24.0), "1,536 video tokens": VideoShape(41, 512, 512, 24.0)}
SHARES = (0.0, 0.5, 1.0)
"""Of the transformer's blocks, those that stay in memory."""
WORDS = 96
"""Tokens of a prompt of some seventy words."""


def report(rounds: int) -> str:
    """Three tables."""
    with tempfile.TemporaryDirectory() as folder:
        made = middle.make(Path(folder))
        return "\n\n".join([_steps(made, rounds), _shares(made, rounds), _text(made, rounds)])


def _steps(made: Path, rounds: int) -> str:
    checkpoint = open_checkpoint(made, "distilled")
    kinds = {"resident": (None, False), "streamed": (None, True), "resident, 8 bit": (Quantization(8), False)}
    lines = []
    with ExitStack() as stack:
        networks = {
            name: stack.enter_context(Loader(checkpoint, quantization=how).borrow("transformer", streamed=streamed))
            for name, (how, streamed) in kinds.items()
        }
        mx.eval([network.parameters() for name, network in networks.items() if name != "streamed"])
        for clip, shape in CLIPS.items():
            cases, own = {}, {}
            for name, network in networks.items():
                cases[name] = _call(network, shape)
                own[name] = parameter_bytes(network)
                if name == "streamed":
                    own[name] -= sum(parameter_bytes(part) for _, part in parts_of(network))
            held = mx.get_active_memory()
            found = alternate(cases, rounds)
            for name, timing in found.items():
                ratio = timing.seconds / found["resident"].seconds
                peak = (timing.peak - held + own[name]) / MIB
                lines.append([f"{clip}, {name}", f"{timing.seconds:.2f}", f"{ratio:.2f}", f"{peak:.0f}"])
    title = f"One transformer step of {middle.BLOCKS} blocks, {middle.WIDTH} wide, by where its weights are"
    return table(title, ["case", "s", "x resident", "peak MiB"], lines)


def _shares(made: Path, rounds: int) -> str:
    checkpoint, lines = open_checkpoint(made, "distilled"), []
    for kind, how in {"16 bit": None, "8 bit": Quantization(8)}.items():
        with ExitStack() as stack:
            networks = {}
            for share in SHARES:
                ways = Ways(stream_transformer=True, keep_text=False, kept=round(share * middle.BLOCKS))
                loader = Loader(checkpoint, quantization=how, ways=ways)
                networks[f"{kind}, {share:.0%} stay"] = stack.enter_context(loader.borrow("transformer"))
            cases = {name: _call(network, next(iter(CLIPS.values()))) for name, network in networks.items()}
            for case in cases.values():
                mx.eval(case())
            before = {name: network.parts.bytes_read for name, network in networks.items()}
            found = alternate(cases, rounds)
            for name, timing in found.items():
                read = (networks[name].parts.bytes_read - before[name]) / (rounds + 1) / MIB
                ratio = timing.seconds / found[next(iter(cases))].seconds
                lines.append([name, f"{timing.seconds:.2f}", f"{ratio:.2f}", f"{read:.0f}"])
    title = f"One streamed step of {next(iter(CLIPS))}, by how many of {middle.BLOCKS} blocks stay, after the first"
    return table(title, ["case", "s", "ratio", "MiB read"], lines)


def _call(network: Transformer, shape: VideoShape) -> Callable[[], object]:
    """A step of noise of `shape` and its sound."""
    noise, shapes = seeded(0), {"video": shape, "audio": AudioShape.of(shape)}
    states = {m: conditioning.start(s, noise, f"stage1/{m}") for m, s in shapes.items()}
    x, sigma = {m: s.latent for m, s in states.items()}, dict.fromkeys(states, 0.9)
    widths = [stream.context_dim for stream in network.config.streams.values()]
    context = Context(*(mx.random.normal((1, CONTEXT_TOKENS, width)) for width in widths))
    prepared = network.prepare({"positive": context}, {m: s.positions for m, s in states.items()})
    return functools.partial(network, x, sigma, prepared)


def _text(made: Path, rounds: int) -> str:
    loader = Loader(open_checkpoint(made, "distilled"))
    with loader.borrow_text_encoder(TextSource.open(loader.checkpoint.family, made / "gemma")) as encoder:
        network = encoder.network
        counts = {f"{WORDS} real tokens": WORDS, f"padded to {CONTEXT_TOKENS}": CONTEXT_TOKENS}
        found = alternate({name: lambda n=n: network([range(5, 5 + n)]) for name, n in counts.items()}, rounds)
    base = next(iter(found.values())).seconds
    lines = [[n, f"{t.seconds:.2f}", f"{t.seconds / base:.1f}", f"{t.peak / MIB:.0f}"] for n, t in found.items()]
    title = f"A prompt through {middle.TEXT_LAYERS} layers of Gemma, {middle.TEXT_WIDTH} wide"
    return table(title, ["case", "s", "ratio", "peak MiB"], lines)
