"""What a Gemma 3 folder's config.json says of its language model. Knows no arrays and no other file.

Defaults are those of the format (transformers' Gemma3TextConfig), which published files lean on: the 12B model's config
states neither its head size nor its rotary bases. A value that changes the numbers and is not implemented is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mlx_video.models.section import MAX_HEADS, MAX_LAYERS, MAX_POSITION, Section, check_depth, heads_of
from mlx_video.reading import read_json, shown
from mlx_video.types import UserError

EXPECTED = "LTX-2 and LTX-2.3 take Gemma 3 12B, such as google/gemma-3-12b-it or mlx-community/gemma-3-12b-it-4bit"

MAX_WORDS = 1 << 21
"""Tokens that a model knows; Gemma 3's knows 262,208."""
MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
"""How mlx packs weights: by mode, which bits and which group sizes there are."""


class Rotary(NamedTuple):
    """Rotary positions of one kind of layer."""

    base: float
    """Of the frequencies."""
    divisor: float
    """Of the frequencies."""
    share: float = 1.0
    """Of the pairs that are turned, from the first; the others stay as they are."""


@dataclass(frozen=True)
class GemmaConfig:
    """The language model of Gemma 3."""

    width: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    norm_eps: float
    query_scale: float
    """Attention's scores are divided by its square root."""
    window: int
    """Tokens that a sliding layer looks at, itself included."""
    sliding: tuple[bool, ...]
    """For each layer: whether it sees a window only."""
    local_rotary: Rotary
    global_rotary: Rotary
    quantization: Mapping[str, Any] | None
    """mlx's own entry: bits, group_size, mode, and exceptions by tensor path; None for plain weights."""
    gemma_version: ClassVar[None] = None
    """Gemma 3 is taken as Google publishes it: no checkpoint asks for a version."""

    @classmethod
    def of_folder(cls, folder: Path) -> GemmaConfig:
        """Reads `folder`/config.json; raises UserError where there is none or it is not Gemma 3's."""
        path = folder / "config.json"
        if not path.is_file():
            found = "is not there" if not folder.is_dir() else "has no config.json"
            raise UserError(f"{folder} {found}: a text encoder is a folder of Hugging Face's form. {EXPECTED}.")
        return cls.read(read_json(path), str(folder))

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str = "The text encoder") -> GemmaConfig:
        """From a config.json's content, with vision (`gemma3`) or without (`gemma3_text`); `where` is for messages."""
        kind = values.get("model_type")
        if kind not in ("gemma3", "gemma3_text"):
            raise UserError(
                f"{where} holds a model of type {shown(kind)}, not Gemma 3 (model_type 'gemma3'). {EXPECTED}."
            )
        s = Section(values, "config.json", where)
        text = s.part("text_config") if kind == "gemma3" else s
        for key, supported in (
            ("attention_bias", False), ("attn_logit_softcapping", None), ("hidden_activation", "gelu_pytorch_tanh"),
            ("use_bidirectional_attention", False),
        ):  # fmt: skip
            text.only(key, supported, None)
        layers = text.integer("num_hidden_layers", 26, 1, MAX_LAYERS)
        heads, head_dim = heads_of(text, "num_attention_heads", 8, "head_dim", 256)
        key_heads = text.integer("num_key_value_heads", 4, 1, MAX_HEADS)
        if heads % key_heads:
            raise UserError(
                f"{where} says {text.where}.num_key_value_heads = {key_heads}; it should be a divisor of "
                f"num_attention_heads = {heads}."
            )
        return cls(
            width=text.integer("hidden_size", 2304),
            layers=layers,
            heads=heads,
            key_heads=key_heads,
            head_dim=head_dim,
            feed_forward=text.integer("intermediate_size", 9216, 1, 1 << 18),
            vocabulary=text.integer("vocab_size", 262_208, 1, MAX_WORDS),
            norm_eps=text.number("rms_norm_eps", 1e-6, 1e-12, 1e-2),
            query_scale=text.number("query_pre_attn_scalar", 256, 1, 1e5),
            window=text.integer("sliding_window", 4096, 1, MAX_POSITION),
            sliding=sliding_layers(text, layers),
            local_rotary=_rotary(text, "sliding_attention"),
            global_rotary=_rotary(text, "full_attention"),
            quantization=packing(values, where, EXPECTED),
        )

    def check_names(self, names: Collection[str], where: object) -> None:
        """Raises UserError where a folder's tensors, by name, are of fewer layers than its config says."""
        check_layers(names, self.layers, str(where))

    def layer_flops(self, tokens: int) -> float:
        """Floating-point operations of one layer over a prompt of `tokens`."""
        weights = self.width * (2 * self.head_dim * (self.heads + self.key_heads) + 3 * self.feed_forward)
        return 2.0 * tokens * weights + 4.0 * tokens * tokens * self.heads * self.head_dim

    def as_mlx_vlm(self, **more: Any) -> Any:
        """mlx-vlm's own config of the language model, with `more` of its fields.

        mlx-vlm reads some keys under other names (the global rotary base) or elsewhere, and falls back to defaults.
        """
        from mlx_vlm.models.gemma3.config import TextConfig

        far = self.global_rotary
        scaling: Any = None if far.divisor == 1 else {"rope_type": "linear", "factor": far.divisor}
        return TextConfig(
            model_type="gemma3_text",
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            intermediate_size=self.feed_forward,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_dim,
            rms_norm_eps=self.norm_eps,
            vocab_size=self.vocabulary,
            query_pre_attn_scalar=self.query_scale,
            sliding_window=self.window,
            sliding_window_pattern=self.sliding.index(False) + 1 if False in self.sliding else self.layers + 1,
            rope_local_base_freq=self.local_rotary.base,
            rope_global_base_freq=far.base,
            rope_scaling=scaling,
            **more,
        )


