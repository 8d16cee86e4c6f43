"""A small random Gemma 4 in the forms that LTX-2.5's text encoder has, made without torch: one file, or a folder."""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.text_encoder.gemma4 import Gemma4
from mlx_video.models.ltx_2.text_encoder.gemma4_config import Gemma4Config
from tests.models.test_text_encoder import write_tokenizer

VERSION = "gemma4-12b-ltx-v1"
NAME = "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors"
PLACEHOLDERS = ("<|image|>", "<|audio|>", "<|video|>")
TEXT = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "head_dim": 16,
    "global_head_dim": 32,
    "intermediate_size": 64,
    "vocab_size": 320,
    "vocab_size_per_layer_input": 320,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000.0, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    },
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
    "max_position_embeddings": 4096,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
"""Bases of the rotary frequencies are small, so that all that turn do so within a prompt."""


def config(version: str | None = VERSION, **text: Any) -> dict[str, Any]:
    """The content of a config.json; `text` are other values of the language model."""
    ids = {f"{name}_token_id": 317 + i for i, name in enumerate(("image", "audio", "video"))}
    said = {} if version is None else {"gemma_version": version}
    return {"model_type": "gemma4_unified", **said, **ids, "text_config": TEXT | text}


def value(name: str, shape: tuple[int, ...], seed: int = 0) -> mx.array:
    """Weights by seed and name alone, as in published files: keys' norms near 1 / sqrt(head size), scalars below 1."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    normal = rng.standard_normal(shape)
    if name.endswith("layer_scalar"):
        found = rng.uniform(0.05, 0.9, shape)
    elif name.endswith("k_norm.weight"):
        found = (1.5 + 0.3 * normal) * shape[0] ** -0.5
    elif name.endswith("norm.weight"):
        found = 1.0 + 0.25 * normal
    else:
        found = normal * (0.15 if "embed_tokens" in name else shape[-1] ** -0.5)
    return mx.array(found, mx.float32).astype(mx.bfloat16)


def tensors(seed: int = 0, **text: Any) -> dict[str, mx.array]:
    """Every tensor of the language model under published names, with pieces of the towers and the projections."""
    network = Gemma4(Gemma4Config.read(config(**text), "small"))
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(network.parameters())}
    shapes["vision_model.pos_embedding"] = (4, 2, 8)
    shapes["multi_modal_projector.embedding_projection.weight"] = (8, 8)
    shapes["audio_projector.embedding_projection.weight"] = (8, 4)
    features = network.config.width * (network.config.layers + 1)
    shapes["text_embedding_projection.video_aggregate_embed.weight"] = (16, features)
    shapes["text_embedding_projection.video_aggregate_embed.bias"] = (16,)
    return {name: value(name, shape, seed) for name, shape in shapes.items()}


def tokenizer_files() -> dict[str, str]:
    """tokenizer.json and what lies beside it: as Gemma 4's, no rule of its own puts a token first."""
    from tokenizers import AddedToken, Tokenizer

    with tempfile.TemporaryDirectory() as place:
        write_tokenizer(Path(place))
        words = Tokenizer.from_file(f"{place}/tokenizer.json")
        settings = json.loads((Path(place) / "tokenizer_config.json").read_text())
    filler = [f"<unused{i}>" for i in range(317 - words.get_vocab_size())]
    words.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (*filler, *PLACEHOLDERS)])
    rules = json.loads(words.to_str())
    rules["post_processor"] = None
    return {"tokenizer.json": json.dumps(rules), "tokenizer_config.json": json.dumps(settings)}


def embedded(files: dict[str, str], dtype: mx.Dtype = mx.uint8) -> dict[str, mx.array]:
    """The tensors that a single file holds such files in."""
    names = {"tokenizer.json": "tokenizer_json"}
    raw = {names.get(name, f"hf_asset__{name}"): np.frombuffer(text.encode(), np.uint8) for name, text in files.items()}
    return {name: mx.array(content).view(dtype) for name, content in raw.items()}


def write_file(path: Path, seed: int = 0, **text: Any) -> Path:
    """The official form: one file with config, tokenizer and tensors under flat names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "gemma_config": json.dumps(config(**text))}
    mx.save_safetensors(str(path), {**tensors(seed, **text), **embedded(tokenizer_files())}, metadata)
    return path


def write_folder(folder: Path, seed: int = 0, version: str | None = VERSION, **text: Any) -> Path:
    """Hugging Face's form: nested names, its own files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(version, **text)))
    found = {
        name.replace("model.", "model.language_model.", 1): array
        for name, array in tensors(seed, **text).items()
        if name.startswith("model.")
    }
    found |= {"model.vision_embedder.pos_embedding": mx.zeros((4, 2, 8)), "model.embed_audio.w": mx.zeros((4,))}
    mx.save_safetensors(str(folder / "model.safetensors"), found)
    for name, text_of in tokenizer_files().items():
        (folder / name).write_text(text_of)
    return folder
