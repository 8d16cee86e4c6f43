"""Compares LTX-2.5's diffusion decoder and duration head with recorded outputs of the reference on a small pack.

Knows the pack's file names, the recording's case names and our public classes. Not collected by pytest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.models.ltx_2.config import DiffusionDecoderConfig, DurationConfig, VideoVAEConfig
from mlx_video.models.ltx_2.diffusion_decoder import DiffusionDecoder
from mlx_video.models.ltx_2.diffusion_decoder.blocks import Block
from mlx_video.models.ltx_2.diffusion_decoder.network import Beginning
from mlx_video.models.ltx_2.diffusion_decoder.parts import Part, parts
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces
from mlx_video.models.ltx_2.duration import DurationHead
from mlx_video.models.ltx_2.video_vae import VideoEncoder
from mlx_video.types import frames_of
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

Results = dict[str, tuple[float, float]]
"""Case -> error, of the largest value, and its limit."""
VIDEO, HEAD = "vae/ltx-2.5-video-vae-bf16.safetensors", "model_patches/ltx-2.5-duration-head-bf16.safetensors"
LIMIT, DURATION_LIMIT = 5e-5, 2e-5


def decoder(folder: Path, *, repeats_columns: bool = True) -> DiffusionDecoder:
    """The pack's, in float32."""
    tensors = Tensors([folder / VIDEO])
    network = DiffusionDecoder(DiffusionDecoderConfig.read(tensors.metadata["config"]), repeats_columns=repeats_columns)
    names.assign(network, tensors.load(network.prefixes), "diffusion decoder", dtype=mx.float32)
    return network


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> Results:
    """Both."""
    return compare25_diffusion_vae(folder, reference) | compare25_duration(folder, reference)


def compare25_diffusion_vae(folder: Path, reference: Mapping[str, np.ndarray]) -> Results:
    """Decoding in both modes, in pieces and parts, with what there is on the way; and the encoder of the same file."""
    results: Results = {}
    cases = sorted({key.split("/")[1] for key in reference if key.startswith("diffusion_vae/f")})
    for repeats, video in ((True, "video_chunked4"), (False, "video")):
        network = decoder(folder, repeats_columns=repeats)
        for case in cases:
            start = f"diffusion_vae/{case}"
            wanted = channels_last(reference[f"{start}/{video}"])
            latent, noise = (channels_last(reference[f"{start}/{what}"]) for what in ("latent", "noise"))
            results[f"{start}/{video}"] = error(network(latent, noise), wanted), LIMIT
            pieces = mx.concatenate(list(network.pieces(latent, noise, 1)), axis=1)
            results[f"{start}/{video} in pieces"] = error(pieces, wanted), LIMIT
            results[f"{start}/{video} in parts"] = error(_in_parts(network, latent, noise), wanted), LIMIT
            if not repeats:
                results |= _on_the_way(network, start, latent, noise, reference)
    return results | _attention(reference) | _encoder(folder, reference) | _pipeline(folder, reference)


def _in_parts(network: DiffusionDecoder, latent: mx.array, noise: mx.array) -> np.ndarray:
    canvas = network.canvas((latent.shape[1], latent.shape[2], latent.shape[3]))
    found = np.zeros((1, canvas.frames, canvas.height, canvas.width, 3), np.float32)
    for part in parts(network.config, canvas, 2, 2):
        rows, columns = part.place(canvas)
        found[:, :, rows, columns] = np.array(mx.concatenate(list(network.pieces(latent, noise, 4, part)), axis=1))
    return found


def _on_the_way(
    network: DiffusionDecoder, start: str, latent: mx.array, noise: mx.array, reference: Mapping[str, np.ndarray]
) -> Results:
    """After stage three, the context, the rows of modulation, and each block that was recorded."""
    found = watched(network, latent, noise)
    names = ["stages_1_to_3", "context", *(k.removeprefix(f"{start}/") for k in reference if f"{start}/after/" in k)]
    if f"{start}/adaln" in reference:
        names.append("adaln")
    results: Results = {}
    for name in names:
        # What nobody will see is not computed: of the appended frames, and of a canvas longer than the clip.
        wanted = reference[f"{start}/{name}"]
        count = found[name].shape[1] if wanted.ndim == 5 else wanted.shape[1]
        results[f"{start}/{name}"] = error(found[name], wanted[:, :count]) if count else float("inf"), LIMIT
    return results


