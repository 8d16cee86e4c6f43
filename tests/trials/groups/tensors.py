"""Safetensors files that are cut, misdescribed, of the wrong shape or kind, not finite, or made to do harm."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trials import spoil
from tests.trials.case import Case
from tests.trials.draw import nth, source
from tests.trials.material import Material, clip, put_together, take_apart

TARGETS = ("checkpoint", "checkpoint", "checkpoint", "gemma", "upsampler", "lora", "embedding", "converted")
"""Which file is disturbed; the checkpoint more often, as most of what can be wrong is in it."""
COMPONENTS = (
    "model.diffusion_model.transformer_blocks.", "model.diffusion_model.", "vae.decoder.", "vae.encoder.",
    "audio_vae.", "vocoder.",
    "text_embedding_projection.", "vae.per_channel_statistics.", "model.diffusion_model.video_embeddings_connector.",
)  # fmt: skip
DTYPES = (
    "BOOL",
    "U8",
    "I8",
    "F8_E4M3",
    "F8_E5M2",
    "U16",
    "I16",
    "F16",
    "U32",
    "I32",
    "F32",
    "U64",
    "I64",
    "F64",
    "C64",
    "F4",
    "f32",
    "",
)
WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
}
BAD_VALUES = {"NaN": 0x7FC0, "inf": 0x7F80, "-inf": 0xFF80, "huge": 0x7F7F, "negative NaN": 0xFFFF}
"""Patterns of bfloat16, and so the upper halves of float32."""


def original(target: str, material: Material) -> Path:
    """The file of that name."""
    return {
        "checkpoint": material.checkpoint, "gemma": material.gemma / "model.safetensors",
        "upsampler": material.upsampler,
        "lora": material.lora, "embedding": material.embedding,
        "converted": sorted(material.converted.rglob("*.safetensors"))[0],
    }[target]  # fmt: skip


def used(target: str, data: bytes | Callable[[Path], object], material: Material, folder: Path, *more: Any) -> tuple:
    """(command line, undisturbed line, names) of a run that reads `data` (or what a function makes) as the target."""
    path = original(target, material)
    if target in ("lora", "embedding"):
        file = folder / path.name
        lines = [_given(target, place, material, *more) for place in (file, path)]
    elif target == "converted":
        shutil.copytree(material.converted, folder / "model")
        file = folder / "model" / path.relative_to(material.converted)
        gemma = ("--text-encoder-repo", material.gemma)
        lines = [clip(place, *gemma, *more) for place in (folder / "model", material.converted)]
    else:
        model, file = material.model_with(folder / "model", path, b"")
        lines = [clip(place, *more) for place in (model, material.model)]
    file.unlink(missing_ok=True)
    if callable(data):
        data(file)
    else:
        file.write_bytes(data)
    return lines[0], lines[1], (file.name, file.parent.name if file.parent != folder else file.stem)


def _given(target: str, place: Path, material: Material, *more: Any) -> tuple[str, ...]:
    if target == "lora":
        return clip(material.model, "--lora", place, *more)
    return (*clip(material.model, *more)[2:], "--embedding", str(place))


def truncated(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A file cut anywhere: in its first bytes, its header, its data, or of nothing but its last byte."""
    draw = source(seed, "truncated", number)
    target = nth(TARGETS, number, seed)
    data = original(target, material).read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    cut = draw.choice(
        (0, 1, 7, 8, 9, header - 1, header, len(data) - 1, draw.randrange(header), draw.randrange(len(data)))
    )
    line, twin, names = used(target, data[:cut], material, folder)
    return Case("truncated", f"{target} cut to {cut} of {len(data)} bytes", "generate", line, names, "refused", twin)


