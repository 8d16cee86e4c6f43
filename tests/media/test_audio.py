"""Sound in and out: formats, spans, channels, refusals."""

import contextlib
import os
import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from mlx_video.media.audio import fit, read_audio, resample, write_wav
from mlx_video.media.video import write_video
from mlx_video.types import UserError

RATE = 24_000


def tones(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """440 Hz at -6 dB on the left, 990 Hz at -12 dB on the right."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.25 * np.sin(2 * np.pi * 990 * t)]).astype(np.float32)


def encoded(path, waveform: np.ndarray, codec: str, rate: int = RATE, layout: str = "stereo", form: str | None = None):
    """A sound file by any codec that FFmpeg has here."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        form = form or ("fltp" if waveform.dtype == np.float32 else "s16p")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), format=form, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in (frame, None):
            container.mux(stream.encode(piece))
    return path


def pitch(samples: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


@pytest.mark.parametrize(
    ("name", "codec", "loss"),
    [
        ("a.wav", "pcm_s16le", 1e-4),
        ("a.wav", "pcm_s24le", 1e-6),
        ("a.wav", "pcm_f32le", 0),
        ("a.wav", "pcm_u8", 1e-2),
        ("a.flac", "flac", 1e-4),
        ("a.mp3", "libmp3lame", 3e-2),
        ("a.m4a", "aac", 6e-2),
        ("a.ogg", "libopus", 3e-2),
        ("a.mka", "flac", 1e-4),
    ],
)
def test_formats(name, codec, loss, tmp_path):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    rate = 48_000 if codec == "libopus" else RATE
    original = tones(rate=rate)
    path = encoded(tmp_path / name, original, codec, rate)
    waveform, found = read_audio(path)
    assert (found, waveform.dtype) == (rate, np.float32)
    # MP3 and Opus do not say where the sound ends in their last block.
    assert 0 <= waveform.shape[1] - original.shape[1] <= (2400 if codec in ("libmp3lame", "libopus") else 0)
    n = original.shape[1]
    inner = slice(2000, n - 2000)  # codecs ring at the edges
    assert np.abs(waveform[:, :n][:, inner] - original[:, inner]).max() <= loss
    assert pitch(waveform[0], rate) == pytest.approx(440, abs=1)
    assert pitch(waveform[1], rate) == pytest.approx(990, abs=1)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.m4a", "aac"), ("a.mp3", "libmp3lame")]
)
def test_spans(name, codec, tmp_path):
    path = encoded(tmp_path / name, tones(), codec)
    whole, _ = read_audio(path)
    part, _ = read_audio(path, 0.7, 0.4)
    np.testing.assert_array_equal(part, whole[:, round(0.7 * RATE) :][:, : round(0.4 * RATE)])
    rest, _ = read_audio(path, 1.5)
    np.testing.assert_array_equal(rest, whole[:, round(1.5 * RATE) :])
    beyond, _ = read_audio(path, 1.5, 100.0)
    np.testing.assert_array_equal(beyond, rest)


def test_mono_is_doubled(tmp_path):
    path = encoded(tmp_path / "a.wav", tones()[:1], "pcm_f32le", layout="mono")
    waveform, _ = read_audio(path)
    np.testing.assert_array_equal(waveform, tones()[[0, 0]])


def test_surround_is_mixed_down(tmp_path):
    half = 1 / np.sqrt(2)
    expected = {0: (1, 0), 1: (0, 1), 2: (half, half), 3: (0, 0), 4: (half, 0), 5: (0, half)}  # L R C LFE Ls Rs
    for channel, gains in expected.items():
        sound = np.zeros((6, RATE // 10), np.float32)
        sound[channel] = 0.5
        waveform, _ = read_audio(encoded(tmp_path / "a.wav", sound, "pcm_f32le", layout="5.1"))
        np.testing.assert_allclose(waveform[:, 1000], np.array(gains) * 0.5, atol=1e-4)


def test_surround_does_not_clip(tmp_path):
    loud = np.full((6, RATE // 10), 0.9, np.float32)
    waveform, _ = read_audio(encoded(tmp_path / "a.wav", loud, "pcm_f32le", layout="5.1"))
    assert np.abs(waveform).max() == pytest.approx(1.0)


def test_track_of_a_video(tmp_path):
    frames = [np.full((32, 32, 3), 8 * i, np.uint8) for i in range(24)]
    write_video(tmp_path / "a.mp4", frames, 24, audio=(tones(1.0), RATE))
    waveform, rate = read_audio(tmp_path / "a.mp4")
    assert (waveform.shape, rate) == ((2, RATE), RATE)
    assert pitch(waveform[0], rate) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_late_track_keeps_its_place_beside_the_pictures(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=24)
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("mp2", rate=48_000, layout="stereo")  # a codec without samples before the start
        for number in range(48):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * number, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 24)
            container.mux(pictures.encode(picture))
        samples = (tones(1.0, 48_000) * 32767).astype(np.int16).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 24_000, Fraction(1, 48_000)
        for piece in (frame, None):
            container.mux(sound.encode(piece))
        container.mux(pictures.encode())
    waveform, rate = read_audio(path)
    heard = np.abs(waveform[0]) > 0.1
    assert heard.argmax() / rate == pytest.approx(0.5, abs=0.025)
    assert not heard[: round(0.45 * rate)].any()


def test_refusals(tmp_path):
    write_video(tmp_path / "silent.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, 24)
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("la la la" * 100)
    write_wav(tmp_path / "good.wav", tones(), RATE)
    for name, start, message in (
        ("none.wav", 0, "does not exist"),
        ("zero.wav", 0, "0 bytes"),
        ("text.wav", 0, "cannot be read as sound"),
        ("silent.mp4", 0, "no sound track"),
        ("good.wav", 2.0, r"2\.00 s long; a start of 2 s"),
        ("good.wav", 99, "past its end"),
        ("good.wav", -1, "-1 s"),
        ("good.wav", float("nan"), "nan"),
        ("good.wav", 1e308, "must be from 0 to"),
    ):
        with pytest.raises(UserError, match=message):
            read_audio(tmp_path / name, start)
    with pytest.raises(UserError, match="past its end"):
        read_audio(tmp_path / "good.wav", 3.0, 1.0)


@contextlib.contextmanager
def taking_at_most(size):
    """Bytes that Python and NumPy may hold at once inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def patched(path, at, value):
    """A WAV file of a second with four bytes of its header changed."""
    write_wav(path, tones()[:, :RATE], RATE)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_rate_that_no_sound_has_is_refused_and_takes_no_memory(rate, tmp_path):
    path = patched(tmp_path / "a.wav", 24, rate)
    refused = pytest.raises(UserError, match=r"samples a second; from 1000 to 768000|cannot be read")
    with taking_at_most(8 << 20), refused:
        read_audio(path, 0.5, 2.0)


@pytest.mark.parametrize("at", [4, 16, 28, 32, 40])
@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**32 - 1])
def test_a_wav_that_lies_about_its_sizes_takes_no_memory(at, value, tmp_path):
    path = patched(tmp_path / "a.wav", at, value)
    with taking_at_most(16 << 20), contextlib.suppress(UserError):
        read_audio(path, 0.5, 2.0)


def test_what_comes_before_the_start_is_not_held(tmp_path):
    write_wav(tmp_path / "a.wav", np.tile(tones(), 60), RATE)
    whole, _ = read_audio(tmp_path / "a.wav")
    with taking_at_most(2 << 20):
        part, _ = read_audio(tmp_path / "a.wav", 80.0, 0.5)
    np.testing.assert_array_equal(part, whole[:, 80 * RATE :][:, : RATE // 2])


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    sound = tones()
    sound[1, 7] = np.nan
    path = encoded(tmp_path / "a.wav", sound, "pcm_f32le")
    with pytest.raises(UserError, match="not finite numbers; save it"):
        read_audio(path)


def test_sound_track_without_sound(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
    with pytest.raises(UserError, match=r"damaged or empty|cannot be read"):
        read_audio(tmp_path / "a.wav")


def test_titles_in_old_encodings_are_no_obstacle(tmp_path):
    write_wav(tmp_path / "a.wav", tones(), RATE)
    title = b"INAM" + (4).to_bytes(4, "little") + "café".encode("latin-1")
    listed = b"LIST" + (4 + len(title)).to_bytes(4, "little") + b"INFO" + title
    data = bytearray((tmp_path / "a.wav").read_bytes() + listed)
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    if int(av.__version__.split(".")[0]) < 19:
        with pytest.raises(UnicodeDecodeError), av.open(str(tmp_path / "a.wav")):
            pass  # what PyAV did before version 19 when it was not asked otherwise
    assert read_audio(tmp_path / "a.wav")[0].shape == tones().shape


def test_unknown_codec(tmp_path):
    write_wav(tmp_path / "a.wav", tones(), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[20:22] = b"\x77\x77"  # the format tag
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be decoded|cannot be read"):
        read_audio(tmp_path / "a.wav")


def test_damaged_packets_are_left_out(tmp_path):
    path = encoded(tmp_path / "a.mp3", tones(), "libmp3lame")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    path.write_bytes(data)
    waveform, _ = read_audio(path)
    assert waveform.shape[1] > 1.8 * RATE


def test_write_wav(tmp_path):
    original = tones() * 3  # the left goes beyond full scale and is clipped
    write_wav(tmp_path / "a.wav", original, 44_100)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        assert file.getnframes() == original.shape[1]
    waveform, rate = read_audio(tmp_path / "a.wav")
    assert rate == 44_100
    assert np.abs(waveform - original.clip(-1, 1)).max() < 1e-4
    assert os.listdir(tmp_path) == ["a.wav"]


def test_write_wav_refuses(tmp_path):
    with pytest.raises(UserError, match=r"'\.mp3'.*\.wav"):
        write_wav(tmp_path / "a.mp3", tones(), RATE)
    for wrong in (tones()[:1], tones().T, (tones() * 32767).astype(np.int16), tones() * np.nan):
        with pytest.raises(ValueError, match="waveform"):
            write_wav(tmp_path / "a.wav", wrong, RATE)
    assert not os.listdir(tmp_path)


def test_fit():
    waveform = tones(0.1)
    np.testing.assert_array_equal(fit(waveform, 1000), waveform[:, :1000])
    longer = fit(waveform, waveform.shape[1] + 500)
    np.testing.assert_array_equal(longer[:, :-500], waveform)
    assert not longer[:, -500:].any()
    assert fit(waveform, waveform.shape[1]).shape == waveform.shape


@pytest.mark.parametrize("wanted", [16_000, 44_100, 48_000])
def test_resample_keeps_pitch_level_and_place(wanted):
    result = resample(tones(), RATE, wanted)
    assert result.shape == (2, 2 * wanted)
    expected = tones(rate=wanted)
    assert np.abs(result[:, 2000:-2000] - expected[:, 2000:-2000]).max() < 2e-3
