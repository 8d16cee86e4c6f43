"""From prompt to contexts: tokens, Gemma 3's hidden states, features, connectors; numbers from a recorded fixture.

`fixtures/text.npz` holds what the torch reference computes from the folder and the checkpoint that `write_gemma` and
`connector_tensors` make from a seed; `tests/parity/test_text.py` holds it against the reference itself.
"""

import contextlib
import json
import logging
import sys
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import platform
from mlx_video.models.ltx_2.config import TextConfig, feature_width
from mlx_video.models.ltx_2.text_encoder import connectors as connectors_module
from mlx_video.models.ltx_2.text_encoder.connectors import Connectors
from mlx_video.models.ltx_2.text_encoder.gemma import Gemma, TextEncoder
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig, Rotary
from mlx_video.models.ltx_2.text_encoder.tokens import Tokenizer
from mlx_video.types import UserError
from mlx_video.weights import names
from mlx_video.weights.store import Tensors
from tests.support import real_keys

RECORDED = Path(__file__).parents[1] / "fixtures" / "text.npz"
PROMPTS = ("a red fox runs through deep snow, breathing hard; wind in the pines", "")
ROWS = [*range(6), *range(60, 70), 127, 128, 129, 1022, 1023]
"""Rows of the contexts that the fixture keeps: the prompt, the seam to the registers, where they repeat, the end."""

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "query_pre_attn_scalar": 24,
    "vocab_size": 320,
    "sliding_window": 24,
    "sliding_window_pattern": 3,
    "rope_theta": 500_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "model_type": "gemma3_text",
}
STATES = TEXT["num_hidden_layers"] + 1
CHECKPOINTS = {
    "2": {"connector_num_attention_heads": 2, "connector_attention_head_dim": 16, "connector_num_layers": 2},
    "2.3": {
        "connector_num_attention_heads": 4,
        "connector_attention_head_dim": 8,
        "connector_num_layers": 3,
        "audio_connector_num_attention_heads": 4,
        "audio_connector_attention_head_dim": 4,
        "connector_apply_gated_attention": True,
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
        "caption_proj_input_norm": False,
        "caption_projection_second_linear": False,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": 4,
    },
}
for _checkpoint in CHECKPOINTS.values():
    _checkpoint.update(
        connector_positional_embedding_max_pos=[4096],
        connector_num_learnable_registers=128,
        rope_type="split",
        frequencies_precision="float64",
    )