HEADERS = (
    "flips", "flips", "flips", "misspelt", "misspelt", "length", "dtype", "shape", "offsets", "entry", "metadata",
    "version", "tail", "swap",
    "extra", "lost", "odd name", "zero size", "numbers as text", "negative", "fraction", "two at one place",
)  # fmt: skip
VERSIONS = (
    "",
    "abc",
    "9.9.9",
    "-1",
    "2",
    "2.3.0.0.0",
    "9" * 400,
    "nan",
    "².3",
    "2.³",
    " 2.3 ",
    "2,3",
    "0.9.8",
    "2.3-dev",
    "v2.3",
    "null",
)


def header(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A header that says other things than the data are."""
    draw = source(seed, "header", number)
    kind, target = nth(HEADERS, number, seed), draw.choice(TARGETS)
    tree, data = take_apart(original(target, material))
    raw, name, tail = _misdescribed(kind, tree, draw)
    # Two tensors of one shape that are swapped, or another 16-bit format: nobody can see that.
    unseen = kind == "swap" or (kind == "dtype" and tree[name].get("dtype") in ("F16", "F8_E4M3", "F8_E5M2"))
    expect = "right" if kind == "flips" else "valid" if kind == "version" or unseen else "same"
    if kind == "length":
        made = (
            struct.pack("<Q", draw.choice((0, 1, 2**63, 2**64 - 1, 10**8, 10**9, len(raw) - 1, len(raw) + 1)))
            + raw
            + data
        )
    else:
        made = put_together(raw, data + tail)
    line, twin, names = used(target, made, material, folder)
    return Case("header", f"{target}: {kind} {name}", "generate", line, (*names, name), expect, twin)


def _misdescribed(kind: str, tree: dict[str, Any], draw: random.Random) -> tuple[bytes, str, bytes]:
    """(header, name of the tensor concerned, bytes after the data)."""
    names = [key for key in tree if key != "__metadata__"]
    name, other = draw.sample(names, 2)
    entry, tail = tree[name], b""
    huge = draw.choice((2**31, 2**40, 2**63, 10**30))
    if kind == "flips":
        return spoil.byte_flips(json.dumps(tree).encode(), draw), "", tail
    if kind == "misspelt":
        how = draw.choice(spoil.SPELLINGS)
        return spoil.misspelt(tree, how, draw), how, tail
    if kind == "dtype":
        entry["dtype"] = draw.choice((*DTYPES, None, 1, []))
    elif kind == "shape":
        entry["shape"] = draw.choice(
            ([], [0], [-1], [huge], [huge, 0], [1] * 1000, [1.0], ["1"], None, {}, [None], [True], [[1]])
        )
    elif kind == "offsets":
        start, end = entry["data_offsets"]
        entry["data_offsets"] = draw.choice(
            ([end, start], [start], [], [start - 1, end], [start, end + 1], [start, huge], [-huge, end], [0, 0], None,
            "0", [start, end, end],
             [start + 0.0, end], [str(start), str(end)], [True, end], [start + 2, end + 2])
        )  # fmt: skip
    elif kind == "entry":
        tree[name] = draw.choice((None, [], 1, "F32", {}, {"dtype": "F32"}, {**entry, "more": 1}))
    elif kind == "metadata":
        wrong = draw.choice(
            (None, [], 1, "text", {"config": 1}, {"config": None}, {"config": ["x"]}, {"config": "text"}, {"a": {}})
        )
        tree["__metadata__"] = wrong
    elif kind == "version":
        tree.setdefault("__metadata__", {})["model_version"] = name = draw.choice(VERSIONS)
    elif kind == "tail":
        tail = draw.randbytes(draw.choice((1, 8, 1000)))
    elif kind == "swap":
        tree[name], tree[other] = tree[other], tree[name]
    elif kind == "extra":
        tree["extra.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [entry["data_offsets"][1]] * 2}
    elif kind == "lost":
        del tree[name]
    elif kind == "odd name":
        tree[draw.choice(("", " ", "a\nb", "\0", "x" * 100_000, "../x", "\ud800", name + "\u200b"))] = tree.pop(name)
    elif kind == "zero size":
        entry.update(shape=[0, *entry["shape"]], data_offsets=[entry["data_offsets"][0]] * 2)
    elif kind == "numbers as text":
        entry["shape"] = [str(side) for side in entry["shape"]]
    elif kind == "negative":
        entry["shape"] = [-side for side in entry["shape"]]
    elif kind == "fraction":
        entry["shape"] = [side + 0.5 for side in entry["shape"]]
    elif kind == "two at one place":
        entry["data_offsets"] = tree[other]["data_offsets"]
    return json.dumps(tree).encode(), name, tail


def changed(path: Path, name: str, entry: dict[str, Any] | None, payload: bytes, new_name: str | None = None) -> bytes:
    """The file with one tensor's entry (dtype, shape) and bytes replaced, well described; None leaves it out."""
    tree, data = take_apart(path)
    made, pieces, at = {"__metadata__": tree.pop("__metadata__", {})}, [], 0
    for key, old in sorted(tree.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = old["data_offsets"]
        piece, said = data[start:end], old
        if key == name:
            if entry is None:
                continue
            key, piece, said = new_name or key, payload, {**old, **entry}
        made[key] = {**said, "data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    return put_together(made, b"".join(pieces))


def drawn_tensor(path: Path, draw: random.Random, number: int) -> tuple[str, dict[str, Any], bytes]:
    """(name, entry, bytes) of one tensor, of the official checkpoint from one component after the other."""
    tree, data = take_apart(path)
    names = [key for key in tree if key != "__metadata__"]
    prefix = COMPONENTS[number % len(COMPONENTS)]
    names = [key for key in names if key.startswith(prefix)] or names
    name = draw.choice(names)
    start, end = tree[name]["data_offsets"]
    return name, tree[name], data[start:end]


SHAPES = (
    "transposed",
    "longer",
    "shorter",
    "flat",
    "one axis more",
    "one axis less",
    "empty",
    "lost",
    "renamed",
    "dtype",
    "dtype",
    "dtype",
    "twice",
)


def tensors(number: int, seed: int, material: Material, folder: Path) -> Case:
    """One tensor of another shape, another type, another name, or none, in a file that describes it rightly."""
    draw = source(seed, "tensors", number)
    kind, target = nth(SHAPES, number, seed), draw.choice(TARGETS)
    path = original(target, material)
    name, entry, data = drawn_tensor(path, draw, number)
    shape, width = list(entry["shape"]), WIDTHS[entry["dtype"]]
    new: dict[str, Any] | None = {}
    new_name, detail = None, ""
    if kind == "transposed":
        new = {"shape": shape[::-1]}
    elif kind == "longer":
        new, data = {"shape": [shape[0] + 1, *shape[1:]]}, data + data[: len(data) // shape[0]]
    elif kind == "shorter":
        new, data = {"shape": [shape[0] - 1, *shape[1:]]}, data[: len(data) // shape[0] * (shape[0] - 1)]
    elif kind == "flat":
        new = {"shape": [len(data) // width]}
    elif kind == "one axis more":
        new = {"shape": [*shape, 1] if draw.random() < 0.5 else [1, *shape]}
    elif kind == "one axis less":
        new = {"shape": [shape[0] * shape[1], *shape[2:]] if len(shape) > 1 else []}
        data = data if len(shape) > 1 else data[:width]
    elif kind == "empty":
        new, data = {"shape": [0, *shape[1:]]}, b""
    elif kind == "lost":
        new = None
    elif kind == "renamed":
        new_name = draw.choice((name + "_", name.upper(), name.replace(".", "/"), "x." + name, name[:-1]))
    elif kind == "dtype":
        detail = draw.choice([dtype for dtype in WIDTHS if dtype not in ("F16", "F32", "BF16")] + ["F64", "I64"])
        wide = WIDTHS.get(detail, 8)
        new, data = {"dtype": detail}, (data * 8)[: len(data) // width * wide]
    made = changed(path, name, new, data, new_name)
    line, twin, names = used(target, made, material, folder)
    return Case(
        "tensors",
        f"{target}: {name} {kind} {detail}",
        "generate",
        line,
        (*names, name, *name.rsplit(".", 1)[:1]),
        "same",
        twin,
    )


def poisoned(entry: dict[str, Any], data: bytes, kind: str, draw: random.Random) -> bytes:
    """The tensor with one value, some, or all of them replaced by one that no weight has."""
    width = WIDTHS[entry["dtype"]]
    pattern = (
        struct.pack("<H", BAD_VALUES[kind])
        if width == 2
        else struct.pack("<HH", 0xFFFF if kind == "huge" else 0, BAD_VALUES[kind])
    )
    count = len(data) // width
    where = draw.choice(([draw.randrange(count)], range(0, count, 7), range(count)))
    made = bytearray(data)
    for i in where:
        made[i * width : (i + 1) * width] = pattern
    return bytes(made)


def values(number: int, seed: int, material: Material, folder: Path) -> Case:
    """Numbers that are not finite, or so large that what follows is not."""
    draw = source(seed, "values", number)
    kind = nth(tuple(BAD_VALUES), number, seed)
    target = draw.choice(("checkpoint", "checkpoint", "checkpoint", "gemma", "upsampler", "lora", "embedding"))
    path = original(target, material)
    name, entry, data = drawn_tensor(path, draw, number)
    more = ("--no-audio",) if draw.random() < 0.4 else ()
    if name.startswith("vae.encoder."):
        more = ("--image", material.picture, *more)
    elif name.startswith("audio_vae.encoder."):
        more = ("--audio-file", material.sound)
    made = changed(path, name, {}, poisoned(entry, data, kind, draw))
    line, twin, names = used(target, made, material, folder, *more)
    expect = {"huge": "valid", "inf": "right", "-inf": "right"}.get(kind, "same")
    return Case(
        "values", f"{target}: {kind} in {name} {' '.join(map(str, more[:1]))}", "generate", line, (*names, name,
        "finite", "NaN"),
        expect, twin, fault=True,
    )  # fmt: skip


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


PATTERNS = (
    "(([a-z0-9_.]+)+)+Z",
    "(a|aa)+$",
    ".*" * 30 + "x",
    "(",
    "[",
    "(?P<x>",
    "\\",
    "x" * 100_000,
    "(.*)*" * 20,
    "^(\\w+\\s?)*$",
    "{9999999999}",
)
LORAS = (
    "pattern", "pattern", "rank pattern", "beside", "beside", "alpha", "alpha", "alpha", "half", "rank", "rank zero",
    "axes", "dtype", "NaN", "inf",
    "huge", "other layer", "other size", "extra", "dora", "twice", "settings", "settings", "no pair", "all renamed",
    "strength", "two files", "empty folder",
)  # fmt: skip
ALPHAS = (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0)


def lora(number: int, seed: int, material: Material, folder: Path) -> Case:
    """LoRAs that fit nowhere, contradict themselves or bring patterns that never end."""
    draw = source(seed, "lora", number)
    kind = nth(LORAS, number, seed)
    tree, data = take_apart(material.lora)
    place = folder / "lora"
    place.mkdir()
    file, strength = place / "mine.safetensors", "1"
    made, names, expect = _lora(kind, tree, data, draw, material, place)
    if kind == "strength":
        strength = draw.choice(("nan", "inf", "1e9", "-11", "", "x", "1e400", "1,0", "²", "--"))
        names, expect = (strength, "strength"), "refused"
    if kind != "empty folder":
        file.write_bytes(made)
    given = place if kind in ("beside", "two files", "empty folder") or draw.random() < 0.3 else file
    line, twin = clip(material.model, "--lora", given, strength), clip(material.model, "--lora", material.lora)
    return Case(
        "lora",
        f"{kind} {names[0][:60] if names else ''}",
        "generate",
        line,
        (*names, "lora", "mine.safetensors"),
        expect,
        twin,
    )


def _lora(
    kind: str, tree: dict, data: bytes, draw: random.Random, material: Material, place: Path
) -> tuple[bytes, tuple[str, ...], str]:
    """(file, names, what to expect)."""
    metadata = tree.setdefault("__metadata__", {})
    keys = [key for key in tree if key != "__metadata__"]
    key = draw.choice(keys)
    layer = key.rpartition(".lora_")[0]
    names: tuple[str, ...] = (key, layer)
    entry = tree[key]
    start, end = entry["data_offsets"]
    expect = "same"
    if kind in ("pattern", "rank pattern"):
        word = draw.choice(PATTERNS)
        settings = {"r": 4, "lora_alpha": 4, "alpha_pattern" if kind == "pattern" else "rank_pattern": {word: 8}}
        prefix = draw.choice(("", "transformer."))
        metadata["lora_adapter_metadata"] = json.dumps({prefix + k: v for k, v in settings.items()})
        names, expect = (word, "pattern"), "valid"
    elif kind == "settings":
        settings = {"r": 4, "lora_alpha": 4, "alpha_pattern": {}, "use_rslora": False, "use_dora": False}
        name = draw.choice(list(settings))
        settings[name] = spoil.wrong_value(settings[name], draw)
        metadata["lora_adapter_metadata"] = json.dumps(settings)
        names, expect = (name, "alpha"), "valid"
    elif kind == "beside":
        settings = {"r": 4, "lora_alpha": 4, "peft_type": "LORA", "target_modules": ["to_q"]}
        how = draw.choice((*spoil.SPELLINGS, "pattern"))
        text = json.dumps(settings | {"alpha_pattern": {draw.choice(PATTERNS): 1}}).encode()
        (place / "adapter_config.json").write_bytes(text if how == "pattern" else spoil.misspelt(settings, how, draw))
        names, expect = ("adapter_config.json", how), "valid"
    elif kind == "alpha":
        value = draw.choice(ALPHAS)
        tree[f"{layer}.alpha"] = {"dtype": "F32", "shape": [], "data_offsets": [len(data), len(data) + 4]}
        data += struct.pack("<f", value)
        names, expect = (
            (layer, "alpha", str(value)),
            "valid" if value in (-1.0, 0.0) else "refused" if abs(value) != 1e38 else "valid",
        )
    elif kind == "half":
        return changed(material.lora, key, None, b""), names, "refused"
    elif kind == "rank":
        return changed(material.lora, key, {"shape": entry["shape"][::-1]}, data[start:end]), names, "refused"
    elif kind == "rank zero":
        return changed(material.lora, key, {"shape": [0, entry["shape"][1]]}, b""), names, "refused"
    elif kind == "axes":
        return changed(material.lora, key, {"shape": [*entry["shape"], 1]}, data[start:end]), names, "refused"
    elif kind == "dtype":
        entry["dtype"], expect = draw.choice(("I16", "U16")), "refused"
    elif kind in ("NaN", "inf", "huge"):
        made = changed(material.lora, key, {}, poisoned(entry, data[start:end], kind, draw))
        return made, (*names, "finite"), "refused" if kind != "huge" else "valid"
    elif kind in ("other layer", "extra"):
        tree["diffusion_model.nowhere.lora_A.weight"] = tree.pop(key) if kind == "other layer" else entry | {
            "shape": [0], "data_offsets": [len(data)] * 2
        }  # fmt: skip
        expect = "refused"
    elif kind == "other size":
        rows = entry["shape"][0]
        return changed(material.lora, key, {"shape": [rows, 1]}, data[start : start + rows * 2]), names, "refused"
    elif kind == "dora":
        tree[f"{layer}.dora_scale"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
        expect = "refused"
    elif kind == "twice":
        tree[key.replace("diffusion_model.", "transformer.")] = {**entry, "shape": [0], "data_offsets": [len(data)] * 2}
        expect = "refused"
    elif kind == "no pair":
        tree, data, expect = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data[:4], "refused"
    elif kind == "all renamed":
        tree, expect = (
            {name.replace("lora_", draw.choice(("lokr_", "hada_", "LORA_"))): value for name, value in tree.items()},
            "refused",
        )
    elif kind == "two files":
        shutil.copy(material.lora, place / "second.safetensors")
        expect = "refused"
    elif kind == "empty folder":
        expect = "refused"
    return put_together(tree, data), names, expect


EMBEDDINGS = (
    "lost", "renamed", "dtype", "transposed", "no tokens", "longer", "NaN", "inf", "no mark", "other mark",
    "other connectors", "no connectors", "prompts",
    "extra", "all lost", "narrow", "batch", "negative lost", "flips", "swap", "huge", "misspelt prompts",
)  # fmt: skip


def embedding(number: int, seed: int, material: Material, folder: Path) -> Case:
    """A file with the mark of an embedding and other contents."""
    draw = source(seed, "embedding", number)
    kind = nth(EMBEDDINGS, number, seed)
    path = material.embedding
    tree, data = take_apart(path)
    metadata = tree["__metadata__"]
    name, other = draw.sample([key for key in tree if key != "__metadata__"], 2)
    entry = tree[name]
    start, end = entry["data_offsets"]
    mine, shape, expect = data[start:end], entry["shape"], "refused"
    made = b""
    width = len(mine) // max(1, _size(shape))
    if kind in ("lost", "renamed"):
        made = changed(path, name, None if kind == "lost" else {}, mine, name + "x")
    elif kind == "dtype":
        made = changed(path, name, {"dtype": "I32" if width == 4 else "I16"}, mine)
    elif kind in ("transposed", "narrow", "batch", "no tokens", "longer"):
        new = {
            "transposed": shape[::-1], "narrow": [*shape[:-1], shape[-1] // 2], "batch": [2, *shape[1:]],
            "no tokens": [*shape[:-2], 0, shape[-1]], "longer": [*shape[:-2], shape[-2] + 1, shape[-1]],
        }[kind]  # fmt: skip
        made = changed(path, name, {"shape": new}, (mine * 2)[: _size(new) * width])
        expect = "same"
    elif kind in ("NaN", "inf", "huge"):
        made = changed(path, name, {}, poisoned(entry, mine, kind, draw))
        expect = "valid" if kind == "huge" else "refused"
    elif kind in ("no mark", "other mark", "other connectors", "no connectors", "prompts", "misspelt prompts"):
        key = {"no mark": "format", "other mark": "format", "prompts": "prompts", "misspelt prompts": "prompts"}.get(
            kind, "connectors"
        )
        value = draw.choice(("", "text", "[]", "[" * 9000, "1", "null", '{"positive": 1}', "{"))
        metadata.pop(key) if kind.startswith("no ") else metadata.update({key: value})
        expect = "same" if key == "prompts" else "refused"
    elif kind in ("extra", "all lost"):
        kept = tree if kind == "extra" else {"__metadata__": metadata}
        made = put_together(
            {**kept, "extra.video": {**entry, "shape": [0], "data_offsets": [len(data)] * 2}},
            data if kind == "extra" else b"",
        )
        expect = "same" if kind == "extra" else "refused"
        if kind == "all lost":
            made = put_together({"__metadata__": metadata}, b"")
    elif kind == "swap":
        tree[name], tree[other], expect = tree[other], tree[name], "valid"
    elif kind == "flips":
        made, expect = put_together(spoil.byte_flips(json.dumps(tree).encode(), draw), data), "right"
    elif kind == "negative lost":
        names = [key for key in tree if key.startswith("negative")]
        made = changed(path, names[0], None, b"") if names else b"x"
    line, twin, names = used("embedding", made or put_together(tree, data), material, folder)
    return Case("embedding", f"{kind} {name}", "generate", line, (*names, name, "embedding"), expect, twin)


def _size(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
