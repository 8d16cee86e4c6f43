"""A small random Gemma 3 text encoder in Hugging Face form, made without torch: config, weights, tokenizer."""

from __future__ import annotations

import json
import string
from pathlib import Path

import mlx.core as mx

from tests.support.small import TEXT_LAYERS, TEXT_WIDTH, _rounded, value

HEADS, KEY_HEADS, HEAD_DIM, FEED_FORWARD = 2, 1, 16, 48
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "circle",
    "square",
    "ball",
    "wave",
    "ocean",
    "cat",
    "dog",
    "rain",
    "music",
    "slow",
    "fast",
    "camera",
    "light",
    "on",
    "of",
    "in",
    "and",
    "with",
]


def make_gemma(folder: Path, seed: int = 0, width: int = TEXT_WIDTH, layers: int = TEXT_LAYERS) -> Path:
    """Writes the folder and returns it. Layer 2 of each 3 sees everything, the others a window of 64 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    text = {
        "model_type": "gemma3_text", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS, "head_dim": HEAD_DIM, "intermediate_size": FEED_FORWARD, "vocab_size": vocabulary,
        "query_pre_attn_scalar": HEAD_DIM, "sliding_window": 64, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "max_position_embeddings": 131072, "attention_bias": False,
        "layer_types": ["full_attention" if i % 3 == 1 else "sliding_attention" for i in range(layers)],
    }  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text, "vision_config": vision,
        "mm_tokens_per_image": 4, "boi_token_index": 3, "eoi_token_index": 3, "image_token_index": 3, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shapes = {"embed_tokens.weight": (vocabulary, width), "norm.weight": (width,)}
    for i in range(layers):
        layer = f"layers.{i}."
        shapes[layer + "self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, width)
        shapes[layer + "self_attn.k_proj.weight"] = shapes[layer + "self_attn.v_proj.weight"] = (
            KEY_HEADS * HEAD_DIM,
            width,
        )
        shapes[layer + "self_attn.o_proj.weight"] = (width, HEADS * HEAD_DIM)
        shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = (HEAD_DIM,)
        shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = (FEED_FORWARD, width)
        shapes[layer + "mlp.down_proj.weight"] = (width, FEED_FORWARD)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{layer}{norm}_layernorm.weight"] = (width,)
    tensors = {}
    for name, shape in shapes.items():
        array = value(f"gemma/{name}", shape, seed)
        # Gemma's norms scale by 1 + weight.
        array = array - 1.2 if len(shape) == 1 else array * (width**0.5 / width if "embed" in name else 1.0)
        tensors["language_model.model." + name] = _rounded(array, mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "pt"})
    return folder


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors

    pieces = [*SPECIAL, *(c for c in string.printable if not c.isspace()), "▁", "\n"]
    merges = []
    for word in WORDS:
        built = "▁"
        for letter in word:
            if built + letter not in pieces:
                merges.append((built, letter))
                pieces.append(built + letter)
            built += letter
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    # As in Gemma's own file; without it transformers begins with no token.
    first = [("<bos>", SPECIAL.index("<bos>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=first)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "tokenizer_class": "GemmaTokenizerFast",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return len(pieces)
