"""Films written and read back: frames, rates, colours, sound, whole or not at all."""

import gc
import json
import os
import struct
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from mlx_video.media import settings
from mlx_video.media.audio import read_audio, write_wav
from mlx_video.media.image import compress, read_image
from mlx_video.media.video import (
    bytes_needed,
    check_output,
    frame_folder,
    frame_rate,
    read_video,
    write_video,
)
from mlx_video.types import RunError, UserError
from tests.support import films

RATE = 24_000
COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "cyan": (0, 255, 255),
    "magenta": (255, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0), "skin": (224, 172, 105),
}  # fmt: skip


def bars(count: int, height: int = 64, width: int = 144):
    """Flat bars of 16 pixels that move on by one bar a frame."""
    colours = np.array(list(COLOURS.values()), np.uint8)
    for number in range(count):
        row = colours[(np.arange(width) // 16 + number) % len(colours)]
        yield np.repeat(row[None], height, axis=0)


def middles(frame: np.ndarray) -> np.ndarray:
    """One pixel from the middle of each bar, away from where 4:2:0 mixes colours."""
    return frame[frame.shape[0] // 2, 8::16].astype(int)


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A rising tone, so that any shift in time is seen."""
    t = np.arange(round(seconds * rate)) / rate
    sweep = 0.4 * np.sin(2 * np.pi * (300 * t + 400 * t * t))
    return np.stack([sweep, 0.5 * sweep]).astype(np.float32)


def lag(heard: np.ndarray, original: np.ndarray, most: int = 3000) -> int:
    """By how many samples `heard` is late."""
    n = min(len(heard), len(original))
    size = 1 << (2 * n).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard[:n], size) * np.fft.rfft(original[:n], size).conj(), size)
    around = np.r_[product[-most:], product[: most + 1]]
    return int(around.argmax()) - most


# ------------------------------------------------------------------------------------------------ rates and frames


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (24, Fraction(24)), (25.0, Fraction(25)), (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)), (8 + 1 / 3, Fraction(25, 3)), (24.5, Fraction(49, 2)), (1, Fraction(1)),
        (Fraction(7, 3), Fraction(7, 3)), (0.5, Fraction(1, 2)),
    ],
)  # fmt: skip
def test_frame_rate(given, expected):
    assert frame_rate(given) == expected


@pytest.mark.parametrize("given", [0, -24, float("nan"), float("inf"), 1001])
def test_frame_rate_refuses(given):
    with pytest.raises(UserError, match="frames a second"):
        frame_rate(given)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("fps", "count"), [(24, 33), (23.976, 9), (29.97, 17), (12.5, 9), (60, 2), (24, 1), (1, 3)])
def test_count_and_rate_are_exact(suffix, fps, count, tmp_path):
    path = tmp_path / f"a{suffix}"
    assert write_video(path, bars(count), fps) == count
    film = read_video(path)
    assert (film.count, film.height, film.width, film.sound) == (count, 64, 144, False)
    assert film.fps == frame_rate(fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(stream)]
        exact = 1e-3 if suffix == ".mkv" else 1e-6  # Matroska counts in milliseconds
        assert times == pytest.approx([float(i / frame_rate(fps)) for i in range(count)], abs=exact)
        if suffix != ".mkv":
            assert stream.duration * stream.time_base == count / frame_rate(fps)
            assert container.duration == pytest.approx(float(count / frame_rate(fps)) * 1e6, abs=1.5)


def test_order_of_frames(tmp_path):
    write_video(tmp_path / "a.mp4", bars(20), 24)
    for ours, original in zip(read_video(tmp_path / "a.mp4").frames(), bars(20), strict=True):
        assert np.abs(middles(ours) - middles(original)).max() <= 2


def test_film_is_read_as_often_as_wanted(tmp_path):
    write_video(tmp_path / "a.mp4", bars(5), 24)
    film = read_video(tmp_path / "a.mp4")
    first = next(film.frames())
    assert [len(list(film.frames())) for _ in range(2)] == [5, 5]
    np.testing.assert_array_equal(first, next(film.frames()))


def test_memory_does_not_grow_with_the_clip(tmp_path):
    alive: list[int] = []
    seen = []

    def frames():
        for number in range(200):
            frame = np.full((32, 32, 3), number, np.uint8)
            seen.append(weakref.ref(frame))
            yield frame
            del frame
            if number % 50 == 49:
                gc.collect()
                alive.append(sum(ref() is not None for ref in seen))

    write_video(tmp_path / "a.mp4", frames(), 24)
    assert max(alive) <= 3


def test_odd_sizes_lose_their_last_row_or_column(tmp_path):
    write_video(tmp_path / "a.mp4", (frame[:63, :143] for frame in bars(3)), 24)
    film = read_video(tmp_path / "a.mp4")
    assert (film.height, film.width) == (62, 142)


# ------------------------------------------------------------------------------------------------ colours


def test_colours_are_bt709_converted_and_tagged(tmp_path):
    write_video(tmp_path / "a.mp4", bars(1), 24, crf=4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.codec.name) == ("yuv420p", "h264")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        planes = next(container.decode(video=0)).to_ndarray()
    luma = planes[:64][32, 8::16].astype(float)
    blue = planes[64:80].reshape(32, 72)[16, 4::8].astype(float)
    red = planes[80:].reshape(32, 72)[16, 4::8].astype(float)
    # From the standard: BT.709 weights, limited range.
    r, g, b = (np.array(list(COLOURS.values())) / 255).T
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    assert np.abs(luma - (16 + 219 * y)).max() <= 1
    assert np.abs(blue - (128 + 224 * (b - y) / 1.8556)).max() <= 1
    assert np.abs(red - (128 + 224 * (r - y) / 1.5748)).max() <= 1


def test_colours_come_back(tmp_path):
    write_video(tmp_path / "a.mp4", bars(2), 24)
    for ours, original in zip(read_video(tmp_path / "a.mp4").frames(), bars(2), strict=True):
        assert np.abs(middles(ours) - middles(original)).max() <= 2


def foreign(path: Path, *, matrix: int, tagged: bool, full: bool = False, height: int = 64) -> Path:
    """A film by somebody else: another matrix, with or without a tag that says so, limited or full range."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 144, height, "yuv420p"
        if tagged:
            stream.codec_context.colorspace = {1: 1, 5: 6}[matrix]
            stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame.from_ndarray(next(bars(1, height)), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=2 if full else 1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "kind",
    [
        {"matrix": 1, "tagged": True},
        {"matrix": 5, "tagged": True},
        {"matrix": 1, "tagged": True, "full": True},
        {"matrix": 5, "tagged": False},  # a small film without a tag is BT.601
        {"matrix": 1, "tagged": False, "height": 720},  # a large one BT.709
    ],
)
def test_foreign_colours_are_understood(kind, tmp_path):
    film = read_video(foreign(tmp_path / "a.mp4", **kind))
    assert np.abs(middles(next(film.frames())) - middles(next(bars(1)))).max() <= 3


@pytest.mark.parametrize(
    ("degrees", "matrix"),
    [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))],
)
def test_rotation(degrees, matrix, tmp_path):
    write_video(tmp_path / "a.mp4", (frame[:, :96] for frame in bars(1)), 24)
    upright = next(read_video(tmp_path / "a.mp4").frames())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # the track header's display matrix, 16.16 fixed point
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(data)
    film = read_video(tmp_path / "b.mp4")
    turned = next(film.frames())
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90))  # clockwise, as phones mean it
    assert turned.shape[:2] == (film.height, film.width)


