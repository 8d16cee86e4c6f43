"""LTX-2 and LTX-2.3: which networks there are, and one of them alone for tests and research.

COMPONENTS pairs each component's name with its class and with the part of a checkpoint's config that it is built from.
The classes are imported when a component is asked for, so that nothing heavy comes with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_video.models.ltx_2 import config

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn


class Component(NamedTuple):
    """A network: where its class is, how its config is read, and what it computes in.

    autoencoder: in the autoencoders' type (`platform.autoencoder_dtype`) and not in the transformer's; always_float32:
    in float32 whatever is asked.
    """

    module: str
    name: str
    read: Callable[..., Any]
    autoencoder: bool = False
    always_float32: bool = False
    stacks: str = "stacks"
    """The attribute of its config that says what stands in it so many times in a row; see `config.Stacks`."""

    @property
    def network(self) -> type[nn.Module]:
        """The class itself."""
        return getattr(import_module(f"mlx_video.models.ltx_2.{self.module}"), self.name)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """With what the names of its tensors begin in an official file."""
        return tuple(vars(self.network).get("prefixes", ("",)))

    def build(self, settings: Mapping[str, Any], paths: Collection[str] | None = None, **options: Any) -> nn.Module:
        """The network with unloaded weights, from a checkpoint's config.

        paths: where the checkpoint's tensors belong in it; raises UserError, before anything is built, where they are
        of fewer layers than the config says. None: they are not known.
        """
        found = self.read(settings, **options)
        if paths is not None:
            config.check_depth(getattr(found, self.stacks, {}), paths, getattr(settings, "whose", "The checkpoint"))
        return self.network(found)


_ENCODER, _DECODER = "encoder_stacks", "decoder_stacks"

COMPONENTS: dict[str, Component] = {
    "transformer": Component("transformer", "Transformer", config.TransformerConfig.read),
    "connectors": Component("text_encoder.connectors", "Connectors", config.TextConfig.read),
    "video_encoder": Component(
        "video_vae.encoder", "VideoEncoder", config.VideoVAEConfig.read, autoencoder=True, stacks=_ENCODER
    ),
    "video_decoder": Component(
        "video_vae.decoder", "VideoDecoder", config.VideoVAEConfig.read, autoencoder=True, stacks=_DECODER
    ),
    "latent_statistics": Component(
        "video_vae.statistics", "LatentStatistics", config.VideoVAEConfig.read, autoencoder=True
    ),
    "audio_encoder": Component(
        "audio_vae.encoder", "AudioEncoder", config.AudioVAEConfig.read, autoencoder=True, stacks=_ENCODER
    ),
    "audio_decoder": Component(
        "audio_vae.decoder", "AudioDecoder", config.AudioVAEConfig.read, autoencoder=True, stacks=_DECODER
    ),
    # The reference keeps the vocoder in float32: in bfloat16 its spectral error grows by 40 to 90 %.
    "vocoder": Component("vocoder", "Vocoder", config.VocoderConfig.read, always_float32=True),
    "upsampler": Component("upsampler", "Upsampler", config.UpsamplerConfig.read, autoencoder=True),
}


def load(component: str, path: str | Path, dtype: mx.Dtype | None = None) -> Any:
    """One network with its weights, from whatever `--model-repo` takes (for "upsampler" also its own file).

    component: a key of COMPONENTS or "text_encoder"; dtype: of the weights and the computation, float32 if left out.
    The caller keeps the network; `network.clear()` frees it. Axis orders are stated by each class.
    """
    from mlx_video.lending.loader import load_component

    return load_component(component, path, dtype)
