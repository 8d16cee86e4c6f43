"""Sound: files to waveforms at their own rate, and waveforms to WAV files.

A waveform is (2, S) float32 from -1 to 1. Knows no mel bins and no latents.
"""

from __future__ import annotations

import itertools
import logging
import math
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlx_video.media.containers import open_file
from mlx_video.media.files import check_input, check_place, replacing
from mlx_video.media.settings import add_to_wav
from mlx_video.types import UserError

if TYPE_CHECKING:
    import av

log = logging.getLogger(__name__)

MIN_RATE, MAX_RATE = 1000, 768_000
"""Samples a second of anything that is sold as sound, and some more."""
MAX_SECONDS = 1e6
SUFFIXES = (".wav",)
"""Of files that `write_wav` writes."""


def read_audio(path: str | Path, start: float = 0.0, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """The sound of a file from `start` on, `seconds` of it at most: ((2, S) float32, samples a second).

    Any file with a sound track that FFmpeg reads: WAV, FLAC, MP3, OGG, M4A, videos. Times count from the file's own
    start, so a video's sound keeps its place beside the picture. Mono is doubled; more than two channels are mixed down
    with the usual weights (centre and sides at -3 dB), and made softer where that goes beyond full scale. Samples keep
    their rate. Damaged packets are left out.
    Raises UserError where the file cannot be read, has no sound track, or ends before `start`.
    """
    import av

    path = check_input(path, "a sound file")
    _check_span(start, seconds)
    try:
        with open_file(path) as container:
            stream = cast("av.AudioStream | None", container.streams.best("audio"))
            if stream is None:
                raise UserError(f"{path} has no sound track; give a sound file, or a video with sound.")
            if stream.codec_context is None:
                raise UserError(f"The sound of {path} is in a form that cannot be decoded; save it as WAV.")
            rate = stream.rate
            _check_claims(path, container, stream)
            first = round(start * rate)
            last = None if seconds is None else first + round(seconds * rate)
            waveform, length = _collect(container, stream, first, last)
            surround = stream.codec_context.channels > 2
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be read as sound: {error.strerror}.") from error
    if length == 0:
        raise UserError(f"{path} has a sound track without sound; it is damaged or empty.")
    if first >= length:
        raise UserError(f"The sound of {path} is {length / rate:.2f} s long; a start of {start:g} s is past its end.")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path} has samples that are not finite numbers; save it as a WAV of 16 bits.")
    # Channels mixed together may add up to more than full scale.
    return waveform / max(1.0, float(np.abs(waveform).max())) if surround else waveform, rate


def _check_span(start: float, seconds: float | None) -> None:
    if not 0 <= start <= MAX_SECONDS:
        raise UserError(f"A start of {start:g} s is not in the file; it must be from 0 to {MAX_SECONDS:g}.")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds is {seconds}; it must be above 0.")


def _check_claims(path: Path, container: av.container.InputContainer, stream: av.AudioStream) -> None:
    """Raises UserError for a header that says what no sound has; memory would follow it."""
    if not MIN_RATE <= stream.rate <= MAX_RATE:
        raise UserError(
            f"{path} says that it has {stream.rate} samples a second; from {MIN_RATE} to {MAX_RATE} can be read."
        )
    if abs(_offset(container, stream)) > MAX_SECONDS * stream.rate:
        raise UserError(f"{path} says that its sound begins days after the file does; it is damaged.")


def _collect(
    container: av.container.InputContainer, stream: av.AudioStream, first: int, last: int | None
) -> tuple[np.ndarray, int]:
    """Samples [first, last) counted from the file's start, and how many there are up to where reading ended.

    There is no seeking, because that is exact in few formats; what comes before `first` is let go at once.
    """
    at = offset = _offset(container, stream)
    end = _declared_end(container, stream, offset)
    wanted = min((limit for limit in (last, end) if limit is not None), default=None)
    silence = max(min(offset, offset if wanted is None else wanted) - first, 0)
    parts = [np.zeros((2, silence), np.float32)]
    for part in _decoded(container, stream):
        begin, stop = max(first - at, -at, 0), part.shape[1] if wanted is None else min(part.shape[1], wanted - at)
        if begin < stop:
            parts.append(part[:, begin:stop])
        at += part.shape[1]
        if wanted is not None and at >= wanted:
            break
    length = max(at, 0) if wanted is None else max(min(at, wanted), 0)
    return np.concatenate(parts, axis=1), length


