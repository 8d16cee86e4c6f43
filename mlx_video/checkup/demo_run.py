"""The demo against what it made once: all networks of a run, small, with their real loading path.

What is recorded lies in the demo's folder; `python -m tools.record_demo` makes it. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.checkpoints import demo
from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.results.clip import Clip
from mlx_video.types import UserError

ASKED: Mapping[str, Any] = {
    "prompt": "a red circle rises on a blue background, a low beep", "height": 128, "width": 128, "num_frames": 9,
    "seed": 7,
}  # fmt: skip
FILE = "recorded.npz"
PIXELS, SAMPLES = 8, 16
"""Of the decoded rows and columns, and of the sound's samples, every so many-th is recorded."""
LIMITS = {"float32": 0.005, "bfloat16": 0.05, "float16": 0.05}
"""How far a result may be from the recorded one, as the root of the mean square over that of the recorded. On a CPU
bfloat16 is 0.0075 away, float16 0.001; in float32 machines differ by the order of their sums alone (10^-5)."""
Make = Callable[[str], Clip]
"""The clip that is `ASKED` for, with all networks in a precision."""


def results_of(clip: Clip) -> dict[str, np.ndarray]:
    """What is compared: latents and, thinned out, frames as they are shown and sound."""
    found = {f"latents, {name}": np.array(value.astype(mx.float32)) for name, value in clip.latents.items()}
    found["frames"] = np.stack([frame[::PIXELS, ::PIXELS] for frame in clip])
    if clip.waveform is not None:
        found["sound"] = np.asarray(clip.waveform[:, ::SAMPLES], np.float32)
    return found


def recorded() -> dict[str, np.ndarray]:
    """What the demo made; UserError where the installation has left it out, or it is damaged."""
    file = demo.folder() / FILE
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError) as fault:
        raise UserError(f"This installation's {FILE} of the demo cannot be read; install the whole package.") from fault


def errors(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """||found - wanted|| / ||wanted|| of each result; infinite where one is absent, of another shape or no number."""
    distances = {}
    for name, right in wanted.items():
        ours, right = np.asarray(found.get(name, ()), np.float64), right.astype(np.float64)
        distance = np.linalg.norm(ours - right) / np.linalg.norm(right) if ours.shape == right.shape else np.inf
        distances[name] = float(distance) if np.isfinite(distance) else np.inf
    return distances


def examine(make: Make, dtype: str) -> Finding:
    """The demo in one precision against the recorded one."""
    topic, limit = f"demo {dtype}", LIMITS[dtype]
    distances = errors(results_of(make(dtype)), recorded())
    name, largest = max(distances.items(), key=lambda one: one[1])
    figures = {"limit": limit, **{f"error {what}": value for what, value in distances.items() if value < np.inf}}
    far = f"{largest:.1e} from what was recorded in float32 ({name}; at most {limit:g})"
    if largest <= limit:
        return Finding(topic, Verdict.OK, far, figures)
    what = f"{name} is no number, or not what it should be" if largest == np.inf else far
    advice = "this machine or its MLX computes wrong: try another version of MLX, and report it"
    return Finding(topic, Verdict.WRONG, f"{what}: {advice}", figures)
