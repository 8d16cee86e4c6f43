"""Runs of the dfr pipeline that the reference has made, too: see tests/parity/record_dfr.py. Knows nothing of it."""

from __future__ import annotations

from typing import Any

from tests.support.small import FIXTURES

FIXTURE = FIXTURES / "dfr.npz"
EVERY = 4
"""Latent frames of the longest case, of which one is recorded."""
CASES: dict[str, dict[str, Any]] = {
    # 40 frames after the first are made as two segments of 24, in 2 and then 4 tiles.
    "two rounds": {
        "prompt": "a red ball", "height": 64, "width": 64, "num_frames": 41, "seed": 5, "rounds": 2,
        "kept": ("video", "audio", "stage1/video", "stage1/keyframes", "stage2/video", "stage2/keyframes",
                 "stage3/0/keyframes", "stage3/1/keyframes"),
    },
    # Twice as wide as high, from a picture, three segments of 32 in two tiles, and told as 60 frames a second, not 80.
    "from a picture": {
        "prompt": "a blue cube", "height": 64, "width": 128, "num_frames": 89, "seed": 6, "rounds": 1, "fps": 40.0,
        "images": [(0, 0.9, 0)], "kept": ("stage1/keyframes", "some"),
    },
    "no round": {
        "prompt": "rain", "height": 128, "width": 64, "num_frames": 9, "seed": 7, "kept": ("video", "stage2/keyframes"),
    },
}  # fmt: skip
