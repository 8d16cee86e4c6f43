"""LTX-2.5's text encoder, Gemma 4: one file or a folder to hidden states; numbers from a recorded fixture.

`fixtures/text25.npz` holds what transformers computes from the file that `small_gemma4.write_file` makes;
`tests/parity/test_text25.py` holds it against transformers itself.
"""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import platform
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.lending.loader import load, read_text_encoder
from mlx_video.lending.weighing import weigh_text_encoder
from mlx_video.models.families import DEFAULT
from mlx_video.models.ltx_2.text_encoder.gemma4 import Gemma4
from mlx_video.models.ltx_2.text_encoder.gemma4_config import Gemma4Config
from mlx_video.models.ltx_2.text_encoder.gemma_config import Rotary
from mlx_video.models.ltx_2.text_encoder.language_model import TextRotation
from mlx_video.models.ltx_2.text_encoder.tokens import Gemma4Tokenizer, Tokenizer, Written
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.models import test_text_encoder as gemma3
from tests.models.test_text_encoder import error
from tests.support import peaks
from tests.support import small_gemma4 as small

RECORDED = Path(__file__).parents[1] / "fixtures" / "text25.npz"
PROMPTS = (
    "a red fox runs through deep snow, breathing hard; wind in the pines",
    "",
    "the <|image|> fox <|audio|>in<|video|> snow",
)
LIMIT = 5e-6


def open_encoder(path: Path, dtype: mx.Dtype = mx.float32, streamed: bool = False):
    """As a run does it."""
    return read_text_encoder(TextSource.open(DEFAULT, path), dtype, streamed)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return small.write_file(tmp_path_factory.mktemp("gemma4") / "text_encoders" / small.NAME)


@pytest.fixture(scope="module")
def encoder(file):
    return open_encoder(file)


@pytest.fixture(scope="module")
def recorded():
    return np.load(RECORDED)


# ------------------------------------------------------------------------------------------------ numbers


def test_hidden_states_are_the_references(encoder, recorded):
    for i, hidden in enumerate(encoder.encode(PROMPTS)):
        assert encoder.tokenizer.encode(PROMPTS[i]) == recorded[f"ids{i}"].tolist()
        assert error(hidden, recorded[f"hidden{i}"]) < LIMIT


def layers(network):
    return network.model.layers


def all_norms(network):
    return [m for m in network.modules() if "Norm" in type(m).__name__ and "weight" in m]


