"""LTX-Video 0.9.x as data: its networks, and what a file or folder says of them. Imports no network, so --help stays
fast.

Its networks can be had one by one (`models.ltx_video.load`); pipelines do not know the family yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_video.models.family import Component
from mlx_video.models.ltx_2.config import UpsamplerConfig
from mlx_video.models.ltx_video.config import T5Config, TransformerConfig, VideoVAEConfig, diffusers
from mlx_video.models.ltx_video.config.diffusers import Renaming
from mlx_video.models.ltx_video.config.text import told_by
from mlx_video.models.ltx_video.config.told import Shapes, config_of
from mlx_video.models.section import Stated

NAME = "LTX-Video"


def _component(key: str, place: str, read: Any, **more: Any) -> Component:
    return Component(key, f"mlx_video.models.{place}", read, **more)


_ENCODER: Mapping[str, Any] = {"autoencoder": True, "stacks": "encoder_stacks"}
_DECODER: Mapping[str, Any] = {"autoencoder": True, "stacks": "decoder_stacks"}
_VAE = "ltx_video.video_vae"

COMPONENTS: dict[str, Component] = {
    one.key: one
    for one in (
        _component("transformer", "ltx_video.transformer:Transformer", TransformerConfig.read),
        _component("video_encoder", f"{_VAE}.encoder:VideoEncoder", VideoVAEConfig.read, **_ENCODER),
        _component("video_decoder", f"{_VAE}.decoder:VideoDecoder", VideoVAEConfig.read, **_DECODER),
        # The same network as LTX-2's, the file is read as it is.
        _component("upsampler", "ltx_2.upsampler:Upsampler", UpsamplerConfig.read, autoencoder=True),
        _component("text_encoder", "ltx_video.text_encoder.t5:T5", T5Config.read),
    )
}
SPARE_TABLE, TABLE = "encoder.embed_tokens.weight", "shared.weight"
"""T5's table of embeddings may stand under either name, or under both."""


def settings(stated: object, shapes: Shapes, whose: str) -> Stated:
    """The config of an official file: what its metadata says, or where that is lost what its tensors tell.

    shapes: by official names. Raises UserError where nothing tells it.
    """
    if isinstance(stated, Mapping) and ("transformer" in stated or "vae" in stated):
        return Stated(stated, whose)
    return Stated(config_of(shapes, whose), whose)


def of_diffusers(configs: Mapping[str, Mapping[str, Any]], folder: str, whose: str) -> tuple[Stated, Renaming]:
    """The config of one folder of a diffusers pipeline in the official form, and its tensors' official names.

    configs: the config.json of `transformer` and `vae`, as far as they are there; folder: which of them. Raises
    UserError for what is not supported.
    """
    if folder == "transformer":
        said = diffusers.transformer(configs["transformer"], configs.get("vae"), whose)
        return Stated({"transformer": said}, whose), diffusers.transformer_name
    official = Stated({"vae": diffusers.video_vae(configs["vae"], whose)}, whose)
    return official, diffusers.vae_names(VideoVAEConfig.read(official))


def of_text(shapes: Shapes, whose: str) -> Stated:
    """The config.json that a T5 without one would have, from its tensors' shapes; UserError for what is no T5."""
    return Stated(told_by(shapes, whose), whose)


def text_name(name: str, names: Collection[str]) -> str:
    """A T5's tensor under the name that is read: some files have the table of embeddings under its second name alone,
    and ComfyUI's files of 8-bit floats call a scale the other way round.
    """
    layer, _, leaf = name.rpartition(".")
    if leaf == "scale_weight":
        return f"{layer}.weight_scale"
    return TABLE if name == SPARE_TABLE and TABLE not in names else name


def text_encoder(network: Any, folder: Path) -> Any:
    """A T5 with the tokenizer in or beside a folder, ready to encode."""
    from mlx_video.models.ltx_video.text_encoder.t5 import TextEncoder
    from mlx_video.models.ltx_video.text_encoder.tokens import Tokenizer

    return TextEncoder(network, Tokenizer(folder))