# ------------------------------------------------------------------------------------------------ sound


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize(("fps", "count"), [(24, 33), (23.976, 25)])
def test_sound_is_as_long_as_the_pictures_and_in_place(suffix, rate, fps, count, tmp_path):
    path = tmp_path / f"a{suffix}"
    seconds = count / frame_rate(fps)
    original = tone(float(seconds) + 0.5, rate)
    write_video(path, bars(count), fps, audio=(original, rate))
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == ("flac" if suffix == ".mkv" else "aac")
        assert (sound.rate, sound.codec_context.channels) == (rate, 2)
        if suffix != ".mkv":
            assert sound.duration * sound.time_base == Fraction(round(seconds * rate), rate)
        first = next(container.decode(sound))
        assert first.pts == 0
    heard, found = read_audio(path)
    expected = round(seconds * rate)
    assert (found, heard.shape[1]) == (rate, expected)
    assert lag(heard[0, :expected], original[0]) == 0
    assert np.abs(heard[:, 3000 : expected - 3000] - original[:, 3000 : expected - 3000]).max() < 0.08
    for channel in range(2):
        level = np.sqrt(np.square(heard[channel, :expected]).mean() / np.square(original[channel, :expected]).mean())
        assert level == pytest.approx(1, abs=0.02)


def test_short_sound_is_followed_by_silence(tmp_path):
    write_video(tmp_path / "a.mp4", bars(48), 24, audio=(tone(0.5), RATE))
    heard, _ = read_audio(tmp_path / "a.mp4")
    assert heard.shape == (2, 2 * RATE)
    assert np.abs(heard[:, RATE // 2 + 2048 :]).max() < 1e-3
    assert np.abs(heard[:, : RATE // 2]).max() > 0.3


@pytest.mark.parametrize(("rate", "written"), [(37_800, 44_100), (192_000, 96_000), (44_056, 44_100)])
def test_rates_that_aac_lacks_are_raised(rate, written, tmp_path):
    write_video(tmp_path / "a.mp4", bars(24), 24, audio=(tone(1.0, rate), rate))
    heard, found = read_audio(tmp_path / "a.mp4")
    assert (found, heard.shape[1]) == (written, written)
    assert abs(lag(heard[0], tone(1.0, written)[0])) <= 1


def test_sound_and_pictures_are_interleaved(tmp_path):
    write_video(tmp_path / "a.mp4", bars(96), 24, audio=(tone(4.0), RATE))
    with av.open(str(tmp_path / "a.mp4")) as container:
        places = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.pos and packet.dts is not None:
                places[packet.stream.type].append(packet.pos)
    assert min(places["audio"]) < np.median(places["video"]) < max(places["audio"])


def test_file_starts_with_its_index(tmp_path):
    write_video(tmp_path / "a.mp4", bars(9), 24)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def packets(path: Path) -> list[tuple[float, bytes]]:
    """The sound's packets, and when each begins beside the first picture."""
    with av.open(str(path)) as container:
        start = float(next(container.decode(video=0)).time)
    with av.open(str(path)) as container:
        return [
            (float(packet.pts * packet.time_base) - start, bytes(packet))
            for packet in container.demux(audio=0)
            if packet.pts is not None
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_copied_sound_is_untouched(suffix, tmp_path):
    source, target = tmp_path / "source.mp4", tmp_path / f"target{suffix}"
    write_video(source, bars(40), 23.976, audio=(tone(3.0, 44_100), 44_100))
    film = read_video(source)
    write_video(target, film.frames(), film.fps, audio_from=source)
    before, after = packets(source), packets(target)
    assert [data for _, data in before] == [data for _, data in after]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=2e-3)
    if suffix != ".mkv":
        np.testing.assert_array_equal(read_audio(source)[0], read_audio(target)[0])
    assert read_video(target).fps == film.fps


def test_copied_sound_keeps_its_place_beside_pictures_that_start_late(tmp_path):
    source = tmp_path / "source.ts"
    original = tone(2.0, 48_000)
    with av.open(str(source), "w") as container:
        pictures = container.add_stream("libx264", rate=24, options={"tune": "zerolatency"})
        pictures.width, pictures.height, pictures.pix_fmt = 144, 64, "yuv420p"
        sound = container.add_stream("aac", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(original, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(sound.encode(frame))
        for number, array in enumerate(bars(24)):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts, picture.time_base = number + 12, Fraction(1, 24)  # half a second after the sound
            container.mux(pictures.encode(picture))
        for stream in (pictures, sound):
            container.mux(stream.encode())
    film = read_video(source)
    write_video(tmp_path / "target.mp4", film.frames(), film.fps, audio_from=source)
    heard, _ = read_audio(tmp_path / "target.mp4")
    assert abs(lag(heard[0], original[0, 24_000:])) <= 48  # what was heard with the first picture still is, within 1 ms


def test_copying_from_a_silent_film_gives_a_silent_film(tmp_path):
    write_video(tmp_path / "a.mp4", bars(3), 24)
    write_video(tmp_path / "b.mp4", bars(3), 24, audio_from=tmp_path / "a.mp4")
    assert not read_video(tmp_path / "b.mp4").sound


def test_copying_refuses_what_the_format_cannot_hold(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        sound = container.add_stream("wavpack", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(tone(1.0), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for piece in (frame, None):
            container.mux(sound.encode(piece))
    with pytest.raises(UserError, match=r"wavpack.*mp4 files cannot hold; write \.mkv"):
        write_video(tmp_path / "b.mp4", bars(3), 24, audio_from=tmp_path / "a.mkv")
    with pytest.raises(UserError, match=r"wavpack.*mp4 files cannot hold; write \.mkv"):
        check_output(tmp_path / "b.mp4", audio_from=tmp_path / "a.mkv")
    assert check_output(tmp_path / "b.mkv", audio_from=tmp_path / "a.mkv") == tmp_path / "b.mkv"
    with pytest.raises(UserError, match="cannot be read"):
        write_video(tmp_path / "b.mp4", bars(3), 24, audio_from=tmp_path / "none.mp4")
    assert os.listdir(tmp_path) == ["a.mkv"]


# ------------------------------------------------------------------------------------------------ what goes with it


def test_settings_are_kept_for_programs_galleries_and_people(tmp_path):
    about = {"prompt": 'a "fox", größer 🦊', "seed": 42, "steps": [8, 3], "path": Path("x")}
    for suffix in (".mp4", ".mov", ".mkv"):
        write_video(tmp_path / f"a{suffix}", bars(2), 24, metadata=about)
        with av.open(str(tmp_path / f"a{suffix}")) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(tags["mlx_video"]) == settings.read(tmp_path / f"a{suffix}") == {**about, "path": "x"}
        assert tags["parameters"].startswith('a "fox", größer 🦊\nSteps: [8, 3], Seed: 42')
        assert tags["comment"] == 'a "fox", größer 🦊 (seed 42, mlx_video)'


def test_a_copied_sound_leaves_the_settings_as_they_are(tmp_path):
    write_video(tmp_path / "a.mp4", bars(3), 24, audio=(np.zeros((2, 6000), np.float32), 48_000), metadata={"seed": 1})
    write_video(tmp_path / "b.mp4", bars(3), 24, audio_from=tmp_path / "a.mp4", metadata={"seed": 2})
    assert [settings.read(tmp_path / f"{name}.mp4") for name in "ab"] == [{"seed": 1}, {"seed": 2}]


def test_a_film_of_another_program_has_no_settings(tmp_path):
    write_video(tmp_path / "a.mp4", bars(3), 24)
    with pytest.raises(UserError, match="has no settings of mlx_video in it"):
        settings.read(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"not a film")
    with pytest.raises(UserError, match="cannot be read as a video"):
        settings.read(tmp_path / "b.mp4")


# ------------------------------------------------------------------------------------------------ whole or not at all


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("with_sound", [False, True])
def test_failure_in_the_middle_leaves_nothing(error, with_sound, tmp_path):
    (tmp_path / "a.mp4").write_text("old")

    def failing():
        yield from bars(12)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_video(tmp_path / "a.mp4", failing(), 24, audio=(tone(1.0), RATE) if with_sound else None)
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "old"


def test_wrong_frames_leave_nothing(tmp_path):
    good = next(bars(1))
    for wrong in ([], [good, good[:32]], [good.astype(np.float32)], [good[..., :1]], [good[:1]], [good[None]]):
        with pytest.raises(ValueError, match="frame"):
            write_video(tmp_path / "a.mp4", wrong, 24)
    with pytest.raises(ValueError, match="waveform"):
        write_video(tmp_path / "a.mp4", bars(3), 24, audio=(tone(1.0).T, RATE))
    with pytest.raises(ValueError, match="not both"):
        write_video(tmp_path / "a.mp4", bars(3), 24, audio=(tone(1.0), RATE), audio_from="x")
    assert not os.listdir(tmp_path)


def test_place_is_checked_before_the_first_frame_is_made(tmp_path):
    def never():
        pytest.fail("a frame was asked for")
        yield

    for path in (tmp_path / "none" / "a.mp4", tmp_path / "a.avi"):
        with pytest.raises(UserError):
            write_video(path, never(), 24)
        with pytest.raises(UserError):
            check_output(path)
    with pytest.raises(UserError):
        write_video(tmp_path / "a.mp4", never(), 0)
    assert check_output(tmp_path / "a.mov") == tmp_path / "a.mov"


# ------------------------------------------------------------------------------------------------ broken films


def test_unreadable_films(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    write_video(tmp_path / "good.mp4", (np.roll(base, 3 * i, 1) for i in range(20)), 24)
    good = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a film" * 50)
    (tmp_path / "head.mp4").write_bytes(good[:200])
    (tmp_path / "half.mp4").write_bytes(good[: len(good) // 2])
    (tmp_path / "most.mp4").write_bytes(good[:-200])
    garbled = bytearray(good)
    middle = len(good) // 2
    garbled[middle : middle + 2000] = rng.bytes(2000)
    (tmp_path / "garbled.mp4").write_bytes(garbled)
    for name, message in (
        ("none.mp4", "does not exist"),
        ("zero.mp4", "0 bytes"),
        ("text.mp4", "not a video that can be read"),
        ("head.mp4", "give a video file"),
        ("half.mp4", "damaged or cut short at frame"),
        ("most.mp4", "damaged or cut short at frame"),
        ("garbled.mp4", "damaged"),
    ):
        with pytest.raises(UserError, match=message):
            read_video(tmp_path / name)
    assert read_video(tmp_path / "good.mp4").count == 20


def test_sound_alone_is_no_film(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.2), RATE)
    with pytest.raises(UserError, match="no pictures"):
        read_video(tmp_path / "a.wav")


# ------------------------------------------------------------------------------------------------ folders of pictures


def write_frames(path, frames):
    with frame_folder(path) as tee:
        return sum(1 for _ in tee(frames))


def test_frames_become_a_folder_of_pictures(tmp_path):
    assert write_frames(tmp_path / "frames", bars(12)) == 12
    assert sorted(os.listdir(tmp_path / "frames")) == [f"frame_{i:05d}.png" for i in range(12)]
    for number, frame in enumerate(bars(12)):
        np.testing.assert_array_equal(read_image(tmp_path / "frames" / f"frame_{number:05d}.png"), frame)
    with pytest.raises(UserError, match="is there already"):
        write_frames(tmp_path / "frames", bars(2))


def test_one_pass_serves_a_film_and_a_folder(tmp_path):
    with frame_folder(tmp_path / "frames") as tee:
        write_video(tmp_path / "a.mp4", tee(bars(7)), 24)
        assert sorted(os.listdir(tmp_path))[-1] == "a.mp4"
    assert len(os.listdir(tmp_path / "frames")) == read_video(tmp_path / "a.mp4").count == 7


def test_folder_goes_where_the_film_fails(tmp_path):
    def failing():
        yield from bars(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), frame_folder(tmp_path / "frames") as tee:
        write_video(tmp_path / "a.mp4", tee(failing()), 24)
    assert not os.listdir(tmp_path)


def test_a_film_that_lacks_a_piece_of_any_part_is_refused(tmp_path):
    films.write(tmp_path / "whole.mp4", 5, 64, 64)
    whole = (tmp_path / "whole.mp4").read_bytes()
    parts, start = {}, 0
    while start < len(whole):
        length = int.from_bytes(whole[start : start + 4])
        parts[whole[start + 4 : start + 8]] = (start, start + length)
        start += length
    assert list(parts)[-1] == b"moov"  # the sound's track comes last of all
    for kind in (b"moov", b"mdat"):
        start, stop = parts[kind]
        for cut in np.linspace(start + 8, stop - 1, 25).astype(int):
            (tmp_path / "cut.mp4").write_bytes(whole[:cut])
            with pytest.raises(UserError, match=r"cut short|damaged|not a video|no pictures"):
                read_video(tmp_path / "cut.mp4")
    assert read_video(tmp_path / "whole.mp4").sound


def test_a_matroska_file_that_is_cut_is_refused(tmp_path):
    films.write(tmp_path / "whole.mkv", 9, 64, 64)
    whole = (tmp_path / "whole.mkv").read_bytes()
    assert read_video(tmp_path / "whole.mkv").count == 9
    for cut in np.linspace(200, len(whole) - 1, 25).astype(int):
        (tmp_path / "cut.mkv").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"cut short|damaged|not a video|no pictures"):
            read_video(tmp_path / "cut.mkv")
    # One that was made live does not say how long it is.
    at = whole.index(b"\x18\x53\x80\x67") + 4
    (tmp_path / "live.mkv").write_bytes(whole[:at] + b"\x01" + b"\xff" * 7 + whole[at + 8 :])
    assert read_video(tmp_path / "live.mkv").count == 9


# ------------------------------------------------------------------------------------------------ encoders


def test_an_encoder_that_pyav_lacks_is_told_before_anything_is_made(tmp_path, monkeypatch):
    codec = av.codec.Codec

    def lgpl(name, mode="r"):
        if name == "libx264":
            raise UnknownCodecError(name)
        return codec(name, mode)

    monkeypatch.setattr(av.codec, "Codec", lgpl)
    for check in (lambda: check_output(tmp_path / "a.mp4"), lambda: compress(np.zeros((8, 8, 3), np.uint8), 33)):
        with pytest.raises(UserError, match=r"cannot encode with libx264.*it has .*h264"):
            check()
    monkeypatch.setattr(av.codec, "Codec", lambda name, mode="r": lgpl({"aac": "libx264"}.get(name, "mpeg4"), mode))
    check_output(tmp_path / "a.mp4")
    check_output(tmp_path / "a.mkv", sound=True)
    with pytest.raises(UserError, match="cannot encode with aac"):
        check_output(tmp_path / "a.mp4", sound=True)


def test_an_encoder_that_fails_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def broken(array, format):
        raise av.error.ExternalError(1, "Generic error in an external library", "x264")

    monkeypatch.setattr(av, "VideoFrame", SimpleNamespace(from_ndarray=broken))
    with pytest.raises(RunError, match=r"a\.mp4 was not written: the encoder failed"):
        write_video(tmp_path / "a.mp4", bars(3), 24)
    assert not os.listdir(tmp_path)


def test_a_film_of_noise_takes_what_it_may(tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (9, 128, 160, 3), np.uint8)
    sound = np.random.default_rng(2).uniform(-1, 1, (2, 9000)).astype(np.float32)
    for name, audio in (("a.mp4", None), ("b.mp4", (sound, RATE)), ("c.mkv", (sound, RATE))):
        write_video(tmp_path / name, frames, 24, audio=audio)
        most = bytes_needed(9, 128, 160, 9 / 24 if audio else 0.0)
        assert 0.3 * most < (tmp_path / name).stat().st_size <= most
