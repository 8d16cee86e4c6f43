"""Small films with sound, written with PyAV alone, and what of a video file has to stay as it was."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000


def frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """Smooth moving shapes, (height, width, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    return [
        np.stack(
            [128 + 100 * np.sin((x + 3 * i) / 9), 128 + 100 * np.cos((y - i) / 7), 60 + (x + y + 5 * i) % 128], -1
        ).astype(np.uint8)
        for i in range(count)
    ]


def write(
    path: Path, count: int, height: int, width: int, fps: Fraction = Fraction(24), sound: str | None = "aac"
) -> Path:
    """An H.264 film and, in the codec `sound`, a tone a little longer than it; returns the path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        track = container.add_stream(sound, rate=RATE, layout="stereo") if sound else None
        for index, picture in enumerate(frames(count, height, width)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            time = np.arange(round((count / fps + Fraction(1, 10)) * RATE)) / RATE
            tone = np.stack([np.sin(2500 * time), np.sin(4000 * time)]).astype(np.float32) * 0.4
            samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
            samples.sample_rate, samples.pts, samples.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(samples))
            container.mux(track.encode())
    return path


def packets(path: Path) -> list[tuple[float, bytes]]:
    """The sound's packets: when each begins, in seconds from the first picture, and its bytes."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        sound, pictures = container.streams.audio[0], container.streams.video[0]
        begin = pictures.start_time * pictures.time_base
        return [(float(p.pts * p.time_base - begin), bytes(p)) for p in container.demux(sound) if p.size]
