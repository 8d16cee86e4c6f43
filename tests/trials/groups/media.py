"""Pictures, sound and films: every format and mode, cut, changed, with headers that lie, or pointing elsewhere."""

from __future__ import annotations

import io
import os
import random
import struct
import wave
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from tests.trials import spoil
from tests.trials.case import Case, Run
from tests.trials.draw import nth, source
from tests.trials.material import Material, clip, enlarge

FORMATS = (
    ("png", "RGB"), ("png", "RGBA"), ("png", "L"), ("png", "LA"), ("png", "P"), ("png", "1"), ("png", "I;16"), ("jpeg",
    "RGB"), ("jpeg", "L"),
    ("jpeg", "CMYK"), ("webp", "RGB"), ("webp", "RGBA"), ("gif", "P"), ("tiff", "RGB"), ("tiff", "F"), ("tiff",
    "CMYK"), ("tiff", "LAB"),
    ("tiff", "I;16"), ("bmp", "RGB"), ("ppm", "RGB"), ("tga", "RGBA"), ("ico", "RGBA"), ("jpeg2000", "RGB"), ("pcx",
    "P"), ("sgi", "RGB"),
)  # fmt: skip
PICTURE_WAYS = (
    "whole", "whole", "whole", "exif", "cut", "cut", "flips", "flips", "bomb", "narrow", "tiny", "animated",
    "not a number", "wrong ending", "no ending",
    "fifo", "device", "pointer", "empty", "text", "svg", "deflate bomb", "huge header", "profile", "text chunk",
)  # fmt: skip
ENDINGS = {"jpeg": "jpg", "jpeg2000": "jp2"}


def drawn_picture(width: int, height: int, draw: random.Random, mode: str) -> object:
    """A PIL image with something on it."""
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    base = np.stack(
        [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), (x + y) * draw.randint(1, 9) % 256], -1
    ).astype(np.uint8)
    image = Image.fromarray(base)
    if mode == "F":
        return Image.fromarray(base[..., 0].astype(np.float32) / 255)
    if mode == "I;16":
        return Image.fromarray(base[..., 0].astype(np.uint16) * 257)
    return image.convert(mode) if mode != "LAB" else Image.frombytes("LAB", image.size, base.tobytes())


def encoded(image, kind: str, **settings) -> bytes | None:
    """The image in that format; None where this Pillow cannot write it."""
    made = io.BytesIO()
    try:
        image.save(made, kind, **settings)
    except (OSError, KeyError, ValueError):
        return None
    return made.getvalue()


def _picture(way: str, kind: str, mode: str, draw: random.Random) -> bytes:
    from PIL import Image

    width, height = draw.choice(((64, 64), (90, 134), (33, 65), (200, 100)))
    if way in ("narrow", "tiny"):
        width, height = (
            draw.choice(((1, 500), (500, 1), (3000, 2))) if way == "narrow" else draw.choice(((1, 1), (2, 2), (3, 1)))
        )
    image = drawn_picture(width, height, draw, mode)
    settings: dict = {}
    if way == "exif":
        exif = Image.Exif()
        exif[0x0112] = draw.choice((*range(10), 65535))
        settings["exif"] = exif
    elif way == "animated":
        kind = draw.choice(("gif", "png", "webp"))
        settings = {"save_all": True, "append_images": [drawn_picture(width, height, draw, "RGB")]}
    elif way == "profile":
        settings["icc_profile"] = draw.randbytes(200)
    data = encoded(image, kind, **settings) or encoded(image.convert("RGB"), "png")
    assert data is not None
    if way == "cut":
        return data[: draw.randrange(1, len(data))]
    return spoil.byte_flips(data, draw) if way == "flips" else data


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, data: bytes, *between: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(between) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    )


def _bomb(draw: random.Random) -> bytes:
    side = draw.choice((9000, 12_000, 13_000, 30_000))
    packer = zlib.compressobj(1)
    row = b"\0" * (side * 3 + 1)
    packed = b"".join(packer.compress(row) for _ in range(side))
    return _png(side, side, packed + packer.flush())