def watched(network: DiffusionDecoder, latent: mx.array, noise: mx.array) -> dict[str, mx.array]:
    """What the network's blocks give for one clip, whole, under the recording's names."""
    heard: dict[str, list[mx.array]] = {}
    named: dict[int, str] = {}
    for i, stage in enumerate(network.det_stages, 1):
        named |= {id(block): f"after/stage{i}_block{j}" for j, block in enumerate(stage)}
    named |= {id(block): f"after/diffusion_block{j}" for j, block in enumerate(network.diff_blocks)}
    inner = Block.__call__
    began, cells = Beginning.__call__, Part.cells

    def call(self: nn.Module, *args: object) -> mx.array:
        y = inner(self, *args)
        heard.setdefault(named[id(self)], []).append(y)
        return y

    def begin(self: Beginning, context: mx.array, stream: object) -> mx.array:
        heard.setdefault("context", []).append(context)
        return began(self, context, stream)

    def cut(self: Part, x: mx.array) -> mx.array:
        heard.setdefault("stages_1_to_3", []).append(x)
        return cells(self, x)

    try:
        Block.__call__ = call  # type: ignore[method-assign,assignment]
        Beginning.__call__, Part.cells = begin, cut  # type: ignore[method-assign,assignment]
        mx.eval(list(network.pieces(latent, noise)))
    finally:
        Block.__call__ = inner  # type: ignore[method-assign]
        Beginning.__call__, Part.cells = began, cells  # type: ignore[method-assign]
    found = {name: mx.concatenate(pieces, axis=1) for name, pieces in heard.items()}
    rows = network.shared_adaln(network.t_embedder(network.config.timestep_multiplier))
    return found | {"adaln": rows}


def _attention(reference: Mapping[str, np.ndarray]) -> Results:
    from mlx_video.models.ltx_2.diffusion_decoder.neighbourhood import attend, reach

    start, results = "diffusion_vae/attention/", {}
    given = [reference[start + name] for name in "qkv"]
    batch, *sides, heads, dim = given[0].shape
    q, k, v = (mx.array(x).transpose(0, 4, 1, 2, 3, 5).reshape(batch * heads, *sides, dim) for x in given)
    for key in reference:
        window = key.removeprefix(start)
        if key.startswith(start) and "x" in window:
            sizes = map(int, window.split("x"))
            reaches = [reach(range(n), size, n) for n, size in zip(sides, sizes, strict=True)]
            found = attend(q, k, v, reaches, 1.0).reshape(batch, heads, *sides, dim).transpose(0, 2, 3, 4, 1, 5)
            results[key] = error(found, reference[key]), LIMIT
    return results


def _encoder(folder: Path, reference: Mapping[str, np.ndarray]) -> Results:
    tensors = Tensors([folder / VIDEO])
    encoder = VideoEncoder(VideoVAEConfig.read(tensors.metadata["config"]))
    bare = {f"vae.{name}": array for name, array in tensors.load(("encoder.", "per_channel_statistics.")).items()}
    names.assign(encoder, bare, "video encoder", dtype=mx.float32)
    start = "diffusion_vae/encode/f9"
    latent = encoder(channels_last(reference[f"{start}/video"]))
    return {start: (error(latent, channels_last(reference[f"{start}/latent"])), LIMIT)}


def _pipeline(folder: Path, reference: Mapping[str, np.ndarray]) -> Results:
    """A whole run's latent, decoded with the noise that its generator drew, by all three ways of cutting."""
    network, results = decoder(folder), {}
    for key in (key for key in reference if key.endswith("/decode_noise")):
        start = key.removesuffix("/decode_noise")
        latent = channels_last(reference[f"{start}/stage2/final_video_latent"])
        wanted = channels_last(reference[f"{start}/video_float"])[0]
        for pieces in (Pieces(), Pieces(2), Pieces(4, 2, 2)):
            found = mx.concatenate(list(network.decode_frames(latent, mx.array(reference[key]), pieces)))
            results[f"{start}/video_float {pieces}"] = error(found, wanted), LIMIT
    return results


def compare25_duration(folder: Path, reference: Mapping[str, np.ndarray]) -> Results:
    """Seconds from both contexts and from one alone, and the table of frames (its error: rows that differ)."""
    tensors = Tensors([folder / HEAD])
    head = DurationHead(DurationConfig.read(tensors.metadata["config"]))
    names.assign(head, tensors.load(head.prefixes), "duration head", dtype=mx.float32)
    video, audio = (mx.array(reference[f"duration/{kind}_tokens"]) for kind in ("video", "audio"))
    given = {"both": (video, audio), "video": (video, None), "audio": (None, audio)}
    results: Results = {
        f"duration/seconds_{name}": (error(head(*pair), reference[f"duration/seconds_{name}"]), DURATION_LIMIT)
        for name, pair in given.items()
    }
    table = "duration/frames/seconds_fps_min_max_frames"
    wrong = sum(frames_of(*row[:2], (row[2], row[3])) != row[4] for row in reference[table].tolist())
    return results | {table: (float(wrong), 0.0)}


def channels_last(array: np.ndarray) -> mx.array:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return mx.array(np.ascontiguousarray(np.moveaxis(array, 1, -1), np.float32))


def error(ours: object, reference: object) -> float:
    """The largest difference, of the largest value; infinity for another shape."""
    a, b = np.array(ours, np.float64), np.array(reference, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.shape == b.shape else float("inf")
