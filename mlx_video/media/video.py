"""Films: frames and sound to video files, video files to frames, frames to folders of pictures.

Frames are (H, W, 3) uint8 sRGB and pass one at a time, so memory does not grow with a clip. Knows no latents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlx_video.media.containers import H264, check_encoders, open_file
from mlx_video.media.files import check_input, check_new_folder, check_place, replacing
from mlx_video.media.image import save_image
from mlx_video.media.settings import tags
from mlx_video.media.tracks import check_copy, codec_of, open_track
from mlx_video.types import RunError, UserError

if TYPE_CHECKING:
    import av

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffixes of the files that `write_video` writes, and what FFmpeg calls their format."""
SUFFIXES = tuple(CONTAINERS)
BT709 = 1
"""In FFmpeg: of primaries, of transfer, of matrix, and of swscale's matrices alike."""
BT601 = 5
LIMITED = 1
UNSPECIFIED = 2
# swscale's flags, as numbers because PyAV names them all only since version 18.
SWS_BILINEAR, SWS_AREA, SWS_FULL_CHROMA_OUT, SWS_FULL_CHROMA_IN, SWS_ACCURATE = 0x2, 0x20, 0x2000, 0x4000, 0x40000
TO_YUV = SWS_AREA | SWS_FULL_CHROMA_IN | SWS_ACCURATE
"""Colour differences averaged over 2x2 pixels, everything rounded to nearest."""
TO_RGB = SWS_BILINEAR | SWS_FULL_CHROMA_OUT | SWS_ACCURATE
NTSC = (24, 30, 48, 60, 120)
"""Nominal rates that are slowed by 1001/1000 where somebody writes 23.976 or 29.97."""
HD_ROWS = 720
"""From this height on, a film that does not name its matrix is taken as BT.709, below as BT.601: as players do."""
ENCODED_BYTES = 128
"""For each pixel: some 25 pictures, with what x264 makes of them, that it looks ahead and works on."""
NOISE_BITS = 5
"""For each pixel of each frame, at most: white noise at CRF 19 takes 4.74, grain of a deviation of 12 levels 1.76."""
SOUND_BYTES = 4 * 48_000
"""For each second: what is not compressed at all."""
CONTAINER_BYTES = 100_000
MP4_PARTS = (b"moov", b"moof")
"""What names the tracks; frames that are missing are found when they are decoded."""
EBML_HEAD, MATROSKA_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MAX_RATE = 1000
MAX_TIMESCALE = 10_000_000
"""Ticks a second of a file's clock that 32 bits still hold for minutes."""


def frame_rate(fps: float | Fraction) -> Fraction:
    """Frames a second as a fraction: 23.976 (23.98) is 24000/1001, 29.97 is 30000/1001, 12.5 is 25/2.

    Raises UserError unless it is above 0 and at most 1000.
    """
    if not 0 < fps <= MAX_RATE:
        raise UserError(
            f"{fps} frames a second cannot be written; a rate is above 0 and at most {MAX_RATE}, such as 24."
        )
    if isinstance(fps, Fraction):
        return fps
    for nominal in NTSC:
        exact = Fraction(nominal * 1000, 1001)
        if any(round(fps, places) == round(float(exact), places) == fps for places in (2, 3, 4, 5)):
            return exact
    # Rates are ratios of small numbers; 1001 covers what is left of the broadcast family.
    return Fraction(fps).limit_denominator(1001)


def bytes_needed(frames: int, height: int, width: int, seconds: float = 0.0) -> int:
    """At most what a film of such frames takes on disk, with `seconds` of sound."""
    return frames * height * width * NOISE_BITS // 8 + round(seconds * SOUND_BYTES) + CONTAINER_BYTES