def _odd_picture(way: str, draw: random.Random, file: Path) -> bytes | None:
    """The bytes of the odder ways; None where it is no plain file, which then is there."""
    from PIL import Image

    if way == "fifo":
        os.mkfifo(file)
        return None
    if way == "device":
        file.symlink_to(draw.choice(("/dev/zero", "/dev/random", "/dev/null")))
        return None
    if way == "not a number":
        values = np.full((40, 40), np.nan if draw.random() < 0.5 else np.inf, np.float32)
        return encoded(Image.fromarray(values), "tiff")
    return {
        "bomb": partial(_bomb, draw), "pointer": lambda: b"#EXTM3U\n/etc/passwd\n", "empty": lambda: b"",
        "text": lambda: b"not a picture\n" * 50,
        "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        "deflate bomb": lambda: _png(64, 64, zlib.compress(bytes(200_000_000), 9)),
        "huge header": lambda: _png(draw.choice((2**31 - 1, 2**31, 0)), draw.choice((1, 2**31 - 1)),
        zlib.compress(b"\0" * 100)),
        "text chunk": lambda: _png(64, 64, zlib.compress((b"\0" + b"\x40" * 96 + b"\x90" * 96) * 64), _chunk(b"zTXt",
        b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    }[way]()  # fmt: skip


def written_picture(number: int, seed: int, group: str, folder: Path) -> tuple[Path, str, str]:
    """(file, in words, what to expect)."""
    draw = source(seed, group, number)
    way = nth(PICTURE_WAYS, number, seed)
    kind, mode = nth(FORMATS, number * 7 + 3, seed)
    ending = {"wrong ending": draw.choice(("safetensors", "mp4", "txt")), "no ending": ""}.get(
        way, ENDINGS.get(kind, kind)
    )
    file = folder / (f"mine.{ending}" if ending else "mine")
    usual = ("whole", "exif", "cut", "flips", "narrow", "tiny", "animated", "profile", "wrong ending", "no ending")
    data = _picture(way, kind, mode, draw) if way in usual else _odd_picture(way, draw, file)
    if data is not None:
        file.write_bytes(data)
    refused = way in ("fifo", "device", "pointer", "empty", "text", "huge header", "not a number")
    return (
        file,
        f"{way} {kind} {mode}",
        "refused" if refused else "valid" if way in ("tiny", "narrow", "bomb", "flips", "cut") else "right",
    )


def image(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A picture that a clip is to begin with."""
    file, what, expect = written_picture(number, seed, "image", folder)
    line = clip(material.model, "-n", "1" if number % 2 else "9", "--no-audio", "--image", file)
    return Case("image", what, "generate", line, (file.name,), "valid" if expect == "right" else expect)


def upscale_image(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A picture that is to be larger."""
    file, what, expect = written_picture(number + 11, seed, "upscale-image", folder)
    line = enlarge(material.model, file, out="out.png")
    return Case(
        "upscale-image",
        what,
        "upscale",
        line,
        (file.name,),
        "valid" if expect == "right" else expect,
        outputs=("out.png",),
    )


SOUNDS = (
    "rate", "rate", "rate", "channels", "channels", "bits", "length", "length", "cut", "cut", "cut", "flips", "flips",
    "codec", "codec", "codec", "codec", "codec",
    "float", "float", "short", "silent", "loud", "empty", "text", "picture", "fifo", "device", "pointer", "pointer",
    "pointer", "film", "film without sound",
    "rf64", "no data", "block align", "start", "start", "long",
)  # fmt: skip
CODECS = (
    ("mp3", "libmp3lame"),
    ("flac", "flac"),
    ("ogg", "libvorbis"),
    ("opus", "libopus"),
    ("m4a", "aac"),
    ("mp3", "mp3"),
    ("wav", "pcm_s24le"),
    ("aiff", "pcm_s16be"),
    ("au", "pcm_s16be"),
    ("wav", "pcm_f64le"),
    ("wav", "pcm_mulaw"),
    ("ac3", "ac3"),
    ("mkv", "flac"),
    ("wma", "wmav2"),
)
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


def raw_wav(
    body: bytes,
    *,
    tag: int = 1,
    channels: int = 2,
    rate: int = 16_000,
    align: int = 4,
    bits: int = 16,
    length: int | None = None,
    riff: int | None = None,
) -> bytes:
    """A WAV file whose header says what it is told to."""
    said = len(body) if length is None else length
    head = struct.pack(
        "<HHIIHH", tag, channels & 0xFFFF, rate & 0xFFFFFFFF, (rate * align) & 0xFFFFFFFF, align & 0xFFFF, bits
    )
    total = (36 + len(body)) if riff is None else riff
    return (
        b"RIFF"
        + struct.pack("<I", total & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", said & 0xFFFFFFFF)
        + body
    )


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


def _sound(way: str, draw: random.Random, material: Material) -> tuple[str, bytes, str]:
    """(ending, bytes, what to expect)."""
    pcm = tone().tobytes()
    floats = tone().astype("<f4") / 32768
    lies: dict[str, Callable[[], tuple[bytes, str]]] = {
        "rate": lambda: (raw_wav(pcm, rate=draw.choice((0, 1, 100, 7999, 192_000, 10**6, 2**31, 2**31 - 1,
        2**32 - 1))), "valid"),
        "channels": lambda: (raw_wav(pcm, channels=(n := draw.choice((0, 3, 8, 64, 255, 65535))), align=max(1, 2 * n)),
        "valid"),
        "bits": lambda: (raw_wav(pcm, bits=draw.choice((0, 1, 7, 8, 12, 24, 32, 64, 65535))), "valid"),
        "length": lambda: (raw_wav(pcm, length=draw.choice((0, 1, 2**31, 2**32 - 1, len(pcm) * 2)),
        riff=draw.choice((0, 2**32 - 1, None))), "valid"),
        "float": lambda: (raw_wav((floats * draw.choice((np.nan, np.inf, 1e30, 1))).astype("<f4").tobytes(), tag=3,
        bits=32, align=8), "valid"),
        "no data": lambda: (raw_wav(b""), "refused"), "block align": lambda: (raw_wav(pcm, align=draw.choice((0, 1, 3,
        65535))), "valid"),
        "rf64": lambda: (b"RF64" + raw_wav(pcm)[4:], "valid"), "short": lambda: (raw_wav(pcm[: draw.choice((4, 40,
        400))]), "valid"),
        "silent": lambda: (raw_wav(bytes(len(pcm))), "valid"), "loud": lambda: (raw_wav(b"\xff\x7f" * (len(pcm) // 2)),
        "valid"),
        "cut": lambda: (wav(tone())[: draw.randrange(1, 64_000)], "valid"),
        "flips": lambda: (spoil.byte_flips(wav(tone())[:100], draw) + pcm, "valid"),
        "empty": lambda: (b"", "refused"), "text": lambda: (b"la la la\n" * 99, "refused"),
        "picture": lambda: (material.picture.read_bytes(), "refused"),
        "film": lambda: (material.film.read_bytes(), "right"), "long": lambda: (raw_wav(tone(20).tobytes()), "right"),
        "start": lambda: (wav(tone()), "valid"),
    }  # fmt: skip
    data, expect = lies[way]()
    return {"picture": "png", "film": "mp4"}.get(way, "wav"), data, expect


def audio(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A sound that the clip is to follow."""
    draw = source(seed, "audio", number)
    way = nth(SOUNDS, number, seed)
    more: tuple[str, ...] = ()
    if way == "codec":
        kind, codec = draw.choice(CODECS)
        data, expect, ending = coded(kind, codec) or wav(tone()), "right", kind
        how = draw.random()
        if how > 0.4:
            data = data[: draw.randrange(1, len(data))] if how < 0.7 else spoil.byte_flips(data, draw)
            expect = "valid"
        way = f"{kind} {codec}"
    elif way == "pointer":
        ending = draw.choice(list(POINTERS))
        data, expect = POINTERS[ending].encode("latin-1"), "refused"
    elif way == "film without sound":
        ending, data, expect = "mp4", silent_film(folder).read_bytes(), "refused"
    elif way in ("fifo", "device"):
        ending, data, expect = "wav", b"", "refused"
    else:
        ending, data, expect = _sound(way, draw, material)
    file = folder / f"mine.{ending}"
    if way == "fifo":
        os.mkfifo(file)
    elif way == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(data)
    if way == "start":
        more = (f"--audio-start-time={draw.choice(('0.5', '0.99', '1', '1.5', '1e9', '-1', 'nan', '1e308', 'inf'))}",)
    line = clip(material.model, "--audio-file", file, *more)
    return Case(
        "audio", f"{way} {' '.join(more)}", "generate", line, (file.name, "audio-start-time"), expect, check=_heard
    )


def _heard(run: Run, folder: Path) -> str | None:
    return None if tracks(folder / "out.mp4")[1] else "the clip has no sound"


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
    from tests.pipelines import films

    return films.write(folder / "silent.mp4", frames, height, width, rate, sound=None)


FILMS = (
    "whole", "cut", "cut", "cut", "cut", "cut", "cut", "cut in moov", "cut in moov", "cut in moov", "flips", "flips",
    "flips", "silent", "one frame", "odd size", "rate", "rate",
    "sound alone", "two frames", "refined", "time", "pointer", "fifo", "device", "empty", "text", "mkv", "mkv cut",
    "gif", "avi", "webm", "mkv flips", "narrow",
)  # fmt: skip
"""`whole` and the ways to change it."""


def video(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A film that is to be larger; its sound is kept, or the loss of it told."""
    draw = source(seed, "video", number)
    way = nth(FILMS, number, seed)
    ending, data, expect = _film(way, draw, material, folder)
    file = folder / f"mine.{ending}"
    if way == "fifo":
        os.mkfifo(file)
    elif way == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(data)
    (folder / "silent.mp4").unlink(missing_ok=True)
    more = {
        "time": ("--scale", "1", "--fps-scale", "2"),
        "refined": ("--refine", "--prompt", "a ball", "--steps", "1"),
    }.get(way, ())
    line = enlarge(material.model, file, *more, out="out.mp4")
    sounding = way in ("whole", "refined", "mkv") or way.startswith(("cut", "mkv cut"))
    return Case(
        "video", way, "upscale", line, (file.name, "temporal", "fps-scale"), expect, check=_kept if sounding else None
    )


def _kept(run: Run, folder: Path) -> str | None:
    frames, sound = tracks(folder / "out.mp4")
    if not sound and not any(
        word in run.said.lower() for word in ("its sound", "sound is", "no sound", "without its sound", "damaged")
    ):
        return "the sound is lost without a word"
    told = any(
        word in run.said.lower() for word in ("cut", "truncated", "damaged", "missing", "end", "broken", "incomplete")
    )
    return None if frames >= 9 or told else f"{9 - frames} of 9 frames are lost without a word"


def _film(way: str, draw: random.Random, material: Material, folder: Path) -> tuple[str, bytes, str]:
    whole = material.film.read_bytes()
    moov = whole.find(b"moov")
    if way == "cut":
        return "mp4", whole[: draw.randrange(1, len(whole))], "valid"
    if way == "cut in moov":
        return "mp4", whole[: draw.randrange(moov, len(whole))], "valid"
    if way in ("flips", "mkv flips"):
        return "mp4", spoil.byte_flips(whole, draw, 30), "valid"
    if way.startswith("mkv"):
        data = _as_matroska(material.film)
        return (
            "mkv",
            data[: draw.randrange(100, len(data))] if way == "mkv cut" else data,
            "valid" if way == "mkv cut" else "right",
        )
    sizes = {
        "one frame": (1, 64, 64),
        "odd size": (3, draw.choice((34, 62, 98)), draw.choice((30, 66, 102))),
        "two frames": (2, 64, 64),
        "narrow": (2, 16, 400),
    }
    if way in ("silent", *sizes):
        return "mp4", silent_film(folder, *sizes.get(way, (5, 64, 64))).read_bytes(), "right"
    if way == "rate":
        rate = draw.choice((Fraction(1), Fraction(24000, 1001), Fraction(240), Fraction(1, 10), Fraction(999)))
        return "mp4", silent_film(folder, 3, 64, 64, rate).read_bytes(), "right"
    if way == "sound alone":
        return "m4a", coded("m4a", "aac") or b"", "refused"
    if way in ("gif", "avi", "webm"):
        return way, _remade(way) or whole, "valid"
    if way == "pointer":
        ending = draw.choice(("m3u8", "ffconcat", "sdp", "mpd"))
        return ending, POINTERS[ending].encode(), "refused"
    if way in ("whole", "refined", "time"):
        return "mp4", whole, "right"
    return "mp4", b"" if way in ("empty", "fifo", "device") else b"no film\n" * 99, "refused"


def _as_matroska(film: Path) -> bytes:
    import av

    made = io.BytesIO()
    with av.open(str(film)) as source_, av.open(made, "w", format="matroska") as container:
        new = {stream: container.add_stream_from_template(stream) for stream in source_.streams}
        for packet in source_.demux():
            if packet.dts is not None:
                packet.stream = new[packet.stream]
                container.mux(packet)
    return made.getvalue()


def _remade(kind: str) -> bytes | None:
    import av

    from tests.pipelines import films

    made = io.BytesIO()
    codec, pixels = {"gif": ("gif", "rgb8"), "avi": ("mpeg4", "yuv420p"), "webm": ("libvpx-vp9", "yuv420p")}[kind]
    try:
        with av.open(made, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=12)
            stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
            for picture in films.frames(4, 64, 64):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    except (av.error.FFmpegError, ValueError):
        return None
    return made.getvalue()
