"""`python -m bench.run` prints tables of seconds and memory: whole runs, planned and measured; networks at real width.

    python -m bench.run                                everything, which takes half an hour on one core
    python -m bench.run --only networks reading        at full width; a step read from disk and a quantized one
    python -m bench.run --model FOLDER --pipeline dev  a checkpoint of yours
    python -m bench.run --only block --tokens 384 1536 --rounds 5

Seconds are CPU seconds on the CPU backend (set OPENBLAS_NUM_THREADS=1 to compare machines) and wall seconds on a GPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import mlx.core as mx

from bench import block, codecs, diffusion, generations, many, memory, networks, phases, reading, steps, weights
from bench.measure import alternate, clock, multiply, table
from mlx_video import platform
from mlx_video.cpu import linux_blas

PARTS = [
    "blas", "block", "generations", "steps", "codecs", "networks", "diffusion", "reading", "weights", "phases", "memory",
    "many",
]  # fmt: skip


def blas() -> str:
    """How fast plain matrix products are, with what BLAS."""
    lines = []
    for size in (512, 2048):
        run, factor = multiply(2e11 if size == 2048 else 2e10, size)
        seconds = alternate({"product": run}, 3)["product"].seconds * factor
        lines.append([f"{size} x {size}", f"{(2e11 if size == 2048 else 2e10) / seconds / 1e9:.0f}"])
    off = os.environ.get(linux_blas.SWITCH, "")
    kind = f"MLX's own BLAS ({linux_blas.SWITCH}={off})" if off else "the BLAS in use"
    return table(f"Matrix products in {platform.compute_dtype()} with {kind}", ["size", "GFLOP/s"], lines)


def small(folder: Path, generation: str) -> str:
    """A whole run on a small official-style checkpoint, made in `folder`."""
    from tests.support.small import make

    made = make(folder / generation, generation)
    title = f"distilled on a small LTX-{generation} checkpoint, 128 x 128, 17 frames, with sound"
    return phases.report(str(made), title, height=128, width=128, num_frames=17)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--generation", choices=["2", "2.3", "2.5"], default="2.3", help="of the block")
    parser.add_argument("--tokens", nargs="*", type=int, default=[384], help="video tokens of the block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", help="checkpoint for whole runs, as --model-repo takes it; small ones are made without"
    )
    parser.add_argument("--text-encoder", help="as --text-encoder-repo takes it")
    parser.add_argument("--pipeline", default="distilled")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--num-frames", type=int, default=33)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables that are asked for."""
    args = parse(argv)
    os.environ.setdefault(linux_blas.SWITCH, "on")  # as the commands do: what is measured is what they run
    platform.prepare()
    kind = "CPU seconds" if clock().__name__ == "process_time" else "wall seconds"
    print(f"mlx {mx.__version__} on {mx.default_device()}, {kind}\n", flush=True)
    if "blas" in args.only:
        print(blas(), flush=True)
    if "block" in args.only:
        print(block.report(args.generation, args.tokens, args.rounds), flush=True)
    if "generations" in args.only:
        print(generations.report(args.tokens[0], args.rounds), flush=True)
    if "steps" in args.only:
        print(steps.report(args.rounds), flush=True)
    if "codecs" in args.only:
        print(codecs.report(args.rounds), flush=True)
    if "networks" in args.only:
        print(networks.report(args.rounds), flush=True)
    if "diffusion" in args.only:
        print(diffusion.report(args.rounds), flush=True)
    if "reading" in args.only:
        print(reading.report(args.rounds), flush=True)
    if "weights" in args.only:
        print(weights.load(args.generation), flush=True)
    if "phases" in args.only and args.model:
        size = {"height": args.height, "width": args.width, "num_frames": args.num_frames}
        title = f"{args.pipeline} on {args.model}, {args.width} x {args.height}, {args.num_frames} frames, with sound"
        print(phases.report(args.model, title, args.text_encoder, pipeline=args.pipeline, **size), flush=True)
    elif "phases" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            for generation in ("2", "2.3"):
                print(small(Path(folder), generation), flush=True)
    if "memory" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            print(memory.report(Path(folder)), flush=True)
    if "many" in args.only:
        print(many.report(), flush=True)


if __name__ == "__main__":
    main()
