"""What the rest of the package asks of this family's text encoder; `Family.text` gives it this module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_video.models.ltx_2.config import CONTEXT_TOKENS, TextConfig
from mlx_video.models.ltx_2.text_encoder.enhance import MAX_TOKENS, enhance
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma, TextEncoder
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.text_encoder.tokens import MAX_TOKENIZER, Tokenizer

__all__ = ["CONTEXT_TOKENS", "MAX_TOKENIZER", "MAX_TOKENS", "advice", "check_fits", "context_widths", "encoder",
           "enhance", "layers_of", "network", "read_config"]  # fmt: skip

NETWORK = Gemma
"""The class, for its tensors' names."""


def read_config(folder: Path, names: Collection[str]) -> GemmaConfig:
    """Of the model in a folder of Hugging Face's form with tensors of these names; raises UserError for another."""
    config = GemmaConfig.of_folder(folder)
    config.check_names(names, folder)
    return config


def network(config: GemmaConfig, names: Collection[str] = ()) -> Gemma:
    """Without weights; layers are quantized whose scales are among `names`."""
    return Gemma(config, names)


def layers_of(network: Gemma) -> list[Any]:
    """The layers that are quantized."""
    return network.model.layers  # type: ignore[no-any-return]


def encoder(network: Gemma, folder: Path) -> TextEncoder:
    """With the folder's tokenizer."""
    return TextEncoder(network, Tokenizer(folder))


def advice(generation: str) -> str:
    """Where a text encoder is to be had for a checkpoint of a generation, for messages."""
    if generation in ("2", "2.3"):
        return "put Gemma 3's folder there as gemma/, or name it with --text-encoder-repo (google/gemma-3-12b-it)."
    return (
        "put gemma4-12b-with-proj-ltx-2.5-bf16.safetensors there, or name it with --text-encoder-repo "
        "(Lightricks/LTX-2.5)."
    )


def check_fits(config: GemmaConfig, settings: Mapping[str, Any], features: int) -> None:
    """Raises UserError where a checkpoint's connectors, with so many features, were made for another text encoder."""
    TextConfig.read(settings, features=features).check_encoder(config.width, config.layers)


def context_widths(settings: Mapping[str, Any], features: int) -> tuple[int, int]:
    """Values of a token in the contexts for video and audio that a checkpoint's connectors make."""
    config = TextConfig.read(settings, features=features)
    return config.video.dim, config.audio.dim
