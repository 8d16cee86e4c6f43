"""Compares LTX-Video's networks with recorded outputs of the reference, all loaded by their public road: official files
and diffusers' folders. Not collected by pytest.

Knows the recording's case names and our public classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.pieces import Stream
from mlx_video.models.ltx_2.video_vae import Tiling, encode_frames
from mlx_video.models.ltx_video import load
from mlx_video.models.ltx_video.config import TransformerConfig
from mlx_video.models.ltx_video.transformer import Pass, Transformer, corners
from mlx_video.models.ltx_video.transformer.prepared import place

LIMIT, TEXT_LIMIT = 2e-5, 5e-5
ROPE_EXACT, ROPE_LIMIT, ROPE_SHARE = 1e-6, 1e-3, 1e-2
"""torch's powers of whole arrays are one rounding off for 3 of 341 frequencies (one by one they are not, and ours never
are); at 15,708 rad that is 9e-4 of an angle. Of all values at most ROPE_SHARE may be off by more than ROPE_EXACT."""
NETWORKS = ("transformer", "video_encoder", "video_decoder")
Cases = Iterator[tuple[str, Any, np.ndarray, float]]
"""Case, ours, the reference's, and the limit."""


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (error, of the largest value; limit)."""
    [file] = [path for path in folder.glob("ltx*.safetensors") if "upscaler" not in path.name]
    found: dict[str, tuple[float, float]] = {}
    for part in (_transformer, _positions, _encoder, _decoder, _upsamplers, _text):
        for case, ours, theirs, limit in part(folder, file, reference):
            found[case] = error(ours, theirs), limit
    for component in NETWORKS:
        found[f"diffusers/{component} differs"] = (
            _differing(load(component, file), load(component, folder / "diffusers")),
            0.0,
        )
    return found


def error(ours: object, theirs: np.ndarray) -> float:
    """The largest difference, of the largest value; infinity for another shape."""
    a, b = np.array(ours, np.float64), np.array(theirs, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.shape == b.shape else float("inf")


def _differing(one: Any, other: Any) -> float:
    """How many tensors of two networks differ."""
    found, wanted = (dict(tree_flatten(network.parameters())) for network in (one, other))
    return float(sum(path not in found or not mx.array_equal(found[path], wanted[path]).item() for path in wanted))


def _passes(network: Transformer) -> dict[str, tuple[Pass, Any]]:
    found: dict[str, tuple[Pass, Any]] = {
        "plain": (Pass(), 0.85), "t1.0": (Pass(), 1.0), "t0.025": (Pass(), 0.025), "negative": (Pass("negative"), 0.85),
        "unmasked_text": (Pass("everything"), 0.85),
    }  # fmt: skip
    ways = ("attention_values", "attention_skip", "transformer_block")
    for how, blocks in itertools.product(ways, ((2,), (1, network.config.layers - 1))):
        found[f"stg_{how}_{'_'.join(map(str, blocks))}"] = Pass("positive", frozenset(blocks), how), 0.85
    return found


def _transformer(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    network = load("transformer", file)

    def text(name: str) -> np.ndarray:
        states = reference[f"text/{name}_256_masked/states"]
        return states[:, : int(reference[f"text/{name}_256_masked/mask"].sum())]

    everything = reference["text/plain_256_masked/states"]
    contexts = {"positive": text("plain"), "negative": text("negative"), "everything": everything}
    around = network.prepare(
        {name: mx.array(states) for name, states in contexts.items()}, reference["transformer/coords"]
    )
    yield "transformer/caption", around.contexts["positive"], reference["transformer/caption"], LIMIT
    x = mx.array(reference["transformer/x"])
    cases = _passes(network) | {"per_token": (Pass(), reference["transformer/per_token/timestep"])}
    for case, (one, timestep) in cases.items():
        [velocity] = network(x, timestep, around, (one,))
        yield f"transformer/{case}", velocity, reference[f"transformer/{case}/velocity"], LIMIT
    alike = [case for case, (_, timestep) in cases.items() if isinstance(timestep, float) and timestep == 0.85]
    for case, velocity in zip(alike, network(x, 0.85, around, [cases[case][0] for case in alike]), strict=True):
        yield f"transformer/together/{case}", velocity, reference[f"transformer/{case}/velocity"], LIMIT
    streamed = load("transformer", file, streamed=True)
    [velocity] = streamed(x, 0.85, around)
    yield "transformer/streamed", velocity, reference["transformer/plain/velocity"], LIMIT


def _positions(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    for grid, causal in itertools.product(((3, 2, 3), (4, 2, 4)), (True, False)):
        case = f"positions/coords_{'x'.join(map(str, grid))}_{'causal' if causal else 'plain'}"
        yield case, corners(grid, 1.0, causal=causal), reference[case], 0.0
    at = corners((3, 2, 3), 25.0, causal=True)
    for width in (key.split("/")[1] for key in reference if key.startswith("positions/rope") and key.endswith("/cos")):
        dim = int(width.removeprefix("rope"))
        table = place(
            TransformerConfig.read({"transformer": {"num_attention_heads": 1, "attention_head_dim": dim}}),
            at,
            mx.float32,
        )
        for name, values in table._asdict().items():
            case = f"positions/{width}/{name}"
            # Recorded with each of a pair's two values.
            ours, theirs = np.array(mx.repeat(values[:, 0], 2, axis=-1)), reference[case]
            yield case, ours, theirs, ROPE_LIMIT
            beyond = (np.abs(ours - theirs) > ROPE_EXACT).mean()
            yield f"{case} share beyond {ROPE_EXACT:.0e}", 1 + beyond, np.array(1.0), ROPE_SHARE


def _encoder(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    network, pixels = load("video_encoder", file), _last(reference["vae/encode/pixels"])
    normal = np.array(_last(reference["vae/encode/normalised"]))
    yield "encode", network(pixels), normal, LIMIT
    yield "encode in pieces", encode_frames(network, pixels, Tiling(piece=1)), normal, LIMIT
    found = network.posterior(pixels, Stream())
    yield "encode/mean", found.mean, np.array(_last(reference["vae/encode/mean"])), LIMIT
    yield "encode/logvar", found.log_variance, np.array(_last(reference["vae/encode/logvar"])), LIMIT
    one = network.posterior(pixels[:, :1], Stream())
    yield "encode/one_frame_mean", one.mean, np.array(_last(reference["vae/encode/one_frame_mean"])), LIMIT


def _decoder(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    network, latent = load("video_decoder", file), _last(reference["vae/decode/latent"])
    for key in (key for key in reference if key.startswith("vae/decode") and key.endswith("/pixels")):
        start = key.removesuffix("/pixels")
        timestep = float(start.removeprefix("vae/decode_t")) if "_t" in start else None

        def noise(name: str, shape: tuple[int, ...], start: str = start) -> mx.array:
            found = reference[f"{start}/draw{int(name.rpartition('/')[2]):03d}"]
            assert found.shape == shape
            return mx.array(found)

        given, wanted = network.condition(latent, timestep, noise), np.array(_last(reference[key]))
        for size in (None, 2, 1):
            pieces = mx.concatenate(list(network.pieces(given, size)), axis=1)
            yield f"{start} {f'in pieces of {size}' if size else 'whole'}", pieces, wanted, LIMIT
        drawn = sum(name.startswith(f"{start}/draw") for name in reference)
        yield f"{start} draws", len(given.planes) + 1, np.array(drawn + 1), 0.0


def _upsamplers(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    for path in sorted(folder.glob("*upscaler*.safetensors")):
        kind = path.name.split("-")[1]
        latent = load("video_decoder", file).statistics.denormalize(_last(reference["upsampler/latent"]))
        wanted = np.array(_last(reference[f"upsampler/{kind}/out"]))
        for where in (path, folder / f"diffusers-{kind}-upscaler"):
            yield (
                f"upsampler/{kind} {'file' if where is path else 'folder'}",
                load("upsampler", where)(latent),
                wanted,
                LIMIT,
            )


def _text(folder: Path, file: Path, reference: Mapping[str, np.ndarray]) -> Cases:
    """Of each prompt, its ids and its states; from the folder, from one file, and layer by layer."""
    single = folder / "diffusers" / "tokenizer" / "t5xxl_fp16.safetensors"
    if not single.exists():
        single.symlink_to(folder / "t5xxl_fp16.safetensors")
    names = [key.split("/")[1] for key in reference if key.endswith("_256_masked/prompt")]
    prompts = [str(reference[f"text/{name}/prompt"]) for name in names]
    for where, streamed in ((folder / "diffusers", False), (folder / "diffusers", True), (single, False)):
        encoder = load("text_encoder", where, streamed=streamed)
        what = "streamed" if streamed else "file" if where is single else "folder"
        for name, prompt, states in zip(names, prompts, encoder.encode(prompts), strict=True):
            own = int(reference[f"text/{name}/mask"].sum())
            yield f"text/{name} ids", encoder.tokenizer.encode(prompt), reference[f"text/{name}/ids"][0, :own], 0.0
            yield f"text/{name} {what}", states, reference[f"text/{name}/states"][:, :own], TEXT_LIMIT


def _last(array: np.ndarray) -> mx.array:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return mx.array(np.ascontiguousarray(np.moveaxis(array, 1, -1), np.float32))
