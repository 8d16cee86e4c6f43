"""What a Gemma 4 says of its language model, in a folder's config.json or in the metadata of a single file.

LTX-2.5 takes a model that Lightricks trained further and gave a `gemma_version`; Google's own has none and is refused.
Knows no arrays. A value that changes the numbers and is not implemented is refused. Source of keys and defaults:
transformers' Gemma4UnifiedConfig and Gemma4UnifiedTextConfig.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_video.models.ltx_2.text_encoder.gemma_config import MAX_WORDS, Rotary, check_layers, packing, sliding_layers
from mlx_video.models.section import MAX_HEADS, MAX_LAYERS, MAX_POSITION, Section, heads_of
from mlx_video.reading import shown
from mlx_video.types import UserError

OFFICIAL = "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors of Lightricks/LTX-2.5"
EXPECTED = f"LTX-2.5 takes Lightricks' own Gemma 4 12B: {OFFICIAL}"
KINDS = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
"""Values of model_type that speak of some Gemma 4; those without `_text` are read here. Converters that keep the
language model alone write the one without `_unified`."""
MAX_VERSION = 64
"""Characters of a gemma_version; the published has 17."""

_ONLY: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("attention_bias", (False, None)),
    ("hidden_activation", ("gelu_pytorch_tanh", None)),
    ("use_bidirectional_attention", ("vision", None)),
    ("hidden_size_per_layer_input", (0, None)),
    ("enable_moe_block", (False, None)),
    ("num_kv_shared_layers", (0, None)),
    ("use_double_wide_mlp", (False, None)),
)
"""What is implemented of keys that other sizes of Gemma 4 set otherwise; an absent one means the first."""


class Heads(NamedTuple):
    """The attention of one kind of layer; all have the same number of heads for queries."""

    key_heads: int
    head_dim: int
    rotary: Rotary
    shared: bool
    """Whether values are the keys as projected, before their norm and rotation: there is no v_proj then."""


@dataclass(frozen=True)
class Gemma4Config:
    """The language model of Gemma 4."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    norm_eps: float
    window: int
    """Tokens that a sliding layer looks at, itself included."""
    sliding: tuple[bool, ...]
    """For each layer: whether it sees a window only."""
    near: Heads
    """Of the layers that see a window."""
    far: Heads
    """Of the layers that see everything."""
    padding: int
    """The token whose embedding stands for those of `placeholders`."""
    placeholders: tuple[int, ...]
    """Tokens that stand for pieces of pictures, films and sounds; where there are none, they are as padding."""
    quantization: Mapping[str, Any] | None
    """mlx's own entry: bits, group_size, mode, and exceptions by tensor path; None for plain weights."""
    gemma_version: str
    """What a transformer's metadata asks for by name."""

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str, place: str = "config.json") -> Gemma4Config:
        """From a config's content; `where` (folder or file) and `place` (what in it) are for messages.

        Raises UserError for a Gemma 4 that no LTX was trained with, and for what is not implemented.
        """
        s = Section(values, place, where)
        version = _version(values, where)
        s.only("model_type", "gemma4_unified", "gemma4")
        text = s.part("text_config")
        for key, supported in _ONLY:
            text.only(key, *supported)
        layers = text.integer("num_hidden_layers", 30, 1, MAX_LAYERS)
        near = _heads(text, "sliding_attention", "head_dim", 256, shared=False)
        far = _heads(text, "full_attention", "global_head_dim", 512, shared=text.flag("attention_k_eq_v", False))
        return cls(
            width=text.integer("hidden_size", 2304),
            layers=layers,
            heads=text.integer("num_attention_heads", 8, 1, MAX_HEADS),
            feed_forward=text.integer("intermediate_size", 9216, 1, 1 << 18),
            vocabulary=text.integer("vocab_size", 262_144, 1, MAX_WORDS),
            norm_eps=text.number("rms_norm_eps", 1e-6, 1e-12, 1e-2),
            window=text.integer("sliding_window", 1024, 1, MAX_POSITION),
            # As the reference reads it: the last layer sees everything, whatever the list says.
            sliding=(*sliding_layers(text, layers)[:-1], False),
            near=near,
            far=far,
            padding=text.integer("pad_token_id", 0, 0, MAX_WORDS),
            placeholders=tuple(
                s.integer(key, token, 0, MAX_WORDS)
                for key, token in (
                    ("image_token_id", 258_880),
                    ("audio_token_id", 258_881),
                    ("video_token_id", 258_884),
                )
            ),
            quantization=packing(values, where, EXPECTED),
            gemma_version=version,
        )

    def heads_of(self, sliding: bool) -> Heads:
        """The attention of a layer."""
        return self.near if sliding else self.far

    def check_names(self, names: Collection[str], where: object) -> None:
        """Raises UserError where tensors, by name, are of fewer layers than the config says."""
        check_layers(names, self.layers, str(where))

    def layer_flops(self, tokens: int) -> float:
        """Floating-point operations of one layer over a prompt of `tokens`: the mean of both kinds."""
        total = 0.0
        for sliding in self.sliding:
            kind = self.heads_of(sliding)
            columns = kind.head_dim * (2 * self.heads + (1 if kind.shared else 2) * kind.key_heads)
            total += 2.0 * tokens * self.width * (columns + 3 * self.feed_forward)
            total += 4.0 * tokens * tokens * self.heads * kind.head_dim
        return total / self.layers


def _version(values: Mapping[str, Any], where: str) -> str:
    version = values.get("gemma_version")
    if version is None:
        raise UserError(
            f"{where} holds a Gemma 4 without gemma_version, such as Google's own; the one that LTX-2.5 was trained "
            f"with is another. {EXPECTED}."
        )
    if not isinstance(version, str) or not 1 <= len(version) <= MAX_VERSION or not version.isprintable():
        raise UserError(f"{where} says gemma_version = {shown(version)}; it should be a name. {EXPECTED}.")
    return version


def _heads(text: Section, kind: str, size: str, default: int, *, shared: bool) -> Heads:
    heads, head_dim = heads_of(text, "num_attention_heads", 8, size, default)
    near = text.integer("num_key_value_heads", 4, 1, MAX_HEADS)
    key_heads = text.integer("num_global_key_value_heads", near, 1, MAX_HEADS) if shared else near
    if heads % key_heads:
        raise UserError(
            f"{text.whose} says {text.where} has {key_heads} heads for keys in its layers of {kind}; it should be a "
            f"divisor of num_attention_heads = {heads}."
        )
    return Heads(key_heads, head_dim, _rotary(text, kind), shared)


def _rotary(text: Section, kind: str) -> Rotary:
    """Of a kind of layer. Source: ROPE_INIT_FUNCTIONS["proportional"] for the layers that see everything."""
    all_of_them = text.part("rope_parameters", optional=True)
    given = all_of_them.part(kind, optional=True)
    if kind == "sliding_attention":
        given.only("rope_type", "default")
        return Rotary(float(given.number("rope_theta", 10_000.0, 10, 1e8)), 1.0)
    given.only("rope_type", "proportional")
    share = given.number("partial_rotary_factor", 1.0 if all_of_them.values else 0.25, 0, 1)
    return Rotary(
        float(given.number("rope_theta", 1_000_000.0, 10, 1e8)), float(given.number("factor", 1.0, 1e-3, 1e4)), share
    )
