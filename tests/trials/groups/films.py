"""Films: cut, changed, without sound or pictures, of odd sizes and rates, or pointing elsewhere."""

from __future__ import annotations

import io
import os
import random
from fractions import Fraction
from pathlib import Path

from tests.trials import spoil
from tests.trials.case import Case, Run
from tests.trials.draw import nth, source
from tests.trials.groups.tracks import POINTERS, coded, silent_film, tracks
from tests.trials.material import Material, enlarge

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

    from tests.support import films

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
