"""What the rest of the package asks of this family's text encoders; `Family.text` gives it this module.

Which of the two a model is, Gemma 3 or Gemma 4, follows from its own config.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_video.models.ltx_2.config import TextConfig
from mlx_video.models.ltx_2.text_encoder import gemma4_config, gemma_config
from mlx_video.models.ltx_2.text_encoder.enhance import MAX_TOKENS, enhance
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma, TextEncoder
from mlx_video.models.ltx_2.text_encoder.gemma4 import Gemma4
from mlx_video.models.ltx_2.text_encoder.gemma4_config import Gemma4Config
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.models.ltx_2.text_encoder.language_model import LanguageModel
from mlx_video.models.ltx_2.text_encoder.tokens import MAX_TOKENIZER, Gemma4Tokenizer, Tokenizer, Written
from mlx_video.models.section import Section
from mlx_video.reading import parse_json, read_json, shown
from mlx_video.types import CONTEXT_TOKENS, UserError

__all__ = ["CONFIG_KEY", "CONTEXT_TOKENS", "MAX_TOKENIZER", "MAX_TOKENS", "WITHIN", "advice", "check_fits",
           "check_writes", "context_widths", "encoder", "enhance", "layers_of", "network", "network_class",
           "read_config", "read_embedded", "tokenizer"]  # fmt: skip

CONFIG_KEY = "gemma_config"
"""The metadata of a text encoder in a single file holds its config.json under this name."""
SOURCE_KEY = "gemma_source_checkpoint"
"""A checkpoint made for one text encoder alone says under this key which: its `gemma_version`."""
_FILES = ("tokenizer_config.json", "processor_config.json", "generation_config.json", "chat_template.jinja")
WITHIN = {"tokenizer_json": "tokenizer.json", **{f"hf_asset__{name}": name for name in _FILES}}
"""Of a single file: tensor -> the file that its bytes are.

Source: Lightricks' files and ltx-core 1.2.0 `gemma_assets.py`. A table, because somebody else's names might lead out of
the folder that they are written to.
"""

Config = GemmaConfig | Gemma4Config


def read_config(folder: Path, names: Collection[str]) -> Config:
    """Of the model in a folder of Hugging Face's form with tensors of these names; raises UserError for another."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    config: Config
    if values.get("model_type") in gemma4_config.KINDS:
        config = Gemma4Config.read(values, str(folder))
    else:
        config = GemmaConfig.of_folder(folder)
    config.check_names(names, folder)
    return config


def read_embedded(file: Path, metadata: Mapping[str, Any], names: Collection[str]) -> Config:
    """Of the model in one file with this metadata and tensors of these names; raises UserError for another."""
    values = metadata.get(CONFIG_KEY)
    if not isinstance(values, Mapping):
        kind = "" if values is None else " that is a JSON object"
        raise UserError(
            f"{file} is not a text encoder: its metadata has no {CONFIG_KEY}{kind}. {gemma4_config.EXPECTED}; "
            f"{gemma_config.EXPECTED}, as a folder."
        )
    if values.get("model_type") not in gemma4_config.KINDS:
        raise UserError(
            f"{file} says {CONFIG_KEY}.model_type = {shown(values.get('model_type'))}; as a single file only "
            f"Gemma 4 is read. {gemma4_config.EXPECTED}."
        )
    config = Gemma4Config.read(values, str(file), CONFIG_KEY)
    config.check_names(names, file)
    return config


def network_class(config: Config) -> type[LanguageModel]:
    """The class, for its tensors' names."""
    return Gemma4 if isinstance(config, Gemma4Config) else Gemma


def network(config: Config, names: Collection[str] = ()) -> LanguageModel:
    """Without weights; layers are quantized whose scales are among `names`."""
    return Gemma4(config, names) if isinstance(config, Gemma4Config) else Gemma(config, names)


def layers_of(network: LanguageModel) -> list[Any]:
    """The layers that are quantized."""
    return network.model.layers  # type: ignore[no-any-return]


