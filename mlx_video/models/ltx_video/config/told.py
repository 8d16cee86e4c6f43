"""What files that say nothing of themselves are, told by their tensors: repacked checkpoints have lost their metadata.

The kinds of an autoencoder's blocks are those of the version; how many there are in each, and how wide, is counted.
Source: ComfyUI's VideoVAE.guess_config, diffusers' infer_diffusers_model_type. Knows no files and no arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlx_video.types import UserError

Shapes = Mapping[str, tuple[int, ...]]
"""Of a file's tensors, by their official names."""
HEADS = 32
"""Of every published transformer."""
LAYERS_OF_13B = 48
_OLDER_ENCODER = (
    "res_x", "compress_all", "res_x_y", "res_x", "compress_all", "res_x_y", "res_x", "compress_all", "res_x", "res_x",
)  # fmt: skip
_NEWER_ENCODER = (
    "res_x", "compress_space_res", "res_x", "compress_time_res", "res_x", "compress_all_res", "res_x",
    "compress_all_res", "res_x",
)  # fmt: skip
_NEWER_DECODER = ("res_x", "compress_all", "res_x", "compress_all", "res_x", "compress_all", "res_x")
_GROWN = {"compress_all": {"residual": True, "multiplier": 2}}
"""How the newer decoders enlarge."""
_BLOCK = "model.diffusion_model.transformer_blocks."


def config_of(shapes: Shapes, whose: str) -> dict[str, Any]:
    """The official config of a checkpoint with these tensors: `transformer` and `vae`, as far as there are tensors of
    them. Raises UserError for a 2B transformer alone, whose rule for the positions of frames nothing tells.
    """
    found: dict[str, Any] = {}
    if "vae.encoder.conv_out.conv.weight" in shapes and "vae.decoder.conv_out.conv.weight" in shapes:
        found["vae"] = _vae(shapes)
    if any(name.startswith(_BLOCK) for name in shapes):
        found["transformer"] = _transformer(shapes, found.get("vae"), whose)
    return found


def _transformer(shapes: Shapes, vae: Mapping[str, Any] | None, whose: str) -> dict[str, Any]:
    layers = len({name[len(_BLOCK) :].partition(".")[0] for name in shapes if name.startswith(_BLOCK)})
    if vae is None and layers < LAYERS_OF_13B:
        raise UserError(
            f"{whose} has a transformer of {layers} blocks, no metadata and no video autoencoder, so nothing tells "
            f"which version of LTX-Video it is; take a file that holds both, or one with its config in its metadata."
        )
    width, latent = _sides(shapes, "model.diffusion_model.patchify_proj.weight", whose)
    _, captions = _sides(shapes, "model.diffusion_model.caption_projection.linear_1.weight", whose)
    return {
        "num_layers": layers, "num_attention_heads": HEADS, "attention_head_dim": width // HEADS,
        "cross_attention_dim": width, "in_channels": latent, "out_channels": latent, "caption_channels": captions,
        "causal_temporal_positioning": vae is None or _is_newer(vae),
    }  # fmt: skip


def _sides(shapes: Shapes, name: str, whose: str) -> tuple[int, int]:
    found = shapes.get(name, ())
    if len(found) != 2:
        raise UserError(f"{whose} has no {name}, by which a transformer without metadata is told; it is not whole.")
    return found[0], found[1]


def _is_newer(vae: Mapping[str, Any]) -> bool:
    return any(kind == "compress_space_res" for kind, _ in vae["encoder_blocks"])


def _vae(shapes: Shapes) -> dict[str, Any]:
    first, last = (shapes[f"vae.encoder.conv_{end}.conv.weight"] for end in ("in", "out"))
    newer = last[1] == 16 * first[0]
    conditioned = any(name.startswith("vae.decoder.last_time_embedder.") for name in shapes)
    encoder = _counted(shapes, _NEWER_ENCODER if newer else _OLDER_ENCODER, "vae.encoder.down_blocks")
    # The decoder's tensors are numbered from the latent on, its list is from the pixels on.
    kinds = _NEWER_DECODER if conditioned else _OLDER_ENCODER[::-1]
    decoder = _counted(shapes, kinds, "vae.decoder.up_blocks")[::-1]
    if conditioned:
        decoder = [[kind, _GROWN.get(kind, settings)] for kind, settings in decoder]
    return {
        "_class_name": "CausalVideoAutoencoder", "latent_channels": last[0] - 1, "encoder_blocks": encoder,
        "decoder_blocks": decoder, "encoder_base_channels": first[0],
        "decoder_base_channels": shapes["vae.decoder.conv_out.conv.weight"][1], "timestep_conditioning": conditioned,
    }  # fmt: skip


def _counted(shapes: Shapes, kinds: tuple[str, ...], path: str) -> list[list[Any]]:
    blocks: list[list[Any]] = []
    for i, kind in enumerate(kinds):
        settings: dict[str, Any] = {}
        if kind == "res_x":
            start = re.compile(rf"{re.escape(path)}\.{i}\.res_blocks\.(\d+)\.")
            # One at least: what is missing is then told by name.
            settings["num_layers"] = max(1, len({found[1] for found in map(start.match, shapes) if found}))
            settings["inject_noise"] = f"{path}.{i}.res_blocks.0.per_channel_scale1" in shapes
        blocks.append([kind, settings])
    return blocks
