"""`python -m bench.weights` prints what weights of the real size cost: loading, quantizing while loading, converting.

    python -m bench.weights                          a file of LTX-2.3 with its first 3 blocks (3.2 GB, made of holes)
    python -m bench.weights --convert 2              also converts one with 2 blocks and all else (11 GB of disk)

Files have the published names and shapes and zeros for numbers, so they take no disk; each line is measured in a
process of its own. Errors of one quantized block are those of random weights at the real width.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from bench.measure import table
from mlx_video import platform
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.cpu import linux_blas
from mlx_video.jobs.convert import Wishes, block_errors, convert
from mlx_video.lending.loader import Loader
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.write import Pending, write
from tests.support import published_25, real_keys, sparse

_INSIDE = "model.diffusion_model."
REST = ("vae.", "audio_vae.", "vocoder.", "text_embedding_projection.", f"{_INSIDE}video_emb", f"{_INSIDE}audio_emb")
GROUPS = (32, 64, 128)


def loading(folder: Path, generation: str, blocks: int, bits: int) -> list[str]:
    """Opens a transformer, gives it its weights (quantized to `bits`, 16 leaves them) and reads all of it."""
    path = _holes(folder, generation, blocks)
    start = time.perf_counter()
    checkpoint = open_checkpoint(path, "distilled")
    how = None if bits == 16 else Quantization(bits)
    platform.peak_memory()
    with Loader(checkpoint, mx.bfloat16, how).borrow("transformer") as network:
        ready = time.perf_counter()
        mx.eval(network.parameters())
        read = time.perf_counter()
        size = sum(array.nbytes for _, array in tree_flatten(network.parameters()))
        peak = platform.peak_memory()
    source = checkpoint.part("transformer").tensors.nbytes()
    times = [f"{seconds:.2f}" for seconds in (ready - start, read - ready)]
    return [f"transformer, {bits} bit", f"{source / 1e9:.2f}", f"{size / 1e9:.2f}", f"{peak / size:.2f}", *times]


def _holes(folder: Path, generation: str, blocks: int) -> Path:
    """A transformer's file of its first blocks; of LTX-2.5 the one of its pack that it has for itself."""
    if generation != "2.5":
        return sparse.make(folder, generation, blocks=blocks, without=REST)
    metadata = published_25.metadata(published_25.TRANSFORMER)
    metadata["config"]["transformer"]["num_layers"] = blocks
    path = folder / f"{Path(published_25.TRANSFORMER).name}.safetensors"
    tensors = sparse.first_blocks(dict(published_25.tensors(published_25.TRANSFORMER)), blocks)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(REST)}
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    sparse.write(path, kept, said)
    return path


def converting(folder: Path, generation: str, blocks: int, bits: int) -> list[str]:
    """Converts a checkpoint; the peak is the whole process's."""
    checkpoint = open_checkpoint(sparse.make(folder, generation, blocks=blocks), "distilled")
    start = time.process_time()
    convert(checkpoint, folder / "out", Wishes(quantization=None if bits == 16 else Quantization(bits)))
    seconds = time.process_time() - start
    size = sum(file.stat().st_size for file in (folder / "out").rglob("*") if file.is_file())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    source = checkpoint.source.stat().st_size
    return [
        f"LTX-{generation}, {bits} bit",
        f"{source / 1e9:.2f}",
        f"{size / 1e9:.2f}",
        f"{most / 1e9:.2f}",
        f"{seconds:.0f}",
    ]


def quality(folder: Path, generation: str) -> list[str]:
    """Errors of block 0, made of random weights, in 8 and 4 bit by group size."""
    config = real_keys.config(generation)
    config["transformer"]["num_layers"] = 1
    mx.random.seed(0)
    first = f"{_INSIDE}transformer_blocks.0."
    tensors = {}
    for name, (dtype, shape) in real_keys.load(generation).items():
        inside = name.startswith(_INSIDE) and "_connector." not in name
        if inside and ("transformer_blocks." not in name or name.startswith(first)):
            array = (
                mx.random.normal(shape, scale=1 / math.sqrt(shape[-1])) if name.startswith(first) else mx.zeros(shape)
            )
            array = array + 1 if "norm." in name else array
            tensors[name] = Pending(array, mx.float32 if dtype == "F32" else mx.bfloat16)
    metadata = {"config": json.dumps(config), "model_version": "2.3.0" if generation == "2.3" else "2.0.0"}
    path = folder / sparse.FILES[generation]
    write(path, tensors, metadata, lambda count: None)
    found = [block_errors(open_checkpoint(path, "distilled"), group) for group in GROUPS]
    return [f"LTX-{generation}", *(f"{errors[bits]:.1e}" for bits in (8, 4) for errors in found)]


MEASURES = {"loading": loading, "converting": converting, "quality": quality}


def alone(measure: str, *values: object) -> list[str]:
    """One line, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.weights", "--measure", measure, folder, *map(str, values)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def load(generation: str, blocks: int = 3) -> str:
    """The table of loading."""
    lines = [alone("loading", generation, blocks, bits) for bits in (16, 8, 4)]
    head = ["loading", "file GB", "held GB", "peak / held", "lazily s", "all read s"]
    return table("Loading a file of holes, wall seconds", head, lines)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generation", choices=["2", "2.3"], default="2.3")
    parser.add_argument("--blocks", type=int, default=3, help="of the file that is loaded")
    parser.add_argument("--convert", type=int, metavar="BLOCKS", help="also convert a file with so many blocks")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault(linux_blas.SWITCH, "on")
    platform.prepare()
    if args.measure:
        kind, folder, generation, *numbers = args.measure
        print(json.dumps(MEASURES[kind](Path(folder), generation, *map(int, numbers))))
        return
    print(load(args.generation, args.blocks), flush=True)
    head = ["block 0", *(f"{bits} bit, {group}" for bits in (8, 4) for group in GROUPS)]
    print(table("Relative error of its output, by group size", head, [alone("quality", args.generation)]), flush=True)
    if args.convert:
        lines = [alone("converting", args.generation, args.convert, bits) for bits in (16, 8, 4)]
        head = ["converting", "source GB", "written GB", "process peak GB", "CPU s"]
        print(table("Converting a file of holes", head, lines), flush=True)


if __name__ == "__main__":
    main()