def check_output(path: str | Path, *, sound: bool = False, audio_from: str | Path | None = None) -> Path:
    """The path, once it is sure that a video can be written there; else raises UserError.

    sound: whether a waveform will be encoded with it; audio_from: a file whose sound it is to hold as it is.
    """
    path = check_place(path, SUFFIXES)
    check_encoders([H264, *([codec_of(CONTAINERS[path.suffix.lower()])] if sound else [])])
    if audio_from is not None:
        check_copy(Path(audio_from), CONTAINERS[path.suffix.lower()])
    return path


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    *,
    audio: tuple[np.ndarray, int] | None = None,
    audio_from: str | Path | None = None,
    crf: int = 19,
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Writes frames, and sound if there is any, as one file, whole or not at all; returns how many frames it has.

    frames: (H, W, 3) uint8, all of one size, taken one by one; the last row or column of an odd size is left out, since
    4:2:0 has even sizes alone. audio: a waveform (2, S) and its rate, written as AAC (in .mkv as FLAC) exactly as long
    as the frames. audio_from: a file whose sound is copied as it is instead. metadata: kept in its tags, as
    `media.settings` has them.
    H.264, yuv420p, converted with and tagged as BT.709, limited range; crf is x264's.
    Raises UserError as `check_output` does, where the disk fills up, and for sound that the format cannot hold;
    RunError where the encoder or the disk fails; ValueError for frames that are not as said, or none.
    """
    import av

    path, rate = check_output(path, sound=audio is not None), frame_rate(fps)
    if audio is not None and audio_from is not None:
        raise ValueError("Either audio or audio_from, not both.")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("There are no frames to write.")
    _check_frame(first, first.shape)
    kind, options = CONTAINERS[path.suffix.lower()], {}
    if kind != "matroska":
        # MP4's usual clock of milliseconds would cut the sound by up to one of them.
        ticks = math.lcm(rate.numerator, audio[1]) if audio else rate.numerator
        options = {"movflags": "+faststart+use_metadata_tags", "movie_timescale": str(min(ticks, MAX_TIMESCALE))}
    with (
        replacing(path) as temporary,
        _encoding(path),
        av.open(str(temporary), "w", format=kind, container_options=options) as container,
    ):
        if metadata:
            container.metadata.update(tags(metadata))
        stream = _h264(container, rate, first.shape, {"crf": str(crf), "preset": "veryfast"})
        convert = _yuv_converter()
        with open_track(container, audio, None if audio_from is None else Path(audio_from)) as sound:
            for count, frame in enumerate(itertools.chain([first], frames), start=1):
                _check_frame(frame, first.shape)
                picture = convert(frame)
                picture.pts, picture.time_base = count - 1, 1 / rate
                container.mux(stream.encode(picture))
                sound.write_until(count / rate)
            container.mux(stream.encode())
            sound.finish()
    return count


@contextmanager
def _encoding(path: Path) -> Iterator[None]:
    from av import FFmpegError

    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise  # the disk's, which `replacing` names
        raise RunError(f"{path} was not written: the encoder failed ({error.strerror}).") from error


def _check_frame(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < 2:
        raise ValueError(f"A frame is (H, W, 3) uint8 of at least 2 x 2 pixels; got {frame.shape} {frame.dtype}.")
    if frame.shape != shape:
        raise ValueError(f"All frames have one size; got {frame.shape} after {shape}.")


def _h264(
    container: av.container.OutputContainer, rate: Fraction, shape: tuple[int, ...], options: dict[str, str]
) -> Any:
    # Averaging over 2x2 pixels puts a colour sample in their middle; x264 would say it stands at their left.
    stream = container.add_stream(H264, rate=rate, options={**options, "x264-params": "chromaloc=1"})
    context = stream.codec_context
    context.height, context.width = (side // 2 * 2 for side in shape[:2])
    context.pix_fmt = "yuv420p"
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED
    context.thread_type = "FRAME"  # whole pictures in parallel; slices of one would cost quality
    return stream


def _yuv_converter() -> Callable[[np.ndarray], av.VideoFrame]:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()

    def convert(frame: np.ndarray) -> av.VideoFrame:
        height, width = (side // 2 * 2 for side in frame.shape[:2])
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        return reformatter.reformat(
            picture, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED, interpolation=TO_YUV
        )

    return convert


@dataclass(frozen=True)
class Film:
    """A video file that was read through once: what it holds, and its frames as often as they are asked for.

    fps: its mean rate; count: frames; height, width: as shown, after rotation; sound: whether it has a sound track.
    """

    path: Path
    fps: Fraction
    count: int
    height: int
    width: int
    sound: bool

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, (H, W, 3) uint8 sRGB, upright, decoded as they are taken."""
        for frame in _decode(self.path):
            yield _to_rgb(frame)


