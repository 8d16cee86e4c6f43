"""Pictures: every format and mode, cut, changed, with headers that lie, bombs, and things that are no pictures."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from tests.trials import spoil
from tests.trials.case import Case
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
