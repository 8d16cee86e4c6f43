"""Writes the small text encoder as a Gemma 3 folder: config, weights, tokenizer, processor files.

Published Gemma 3 checkpoints also hold a vision tower, and loaders of the whole class ask for it; here it is a tiny one
with random weights. No pipeline for video uses it. It knows the folder's layout and nothing of training.
"""

from __future__ import annotations

import json
import os
import struct

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from . import configs
from .text import SPECIAL, build_tokenizer

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-06,
    "attention_dropout": 0.0,
    "vision_use_head": False,
}
IMAGE_TOKENS = 4


def config() -> dict:
    ids = {name: i for i, name in enumerate(SPECIAL)}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": ids["<start_of_image>"],
        "eoi_token_index": ids["<end_of_image>"],
        "image_token_index": ids["<image_soft_token>"],
        "eos_token_id": [ids["<eos>"], ids["<end_of_turn>"]],
        "initializer_range": 0.02,
        "mm_tokens_per_image": IMAGE_TOKENS,
        "text_config": configs.GEMMA_TEXT,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "vision_config": VISION,
    }


def vision_tensors(width: int) -> dict:
    generator = torch.Generator("cpu").manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, device="cpu") * 0.1
    d, inner, patches = (
        VISION["hidden_size"],
        VISION["intermediate_size"],
        (VISION["image_size"] // VISION["patch_size"]) ** 2,
    )
    base = "vision_tower.vision_model."
    out = {
        base + "embeddings.patch_embedding.weight": draw(d, 3, VISION["patch_size"], VISION["patch_size"]),
        base + "embeddings.patch_embedding.bias": draw(d),
        base + "embeddings.position_embedding.weight": draw(patches, d),
        base + "post_layernorm.weight": torch.ones(d),
        base + "post_layernorm.bias": draw(d),
        "multi_modal_projector.mm_input_projection_weight": draw(d, width),
        "multi_modal_projector.mm_soft_emb_norm.weight": draw(d),
    }
    for layer in range(VISION["num_hidden_layers"]):
        at = f"{base}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out[f"{at}self_attn.{name}.weight"], out[f"{at}self_attn.{name}.bias"] = draw(d, d), draw(d)
        out.update(
            {
                at + "mlp.fc1.weight": draw(inner, d),
                at + "mlp.fc1.bias": draw(inner),
                at + "mlp.fc2.weight": draw(d, inner),
                at + "mlp.fc2.bias": draw(d),
            }
        )
        for name in ("layer_norm1", "layer_norm2"):
            out[f"{at}{name}.weight"], out[f"{at}{name}.bias"] = torch.ones(d), draw(d)
    return out


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def _block(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def sentencepiece_model(tokenizer: Tokenizer) -> bytes:
    """The vocabulary as a sentencepiece file: loaders look for one to know the folder, and read tokenizer.json."""
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    out = b""
    for piece, index in pieces:
        kind = 2 if piece == "<unk>" else 3 if piece in SPECIAL else 1
        body = (
            _block(1, piece.encode())
            + _varint(2 << 3 | 5)
            + struct.pack("<f", -float(index))
            + _varint(3 << 3)
            + _varint(kind)
        )
        out += _block(1, body)
    number = lambda field, value: _varint(field << 3) + _varint(value)
    trainer = number(3, 2) + number(4, len(pieces)) + number(40, 3) + number(41, 2) + number(42, 1) + number(43, 0)
    return out + _block(2, trainer) + _block(3, _block(1, b"identity") + number(3, 0) + number(4, 0))


def write_gemma(out: str, weights: dict) -> None:
    """`weights`: the text model's, under the names of transformers' Gemma3TextModel."""
    os.makedirs(out, exist_ok=True)
    tokenizer = build_tokenizer()

    def dump(name: str, value) -> None:
        with open(os.path.join(out, name), "w") as file:
            json.dump(value, file, indent=1)

    entry = lambda piece: {
        "content": piece,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    dump("config.json", config())
    dump("generation_config.json", {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0})
    dump(
        "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": IMAGE_TOKENS,
            "processor_class": "Gemma3Processor",
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": VISION["image_size"], "width": VISION["image_size"]},
        },
    )
    dump("processor_config.json", {"image_seq_length": IMAGE_TOKENS, "processor_class": "Gemma3Processor"})
    dump(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": configs.CONTEXT_TOKENS,
            "padding_side": "left",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "extra_special_tokens": {
                "boi_token": "<start_of_image>",
                "eoi_token": "<end_of_image>",
                "image_token": "<image_soft_token>",
            },
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {str(i): entry(piece) for i, piece in enumerate(SPECIAL)},
        },
    )
    dump(
        "special_tokens_map.json",
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    )
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "tokenizer.model"), "wb") as file:
        file.write(sentencepiece_model(tokenizer))
    tensors = {"language_model.model." + k: v for k, v in weights.items()}
    tensors.update(vision_tensors(configs.GEMMA_TEXT["hidden_size"]))
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in tensors.items()},
        os.path.join(out, "model.safetensors"),
        metadata={"format": "pt"},
    )