def _offset(container: av.container.InputContainer, stream: av.AudioStream) -> int:
    # Samples by which the track begins after the file does, as when a video's picture comes first.
    if stream.start_time is None or stream.time_base is None or container.start_time is None:
        return 0
    begin = stream.start_time * stream.time_base - container.start_time / 1_000_000
    return round(float(begin) * stream.rate)


def _declared_end(container: av.container.InputContainer, stream: av.AudioStream, offset: int) -> int | None:
    # Codecs decode whole blocks; of the formats that tell where the sound ends in the last one, MP4's word is good.
    if "mp4" not in container.format.name or not stream.duration or stream.time_base is None:
        return None
    return offset + round(float(stream.duration * stream.time_base) * stream.rate)


def _decoded(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[np.ndarray]:
    import av

    layout = "stereo" if stream.codec_context.channels > 2 else stream.layout.name
    converter = av.AudioResampler(format="fltp", layout=layout, rate=stream.rate)
    for frame in itertools.chain(_frames(container, stream), [None]):
        for converted in converter.resample(frame):
            samples = converted.to_ndarray()
            yield np.repeat(samples, 2, axis=0) if samples.shape[0] == 1 else samples


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError as error:
            log.warning("A damaged piece of sound was left out (%s).", error.strerror)


def bytes_needed(seconds: float, rate: int = 48_000) -> int:
    """What a WAV file of so many seconds takes on disk."""
    return 4 * round(seconds * rate) + 100


def check_output(path: str | Path) -> Path:
    """The path, once it is sure that a WAV file can be written there; else raises UserError."""
    return check_place(path, SUFFIXES)


def write_wav(path: str | Path, waveform: np.ndarray, rate: int, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes (2, S) float samples as a WAV file of 16 bits, whole or not at all; values beyond -1 to 1 are clipped.

    metadata: kept as its comment, as `media.settings` has it.
    Raises UserError as `check_output` does.
    """
    path = check_output(path)
    check_waveform(waveform)
    samples = np.rint(np.clip(waveform, -1, 1) * 32767).astype("<i2")
    with replacing(path) as temporary:
        with wave.open(str(temporary), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.T.tobytes())
        if metadata:
            add_to_wav(temporary, metadata)


def check_waveform(waveform: np.ndarray) -> None:
    """Raises ValueError unless `waveform` is (2, S) of finite floats."""
    if waveform.ndim != 2 or waveform.shape[0] != 2 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"A waveform is (2, S) of floats; got {waveform.shape} {waveform.dtype}.")
    if not np.isfinite(waveform).all():
        raise ValueError("The waveform has samples that are not finite numbers.")


def fit(waveform: np.ndarray, samples: int) -> np.ndarray:
    """(C, S) -> (C, samples): cut at the end, or silence added there."""
    missing = samples - waveform.shape[1]
    return np.pad(waveform, ((0, 0), (0, missing))) if missing > 0 else waveform[:, :samples]


def resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(2, S) float32 at `rate` -> (2, round(S * wanted / rate)) at `wanted` samples a second (FFmpeg's resampler)."""
    import av

    if rate == wanted:
        return waveform
    converter = av.AudioResampler(format="fltp", layout="stereo", rate=wanted)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform, np.float32), format="fltp", layout="stereo")
    frame.sample_rate = rate
    parts = [part.to_ndarray() for piece in (frame, None) for part in converter.resample(piece)]
    return fit(np.concatenate(parts, axis=1), round(waveform.shape[1] * wanted / rate))
