"""Runs of whole pipelines on the small checkpoints of tests/small.py, described once and made in several ways.

The torch reference makes them in tests/parity; tests/parity/record.py keeps what it gives as fixtures, and
test_recorded.py compares ours with those. Knows our public API; knows nothing of the reference.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video import AudioIn, ImageAt, LTXPipeline
from mlx_video.media.image import compress, fill, read_image
from mlx_video.results.clip import Clip
from mlx_video.types import VideoShape

GENERATIONS = ("2", "2.3")
PIPELINES = ("distilled", "dev", "dev-two-stage", "dev-two-stage-hq")
CFG = {"cfg_scale": 3.0, "audio_cfg_scale": 7.0, "modality_scale": 3.0}
GUIDANCE: dict[str, dict[str, Any]] = {
    "dev": {**CFG, "cfg_rescale": 0.7, "stg_scale": 1.0, "stg_blocks": (0, 2)},
    "dev-two-stage": {**CFG, "cfg_rescale": 0.7, "stg_scale": 1.0, "stg_blocks": (1,)},
    "dev-two-stage-hq": {**CFG, "cfg_scale": 2.5, "cfg_rescale": 0.45, "stg_scale": 0.0},
}
"""What each guided pipeline is steered by in these runs, in our flags' names."""


@dataclass(frozen=True)
class Case:
    """One run: everything that it depends on but the checkpoint."""

    name: str
    pipeline: str
    shape: VideoShape
    seed: int
    audio: bool = True
    images: tuple[tuple[int, float, int], ...] = ()
    """Frame, strength and CRF of each time that the picture is shown."""
    sound: float | None = None
    """Where in a sound file the clip's sound begins, in seconds."""
    steps: int = 3
    prompt: str = "a red ball and slow music in the rain"
    negative_prompt: str = "blue square, fast camera"

    @property
    def guided(self) -> bool:
        """Whether there is guidance to speak of."""
        return self.pipeline != "distilled"

    def options(self, inputs: Path) -> dict[str, Any]:
        """Keywords for `LTXPipeline.generate`; pictures and sounds lie in `inputs`."""
        options: dict[str, Any] = {
            "prompt": self.prompt, "pipeline": self.pipeline, "height": self.shape.height, "width": self.shape.width,
            "num_frames": self.shape.frames, "fps": self.shape.fps, "seed": self.seed, "audio": self.audio,
            "tiling": "none",
        }  # fmt: skip
        if self.guided:
            options |= {"steps": self.steps, "negative_prompt": self.negative_prompt, **self.guidance_used}
        if self.images:
            options["image"] = [ImageAt(str(inputs / "picture.png"), *image) for image in self.images]
        if self.sound is not None:
            options["audio_file"] = AudioIn(str(inputs / "sound.wav"), self.sound)
        return options

    @property
    def guidance_used(self) -> dict[str, Any]:
        """The guidance flags that have an effect in this run."""
        idle: tuple[str, ...] = () if self.audio else ("audio_cfg_scale", "modality_scale")
        if self.sound is not None:
            idle = ("audio_cfg_scale",)
        return {key: value for key, value in GUIDANCE[self.pipeline].items() if key not in idle}


RECORDED = (
    Case("distilled", "distilled", VideoShape(9, 64, 128, 24.0), seed=5),
    Case("dev", "dev", VideoShape(9, 96, 64, 30.0), seed=6),
    Case("dev-two-stage", "dev-two-stage", VideoShape(9, 128, 64, 25.0), seed=7),
    Case("dev-two-stage-hq", "dev-two-stage-hq", VideoShape(9, 64, 128, 24000 / 1001), seed=8),
)
"""The runs that tests/fixtures/small_<generation>.npz holds."""
FRAMES_KEPT, SAMPLES_KEPT = slice(None, None, 4), 6000
"""What it holds of the first one's frames and sound."""


def generate(folder: Path, case: Case, inputs: Path, noise: Any = None) -> Clip:
    """Our run of a case in float32."""
    with LTXPipeline.from_pretrained(folder, dtype="float32") as pipe:
        return pipe.generate(**case.options(inputs), noise=noise)


def error(ours: Any, reference: Any) -> float:
    """||ours - reference|| / ||reference||; infinite where the shapes differ."""
    a, b = np.array(ours, np.float64), np.array(reference, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else float("inf")


def levels_apart(ours: np.ndarray, reference: np.ndarray) -> float:
    """Share of 8-bit samples that are more than one level apart; infinite where the shapes differ."""
    if ours.shape != reference.shape:
        return float("inf")
    return float(np.mean(np.abs(ours.astype(int) - reference.astype(int)) > 1))


def load_image(path: str | Path, height: int, width: int, crf: int) -> np.ndarray:
    """A picture as a run hands it to the encoder: (H, W, 3) float32 from -1 to 1. Reference (v1.2.0):
    `load_image_and_preprocess`.
    """
    return fill(compress(read_image(path), crf), height, width) / np.float32(127.5) - np.float32(1)


def write_inputs(folder: Path) -> Path:
    """Writes picture.png (of no round size), sound.wav (16 kHz stereo, 1.5 s) and returns the folder."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:90, 0:134]
    picture = np.stack([128 + 100 * np.sin(x / 9), 255 * y / 89, 128 + 90 * np.cos((x + y) / 13)], -1)
    picture[20:50, 30:70] = (20, 200, 240)
    Image.fromarray(picture.round().astype(np.uint8)[:, :, ::-1].copy()).save(folder / "picture.png")
    time = np.arange(24_000) / 16_000
    left, right = 0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time), 0.3 * np.sin(2 * np.pi * 900 * time)
    samples = np.stack([left, right]) + np.random.default_rng(3).normal(0, 0.02, (2, time.size))
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return folder