def seeded(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Weights that depend on seed and name alone; float32 values that bfloat16 holds exactly."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    scale = 0.3 if len(shape) == 1 or "registers" in name or "embed_tokens" in name else 1 / np.sqrt(shape[-1])
    value = np.array(mx.array(rng.standard_normal(shape) * scale, mx.bfloat16).astype(mx.float32))
    return value + 1.0 if name.endswith(("q_norm.weight", "k_norm.weight")) and "connector" in name else value


def gemma_tensors(seed: int = 0, **text) -> dict[str, mx.array]:
    """Every tensor of a small Gemma 3 under published names, with a head and a piece of a vision tower."""
    network = Gemma(GemmaConfig.read({"model_type": "gemma3", "text_config": TEXT | text}))
    found = {f"language_{path}": tuple(a.shape) for path, a in tree_flatten(network.parameters())}
    found = {name.replace("language_model.", "language_model.model.", 1): shape for name, shape in found.items()}
    found["vision_tower.vision_model.embeddings.patch_embedding.bias"] = (8,)
    found["multi_modal_projector.mm_soft_emb_norm.weight"] = (8,)
    return {name: mx.array(seeded(name, shape, seed)).astype(mx.bfloat16) for name, shape in found.items()}


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer.json with Gemma's special tokens, and its config: 256 bytes and 64 other ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = ["the", "\u2581the", "\u2581a", "fox", "in", "\u2581", *"abcdefghijklmnopqrstuvwxyz,;.", "th"]
    pieces = [*special, "<start_of_turn>", "<end_of_turn>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "a"), ("i", "n")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in (*special, "<start_of_turn>", "<end_of_turn>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    settings |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_gemma(folder: Path, seed: int = 0, **text) -> Path:
    """A Hugging Face style folder: config.json, two shards with an index, a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": TEXT | text}))
    tensors = sorted(gemma_tensors(seed, **text).items())
    shards = {"model-00001-of-00002.safetensors": tensors[:20], "model-00002-of-00002.safetensors": tensors[20:]}
    for file, part in shards.items():
        mx.save_safetensors(str(folder / file), dict(part))
    index = {name: file for file, part in shards.items() for name, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    write_tokenizer(folder)
    return folder


def open_encoder(folder: Path, dtype: mx.Dtype = mx.float32) -> TextEncoder:
    """As the loader does it."""
    tensors = Tensors.of_folder(folder)
    encoder = TextEncoder.open(folder, tensors.entries)
    names.assign(encoder.network, tensors.load(Gemma.prefixes), "text encoder", dtype=dtype)
    return encoder


def connector_tensors(generation: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor from hidden states to contexts, under official names."""
    network = Connectors(
        TextConfig.read({"transformer": CHECKPOINTS[generation]}, features=TEXT["hidden_size"] * STATES)
    )
    back = {path: prefix for prefix, path in Connectors.prefixes.items()}
    found = {}
    for path, shape in names.shapes(network).items():
        start = next(start for start in back if path.startswith(start))
        found[back[start] + path.removeprefix(start)] = shape
    return {name: seeded(name, shape, seed) for name, shape in found.items()}


def open_connectors(generation: str, seed: int = 0) -> Connectors:
    """Small connectors with seeded weights."""
    tensors = {name: mx.array(value) for name, value in connector_tensors(generation, seed).items()}
    width = feature_width({name: array.shape for name, array in tensors.items()})
    network = Connectors(TextConfig.read({"transformer": CHECKPOINTS[generation]}, features=width))
    names.assign(network, tensors, "connectors")
    return network


def error(ours, wanted) -> float:
    """||ours - wanted|| / ||wanted||."""
    ours, wanted = np.array(ours, np.float64), np.array(wanted, np.float64)
    assert ours.shape == wanted.shape
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_gemma(tmp_path_factory.mktemp("gemma") / "text_encoder")


@pytest.fixture(scope="module")
def encoder(folder) -> TextEncoder:
    return open_encoder(folder)


@pytest.fixture(scope="module")
def recorded():
    return np.load(RECORDED)


# ------------------------------------------------------------------------------------------------ numbers


def test_hidden_states_are_the_references(encoder, recorded):
    for i, hidden in enumerate(encoder.encode(PROMPTS)):
        assert error(hidden, recorded[f"hidden{i}"]) < 5e-6


@pytest.mark.parametrize("generation", ["2", "2.3"])
def test_contexts_are_the_references(generation, recorded):
    network = open_connectors(generation)
    for i in range(len(PROMPTS)):
        context = network(mx.array(recorded[f"hidden{i}"]))
        for name in ("video", "audio"):
            ours = getattr(context, name)
            assert ours.shape[:2] == (1, 1024)
            assert error(ours[0, mx.array(ROWS)], recorded[f"{generation}/{name}{i}"]) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(mx.bfloat16, 3e-2), (mx.float16, 4e-3)])
def test_16_bit_keeps_its_dtype_and_stays_near(folder, recorded, dtype, limit):
    hidden = open_encoder(folder, dtype).encode(PROMPTS[:1])[0]
    assert hidden.dtype == dtype
    assert error(hidden.astype(mx.float32), recorded["hidden0"]) < limit
    context = open_connectors("2.3")(hidden)
    assert context.video.dtype == mx.float32