def check_layers(names: Collection[str], layers: int, where: str) -> None:
    """Raises UserError where tensors, by name, are of fewer layers than the config says."""
    # Several spellings of prefixes are in use; what stands before the layers does not matter here.
    found = (name.rpartition("layers.") for name in names if "vision" not in name and "audio" not in name)
    there = {f"layers.{rest}" for _, layer, rest in found if layer}
    check_depth({"layers": ("num_hidden_layers", layers)}, there, where)


def sliding_layers(text: Section, layers: int) -> tuple[bool, ...]:
    """For each layer whether it sees a window only: the file lists them, or gives the period."""
    kinds = text.values.get("layer_types")
    if kinds is None:
        # Older files give the period instead: its last layer sees everything.
        period = text.integer("sliding_window_pattern", 6, 1, MAX_LAYERS)
        return tuple((i + 1) % period != 0 for i in range(layers))
    known = {"sliding_attention": True, "full_attention": False}
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in list(known) for kind in kinds):
        raise UserError(
            f"{text.whose} says {text.where}.layer_types = {shown(kinds)}; it should be a list of one of "
            f"{', '.join(known)} for each of the {layers} layers."
        )
    return tuple(known[kind] for kind in kinds)


def _rotary(text: Section, kind: str) -> Rotary:
    everywhere = kind == "full_attention"
    # Since transformers 5 one entry holds both kinds; before, four keys did.
    given = text.part("rope_parameters", optional=True).part(kind, optional=True)
    if everywhere:
        older = text.part("rope_scaling", optional=True)
        given = Section({**given.values, **older.values}, older.where, text.whose)
    old, default = ("rope_theta", 1_000_000.0) if everywhere else ("rope_local_base_freq", 10_000.0)
    base = given.number("rope_theta", text.number(old, default, 10, 1e8), 10, 1e8)
    how = given.only("rope_type" if "rope_type" in given.values else "type", "default", "linear")
    divisor = given.number("factor", 0.0, 1e-3, 1e4) if how == "linear" else 1.0
    if not divisor:
        raise UserError(f"{text.whose} lacks {given.where}.factor in its config.")
    return Rotary(float(base), float(divisor))


