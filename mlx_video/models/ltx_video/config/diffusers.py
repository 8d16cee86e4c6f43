"""The same networks in diffusers' words: its configs as the official ones, its tensors' names as the official ones.

diffusers groups the blocks of an autoencoder and counts the groups; official names count the blocks themselves. Both
follow from the block lists, so no table of names is kept. Knows no files and no arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_video.models.ltx_video.config.told import LAYERS_OF_13B
from mlx_video.models.ltx_video.config.video import VideoVAEConfig
from mlx_video.models.section import MAX_LAYERS, Section
from mlx_video.reading import shown
from mlx_video.types import UserError

TRANSFORMER, VIDEO_VAE, UPSAMPLER = "LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo", "LTXLatentUpsamplerModel"
"""The `_class_name` of each config."""
_NEWER_BLOCK = "LTXVideo095DownBlock3D"
_COMPRESSION = {"conv": "compress_all", "spatial": "compress_space_res", "temporal": "compress_time_res",
                "spatiotemporal": "compress_all_res"}  # fmt: skip
_CHANNELS, _LAYERS = (128, 256, 512, 512), (4, 3, 3, 3, 4)
"""Of both halves where a config says nothing, which is 0.9.0."""
_SAME = {
    "transformer": (
        "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "cross_attention_dim",
        "num_layers", "activation_fn", "norm_elementwise_affine", "norm_eps", "caption_channels", "attention_bias",
    ),
    "vae": ("in_channels", "out_channels", "latent_channels", "patch_size", "timestep_conditioning"),
}  # fmt: skip
"""Keys with the same meaning in both forms."""

Renaming = Callable[[str], str]


def transformer(values: Mapping[str, Any], vae: Mapping[str, Any] | None, whose: str) -> dict[str, Any]:
    """The official `transformer` section.

    How frames are placed diffusers leaves to its pipelines; `vae`, the config of the autoencoder beside, tells it.
    Raises UserError for a 2B transformer without one, and for what is not supported.
    """
    s = Section(values, "transformer", whose)
    s.only("_class_name", TRANSFORMER)
    s.only("patch_size", 1)
    s.only("patch_size_t", 1)
    s.only("qk_norm", "rms_norm_across_heads")
    s.only("attention_out_bias", True)
    found = {key: values[key] for key in _SAME["transformer"] if key in values}
    if vae is None and s.integer("num_layers", 28, 1, MAX_LAYERS) < LAYERS_OF_13B:
        raise UserError(
            f"{whose} does not say which version of LTX-Video it is, and there is no vae/ beside its folder that tells "
            f"it; name a folder that holds both."
        )
    return {**found, "causal_temporal_positioning": vae is None or _is_newer(vae)}


def _is_newer(vae: Mapping[str, Any]) -> bool:
    # From 0.9.5 on the encoder is another one, and frames are placed causally.
    kinds = vae.get("down_block_types")
    return isinstance(kinds, list) and _NEWER_BLOCK in kinds


def video_vae(values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The official `vae` section."""
    s = Section(values, "vae", whose)
    s.only("_class_name", VIDEO_VAE)
    s.only("patch_size_t", 1)
    s.only("encoder_causal", True)
    s.only("decoder_causal", False)
    encoder, first = _encoder(s)
    decoder, last = _decoder(s)
    found = {key: values[key] for key in _SAME["vae"] if key in values}
    return {
        **found, "encoder_blocks": encoder, "decoder_blocks": decoder, "encoder_base_channels": first,
        "decoder_base_channels": last,
    }  # fmt: skip


def _encoder(s: Section) -> tuple[list[list[Any]], int]:
    channels = s.integers("block_out_channels", _CHANNELS, 1, 1 << 14)
    layers = s.integers("layers_per_block", _LAYERS, 1, MAX_LAYERS)
    newer = _is_newer(s.values)
    groups = len(layers) - 1
    _check_count(s, "block_out_channels", channels, groups + newer)
    # In the older form the last group stays as wide as it is.
    widths = [*channels, channels[-1]][: groups + 1]
    scaled = _flags(s, "spatio_temporal_scaling", (True, True, True, False), groups)
    how = s.values.get("downsample_type") or ["conv"] * groups
    if not newer:
        how = ["conv"] * groups
    elif not isinstance(how, list) or len(how) != groups or not all(one in list(_COMPRESSION) for one in how):
        raise UserError(f"{s.whose} says {s.where}.downsample_type = {shown(how)}; it should be {groups} of "
                        f"{', '.join(_COMPRESSION)}.")  # fmt: skip
    blocks: list[list[Any]] = []
    for i in range(groups):
        blocks.append(["res_x", {"num_layers": layers[i]}])
        growth = _ratio(s, "block_out_channels", widths[i + 1], widths[i])
        if newer and scaled[i]:
            blocks.append([_COMPRESSION[how[i]], {"multiplier": growth}])
            continue
        if scaled[i]:
            blocks.append(["compress_all", {}])
        if growth > 1:
            blocks.append(["res_x_y", {"multiplier": growth}])
    return [*blocks, ["res_x", {"num_layers": layers[-1]}]], channels[0]


