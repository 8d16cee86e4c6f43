"""What a Gemma 3 folder's config.json says of its language model. Knows no arrays and no other file.

Defaults are those of the format (transformers' Gemma3TextConfig), which published files lean on: the 12B model's config
states neither its head size nor its rotary bases. A value that changes the numbers and is not implemented is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlx_video.models.ltx_2.config import Section
from mlx_video.types import UserError

EXPECTED = "LTX-2 and LTX-2.3 take Gemma 3 12B, such as google/gemma-3-12b-it or mlx-community/gemma-3-12b-it-4bit"


class Rotary(NamedTuple):
    """Rotary positions of one kind of layer: base of the frequencies, and what they are divided by."""

    base: float
    divisor: float


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

    @classmethod
    def of_folder(cls, folder: Path) -> GemmaConfig:
        """Reads `folder`/config.json; raises UserError where there is none or it is not Gemma 3's."""
        path = folder / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            found = "is not there" if not folder.is_dir() else "has no config.json"
            raise UserError(
                f"{folder} {found}: a text encoder is a folder of Hugging Face's form. {EXPECTED}."
            ) from error
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        if not isinstance(values, Mapping):
            raise UserError(f"{path} is not a config: it holds no JSON object.")
        return cls.read(values, str(folder))

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str = "The text encoder") -> GemmaConfig:
        """From a config.json's content, with vision (`gemma3`) or without (`gemma3_text`); `where` is for messages."""
        kind = values.get("model_type")
        if kind not in ("gemma3", "gemma3_text"):
            raise UserError(f"{where} holds a model of type {kind!r}, not Gemma 3 ('gemma3'). {EXPECTED}.")
        s = Section(values, "config.json")
        text = s.part("text_config") if kind == "gemma3" else s
        for key, supported in (
            ("attention_bias", False), ("attn_logit_softcapping", None), ("hidden_activation", "gelu_pytorch_tanh"),
            ("use_bidirectional_attention", False),
        ):  # fmt: skip
            text.only(key, supported, None)
        layers = text.get("num_hidden_layers", 26)
        return cls(
            width=text.get("hidden_size", 2304),
            layers=layers,
            heads=text.get("num_attention_heads", 8),
            key_heads=text.get("num_key_value_heads", 4),
            head_dim=text.get("head_dim", 256),
            feed_forward=text.get("intermediate_size", 9216),
            vocabulary=text.get("vocab_size", 262_208),
            norm_eps=text.get("rms_norm_eps", 1e-6),
            query_scale=text.get("query_pre_attn_scalar", 256),
            window=text.get("sliding_window", 4096),
            sliding=_sliding(text, layers),
            local_rotary=_rotary(text, "sliding_attention"),
            global_rotary=_rotary(text, "full_attention"),
            quantization=_quantization(values, where),
        )

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


def _sliding(text: Section, layers: int) -> tuple[bool, ...]:
    kinds = text.get("layer_types", None)
    if kinds is None:
        # Older files give the period instead: its last layer sees everything.
        period = text.get("sliding_window_pattern", 6)
        return tuple((i + 1) % period != 0 for i in range(layers))
    known = {"sliding_attention": True, "full_attention": False}
    if len(kinds) != layers or not set(kinds) <= set(known):
        raise UserError(
            f"{text.where}.layer_types lists {len(kinds)} layers of the kinds {', '.join(sorted(set(kinds)))}; "
            f"supported: one of {', '.join(known)} for each of the {layers} layers."
        )
    return tuple(known[kind] for kind in kinds)


def _rotary(text: Section, kind: str) -> Rotary:
    everywhere = kind == "full_attention"
    # Since transformers 5 one entry holds both kinds; before, four keys did.
    given = dict((text.get("rope_parameters", {})).get(kind) or {})
    if everywhere:
        given = {**given, **text.get("rope_scaling", {})}
    old, default = ("rope_theta", 1_000_000.0) if everywhere else ("rope_local_base_freq", 10_000.0)
    base = given.get("rope_theta", text.get(old, default))
    how = given.get("rope_type", given.get("type", "default"))
    if how not in ("default", "linear"):
        raise UserError(f"{text.where} asks for rotary positions of type {how!r}; supported: default, linear.")
    return Rotary(float(base), float(given["factor"]) if how == "linear" else 1.0)


def _quantization(values: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    found = values.get("quantization") or values.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping) or not {"bits", "group_size"} <= set(found):
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise UserError(
            f"{where} is quantized by {method!r}; supported: mlx's own (bits and group_size in config.json), "
            f"or no quantization. {EXPECTED}."
        )
    return found