def packing(values: Mapping[str, Any], where: str, expected: str) -> Mapping[str, Any] | None:
    """How a folder's weights are packed, by its config; None for plain ones. expected: what to take instead."""
    found = values.get("quantization")
    found = values.get("quantization_config") if found is None else found
    if found is None:
        return None
    if not isinstance(found, Mapping) or not {"bits", "group_size"} <= set(found):
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise UserError(
            f"{where} is quantized by {shown(method)}; supported: mlx's own (bits and group_size in config.json), "
            f"or no quantization. {expected}."
        )
    # Beside the general ones stand exceptions, by the names of layers.
    own = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    for name, value in own.items():
        _check_packing(Section(value, f"config.json.quantization[{shown(name)}]", where))
    _check_packing(Section(found, "config.json.quantization", where))
    return {**{key: found[key] for key in ("bits", "group_size", "mode") if key in found}, **own}


def _check_packing(s: Section) -> None:
    bits, groups = MODES[s.only("mode", *MODES)]
    s.only("bits", *bits)
    s.only("group_size", *groups)


@dataclass(frozen=True)
class SpeechConfig:
    """What a config says beyond the language model: what ends an answer, and how pictures come in."""

    ends: tuple[int, ...]
    padding: int
    picture: tuple[int, int, int]
    """Tokens that begin and end a picture, and the one that stands for each of its pieces."""
    pieces: int
    """Of a picture, as the language model sees it."""
    vision: Mapping[str, Any] | None
    """mlx-vlm's settings of the vision tower; None where there is none."""

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str = "The text encoder") -> SpeechConfig:
        """From a config.json's content; defaults are those of transformers' Gemma3Config."""
        s = Section(values, "config.json", where)
        end = values.get("eos_token_id")
        one = end is None or isinstance(end, list)
        ends = s.integers("eos_token_id", (), 0, MAX_WORDS) if one else (s.integer("eos_token_id", 1, 0, MAX_WORDS),)
        found = cls(
            ends=ends,
            padding=s.integer("pad_token_id", 0, 0, MAX_WORDS),
            picture=(
                s.integer("boi_token_index", 255_999, 0, MAX_WORDS),
                s.integer("eoi_token_index", 256_000, 0, MAX_WORDS),
                s.integer("image_token_index", 262_144, 0, MAX_WORDS),
            ),
            pieces=s.integer("mm_tokens_per_image", 256, 1, 1 << 14),
            vision=None if values.get("vision_config") in (None, {}) else _vision(s.part("vision_config")),
        )
        if found.vision is not None:
            side, places = math.isqrt(found.pieces), found.vision["image_size"] // found.vision["patch_size"]
            if side * side != found.pieces or not places or places % side:
                raise UserError(
                    f"{where} says mm_tokens_per_image = {found.pieces}; it should be the square of a divisor of "
                    f"vision_config's image_size / patch_size = {places}."
                )
        return found


def _vision(s: Section) -> Mapping[str, Any]:
    found = {
        "model_type": s.only("model_type", "siglip_vision_model"),
        "num_hidden_layers": s.integer("num_hidden_layers", 27, 1, MAX_LAYERS),
        "hidden_size": s.integer("hidden_size", 1152),
        "intermediate_size": s.integer("intermediate_size", 4304),
        "num_attention_heads": s.integer("num_attention_heads", 16, 1, MAX_HEADS),
        "patch_size": s.integer("patch_size", 14, 1, 256),
        "image_size": s.integer("image_size", 896, 1, 4096),
        "num_channels": s.only("num_channels", 3),
        "layer_norm_eps": s.number("layer_norm_eps", 1e-6, 1e-12, 1e-2),
    }
    if found["hidden_size"] % found["num_attention_heads"]:
        raise UserError(
            f"{s.whose} says {s.where}.num_attention_heads = {found['num_attention_heads']}; it should be a divisor of "
            f"hidden_size = {found['hidden_size']}."
        )
    return found