def encoder(network: LanguageModel, path: Path, read: Callable[[str], bytes | None] | None = None) -> TextEncoder:
    """With the tokenizer in or beside a folder; where `path` is one file, `read` gives the files within it."""
    return TextEncoder(network, _tokenizer(isinstance(network, Gemma4), path, read))


def tokenizer(config: Config, path: Path, read: Callable[[str], bytes | None] | None = None) -> Tokenizer:
    """The tokenizer alone of the model with that config; the rest as in `encoder`."""
    return _tokenizer(isinstance(config, Gemma4Config), path, read)


def _tokenizer(newer: bool, path: Path, read: Callable[[str], bytes | None] | None) -> Tokenizer:
    whose = "Gemma 4" if newer else "Gemma 3"
    written = Written.of_folder(path, whose) if read is None else _embedded(path, read, whose)
    return Gemma4Tokenizer(written) if newer else Tokenizer(written)


def _embedded(file: Path, read: Callable[[str], bytes | None], whose: str) -> Written:
    rules, settings = read("tokenizer.json"), read("tokenizer_config.json")
    if rules is None:
        raise UserError(
            f"{file} has no tokenizer (the tensor tokenizer_json, or tokenizer.json beside it). "
            f"{gemma4_config.EXPECTED}."
        )
    try:
        values = parse_json(settings) if settings is not None else {}
    except ValueError as error:
        raise UserError(f"{file} has a damaged tokenizer_config.json: it is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} has a damaged tokenizer_config.json: it holds no JSON object.")
    return Written(str(file), rules, values, whose)


def advice(generation: str) -> str:
    """Where a text encoder is to be had for a checkpoint of a generation, for messages."""
    if generation in ("2", "2.3"):
        return "put Gemma 3's folder there as gemma/, or name it with --text-encoder-repo (google/gemma-3-12b-it)."
    return (
        "put gemma4-12b-with-proj-ltx-2.5-bf16.safetensors there, or name it with --text-encoder-repo "
        "(Lightricks/LTX-2.5)."
    )


def check_fits(config: Config, settings: Mapping[str, Any], features: int) -> None:
    """Raises UserError where a checkpoint's connectors, with so many features, were made for another text encoder."""
    s = Section(settings, "config")
    wanted = s.part(SOURCE_KEY, optional=True).values.get("gemma_version")
    # Both models are equally wide and deep at 12B, so no size tells them apart.
    newer = wanted is not None or s.part("transformer", optional=True).flag("ff_bias", True) is False
    if newer != isinstance(config, Gemma4Config):
        expected = gemma4_config.EXPECTED if newer else gemma_config.EXPECTED
        raise UserError(
            f"The text encoder is a Gemma {3 if newer else 4}, which this checkpoint is not for. {expected}."
        )
    if wanted is not None and wanted != config.gemma_version:
        raise UserError(
            f"The text encoder is {config.gemma_version}, but the checkpoint was trained with {shown(wanted)} "
            f"({SOURCE_KEY}.gemma_version). {gemma4_config.EXPECTED}."
        )
    TextConfig.read(settings, features=features).check_encoder(config.width, config.layers)


def check_writes(config: Config, path: Path) -> None:
    """Raises UserError where the model at `path` cannot write a prompt out.

    Lightricks trained its Gemma 4 to be read by connectors, and says that it must not generate.
    """
    if isinstance(config, Gemma4Config):
        raise UserError(
            f"{path} is LTX-2.5's text encoder, which reads prompts and cannot write them; name an instruction-tuned "
            f"Gemma 3 with --prompt-writer (google/gemma-3-4b-it, google/gemma-3-12b-it), or leave --enhance-prompt "
            f"out."
        )


def context_widths(settings: Mapping[str, Any], features: int) -> tuple[int, int]:
    """Values of a token in the contexts for video and audio that a checkpoint's connectors make."""
    config = TextConfig.read(settings, features=features)
    return config.video.dim, config.audio.dim