def _decoder(s: Section) -> tuple[list[list[Any]], int]:
    """Its blocks and the channels at the pixels' end, both listed from there."""
    channels = s.integers("decoder_block_out_channels", _CHANNELS, 1, 1 << 14)
    groups = len(channels)
    layers = s.integers("decoder_layers_per_block", _LAYERS, 1, MAX_LAYERS, count=groups + 1)
    factors = s.integers("upsample_factor", (1,) * groups, 1, 64, count=groups)
    scaled = _flags(s, "decoder_spatio_temporal_scaling", (True, True, True, False), groups)
    residual = _flags(s, "upsample_residual", (False,) * groups, groups)
    noise = _flags(s, "decoder_inject_noise", (False,) * (groups + 1), groups + 1)
    width = channels[-1]
    blocks: list[list[Any]] = [["res_x", {"num_layers": layers[-1], "inject_noise": noise[-1]}]]
    for i in reversed(range(groups)):
        before, width = (_ratio(s, "decoder_block_out_channels", some, factors[i]) for some in (width, channels[i]))
        if before != width:
            multiplier = _ratio(s, "decoder_block_out_channels", before, width)
            blocks.append(["res_x_y", {"multiplier": multiplier}])
        if scaled[i]:
            blocks.append(["compress_all", {"multiplier": factors[i], "residual": residual[i]}])
        blocks.append(["res_x", {"num_layers": layers[i], "inject_noise": noise[i]}])
    return blocks[::-1], width


def _ratio(s: Section, key: str, large: int, small: int) -> int:
    if large % small:
        raise UserError(f"{s.whose} says {s.where}.{key} with {large} beside {small}; one must be a multiple of the "
                        f"other.")  # fmt: skip
    return large // small


def _flags(s: Section, key: str, default: Sequence[bool], count: int) -> list[bool]:
    found = s.values.get(key)
    found = list(default) if found is None else found
    if not isinstance(found, list) or not all(type(one) is bool for one in found):
        raise UserError(f"{s.whose} says {s.where}.{key} = {shown(found)}; it should be a list of {count} true or "
                        f"false.")  # fmt: skip
    _check_count(s, key, found, count)
    return found


def _check_count(s: Section, key: str, found: Sequence[Any], count: int) -> None:
    if len(found) != count:
        raise UserError(f"{s.whose} says {s.where}.{key} for {len(found)} blocks; by its layers there are {count}.")


# ------------------------------------------------------------------------------------------------ names


def transformer_name(name: str) -> str:
    """The official name of a tensor of diffusers' transformer."""
    for theirs, official in _TRANSFORMER_NAMES:
        name = re.sub(theirs, official, name)
    return f"model.diffusion_model.{name}"


_TRANSFORMER_NAMES = (
    (r"^proj_in\.", "patchify_proj."), (r"^time_embed\.", "adaln_single."), (r"\.norm_([qk])\.", r".\1_norm."),
)  # fmt: skip


def vae_names(config: VideoVAEConfig) -> Renaming:
    """The official name of each tensor of diffusers' autoencoder with these blocks."""
    places = {
        "encoder": _places(config.encoder_blocks, "encoder"),
        "decoder": _places(tuple(reversed(config.decoder_blocks)), "decoder"),
    }

    def official(name: str) -> str:
        if name in ("latents_mean", "latents_std"):
            return f"vae.per_channel_statistics.{name.removeprefix('latents_')}-of-means"
        half, _, rest = name.partition(".")
        group = next((one for one in places.get(half, ()) if rest.startswith(f"{one}.")), None)
        if group is not None:
            rest = f"{'down' if half == 'encoder' else 'up'}_blocks.{places[half][group]}.{rest[len(group) + 1 :]}"
        elif half == "decoder":
            rest = re.sub(r"^(time_embedder\.|scale_shift_table$)", r"last_\1", rest)
        rest = rest.replace("resnets.", "res_blocks.").replace("conv_shortcut.conv.", "conv_shortcut.")
        rest = re.sub(r"norm3\.(weight|bias)$", r"norm3.norm.\1", rest)
        return f"vae.{half}.{rest}"

    return official


def _places(blocks: Sequence[tuple[str, Mapping[str, Any]]], half: str) -> dict[str, int]:
    """diffusers' module -> the number of the official block, longer names first.

    A group of the encoder begins with its stack of residual blocks, one of the decoder ends with it; the stack next to
    the latent is in no group.
    """
    found: dict[str, int] = {}
    group = 0
    for i, (kind, _) in enumerate(blocks):
        first = i == 0
        if half == "encoder":
            if kind == "res_x":
                group = group if first else group + 1
                found["mid_block" if i == len(blocks) - 1 else f"down_blocks.{group}"] = i
            else:
                found[f"down_blocks.{group}.{'conv_out' if kind == 'res_x_y' else 'downsamplers.0'}"] = i
        elif kind == "res_x":
            found["mid_block" if first else f"up_blocks.{group}"] = i
            group = group if first else group + 1
        else:
            found[f"up_blocks.{group}.{'conv_in' if kind == 'res_x_y' else 'upsamplers.0'}"] = i
    return dict(sorted(found.items(), key=lambda one: -len(one[0])))
