"""Sound and films that are whole, files that point elsewhere, and what a film holds."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np

POINTERS = {
    "m3u8": "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "mpd": "<MPD><Period/></MPD>",
    "wav": "RIFF\0\0\0\0WAVE", "mp3": "ID3\x03\0\0\x7f\x7f\x7f\x7f", "m3u": "http://127.0.0.1:9/x.mp3\n",
}  # fmt: skip


def tone(seconds: float = 1.0, rate: int = 16_000, channels: int = 2) -> np.ndarray:
    """(samples, channels) int16."""
    time = np.arange(int(seconds * rate)) / rate
    return (
        np.stack([np.sin(2 * np.pi * 440 * (c % 7 + 1) * time) for c in range(channels)], -1)
        .__mul__(9000)
        .astype("<i2")
    )


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return made.getvalue()


def coded(kind: str, codec: str, seconds: float = 1.0) -> bytes | None:
    """A tone in that codec; None where this FFmpeg cannot write it."""
    import av

    made = io.BytesIO()
    formats = {"m4a": "ipod", "mkv": "matroska", "wma": "asf"}
    try:
        with av.open(made, "w", format=formats.get(kind, kind)) as container:
            track = container.add_stream(codec, rate=48_000, layout="stereo")
            samples = tone(seconds, 48_000).astype(np.float32).T / 32768
            resampler = av.AudioResampler(
                format=track.format, layout="stereo", rate=48_000, frame_size=track.frame_size or 1024
            )
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(track.encode(piece))
            container.mux(track.encode())
    except (av.error.FFmpegError, ValueError):
        return None
    return made.getvalue()


def tracks(file: Path) -> tuple[int, bool]:
    """(frames, whether there is sound) of a film."""
    import av

    with av.open(str(file)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(file)) as container:
        return frames, bool(container.streams.audio) and any(True for _ in container.decode(audio=0))


def silent_film(
    folder: Path, frames: int = 5, height: int = 64, width: int = 64, rate: Fraction = Fraction(24)
) -> Path:
    """A film without sound."""
    from tests.support import films

    return films.write(folder / "silent.mp4", frames, height, width, rate, sound=None)
