"""The text encoder of LTX-2 and LTX-2.3 by its sizes, Gemma 3 12B: its config, and what the header of its files says.

As google/gemma-3-12b-it publishes it, without the tower for pictures.
"""

from __future__ import annotations

import functools
import json

from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.text_encoder.gemma import Gemma
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig
from mlx_video.weights.store import Entry

FEATURES = 3840 * 49


def config_json() -> str:
    """The folder's config.json, as far as it speaks of the language model."""
    text = {
        "hidden_size": 3840, "intermediate_size": 15_360, "num_attention_heads": 16, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024, "vocab_size": 262_208,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "model_type": "gemma3_text",
    }  # fmt: skip
    return json.dumps({"model_type": "gemma3", "text_config": text})


def config() -> GemmaConfig:
    """The same, read."""
    return GemmaConfig.read(json.loads(config_json()))


@functools.cache
def entries() -> dict[str, Entry]:
    """Name -> dtype, shape and bytes of each tensor of the language model."""
    found = {}
    for path, array in tree_flatten(Gemma(config()).parameters()):
        name = path.replace("model.", "language_model.model.", 1)
        found[name] = Entry("BF16", tuple(array.shape), 2 * array.size)
    return found
