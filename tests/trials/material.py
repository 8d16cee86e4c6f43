"""What trials start from: small checkpoints, pictures, sound, a film, an embedding; written once, then only read."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GENERATION = "2.3"
PROMPT = "a red ball"
TEMPLATE = (
    "{% for m in messages %}<bos>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text or '<start_of_image>' }}{% endfor %}{% endif %}{% endfor %}"
)
"""Of chats, so that prompts can be enhanced."""
SIZE = ("--height", "64", "--width", "64", "-n", "9")
"""The smallest clip that has more than one latent frame."""


@dataclass(frozen=True)
class Material:
    """Where everything lies."""

    root: Path

    @property
    def model(self) -> Path:
        """A whole small checkpoint of LTX-2.3 with both variants, Gemma, upsampler and LoRA."""
        return self.root / "model"

    @property
    def checkpoint(self) -> Path:
        return self.model / "ltx-2.3-22b-distilled.safetensors"

    @property
    def upsampler(self) -> Path:
        return self.model / "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"

    @property
    def lora(self) -> Path:
        return self.model / "ltx-2.3-22b-distilled-lora-384.safetensors"

    @property
    def gemma(self) -> Path:
        return self.model / "gemma"

    @property
    def converted(self) -> Path:
        """The same as a converted folder."""
        return self.root / "converted"

    @property
    def pack(self) -> Path:
        """LTX-2.5's split pack."""
        return self.root / "pack"

    @property
    def foreign(self) -> Path:
        """The same as another converter writes it."""
        return self.root / "foreign"

    @property
    def embedding(self) -> Path:
        return self.root / "prompt.safetensors"

    @property
    def picture(self) -> Path:
        return self.root / "picture.png"

    @property
    def sound(self) -> Path:
        return self.root / "sound.wav"

    @property
    def film(self) -> Path:
        """Nine frames of 64x64 with sound."""
        return self.root / "film.mp4"

    def prepare(self) -> Material:
        """Writes what is not there yet; about two seconds."""
        if (self.root / "ready").exists():
            return self
        from mlx_video import convert, encode
        from tests.support import films, foreign_25, small, small_pack
        from tests.support.cases import write_inputs

        self.root.mkdir(parents=True, exist_ok=True)
        small.make(self.model, GENERATION, ("distilled", "dev"))
        settings = self.gemma / "tokenizer_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
        write_inputs(self.root)
        films.write(self.film, 9, 64, 64)
        foreign_25.forge(self.foreign, small_pack.make(self.pack))
        line = ["--prompt", PROMPT, "--model-repo", str(self.model), "-o", str(self.embedding), "--quiet"]
        if encode.main(line) or convert.main(["--source", str(self.model), "-o", str(self.converted), "--quiet"]):
            raise RuntimeError("what trials start from could not be made")
        (self.root / "ready").touch()
        return self

    def model_without(self, folder: Path, *left_out: Path) -> Path:
        """A new folder `folder` that links to everything of the model's but those files and the dev variant."""
        folder.mkdir(parents=True)
        for item in self.model.iterdir():
            if item not in left_out and "-dev" not in item.name:
                (folder / item.name).symlink_to(item)
        return folder

    def model_with(self, folder: Path, replaced: Path, data: bytes) -> tuple[Path, Path]:
        """The same with `data` in place of the file `replaced`: (folder, new file). Gemma's files lie in gemma/."""
        if replaced.parent == self.gemma:
            self.model_without(folder, self.gemma)
            shutil.copytree(self.gemma, folder / "gemma")
            path = folder / "gemma" / replaced.name
        else:
            self.model_without(folder, replaced)
            path = folder / replaced.name
        path.write_bytes(data)
        return folder, path


def clip(model: Path | str, *more: Any, out: str = "out.mp4", prompt: str = PROMPT) -> tuple[str, ...]:
    """The line of a small generation."""
    return ("--prompt", prompt, *SIZE, "--model-repo", str(model), "-o", out, *map(str, more))


def enlarge(model: Path | str, source: Path | str, *more: Any, out: str) -> tuple[str, ...]:
    """The line of an upscaling."""
    return ("-i", str(source), "--model-repo", str(model), "-o", out, *map(str, more))


def take_apart(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and its data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: dict[str, Any] | bytes | str, data: bytes) -> bytes:
    """A safetensors file; a header that is given as bytes is taken as it is."""
    if isinstance(header, dict):
        header = json.dumps(header)
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def environment(scratch: Path) -> dict[str, str]:
    """What a process that tries things is started with: no network, no caches of the user's."""
    home = scratch / "home"
    home.mkdir(parents=True, exist_ok=True)
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "MLX_VIDEO"))}
    return {
        **keep, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1", "MLX_VIDEO_CACHE": "off", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