class _Contiguous(TextRotation):
    """The first elements of a head turned by themselves, as other models do it."""

    def __call__(self, x):
        turned = int((self._frequencies > 0).sum()) * 2
        cos, sin = (table[:, : turned // 2] for table in self._table(x.shape[-2], x.dtype))
        first, second = mx.split(x[..., :turned], 2, axis=-1)
        return mx.concatenate([first * cos - second * sin, second * cos + first * sin, x[..., turned:]], axis=-1)


def _far_ropes(network, make):
    for layer in layers(network):
        if layer.self_attn.shared:
            layer.self_attn.rope = make(layer.self_attn)


def _without_scalar(network):
    for layer in layers(network):
        layer.layer_scalar = mx.ones((1,))


def _one_more(network):
    for norm in all_norms(network):
        norm.weight = norm.weight + 1


def _scaled(network):
    for layer in layers(network):
        layer.self_attn.q_norm.weight = layer.self_attn.q_norm.weight * layer.self_attn.head_dim**-0.5


def _values_unnormed(network):
    for layer in layers(network):
        layer.self_attn.v_norm = nn.Identity()


def _values_after_the_keys_norm(network):
    for layer in layers(network):
        if layer.self_attn.shared:
            layer.self_attn.v_norm = layer.self_attn.k_norm


def _one_window(network):
    network._mask = lambda tokens, sliding: "causal"


MISTAKES = {
    "layer_scalar 1": _without_scalar,
    "1 + weight": _one_more,
    "scores over sqrt(head size)": _scaled,
    "no norm of values": _values_unnormed,
    "values with the keys' norm": _values_after_the_keys_norm,
    "no window": _one_window,
    "frequencies over the turned part alone": lambda n: _far_ropes(
        n, lambda a: TextRotation(a.head_dim, Rotary(1000.0**4, 1.0, 0.25))
    ),
    "every pair turned": lambda n: _far_ropes(n, lambda a: TextRotation(a.head_dim, Rotary(1000.0, 1.0))),
    "one base for all layers": lambda n: _far_ropes(n, lambda a: TextRotation(a.head_dim, Rotary(100.0, 1.0, 0.25))),
    "the first quarter turned": lambda n: _far_ropes(n, lambda a: _Contiguous(a.head_dim, Rotary(1000.0, 1.0, 0.25))),
    "no final norm": lambda n: setattr(n.model, "norm", nn.Identity()),
    "embeddings not scaled": lambda n: setattr(n, "_embed", lambda table, ids: table(mx.array([ids]))),
    "placeholders as they are": lambda n: setattr(n, "_embed", lambda t, ids: t(mx.array([ids])) * mx.sqrt(32.0)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_network_is_seen(mistake, file, recorded):
    encoder = open_encoder(file)
    MISTAKES[mistake](encoder.network)
    hidden = encoder.encode(PROMPTS)
    assert max(error(ours, recorded[f"hidden{i}"]) for i, ours in enumerate(hidden)) > 100 * LIMIT


def test_a_prompt_without_its_first_token_is_seen(encoder, recorded):
    ids = encoder.tokenizer.encode(PROMPTS[0])
    hidden = encoder.network([ids[1:]])[0]
    assert error(hidden, recorded["hidden0"][1:]) > 100 * LIMIT


def _from_zero(self, tokens, dtype):
    angles = (np.arange(tokens, dtype=np.float32)[:, None] * self._frequencies).astype(np.float64)
    return tuple(mx.array(f(angles).astype(np.float32)).astype(dtype) for f in (np.cos, np.sin))


def test_positions_count_the_pads_before_a_prompt(file, encoder, recorded, monkeypatch):
    cos, _ = layers(encoder.network)[2].self_attn.rope._table(3, mx.float32)
    np.testing.assert_array_equal(np.array(cos)[:, 0], np.cos(np.arange(1021.0, 1024.0)).astype(np.float32))
    assert np.array_equal(np.array(cos)[:, 4:], np.ones((3, 12)))  # pairs that stay as they are
    # Scores depend on differences of positions, so counting from 0 differs by the rounding of the angles alone.
    monkeypatch.setattr(TextRotation, "_table", _from_zero)
    hidden = open_encoder(file).encode(PROMPTS)
    assert max(error(ours, recorded[f"hidden{i}"]) for i, ours in enumerate(hidden)) > 4 * LIMIT


@pytest.mark.parametrize(("dtype", "limit"), [(mx.bfloat16, 5e-2), (mx.float16, 6e-3)])
def test_16_bit_keeps_its_dtype_and_stays_near(file, recorded, dtype, limit):
    hidden = open_encoder(file, dtype).encode(PROMPTS[:1])[0]
    assert hidden.dtype == dtype
    assert error(hidden.astype(mx.float32), recorded["hidden0"]) < limit


def test_embeddings_scale_is_rounded_as_their_weights_are(tmp_path):
    encoder = open_encoder(small.write_file(tmp_path / small.NAME, hidden_size=96), mx.bfloat16)
    ids = encoder.tokenizer.encode("fox")
    table = encoder.network.model.embed_tokens.weight
    first = encoder.network([ids])[0][..., 0]
    # sqrt(96) = 9.79796 is 9.8125 in bfloat16.
    assert mx.array_equal(first, table[mx.array(ids)] * mx.array(9.8125, mx.bfloat16))


def test_prompts_do_not_touch_each_other(encoder):
    together, alone = encoder.encode([*PROMPTS, "the fox"]), encoder.encode(["the fox"])[0]
    assert mx.array_equal(together[3], alone)
    assert (encoder.layers, encoder.width) == (6, 32)


def test_work_is_evaluated_in_parts_and_gives_the_same(encoder, monkeypatch):
    whole, evaluations, evaluate = encoder.encode(PROMPTS), [], mx.eval
    monkeypatch.setattr(platform, "flops_per_evaluation", lambda *_: 1.0)
    monkeypatch.setattr(mx, "eval", lambda *a: (evaluations.append(a), evaluate(*a)))
    parts = encoder.encode(PROMPTS)
    assert len(evaluations) == 6 + 1
    assert all(mx.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


# ------------------------------------------------------------------------------------------------ from disk, packed


def test_read_layer_by_layer_it_gives_the_same(file, encoder):
    streamed = open_encoder(file, streamed=True)
    assert all(mx.array_equal(a, b) for a, b in zip(streamed.encode(PROMPTS), encoder.encode(PROMPTS), strict=True))


@pytest.mark.slow
def test_read_layer_by_layer_one_is_in_memory(tmp_path):
    file = small.write_file(tmp_path / small.NAME, intermediate_size=1 << 15, num_hidden_layers=12, layer_types=None)
    weights = weigh_text_encoder(TextSource.open(DEFAULT, file), mx.float32)
    taken = {}
    for streamed in (True, False):
        encoder = open_encoder(file, streamed=streamed)
        mx.eval(encoder.network.model.norm.parameters())
        with peaks.measured() as memory:
            encoder.encode(["the fox"])
            taken[streamed] = memory.peak
        encoder.close()
    # A visit: one layer in float32, and one as it is read.
    assert taken[True] < weights.visit + (12 << 20) < weights.whole / 2 < taken[False]


def pack(tensors, bits):
    """mlx's own form of few bits, and what its weights stand for."""
    packed, plain = {}, {}
    for name, array in tensors.items():
        if array.ndim != 2 or not name.startswith("model.") or array.shape[1] % 32 or "k_proj" in name:
            packed[name] = plain[name] = array
            continue
        parts = mx.quantize(array.astype(mx.float32), group_size=32, bits=bits)
        layer = name.removesuffix(".weight")
        packed |= {f"{layer}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts, strict=True)}
        plain[name] = mx.dequantize(*parts, group_size=32, bits=bits)
    return packed, plain


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_packed_folder_equals_what_its_weights_stand_for(bits, streamed, tmp_path):
    hidden = []
    for part, more in zip(
        pack(small.tensors(3), bits), ({"quantization": {"group_size": 32, "bits": bits}}, {}), strict=True
    ):
        folder = small.write_folder(tmp_path / str(len(hidden)))
        (folder / "config.json").write_text(json.dumps(small.config() | more))
        # As mlx-vlm names them.
        named = {name.replace("model.", "language_model.model.", 1): array for name, array in part.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), named)
        hidden.append(open_encoder(folder, streamed=streamed and bool(more)).encode(PROMPTS[:1])[0])
    assert error(hidden[0], hidden[1]) < 2e-5


# ------------------------------------------------------------------------------------------------ tokens


def test_tokens(encoder, tmp_path):
    encode = encoder.tokenizer.encode
    assert isinstance(encoder.tokenizer, Gemma4Tokenizer)
    assert encode("") == encode(" \n\t ") == [2]
    assert encode("  the fox \n") == encode("the fox")
    assert encode("the")[0] == 2
    # What the user wrote is not doubled; Gemma 3's rule doubles it.
    assert encode("<bos>fox") == encode("fox")
    words = Written("x", small.tokenizer_files()["tokenizer.json"].encode(), {})
    assert Tokenizer(words).encode("<bos>fox") == [2, *encode("fox")]


def test_a_long_prompt_keeps_its_head(encoder):
    long = "a fox in " * 600
    ids = encoder.tokenizer.encode(long)
    whole = encoder.tokenizer.words.encode(long.strip(), add_special_tokens=False).ids
    assert len(whole) > 1024
    assert ids == [2, *whole[:1023]]
    assert ids != [2, *whole[-1023:]]
    assert encoder.tokenizer.encode(f"<bos>{long}") == ids


def test_placeholders_get_the_embedding_of_padding(encoder):
    ids = encoder.tokenizer.encode(PROMPTS[2])
    assert {317, 318, 319} < set(ids)
    hidden = encoder.network([ids, [0 if i > 316 else i for i in ids]])
    assert mx.array_equal(*hidden)


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int8])
def test_the_tokenizer_may_be_written_in_signed_bytes(dtype, tmp_path):
    path = tmp_path / "t.safetensors"
    metadata = {"gemma_config": json.dumps(small.config())}
    mx.save_safetensors(str(path), {**small.tensors(), **small.embedded(small.tokenizer_files(), dtype)}, metadata)
    assert open_encoder(path).tokenizer.encode("caf\u00e9 \u96e8")[0] == 2


@pytest.mark.parametrize(
    ("pattern", "ends"),
    [
        (r"[^\n]+|[\n]+", True), (r"\n+|[^\n]+", True), (" ", True), ("(([a-z]+)+)+Z", False), ("a+a+a+b", False),
        ("[a-z]+(?=x)", False), ("(?:a|a)*", False), (r"\s+$", False), ("[[:alpha:]&&[a]]+", False),
    ],
)  # fmt: skip
def test_a_tokenizer_may_cut_text_at_its_lines(pattern, ends):
    rules = json.loads(small.tokenizer_files()["tokenizer.json"])
    rules["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    written = Written("x", json.dumps(rules).encode(), {}, "Gemma 4")
    if ends:
        assert Gemma4Tokenizer(written).encode("a\n\nfox") == Gemma4Tokenizer(written).encode("a\n\nfox ")
    else:
        with pytest.raises(UserError, match=r"regular expression of its own, which may never end; Gemma 4's has none"):
            Gemma4Tokenizer(written)


# ------------------------------------------------------------------------------------------------ files and folders


def test_a_folder_gives_what_the_file_gives(tmp_path, encoder):
    folder = open_encoder(small.write_folder(tmp_path / "g"))
    assert all(mx.array_equal(a, b) for a, b in zip(folder.encode(PROMPTS), encoder.encode(PROMPTS), strict=True))


def test_it_is_loaded_by_name(file, encoder):
    assert mx.array_equal(load("text_encoder", file).encode(["fox"])[0], encoder.encode(["fox"])[0])


def test_what_it_knows_of_itself(file, tmp_path):
    source, older = TextSource.open(DEFAULT, file), TextSource.open(DEFAULT, gemma3.write_gemma(tmp_path / "g"))
    assert (source.gemma_version, older.gemma_version) == (small.VERSION, None)
    assert (source.within is not None, older.within) == (True, None)
    assert [*source.files.values()] == [file]
    assert source.tensors.entries.keys() == small.tensors().keys()
    assert json.loads(source.read("config.json")) == small.config() == source.settings
    assert source.texts_within() == small.tokenizer_files()
    assert source.read("nothing.json") is None
    assert (older.read("config.json"), older.texts_within()) == ((tmp_path / "g" / "config.json").read_bytes(), {})


def test_what_lies_where(file, tmp_path):
    folder = small.write_folder(tmp_path / "g")
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"a": mx.zeros((2,))})
    places = (file, folder, tmp_path / "other.safetensors", folder / "config.json", tmp_path, tmp_path / "nowhere")
    assert [TextSource.lies_at(DEFAULT, place) for place in places] == [True, True, False, False, False, False]


def test_the_published_config_is_the_published_model_without_allocating():
    before = mx.get_active_memory()
    text = {
        "hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8,
        "num_global_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "intermediate_size": 15360,
        "vocab_size": 262_144, "layer_types": None, "rope_parameters": None,
    }  # fmt: skip
    config = Gemma4Config.read(small.config(**text), "it")
    shapes = {name: array.shape for name, array in tree_flatten(Gemma4(config).parameters())}
    # The published file has 686 tensors: 4 of projections, 11 of towers, 5 of bytes, and these.
    assert len(shapes) == 666
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 11_907_350_320
    assert [i for i, sliding in enumerate(config.sliding) if not sliding] == list(range(5, 48, 6))
    assert shapes["model.layers.5.self_attn.q_proj.weight"] == (8192, 3840)
    assert shapes["model.layers.5.self_attn.k_proj.weight"] == (512, 3840)
    assert "model.layers.5.self_attn.v_proj.weight" not in shapes
    assert (config.far.rotary, config.near.rotary) == (Rotary(1e6, 1.0, 0.25), Rotary(1e4, 1.0))
    assert mx.get_active_memory() - before < 1 << 20


def test_turned_pairs_lie_half_a_head_apart():
    rope = TextRotation(512, Rotary(1e6, 1.0, 0.25))
    x = mx.random.normal((1, 1, 3, 512), key=mx.random.key(0))
    still = np.array(rope(x) == x).all(axis=(0, 1, 2))
    assert np.flatnonzero(~still).tolist() == [*range(64), *range(256, 320)]
    np.testing.assert_allclose(rope._frequencies[:64], 1e6 ** (-2 * np.arange(64) / 512), rtol=2e-7)


def damaged(tmp_path, metadata=None, **changes):
    path = tmp_path / "t.safetensors"
    arrays = {**small.tensors(), **small.embedded(small.tokenizer_files())}
    for name, array in changes.items():
        arrays.pop(name, None)
        if array is not None:
            arrays[name] = array
    metadata = {"gemma_config": json.dumps(small.config())} if metadata is None else metadata
    mx.save_safetensors(str(path), arrays, metadata)
    return path


@pytest.mark.parametrize(
    ("metadata", "changes", "message"),
    [
        ({}, {}, "has no gemma_config"),
        ({"gemma_config": "[]"}, {}, "has no gemma_config"),
        ({"gemma_config": json.dumps({"model_type": "gemma3"})}, {}, "as a single file only Gemma 4"),
        ({"gemma_config": json.dumps(small.config(None))}, {}, r"without gemma_version.*gemma4-12b-with-proj-ltx-2.5"),
        ({"gemma_config": json.dumps(small.config(5))}, {}, "gemma_version = 5"),
        (None, {"tokenizer_json": None}, "has no tokenizer"),
        (None, {"tokenizer_json": mx.zeros((4,))}, r"holds tokenizer.json as F32 \[4\]"),
        (None, {"tokenizer_json": mx.zeros((2, 2), mx.uint8)}, r"as U8 \[2, 2\]"),
        (None, {"tokenizer_json": mx.zeros((4,), mx.uint8)}, "is not a tokenizer"),
        (None, {"hf_asset__tokenizer_config.json": mx.zeros((4,), mx.uint8)}, "damaged tokenizer_config.json"),
        (None, small.embedded({"tokenizer_config.json": "[]"}), "damaged tokenizer_config.json"),
        (None, small.embedded({"tokenizer_config.json": '{"bos_token": "<s>"}'}), r"no token '<s>'.*Gemma 4"),
        (None, {"model.layers.0.layer_scalar": None}, "do not fit the text encoder"),
        (None, {"model.layers.2.self_attn.v_proj.weight": mx.zeros((32, 32))}, "not known"),
        (None, {"model.norm.weight": mx.zeros((32,), mx.int8)}, "model.norm.weight' is I8"),
    ],
)  # fmt: skip
def test_what_is_no_text_encoder_is_refused(metadata, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_encoder(damaged(tmp_path, metadata, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"num_hidden_layers": 7, "layer_types": None}, "num_hidden_layers = 7, but has tensors of 6"),
        ({"layer_types": ["sliding_attention"]}, "for each of the 6 layers"),
        ({"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input = 256; supported here: 0"),
        ({"enable_moe_block": True}, "enable_moe_block = True"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers = 2"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all'"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu'"),
        ({"num_global_key_value_heads": 3}, "3 heads for keys in its layers of full_attention"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'; supported here: 'proportional'"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "supported here: 'default'"),
    ],
)
def test_a_config_that_is_not_implemented_is_refused(text, message, tmp_path):
    folder = small.write_folder(tmp_path / "g")
    (folder / "config.json").write_text(json.dumps(small.config(**text)))
    with pytest.raises(UserError, match=message):
        TextSource.open(DEFAULT, folder)


def test_whatever_a_config_says_is_read_or_refused():
    text, stated, told = DEFAULT.text(), small.config(), []
    tensors = {name: tuple(array.shape) for name, array in small.tensors().items()}

    def tried(config):
        try:
            found = text.read_embedded(Path("x"), {"gemma_config": config}, tensors)
            names.match(text.network(found, tensors), tensors, "text encoder")
        except UserError as fault:
            told.append(str(fault))

    wrongs = (None, -1, 0, 1.5, 1 << 70, 1e300, "x", [], {}, [[]], {"a": 1}, True, [1, 2])
    for wrong in wrongs:
        for key in stated:
            tried({**stated, key: wrong})
        for key in stated["text_config"]:
            tried({**stated, "text_config": {**stated["text_config"], key: wrong}})
        for kind, rope in stated["text_config"]["rope_parameters"].items():
            for key in ("rope_theta", "rope_type", "partial_rotary_factor", "factor"):
                tried(small.config(rope_parameters={kind: {**rope, key: wrong}}))
    assert len(told) > 200
    assert all("\n" not in message and len(message) < 400 for message in told)


@pytest.mark.parametrize("kind", ["gemma4", "gemma4_unified"])
def test_googles_own_is_refused_with_the_right_one_named(kind, tmp_path):
    folder = small.write_folder(tmp_path / "g")
    (folder / "config.json").write_text(json.dumps(small.config(None) | {"model_type": kind}))
    with pytest.raises(UserError, match=r"without gemma_version.*with-proj-ltx-2.5-bf16.safetensors of Lightricks"):
        TextSource.open(DEFAULT, folder)


def test_each_generation_takes_its_own(file, tmp_path):
    text = DEFAULT.text()
    newer, older = (
        TextSource.open(DEFAULT, file).config,
        TextSource.open(DEFAULT, gemma3.write_gemma(tmp_path / "g")).config,
    )
    settings = {"transformer": gemma3.CHECKPOINTS["2.3"]}
    text.check_fits(older, settings, features=32 * 6)
    with pytest.raises(UserError, match=r"is a Gemma 4, which this checkpoint is not for.*google/gemma-3-12b-it"):
        text.check_fits(newer, settings, features=32 * 7)
    settings = {"transformer": {**gemma3.CHECKPOINTS["2.3"], "ff_bias": False}}
    text.check_fits(newer, settings, features=32 * 7)
    with pytest.raises(UserError, match=r"is a Gemma 3, which this checkpoint is not for.*with-proj-ltx-2\.5"):
        text.check_fits(older, settings, features=32 * 6)
    named = {"gemma_source_checkpoint": {"gemma_version": small.VERSION}, "transformer": gemma3.CHECKPOINTS["2.3"]}
    text.check_fits(newer, named, features=32 * 7)
    with pytest.raises(UserError, match="is a Gemma 3, which"):
        text.check_fits(older, named, features=32 * 6)
    named["gemma_source_checkpoint"]["gemma_version"] = "gemma4-12b-ltx-v2"
    with pytest.raises(UserError, match="gemma4-12b-ltx-v1, but the checkpoint was trained with 'gemma4-12b-ltx-v2'"):
        text.check_fits(newer, named, features=32 * 7)


def test_it_does_not_write_prompts(file, tmp_path):
    TextSource.open(DEFAULT, gemma3.write_gemma(tmp_path / "g")).check_writes()
    with pytest.raises(UserError, match=r"reads prompts and cannot write them; name .* with --prompt-writer"):
        TextSource.open(DEFAULT, file).check_writes()
