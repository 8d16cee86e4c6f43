"""What is wrong with a clip that a person would see at once: told with figures, so that none goes out silently.

Looks at what passes by anyway: latents after a stage, frames on their way into a file, the waveform. Every rule is far
beyond what a clip that was asked for can be. Numbers that are not finite end a run where they appear: `lending.finite`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

from mlx_video.types import Tree

BLACK = 6
"""Of 255: a picture whose brightest sample is no brighter shows nothing on any screen."""
ONE_COLOUR = 4
"""Levels of 255 between the darkest and the brightest sample of a channel, about what a codec's rounding makes of plain
paper. Six prompts for as little as can be ("black", "a white square on a white background") gave the demo 157 and
more, and at least 25 between a frame and the next, where a frozen picture has none."""
SATURATED, EACH_END = 0.9, 0.05
"""Share of samples that are 0 or 255, and of either of the two, from which a picture is burnt out. A night sky is
mostly 0 and a page mostly 255; decoded pictures are hardly ever both."""
FLAT = 1e-3
"""Of a latent channel's unit spread: cells of a picture that differ by less are one colour. The same six had 12."""
SILENT = 1e-5
"""RMS of a sound (-100 dB of full scale): below the last bit of 16."""
FULL, CLIPPED = 0.999, 0.05
"""What counts as full scale, and the share of samples at it from which a sound is distorted; loud music has under
0.01."""


class Watched:
    """Looks at a clip's frames on their way."""

    def __init__(self) -> None:
        """Nothing has passed yet."""
        self._count = self._samples = self._low = self._high = self._spread = 0
        self._brightest, self._still, self._before = 0, True, np.empty(0, np.uint8)

    def watch(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Hands frames (H, W, 3) uint8 on as they are."""
        for frame in frames:
            if self._count:
                self._still = self._still and np.array_equal(frame, self._before)
            if self._spread <= ONE_COLOUR or self._brightest <= BLACK:  # else neither comes into question any more
                least, most = frame.min(axis=(0, 1)), frame.max(axis=(0, 1))
                self._spread = max(self._spread, int((most - least).max()))
                self._brightest = max(self._brightest, int(most.max()))
            self._low += int(np.count_nonzero(frame == 0))
            self._high += int(np.count_nonzero(frame == 255))
            self._samples += frame.size
            self._count, self._before = self._count + 1, frame
            yield frame

    @property
    def faults(self) -> tuple[str, ...]:
        """Of what has passed, a sentence each; the worst that holds stands for those that follow from it."""
        if not self._count:
            return ()
        frames = "its one frame" if self._count == 1 else f"all {self._count} frames"
        if self._brightest <= BLACK:
            return (f"The picture is black: no sample of {frames} is above {self._brightest} of 255.",)
        if self._spread <= ONE_COLOUR:
            colour = ", ".join(map(str, self._before[0, 0].tolist()))
            return (
                f"The picture is one colour: within {frames} no channel differs by more than {self._spread} of 255 "
                f"(the last is R, G, B = {colour}).",
            )
        found = []
        if self._count > 1 and self._still:
            found.append(f"The picture is frozen: {frames} are the same, bit for bit.")
        low, high = self._low / self._samples, self._high / self._samples
        if low + high >= SATURATED and min(low, high) >= EACH_END:
            found.append(f"The picture is saturated: {low:.0%} of its samples are 0 and {high:.0%} are 255.")
        return tuple(found)


def of_latents(phase: str, latents: Tree) -> tuple[str, ...]:
    """Of what a stage ended with: normalised, video (1, C, F, H, W) and, where there is sound, audio (1, 8, T, 16)."""
    found, video = [], latents["video"].astype(mx.float32)
    cells = mx.max(video, axis=(3, 4)) - mx.min(video, axis=(3, 4))
    spread = float(mx.max(cells).item())  # type: ignore[arg-type]
    if video.shape[3] * video.shape[4] > 1 and spread < FLAT:
        found.append(
            f"After {phase} the picture is one colour: the cells of a latent channel differ by {spread:.1g} at most."
        )
    elif video.shape[2] > 1 and mx.all(video[:, :, 1:] == video[:, :, :-1]).item():
        found.append(f"After {phase} the picture is frozen: all {video.shape[2]} latent frames are the same.")
    if "audio" in latents:
        audio = latents["audio"].astype(mx.float32)
        spread = float(mx.max(mx.max(audio, axis=2) - mx.min(audio, axis=2)).item())  # type: ignore[arg-type]
        if audio.shape[2] > 1 and spread < FLAT:
            found.append(f"After {phase} the sound stands still: its latent differs by {spread:.1g} at most in time.")
    return tuple(found)


def of_sound(waveform: np.ndarray) -> tuple[str, ...]:
    """Of samples (2, S) in [-1, 1] that were asked for."""
    if not waveform.size:
        return ("There is no sound: it has no samples.",)
    level = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    if level < SILENT:
        return (f"There is no sound: its level is {level:.1g} of full scale (RMS).",)
    share = float(np.mean(np.abs(waveform) >= FULL))
    return (f"The sound is clipped: {share:.0%} of its samples are at full scale.",) if share >= CLIPPED else ()