def test_encoding_a_prompt_imports_no_heavy_package(folder, monkeypatch):
    """mlx-vlm and what it brings took more than a second of every start; only writing prompts anew needs it."""
    for name in ("mlx_vlm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an ImportError now
    encoder = TextEncoder.open(folder, Tensors.of_folder(folder).entries)
    assert encoder.encode(["rain"])[0].shape[1:] == (TEXT["hidden_size"], STATES)


def test_what_leaves_the_range_of_float16_is_cut(folder):
    tensors = Tensors.of_folder(folder)
    encoder = TextEncoder.open(folder, tensors.entries)
    names.assign(encoder.network, tensors.load(), "text encoder", dtype=mx.float16)
    norm = encoder.network.model.layers[0].post_feedforward_layernorm
    norm.weight = mx.full(norm.weight.shape, 60_000, mx.float16)
    hidden = np.array(encoder.encode(["rain"])[0])
    assert np.isfinite(hidden).all()
    assert np.abs(hidden).max() == np.finfo(np.float16).max


def test_prompts_do_not_touch_each_other(encoder):
    together, alone = encoder.encode([*PROMPTS, "the fox"]), encoder.encode(["the fox"])[0]
    assert [h.shape[0] for h in together] == [len(encoder.tokenizer.encode(p)) for p in [*PROMPTS, "the fox"]]
    assert mx.array_equal(together[2], alone)
    assert encoder.encode([]) == []


def test_a_sliding_layer_sees_its_window_and_no_more(tmp_path):
    text = {"num_hidden_layers": 2, "sliding_window": 4, "layer_types": ["sliding_attention"] * 2}
    encoder = open_encoder(write_gemma(tmp_path / "g", **text))
    hidden = encoder.network([[2, 10, *range(20, 40)], [2, 11, *range(20, 40)]])
    changed = np.abs(np.array(hidden[0] - hidden[1])).max(axis=(1, 2)) > 0
    # Two layers of window 4 carry a change 2 x 3 tokens on.
    assert changed.tolist() == [False, *[True] * 7, *[False] * 14]


def test_work_is_evaluated_in_parts_and_gives_the_same(encoder, monkeypatch):
    whole = encoder.encode(PROMPTS)
    evaluations = []
    evaluate = mx.eval
    monkeypatch.setattr(platform, "flops_per_evaluation", lambda *_: 1.0)
    monkeypatch.setattr(mx, "eval", lambda *a: (evaluations.append(a), evaluate(*a)))
    parts = encoder.encode(PROMPTS)
    assert len(evaluations) == TEXT["num_hidden_layers"] + 1
    assert all(mx.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_rotary_table_of_connectors_is_made_once(monkeypatch):
    network, calls = open_connectors("2.3"), []
    table = connectors_module.rotary_table
    monkeypatch.setattr(connectors_module, "rotary_table", lambda *a, **k: (calls.append(a), table(*a, **k))[1])
    hidden = mx.array(seeded("hidden", (5, TEXT["hidden_size"], STATES)))
    assert mx.array_equal(network(hidden).audio, network(hidden).audio)
    assert len(calls) == 2  # video and audio


# ------------------------------------------------------------------------------------------------ tokens


def test_tokens(folder):
    encode = Tokenizer(folder).encode
    assert encode("") == encode(" \n\t ") == [2]
    assert encode("  the fox \n") == encode("the fox")
    assert encode("the")[0] == 2
    assert encode("the")[-1] != 1
    assert len(encode("fox " * 2000)) == 1024
    assert encode("fox " * 2000)[:9] == encode("fox " * 4)[:9]
    assert encode("<bos>fox") == [2, *encode("fox")]
    assert encode("\u00e9") == [2, 6 + 0xC3, 6 + 0xA9]


def test_settings_of_the_tokenizer_file_do_not_pad_or_cut(folder, tmp_path):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["truncation"] = {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    values["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    assert Tokenizer(tmp_path).encode("a red fox") == Tokenizer(folder).encode("a red fox")


def test_tokenizer_beside_the_encoder(folder, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "text_encoder").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tokenizer" / name).write_text((folder / name).read_text())
    assert Tokenizer(tmp_path / "text_encoder").encode("fox") == Tokenizer(folder).encode("fox")


def test_text_that_is_not_unicode_is_refused(folder):
    with pytest.raises(UserError, match="character 3"):
        Tokenizer(folder).encode("a \udcff")


# ------------------------------------------------------------------------------------------------ folders


def quantize(tensors: dict[str, mx.array], skip: str, eight: str) -> tuple[dict, dict]:
    """mlx's own quantized form of a folder, and what its weights stand for."""
    packed, plain = {}, {}
    for name, array in tensors.items():
        if array.ndim != 2 or "vision" in name or skip in name:
            packed[name] = plain[name] = array
            continue
        bits = 8 if eight in name else 4
        parts = mx.quantize(array, group_size=32, bits=bits)
        layer = name.removesuffix(".weight")
        packed |= {f"{layer}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts, strict=True)}
        words, *line = parts
        plain[name] = mx.dequantize(words, *(part.astype(mx.float32) for part in line), group_size=32, bits=bits)
    return packed, plain


def test_quantized_folder_equals_what_its_weights_stand_for(tmp_path):
    text = {"intermediate_size": 64}
    packed, plain = quantize(gemma_tensors(1, **text), skip="o_proj", eight="layers.1.mlp.down_proj")
    settings = {"group_size": 32, "bits": 4, "mode": "affine"}
    settings["language_model.model.layers.1.mlp.down_proj"] = {"group_size": 32, "bits": 8}
    hidden = []
    for part, extra in ((packed, {"quantization": settings}), (plain, {})):
        write_tokenizer(tmp_path)
        config = {"model_type": "gemma3", "text_config": TEXT | text, **extra}
        (tmp_path / "config.json").write_text(json.dumps(config))
        mx.save_safetensors(str(tmp_path / "model.safetensors"), part)
        hidden.append(open_encoder(tmp_path).encode(PROMPTS[:1])[0])
    assert error(hidden[0], hidden[1]) < 1e-5


@pytest.mark.parametrize("prefix", ["model.language_model.", "model."])
def test_other_spellings_of_the_names(folder, tmp_path, prefix):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    tensors = {}
    for name, array in gemma_tensors().items():
        name = name.replace("language_model.model.", prefix) if name.startswith("language") else f"model.{name}"
        tensors[name] = array
    tensors["lm_head.weight"] = mx.zeros((4, 4))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    assert mx.array_equal(open_encoder(tmp_path).encode(["fox"])[0], open_encoder(folder).encode(["fox"])[0])


def test_config_of_transformers_5_is_read_alike():
    new = {key: value for key, value in TEXT.items() if not key.startswith("rope") and "pattern" not in key}
    new["rope_parameters"] = {
        "full_attention": {"rope_theta": 500_000.0, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
    }
    new["layer_types"] = [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
    ]
    old = GemmaConfig.read({"model_type": "gemma3", "text_config": TEXT})
    assert GemmaConfig.read({"model_type": "gemma3", "text_config": new}) == old
    assert GemmaConfig.read({**TEXT}) == old  # text only: gemma3_text, flat
    assert (old.global_rotary, old.local_rotary) == (Rotary(500_000.0, 8.0), Rotary(10_000.0, 1.0))


def test_published_12b_config_builds_the_published_model_without_allocating():
    before = mx.get_active_memory()
    text = {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = GemmaConfig.read({"model_type": "gemma3", "text_config": text})
    network = Gemma(config)
    # 12,187,325,040 parameters in the published files, less 416,866,032 (vision) and 4,424,832 (projector).
    assert sum(a.size for _, a in tree_flatten(network.parameters())) == 11_766_034_176
    assert [i for i, sliding in enumerate(config.sliding) if not sliding] == list(range(5, 48, 6))
    assert mx.get_active_memory() - before < 1 << 20


def test_close_lets_the_weights_go(folder):
    encoder = open_encoder(folder)
    encoder.encode(["fox"])
    encoder.close()
    assert tree_flatten(encoder.network.parameters()) == []


def rewrite(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        part = values if key in ("model_type", "quantization_config", "quantization") else values["text_config"]
        part[key] = value
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: rewrite(f, model_type="gemma4"), "'gemma4', not Gemma 3"),
        (lambda f: rewrite(f, hidden_activation="silu"), "hidden_activation = 'silu'"),
        (
            lambda f: rewrite(f, rope_scaling={"rope_type": "yarn", "factor": 4}),
            "'yarn'; supported here: 'default'",
        ),
        (lambda f: rewrite(f, layer_types=["sliding_attention"] * 2), "for each of the 5 layers"),
        (lambda f: rewrite(f, quantization_config={"quant_method": "gptq"}), "quantized by 'gptq'"),
        (lambda f: rewrite(f, hidden_size=48), "do not fit the text encoder"),
        (lambda f: rewrite(f, num_hidden_layers=6, layer_types=None), "num_hidden_layers = 6, but has tensors of 5"),
        (lambda f: rewrite(f, num_hidden_layers=4, layer_types=None), "tensors not known"),
        (lambda f: rewrite(f, vocab_size=100), "do not fit the text encoder"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer for the text encoder"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is not a tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}'), "no token '<s>'"),
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "is incomplete"),
    ],
)
def test_what_is_no_text_encoder_is_refused(tmp_path, damage, message):
    folder = write_gemma(tmp_path / "g")
    damage(folder)
    with pytest.raises(UserError, match=message):
        open_encoder(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    encoder = open_encoder(write_gemma(tmp_path / "g", vocab_size=280))
    assert encoder.encode(["\u00e9"])[0].shape[0] == 3
    with pytest.raises(UserError, match=r"gives token 28., but its model knows 280"):
        encoder.encode(["\u00e9", "fox"])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        TextEncoder.open(tmp_path / "nowhere", [])


# ------------------------------------------------------------------------------------------------ connectors


@pytest.mark.parametrize(("generation", "width"), [("2", (3840, 3840)), ("2.3", (4096, 2048))])
def test_real_names_map_one_to_one(generation, width):
    before = mx.get_active_memory()
    keys = real_keys.load(generation)
    found = {name: tuple(t.shape) for name, t in keys.items() if names.module_path(Connectors, name) is not None}
    assert {name for name in keys if "embeddings_connector." in name or "aggregate_embed" in name} == set(found)
    features = feature_width(found)
    assert features == 3840 * 49
    config = TextConfig.read(real_keys.config(generation), features=features)
    config.check_encoder(width=3840, layers=48)
    assert (config.video.dim, config.audio.dim) == width
    pairs = names.match(Connectors(config), found, "connectors")
    assert len(pairs) == len(found) == len(set(pairs.values()))
    assert mx.get_active_memory() - before < 1 << 20


def test_hidden_states_of_another_encoder_are_refused():
    network = open_connectors("2")
    with pytest.raises(UserError, match=r"7 layers of width 32, which gives 256 features a token, .* takes 192"):
        network(mx.zeros((3, 32, 8)))


def test_checkpoint_without_projection_is_refused():
    assert feature_width({"model.diffusion_model.patchify_proj.weight": (4, 4)}) == 0
    with pytest.raises(UserError, match="no text projection"):
        TextConfig.read({"transformer": {}}, features=0).check_encoder(32, 7)
    with pytest.raises(UserError, match=r"aggregate_embed.weight has the shape \(4, 8, 1\); a matrix of two axes"):
        feature_width({"text_embedding_projection.aggregate_embed.weight": (4, 8, 1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_proj_before_connector": True}, "supported: all absent"),
        ({"connector_num_learnable_registers": 100}, "a divisor of 1024"),
        ({"audio_connector_num_attention_heads": 4}, r"32 \(video\) and 64 \(audio\)"),
        ({"rope_type": "interleaved"}, "rope_type = 'interleaved'"),
    ],
)
def test_unknown_checkpoint_values_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TextConfig.read({"transformer": CHECKPOINTS["2"] | changes}, features=192)


def test_a_full_prompt_leaves_no_register():
    network = open_connectors("2.3")
    hidden = mx.array(seeded("full", (1024, TEXT["hidden_size"], STATES)))
    before = network(hidden).video
    network.video.learnable_registers = network.video.learnable_registers + 1
    assert mx.array_equal(network(hidden).video, before)
    assert not mx.array_equal(network(hidden[:1023]).video, before)


# ------------------------------------------------------------------------------------------------ strange files


def test_a_tokenizer_with_a_pattern_of_its_own_is_refused(tmp_path):
    folder = write_gemma(tmp_path / "g")
    whole = json.loads((folder / "tokenizer.json").read_text())
    hanging = {"Regex": "(([a-z]+)+)+Z"}
    for key, part in {
        "normalizer": {"type": "Replace", "pattern": hanging, "content": "x"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": hanging, "behavior": "Isolated", "invert": False}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": hanging, "content": " "}]},
    }.items():  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps({**whole, key: part}))
        with pytest.raises(UserError, match=r"tokenizer\.json cuts text by a regular expression"):
            Tokenizer(folder)


def test_a_damaged_tokenizer_is_read_or_refused(tmp_path):
    folder = write_gemma(tmp_path / "g")
    whole = (folder / "tokenizer.json").read_bytes()
    values, rng = json.loads(whole), np.random.default_rng(0)
    wrongs = (None, 5, "x", [], {}, [[]])
    contents = [json.dumps({**values, key: wrong}).encode() for key in values for wrong in wrongs]
    contents += [json.dumps({**values, "model": {**values["model"], key: wrong}}).encode()
                 for key in values["model"] for wrong in (*wrongs, -1, {"a": -1}, {"a": 2**40})]  # fmt: skip
    contents += [b"[" * 10**5, b"\xff\xfe{}", b"\xef\xbb\xbf" + whole]
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        contents.append(bytes(damaged))
    for content in contents:
        (folder / "tokenizer.json").write_bytes(content)
        with contextlib.suppress(UserError):
            Tokenizer(folder).encode("a fox runs")
    (folder / "tokenizer.json").write_bytes(whole)
    for wrong in (
        b"[" * 10**5,
        b"[]",
        b'{"bos_token": 5}',
        b'{"bos_token": ["x"]}',
        b"\xff\xfe{}",
        b'{"a": 1, "a": 1}',
    ):
        (folder / "tokenizer_config.json").write_bytes(wrong)
        with pytest.raises(UserError, match=r"tokenizer_config\.json"):
            Tokenizer(folder)


def test_a_text_encoder_of_other_kinds_of_numbers_is_refused(tmp_path):
    from mlx_video.checkpoints.text_source import TextSource
    from mlx_video.models.families import DEFAULT

    for dtype in (mx.int32, mx.bool_, mx.uint8, mx.complex64, mx.uint32):
        tensors = {"model.norm.weight": mx.zeros((4,), dtype)}
        mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
        with pytest.raises(UserError, match=r"model.safetensors: tensor 'model.norm.weight'|dtype"):
            TextSource.open(DEFAULT, tmp_path)


def test_nobody_hears_that_there_is_no_torch():
    """Transformers warns so when it is imported where torch is not; nothing here needs torch."""
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    log = logging.getLogger("transformers")
    level, disabled = log.level, log.disabled  # others may have silenced it
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.disabled = False
    try:
        log.warning("PyTorch was not found. Models won't be available and only tokenizers can be used.")
        log.warning("None of PyTorch, TensorFlow >= 2.0, or Flax have been found. Models won't be available and ...")
        log.warning("something else")
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.disabled = disabled
    assert heard == ["something else"]
