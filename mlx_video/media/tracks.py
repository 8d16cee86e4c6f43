"""The sound track of a video file while it is written: encoded from a waveform, or copied from another file.

Either is handed the time up to which pictures are written, so that sound and pictures lie interleaved in the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from mlx_video.media.audio import check_waveform, fit, resample
from mlx_video.media.containers import open_file
from mlx_video.types import UserError

if TYPE_CHECKING:
    from av import Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Samples a second that AAC knows, 7350 excepted, which few players do."""
AAC_BITS_PER_SAMPLE = 6
"""Bits a second for each sample a second of a channel pair: ample, and within the codec's bounds at every rate."""
AAC_MAX_BIT_RATE = 192_000


class Track:
    """Sound on its way into a file; this one is a silent film's."""

    def write_until(self, seconds: Fraction) -> None:
        """Writes the sound up to `seconds` from the first picture."""

    def finish(self) -> None:
        """Writes what is still held; nothing follows."""


@contextmanager
def open_track(
    container: OutputContainer, audio: tuple[np.ndarray, int] | None, audio_from: Path | None
) -> Iterator[Track]:
    """Adds a sound stream to `container` and gives what fills it; without sound to write, something that does nothing.

    audio: waveform (2, S) and its rate; audio_from: the file to copy from. Raises UserError where that cannot be read
    or `container` cannot hold its sound.
    """
    import av

    if audio is not None:
        yield EncodedTrack(container, *audio)
    elif audio_from is not None:
        try:
            source = open_file(audio_from)
        except av.FFmpegError as error:
            raise UserError(f"{audio_from} cannot be read: {error.strerror}.") from error
        with source:
            stream = cast("AudioStream | None", source.streams.best("audio"))
            yield Track() if stream is None else CopiedTrack(container, source, stream)
    else:
        yield Track()


def check_copy(audio_from: Path, kind: str) -> None:
    """Raises UserError where a file's sound cannot be copied into a file of FFmpeg's format `kind`."""
    import av

    with av.open(io.BytesIO(), "w", format=kind) as container, open_track(container, None, audio_from):
        pass


def codec_of(kind: str) -> Literal["aac", "flac"]:
    """What a waveform is encoded with in FFmpeg's format `kind`."""
    return "flac" if kind == "matroska" else "aac"


class EncodedTrack(Track):
    """A waveform, encoded; sound beyond the pictures is cut, and silence follows where it ends before them.

    AAC, and FLAC in Matroska: that format does not say how many samples of AAC's first and last block count.
    """

    def __init__(self, container: OutputContainer, waveform: np.ndarray, rate: int):
        """waveform: (2, S) floats, clipped to -1 .. 1; a rate that AAC does not know is raised to one that it does."""
        check_waveform(waveform)
        self._rate, self._container, self._written = rate, container, 0
        codec = codec_of(container.format.name)
        if codec == "flac":
            self._stream = container.add_stream(codec, rate=rate, layout="stereo", format="s16")
        else:
            self._rate = next((known for known in AAC_RATES if known >= rate), AAC_RATES[-1])
            self._stream = container.add_stream(codec, rate=self._rate, layout="stereo")
            self._stream.bit_rate = min(AAC_BITS_PER_SAMPLE * self._rate, AAC_MAX_BIT_RATE)
        self._waveform = np.clip(resample(waveform.astype(np.float32, copy=False), rate, self._rate), -1, 1)

    def write_until(self, seconds: Fraction) -> None:
        """Encodes the samples up to `seconds`."""
        from av import AudioFrame

        end = round(seconds * self._rate)
        if end == self._written:
            return
        samples = fit(self._waveform[:, self._written : end], end - self._written)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._written = end

    def finish(self) -> None:
        """Flushes the encoder."""
        self._container.mux(self._stream.encode())


class CopiedTrack(Track):
    """Another file's sound, its packets as they are, at the same distance from that file's pictures."""

    def __init__(self, container: OutputContainer, source: InputContainer, stream: AudioStream):
        """Raises UserError where `container` cannot hold the sound."""
        codec = stream.codec_context.name if stream.codec_context else "of an unknown kind"
        kind = container.format.name
        if codec not in container.supported_codecs:
            raise UserError(f"The sound of {source.name} is {codec}, which {kind} files cannot hold; write .mkv.")
        self._container, self._stream = container, container.add_stream_from_template(stream)
        pictures = source.streams.best("video")
        self._begin = Fraction(0)
        if pictures is not None and pictures.start_time and pictures.time_base:
            self._begin = pictures.start_time * pictures.time_base
        self._packets = (packet for packet in source.demux(stream) if packet.dts is not None)
        self._next = next(self._packets, None)

    def write_until(self, seconds: Fraction) -> None:
        """Copies the packets that begin before `seconds`."""
        while (packet := self._next) is not None and (packet.dts or 0) * packet.time_base < seconds + self._begin:
            self._copy(packet)

    def finish(self) -> None:
        """Copies what is left, which may be longer than the pictures are."""
        while (packet := self._next) is not None:
            self._copy(packet)

    def _copy(self, packet: Packet[AudioStream]) -> None:
        shift = round(self._begin / packet.time_base)
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.stream = self._stream
        self._container.mux(packet)
        self._next = next(self._packets, None)
