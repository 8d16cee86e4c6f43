"""`python -m bench.kernels` counts the kernels that one block is on Metal, and the bytes that they read and write.

The graph is built at the real width for a GPU and never computed. What Metal does in one kernel and the CPU's graph
shows as several (norms, attention, compiled functions) is stood in for by one operation of the same inputs and result.
Every array counts once for each kernel that reads or writes it; caches are taken to keep nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from bench import block as one_block
from bench.measure import table
from mlx_video.models import layers
from mlx_video.models.ltx_2.transformer import block as transformer_block
from tests.support import macs

VIEWS = {
    "Reshape", "Flatten", "Unflatten", "Transpose", "Slice", "Split", "Squeeze", "ExpandDims", "Broadcast",
    "BroadcastAxes", "Full",
}  # fmt: skip
"""Operations that are another look at the same bytes, or a constant."""
ONE_KERNEL: tuple[tuple[Any, str, str, int], ...] = (
    (mx.fast, "rms_norm", "norm", 1),
    (mx.fast, "scaled_dot_product_attention", "attention", 1),
    (transformer_block, "modulate", "modulate", 1),
    (transformer_block, "add_gated", "add gated", 1),
    (layers, "_turn", "turn", 2),
    (layers, "_gate", "gate", 1),
    (layers, "gelu", "GELU", 1),
)
"""Owner, name, what it is called in the table, and how many arrays of the first one's shape it gives."""
AUDIO_TOKENS = 101


class Kernels(NamedTuple):
    """How many of a kind there are, and the bytes that they read and write together."""

    count: int
    nbytes: int


def _stand_in(number: int, results: int) -> Callable[..., Any]:
    # One concatenation, told from others by a last input of `number` values; its result is cut into the shapes wanted.
    def called(*given: Any, **_: Any) -> Any:
        arrays = [a for a in given if isinstance(a, mx.array)]
        first = arrays[0]
        joined = mx.concatenate([*(a.reshape(-1) for a in arrays), mx.zeros((number,), first.dtype)])
        parts = [joined[i * first.size : (i + 1) * first.size].reshape(first.shape) for i in range(results)]
        return parts[0] if results == 1 else tuple(parts)

    return called


@contextmanager
def as_kernels() -> Iterator[None]:
    """Within it, each of ONE_KERNEL is one operation, on a Mac with an M4 Max."""
    with macs.mac(64), ExitStack() as stack:
        for number, (owner, name, _, results) in enumerate(ONE_KERNEL, 1):
            stack.enter_context(mock.patch.object(owner, name, _stand_in(number, results)))
        yield


def count(generation: str, tokens: dict[str, int]) -> tuple[dict[str, Kernels], int]:
    """Kernels of one block by kind, and how many views there are besides."""
    graph: list[dict[str, Any]] = []
    with as_kernels():
        _, block, given = one_block.place_block(generation, tokens)
        tree = (block.parameters(), given)
        arrays = [array for _, array in tree_flatten(tree) if isinstance(array, mx.array)]

        def run(*inputs: mx.array) -> list[mx.array]:
            left = iter(inputs)
            parameters, there = tree_map(lambda leaf: next(left) if isinstance(leaf, mx.array) else leaf, tree)
            block.update(parameters)
            return list(one_block.call(block, there).values())

        mx.export_function(graph.append, run, *arrays)
    primitives = [entry for entry in graph if entry["type"] == "primitive"]
    kernels = [_weigh(entry) for entry in primitives if entry["name"] not in VIEWS]
    counts = Counter(kind for kind, _ in kernels)
    return {k: Kernels(c, sum(n for kind, n in kernels if kind == k)) for k, c in counts.items()}, len(
        primitives
    ) - len(kernels)


def _weigh(entry: dict[str, Any]) -> tuple[str, int]:
    """Kind and bytes of an operation of the graph."""
    sizes = [math.prod(shape) * dtype.size for _, shape, dtype in entry["inputs"]]
    [(_, shape, dtype)] = entry["outputs"]
    out = math.prod(shape) * dtype.size
    if entry["name"] == "Concatenate" and len(shape) == 1:
        _, _, name, results = ONE_KERNEL[entry["inputs"][-1][1][0] - 1]
        return name, sum(sizes[:-1]) + results * sizes[0]
    return {"AddMM": "product", "Matmul": "product"}.get(entry["name"], entry["name"]), sum(sizes) + out


def report(generation: str, tokens: int) -> str:
    """The table."""
    found, views = count(generation, {"video": tokens, "audio": AUDIO_TOKENS})
    rows = [[kind, str(number), f"{nbytes / 1e9:.2f}"] for kind, (number, nbytes) in found.items()]
    rows.sort(key=lambda row: -float(row[2]))
    other = [k for kind, k in found.items() if kind not in ("product", "attention")]
    rows.append(["all", *_sum(list(found.values()))])
    rows.append(["neither product nor attention", *_sum(other)])
    title = f"One LTX-{generation} block on Metal, {tokens} video + {AUDIO_TOKENS} audio tokens, 16 bit; {views} views"
    return table(title, ["kernel", "number", "GB"], rows)


def _sum(kernels: list[Kernels]) -> list[str]:
    return [str(sum(k.count for k in kernels)), f"{sum(k.nbytes for k in kernels) / 1e9:.2f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generation", choices=["2", "2.3"], default="2.3")
    parser.add_argument("--tokens", type=int, default=6144, help="of the video")
    args = parser.parse_args()
    print(report(args.generation, args.tokens))