def read_video(path: str | Path, on_frame: Callable[[int, int], None] = lambda done, total: None) -> Film:
    """Reads a video file through, so that a damaged one is known before any work goes into it.

    on_frame: told how many frames are read, and how many there are by the file's own word, at least as many.

    Raises UserError where the file is absent, empty, holds no video or is damaged.
    """
    import av

    path = check_input(path, "a video file")
    try:
        with open_file(path) as container:
            if "mp4" in container.format.name:
                _check_whole(path)
            elif "matroska" in container.format.name:
                _check_whole_matroska(path)
            stream = _pictures(container)
            if stream is None:
                raise UserError(f"{path} has no pictures; give a video file.")
            if stream.codec_context is None:
                raise UserError(f"The pictures of {path} are in a form that cannot be decoded; save it as H.264.")
            fps = stream.average_rate or stream.guessed_rate
            stated, sound = stream.frames, container.streams.best("audio") is not None
    except av.FFmpegError as error:
        raise UserError(f"{path} is not a video that can be read: {error.strerror}.") from error
    shape, count = None, 0
    for frame in _decode(path):
        shape = shape or _upright_size(frame)
        count += 1
        on_frame(count, max(count, stated))
    if shape is None or not fps:
        raise UserError(f"{path} holds no frame that can be read; it is damaged or no video.")
    return Film(path, Fraction(fps), count, *shape, sound)


def _check_whole(path: Path) -> None:
    """Raises UserError where a part of an MP4 goes on behind the file's end: with it a whole track may be missing."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4]), head[4:8]
            length = int.from_bytes(head[8:]) if length == 1 else length or size - start
            if kind in MP4_PARTS and start + length > size:
                missing = start + length - size
                raise UserError(
                    f"{path} is cut short: {missing} bytes of its part {kind.decode()!r} are missing; "
                    f"give a video file that is whole."
                )
            if length < 8:
                return  # FFmpeg has its own word on such files
            start += length


def _check_whole_matroska(path: Path) -> None:
    """Raises UserError where a Matroska file ends before what its segment says; one made live may say nothing."""
    with path.open("rb") as file:
        head = file.read(4096)
    start = 0
    for name in (EBML_HEAD, MATROSKA_SEGMENT):
        if head[start : start + 4] != name or len(head) < start + 12:
            return  # FFmpeg has its own word on such files
        start += 4
        # The first byte's leading zeros say how many bytes the number has; all ones say that nobody knows.
        width = 9 - head[start].bit_length()
        number = int.from_bytes(head[start : start + width]) & ((1 << 7 * width) - 1)
        known = number != (1 << 7 * width) - 1
        start += width + (number if name == EBML_HEAD else 0)
    missing = start + number - path.stat().st_size
    if known and missing > 0:
        raise UserError(f"{path} is cut short: {missing} bytes are missing; give a video file that is whole.")


def _decode(path: Path) -> Iterator[av.VideoFrame]:
    import av

    count = 0
    try:
        with open_file(path) as container:
            stream = _pictures(container)
            if stream is None:
                return
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                frames = stream.decode(packet)
                if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                    raise UserError(f"{path} is damaged or cut short at frame {count}.")
                yield from frames
                count += len(frames)
    except av.FFmpegError as error:
        raise UserError(f"{path} is damaged at frame {count}: {error.strerror}.") from error


def _pictures(container: av.container.InputContainer) -> av.VideoStream | None:
    return cast("av.VideoStream | None", container.streams.best("video"))


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    return (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:
        matrix = BT709 if frame.height >= HD_ROWS else BT601
    # PyAV before 17 uses the source's matrix only where the target is said to have another; RGB has none.
    colours: dict[str, Any] = {
        "src_colorspace": matrix, "dst_colorspace": BT601, "src_color_range": frame.color_range
    }  # fmt: skip
    array = frame.to_ndarray(format="rgb24", interpolation=TO_RGB, **colours)
    return np.ascontiguousarray(np.rot90(array, _quarter_turns(frame)))


@contextmanager
def frame_folder(folder: str | Path) -> Iterator[Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]]:
    """A new folder of pictures that appears when the `with` block ends well, and leaves nothing when it does not.

    Gives a function that hands frames on and writes each on its way, so that one decoding serves a film and a folder.
    Raises UserError as `check_new_folder` does.
    """
    with replacing(check_new_folder(folder), folder=True) as temporary:

        def tee(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for number, frame in enumerate(frames):
                save_image(temporary / f"frame_{number:05d}.png", frame)
                yield frame

        yield tee
