"""Files made to hang, to fill memory or to lead elsewhere."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.groups.files import (
    TARGETS,
    original,
    used,
)
from tests.trials.material import Material, put_together, take_apart

HOSTILE = (
    "fifo", "directory", "link to zero", "link loop", "socket", "sparse", "header of 99 MB", "million tensors",
    "deep metadata", "long name",
    "huge shape", "many axes", "config bomb", "config bomb", "config bomb", "config bomb", "zip", "html",
    "lfs pointer", "zeros", "link to full",
    "own output", "deep config", "random", "text",
)  # fmt: skip

BOMBS = (
    "num_layers", "connector_num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim",
    "caption_channels",
    "latent_channels", "in_channels", "out_channels", "decoder_base_channels", "encoder_base_channels", "patch_size",
    "num_res_blocks", "ch", "z_channels", "upsample_initial_channel", "connector_num_learnable_registers", "mel_bins",
    "hop_length",
    "audio_num_attention_heads", "audio_attention_head_dim", "n_fft", "num_mels", "resblock_kernel_sizes",
    "upsample_rates",
)  # fmt: skip


def hostile(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Files made to hang, to fill memory or to lead elsewhere."""
    draw = source(seed, "hostile", number)
    kind, target = nth(HOSTILE, number, seed), draw.choice(TARGETS)
    detail = ""
    if kind in ("config bomb", "deep config"):
        target, detail = "checkpoint", draw.choice(BOMBS)
    data = _harmful(kind, detail, original(target, material), draw)
    line, twin, names = used(target, data, material, folder)
    expect = "same" if kind in ("config bomb", "deep metadata", "own output") else "refused"
    return Case("hostile", f"{target}: {kind} {detail}", "generate", line, (*names, detail), expect, twin)


def _harmful(kind: str, detail: str, path: Path, draw: random.Random) -> bytes | Callable[[Path], object]:
    tree, data = take_apart(path)
    name = next(key for key in tree if key != "__metadata__")
    files: dict[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo, "directory": Path.mkdir, "link to zero": lambda file: file.symlink_to("/dev/zero"),
        "link loop": lambda file: file.symlink_to(file.name), "link to full": lambda file: file.symlink_to("/dev/full"),
        "socket": _socket, "sparse": lambda file: _sparse(file, path.read_bytes()),
        "own output": lambda file: file.write_bytes(path.read_bytes()),
    }  # fmt: skip
    if kind in files:
        return files[kind]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    if kind == "config bomb":
        return put_together(_with_bomb(tree, detail, draw.choice((10**6, 10**8, 10**12, 2**63, 10**30))), data)
    if kind in ("deep metadata", "deep config"):
        tree.setdefault("__metadata__", {})["config" if kind == "deep config" else "notes"] = "[" * 100_000
    elif kind == "million tensors":
        tree = {f"t{i}": empty for i in range(300_000)} | tree
    elif kind == "long name":
        tree["n" * 10_000_000] = tree.pop(name)
    elif kind == "huge shape":
        tree[name]["shape"] = draw.choice(([2**62, 4], [2**64 + 1], [0, 2**63], [10**18, 10**18]))
    elif kind == "many axes":
        tree[name]["shape"] = [1] * draw.choice((33, 100_000)) + tree[name]["shape"]
    whole = {
        "header of 99 MB": put_together(b" " * 99_000_000 + b"{}", b""), "zip": b"PK\x03\x04" + draw.randbytes(1000),
        "html": b"<!DOCTYPE html><html>404</html>" * 20, "zeros": bytes(100_000), "random": draw.randbytes(100_000),
        "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 15595192\n",
        "text": b"weights\n" * 100,
    }.get(kind)  # fmt: skip
    return whole if whole is not None else put_together(tree, data)


def _with_bomb(tree: dict[str, Any], key: str, value: int) -> dict[str, Any]:
    """The header with every value of that key in its config made so large; at the top of the transformer if nowhere."""
    config = json.loads(tree["__metadata__"]["config"])
    found = [path for path in spoil.places(config) if path[-1] == key] or [("transformer", key)]
    for path in found:
        config = spoil.replaced(config, path, value)
    tree["__metadata__"]["config"] = json.dumps(config)
    return tree


def _sparse(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    os.truncate(file, 50 << 30)


def _socket(file: Path) -> None:
    import socket

    before = Path.cwd()
    os.chdir(file.parent)  # a socket's whole path has to fit into 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(file.name)
    os.chdir(before)
