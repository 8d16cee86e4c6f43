"""Sound: every codec, cut, changed, with headers that lie, or pointing elsewhere."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.trials import spoil
from tests.trials.case import Case, Run
from tests.trials.draw import nth, source
from tests.trials.groups.tracks import POINTERS, coded, silent_film, tone, tracks, wav
from tests.trials.material import Material, clip

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
