"""The settings inside a file: written with a video, a picture or a sound, and read back out of one.

Films have three tags: `mlx_video`, everything as JSON; `parameters`, in the form that galleries read; `comment`, a line
for people. Pictures have the first two as text chunks, sounds the first as their comment. Knows no option by meaning
but the few that galleries show.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_video import reading
from mlx_video.media.containers import open_file
from mlx_video.reading import parse_json
from mlx_video.types import UserError

KEY = "mlx_video"
MOST = 1 << 20
"""Bytes of settings that are read out of a file; a long prompt has some thousands."""
SHOWN_AS = {
    "steps": "Steps", "cfg_scale": "CFG scale", "seed": "Seed", "model": "Model", "pipeline": "Pipeline",
    "num_frames": "Frames", "fps": "FPS",
}  # fmt: skip
"""What galleries show, under their names."""


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a film with these settings; empty for none."""
    if not values:
        return {}
    text = json.dumps(values, default=str, ensure_ascii=False)
    return {KEY: text, "parameters": parameters(values), "comment": line(values)}


def line(values: Mapping[str, Any]) -> str:
    """For people: what was asked, and with what."""
    about = [str(values[key]) for key in ("pipeline", "model") if values.get(key)]
    about += [f"seed {values['seed']}"] if "seed" in values else []
    made = ", ".join([*about, f"mlx_video {values.get(KEY, '')}".strip()])
    prompt = " ".join(str(values.get("prompt", "")).split())
    return f"{prompt} ({made})" if prompt else made


def parameters(values: Mapping[str, Any]) -> str:
    """As galleries of generated pictures read it: prompt, negative prompt, then names and values in one line."""
    pairs = [f"{name}: {values[key]}" for key, name in SHOWN_AS.items() if values.get(key) is not None]
    if {"width", "height"} <= set(values):
        pairs.append(f"Size: {values['width']}x{values['height']}")
    pairs.append(f"Version: mlx_video {values.get(KEY, '')}".strip())
    lines = [str(values.get("prompt", ""))]
    lines += [f"Negative prompt: {values['negative_prompt']}"] if values.get("negative_prompt") else []
    return "\n".join([*lines, ", ".join(pairs)])


def add_to_wav(path: Path, values: Mapping[str, Any]) -> None:
    """Puts the settings behind the samples of a finished WAV file, as its comment."""
    text = json.dumps(values, default=str, ensure_ascii=False).encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    said = b"INFOICMT" + struct.pack("<I", len(text)) + text
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"LIST" + struct.pack("<I", len(said)) + said)
        size = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", size - 8))


def read(path: Path) -> dict[str, Any]:
    """The settings in a file that this package wrote.

    Raises UserError for a file without any, with damaged ones, or that cannot be read.
    """
    suffix = path.suffix.lower()
    text = _of_png(path) if suffix == ".png" else _of_wav(path) if suffix == ".wav" else _of_film(path)
    if text is None:
        raise UserError(
            f"{path} has no settings of mlx_video in it: another program made it or wrote it anew, or it was made with "
            f"--no-metadata."
        )
    try:
        found = parse_json(text) if len(text) <= MOST else None
    except ValueError as error:
        raise UserError(f"{path} has damaged settings in it: they are not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} has damaged settings in it: they are no JSON object of at most {MOST:,} bytes.")
    return found


def _of_film(path: Path) -> str | None:
    import av

    try:
        with open_file(path) as container:
            return container.metadata.get(KEY) or container.metadata.get(KEY.upper())
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}.") from error


def _of_png(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            found = getattr(image, "text", {}).get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}.") from error
    return found if isinstance(found, str) else None


def _of_wav(path: Path) -> str | None:
    with reading.open_file(path) as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise UserError(f"{path} cannot be read as a sound: it is no WAV file.")
        # From chunk to chunk: the samples before them are not read.
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            said = file.read(12) if name == b"LIST" and size >= 12 else b""
            if said[:8] == b"INFOICMT" and len(said) == 12:
                [length] = struct.unpack("<I", said[8:])
                return file.read(min(length, MOST + 1)).rstrip(b"\0").decode("utf-8", "replace")
            file.seek(size + size % 2 - len(said), 1)
    return None
