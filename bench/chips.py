"""`python -m bench.chips` prints what is decided for each chip, as Markdown; docs/macs.md holds this table, and
`python -m bench.chips docs/macs.md` puts it there anew.

Nothing is measured: each row is what `platform` answers where MLX names that chip.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx

from bench import fits
from mlx_video import platform
from tests.support import macs

APPLE = {
    "M1, M1 Pro": "applegpu_g13g", "M1 Max": "applegpu_g13s", "M1 Ultra": "applegpu_g13d",
    "M2, M2 Pro": "applegpu_g14g", "M2 Max": "applegpu_g14s", "M2 Ultra": "applegpu_g14d",
    "M3, M3 Pro": "applegpu_g15g", "M3 Max": "applegpu_g15s", "M3 Ultra": "applegpu_g15d",
    "M4, M4 Pro": "applegpu_g16g", "M4 Max": "applegpu_g16s",
    "M5, M5 Pro": "applegpu_g17g", "M5 Max": "applegpu_g17s",
}  # fmt: skip
"""Chip -> what MLX calls its GPU."""
OTHERS = {"NVIDIA GPU": "sm_90", "any CPU": None}
HEAD = (
    "chip", "MLX's name", "transformer", "text encoder", "autoencoders", "TFLOP in one evaluation", "of float32",
    "16-bit products in",
)  # fmt: skip


class Decisions(NamedTuple):
    """What is decided for a chip."""

    transformer: mx.Dtype
    text_encoder: mx.Dtype
    autoencoders: mx.Dtype
    evaluation: float
    """Operations in one evaluation, 16 bit."""
    wide_evaluation: float
    """The same in float32."""
    products: str
    """Where matrices of 16 bit are multiplied; what is not 16 bit has the shader cores."""


def machine(architecture: str | None) -> AbstractContextManager[Any]:
    """Within it, the platform is one with that GPU, or with none."""
    return macs.mac(16, architecture) if architecture else mock.patch.object(platform, "is_cpu", return_value=True)


def decisions(architecture: str | None) -> Decisions:
    """What the platform decides for a GPU of that name; None stands for a CPU alone."""
    chip = platform.Chip.of(architecture or "")
    products = "shader cores" if chip else "cuBLAS" if architecture else "BLAS"
    with machine(architecture):
        return Decisions(
            platform.compute_dtype(),
            platform.compute_dtype(wide_range=True),
            platform.autoencoder_dtype(),
            platform.flops_per_evaluation(),
            platform.flops_per_evaluation(mx.float32),
            "matrix units" if chip and chip.matrix_units else products,
        )


def report() -> str:
    """The table."""
    lines: list[tuple[str, ...]] = [HEAD, ("---",) * len(HEAD)]
    for name, architecture in (APPLE | OTHERS).items():
        found = decisions(architecture)
        types = [str(dtype).removeprefix("mlx.core.") for dtype in found[:3]]
        work = [f"{operations / 1e12:.3g}" for operations in (found.evaluation, found.wide_evaluation)]
        lines.append((name, f"`{architecture}`" if architecture else "", *types, *work, found.products))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    made_now = report()
    print(made_now)
    for path in sys.argv[1:]:
        fits.put(Path(path), made_now)
