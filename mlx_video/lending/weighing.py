"""What the networks that a loader lends weigh, from headers; each is weighed once for each checkpoint."""

from __future__ import annotations

import functools

import mlx.core as mx

from mlx_video.checkpoints.text_source import TextSource
from mlx_video.lending.loader import Loader
from mlx_video.weights import quantize
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.weigh import Weights, weigh


def weigh_component(
    loader: Loader, component: str, *, audio: bool = True, quantization: Quantization | None = None
) -> Weights:
    """A component as `loader` lends it. audio of False: the transformer without its stream for sound.

    quantization: to be made of the transformer's blocks while loading; the loader's own if left out.
    """
    dtype, known = loader.dtype_of(component), loader.checkpoint.known
    how = (quantization or loader.quantization) if component == "transformer" else None
    key = ("weighs", component, audio, dtype.size, how)
    if key not in known:
        known[key] = _weigh(loader, component, audio, dtype, how)
    return known[key]


def _weigh(loader: Loader, component: str, audio: bool, dtype: mx.Dtype, how: Quantization | None) -> Weights:
    options = {"audio": audio} if component == "transformer" else {}
    part, network = loader.checkpoint.part(component), loader.checkpoint.skeleton(component, **options)
    making = how if how and quantize.used(network) is None else None
    chosen = quantize.chosen([network.transformer_blocks[0]], making)[0] if making else ()

    def packed(path: str) -> float | None:
        layer, _, leaf = path.partition("transformer_blocks.")[2].partition(".")[2].rpartition(".")
        return making.bytes_each(dtype.size) if making and leaf == "weight" and layer in chosen else None

    entries = {name: part.tensors.entries[name] for name in part.tensors.under(part.prefixes)}
    path_of = functools.partial(part.path_of, network)
    return weigh(entries, path_of, getattr(network, "visited", ()), dtype, packed)


def weigh_upsampler(loader: Loader, kind: str) -> Weights:
    """An upsampler of a kind that the checkpoint has."""
    return weigh(loader.upsampler(kind).tensors.entries, lambda name: name, (), loader.vae_dtype)


def weigh_text_encoder(source: TextSource, dtype: mx.Dtype) -> Weights:
    """A text encoder that computes in `dtype`."""
    return weigh(source.tensors.entries, source.path_of, source.network_class.visited, dtype)


def is_quantized(loader: Loader) -> bool:
    """Whether the transformer's blocks are quantized, or will be while loading."""
    if loader.quantization is not None:
        return True
    checkpoint = loader.checkpoint
    return quantize.used(checkpoint.skeleton("transformer", audio=checkpoint.audio)) is not None
