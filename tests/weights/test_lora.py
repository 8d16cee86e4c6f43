"""LoRA files in every spelling, on a small network with official names: fused, beside quantized weights, refused."""

import contextlib
import json
import math
import re
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.types import UserError
from mlx_video.weights import lora, lora_file
from mlx_video.weights.patterns import Pattern
from tests.support import real_keys
from tests.support.loras import fuse

LAYERS = {
    "transformer_blocks.0.attn1.to_q": (24, 16),
    "transformer_blocks.0.attn1.to_out.0": (16, 24),
    "transformer_blocks.0.ff.net.0.proj": (64, 16),
    "transformer_blocks.1.attn1.to_q": (24, 16),
    "transformer_blocks.1.audio_to_video_attn.to_gate_logits": (2, 16),
    "patchify_proj": (16, 8),
    "adaln_single.emb.timestep_embedder.linear_1": (16, 32),
    "av_ca_a2v_gate_adaln_single.linear": (16, 16),
    "proj_out": (8, 16),
}


class Attention(nn.Module):
    def __init__(self, gated=False):
        super().__init__()
        self.to_q, self.to_out = nn.Linear(16, 24), [nn.Linear(24, 16)]
        if gated:
            self.to_gate_logits = nn.Linear(16, 2)


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(16, 64)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1, self.audio_to_video_attn = Attention(), Attention(gated=True)
        self.ff = nn.Module()
        self.ff.net = [Feed(), nn.Identity(), nn.Linear(64, 16)]


class Network(nn.Module):
    prefixes = {"model.diffusion_model.": ""}
    ignored = (r"^video_embeddings_connector\.",)

    def __init__(self):
        super().__init__()
        self.patchify_proj, self.proj_out = nn.Linear(8, 16), nn.Linear(16, 8)
        self.adaln_single, self.av_ca_a2v_gate_adaln_single = nn.Module(), nn.Module()
        self.adaln_single.emb = nn.Module()
        self.adaln_single.emb.timestep_embedder = nn.Module()
        self.adaln_single.emb.timestep_embedder.linear_1 = nn.Linear(32, 16)
        self.av_ca_a2v_gate_adaln_single.linear = nn.Linear(16, 16)
        self.transformer_blocks = [Block(), Block()]


class Connectors(nn.Module):
    prefixes = {
        "text_embedding_projection.": "projection.",
        "model.diffusion_model.video_embeddings_connector.": "video.",
    }

    def __init__(self):
        super().__init__()
        self.projection, self.video = nn.Module(), nn.Module()
        self.projection.aggregate_embed = nn.Linear(12, 10)
        self.video.transformer_1d_blocks = [nn.Linear(10, 10)]


@pytest.fixture
def network():
    mx.random.seed(5)
    net = Network()
    mx.eval(net.parameters())
    return net


def factors(seed=0, layers=LAYERS, rank=4):
    """Name -> (down, up) as numpy arrays."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal((rank, wide), np.float32), rng.standard_normal((out, rank), np.float32))
        for name, (out, wide) in layers.items()
    }


DIFFUSERS = {
    "patchify_proj": "proj_in",
    "adaln_single.emb.timestep_embedder.linear_1": "time_embed.emb.timestep_embedder.linear_1",
    "av_ca_a2v_gate_adaln_single.linear": "av_cross_attn_video_a2v_gate.linear",
}
SPELLINGS = {
    "official": lambda n: (f"diffusion_model.{n}.lora_A.weight", f"diffusion_model.{n}.lora_B.weight"),
    "full name": lambda n: (f"model.diffusion_model.{n}.lora_A.weight", f"model.diffusion_model.{n}.lora_B.weight"),
    "bare": lambda n: (f"{n}.lora_A.weight", f"{n}.lora_B.weight"),
    "diffusers": lambda n: (
        f"transformer.{DIFFUSERS.get(n, n)}.lora_A.weight",
        f"transformer.{DIFFUSERS.get(n, n)}.lora_B.weight",
    ),
    "early diffusers": lambda n: (f"transformer.{n}.lora.down.weight", f"transformer.{n}.lora.up.weight"),
    "PEFT": lambda n: (f"base_model.model.{n}.lora_A.default.weight", f"base_model.model.{n}.lora_B.default.weight"),
    "PEFT without adapter": lambda n: (
        f"base_model.model.transformer.{n}.lora_A.weight",
        f"base_model.model.transformer.{n}.lora_B.weight",
    ),
    "ComfyUI": lambda n: (f"diffusion_model.{n}.lora_down.weight", f"diffusion_model.{n}.lora_up.weight"),
    "DiffSynth": lambda n: (f"pipe.dit.{n}.lora_A.default.weight", f"pipe.dit.{n}.lora_B.default.weight"),
    "kohya": lambda n: (
        f"lora_unet_{n.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{n.replace('.', '_')}.lora_up.weight",
    ),
}


def write(path, pairs, spell="official", alpha=None, extra=None, metadata=None):
    tensors = {}
    for name, (down, up) in pairs.items():
        first, second = SPELLINGS[spell](name)
        tensors[first], tensors[second] = mx.array(down), mx.array(up)
        if alpha is not None:
            stem = first.removesuffix(".weight")
            for ending in (".lora_A.default", ".lora_A", ".lora_down", ".lora.down"):
                stem = stem.removesuffix(ending)
            tensors[f"{stem}.alpha"] = mx.array(alpha, dtype=mx.float32)
    tensors |= {key: mx.array(value) for key, value in (extra or {}).items()}
    mx.save_safetensors(str(path), tensors, {"format": "pt", **(metadata or {})})
    return path


def weights(net):
    return {
        path.removesuffix(".weight"): np.array(array.astype(mx.float32))
        for path, array in tree_flatten(net.parameters())
        if path.endswith(".weight")
    }


def assert_fused(net, before, pairs, scale):
    after = weights(net)
    for name, weight in before.items():
        wanted = weight + scale * (pairs[name][1] @ pairs[name][0]) if name in pairs else weight
        np.testing.assert_allclose(
            after[name], wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=name
        )


@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_reaches_the_same_layers(tmp_path, network, spell):
    before, pairs = weights(network), factors()
    adapter = lora.read(write(tmp_path / "a.safetensors", pairs, spell))
    (coverage,) = fuse(network, [(adapter, 0.7)])
    assert (coverage.matched, coverage.total, coverage.strangers) == (len(LAYERS), len(LAYERS), ())
    assert_fused(network, before, pairs, 0.7)


@pytest.mark.parametrize("spell", SPELLINGS)
def test_alpha_over_rank_scales_in_every_spelling(tmp_path, network, spell):
    before, pairs = weights(network), factors(rank=4)
    adapter = lora.read(write(tmp_path / "a.safetensors", pairs, spell, alpha=6.0))
    assert adapter.unread == ()
    fuse(network, [(adapter, 1.0)])
    assert_fused(network, before, pairs, 6.0 / 4)


def test_fixed_without_alpha_nothing_is_scaled(tmp_path):
    # Lightricks' files have no alpha, and the reference multiplies by the strength alone.
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(rank=4)))
    assert {pair.scale for pair in adapter.pairs.values()} == {1.0}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 8, "r": 4}, 2.0),
        ({"lora_alpha": 8, "r": 16}, 2.0),  # the layer's own rank counts, as in PEFT's rank_pattern
        ({"lora_alpha": 8, "r": 4, "use_rslora": True}, 4.0),
        ({"r": 4}, 1.0),
    ],
)
def test_pefts_settings_say_alpha(tmp_path, settings, scale):
    inside = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(rank=4), "diffusers", metadata=inside))
    assert {pair.scale for pair in adapter.pairs.values()} == {scale}
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write(folder / "adapter_model.safetensors", factors(rank=4), "PEFT")
    assert {pair.scale for pair in lora.read(folder).pairs.values()} == {scale}


@pytest.mark.parametrize(
    "settings",
    ['{"lora_alpha": "much"}', '{"lora_alpha": 1, "alpha_pattern": {"(": 2}}', '{"alpha_pattern": [1]}', "{"],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings):
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(UserError, match=r"no usable alpha|adapter_config\.json cannot be read: it is not JSON"):
        lora.read(write(tmp_path / "a.safetensors", factors(), "PEFT"))


HANGING = (
    "(([a-z0-9_.]+)+)+Z",
    "(a+)+$",
    "(.*)*x",
    "(a|a)*",
    "(?:x+x+)+y",
    "a{1,999999}",
    "(?=a)",
    "[a-z]*",
    "(" + "x" * 9999 + "|y)",
    "(",
)
LEGITIMATE = {
    "to_q": True, "attn1.to_q": True, r"attn1\.to_q": True, ".*attn1.to_q": True,
    r"transformer_blocks\.\d+\.attn1.*": True,
    r"^transformer_blocks\.7\.": False, r"transformer_blocks.[0-9]+.attn(1|2).to_(q|k)$": True,
    "attn2|attn1.to_q": True,
    r".*\.(to_k|to_v)": False, "o_q": False, "transformer_blocks.7.attn1.to_q": True, r"7\.attn\d.to_q": True,
    r"^transformer_blocks\.7\..*to_q$": True, "^attn1.to_q": False, "attn1.to_q.*x": False, r"t+o_q*": True,
}  # fmt: skip


def test_a_files_pattern_never_hangs(tmp_path):
    start = time.perf_counter()
    for pattern in HANGING:
        settings = {"lora_alpha": 1, "alpha_pattern": {pattern: 2}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match=r"no usable alpha: .*pattern"):
            lora.read(write(tmp_path / "a.safetensors", factors(), "PEFT"))
    slow = [Pattern(text) for text in (".*" * 200, "a*" * 200 + "b", ".*a.*a.*a.*a.*a.*b", r"\d*" * 100)]
    assert not any(pattern.matches("a" * 500) for pattern in slow[1:])
    assert time.perf_counter() - start < 20


def test_patterns_mean_what_they_mean_in_peft():
    key = "transformer_blocks.7.attn1.to_q"
    for pattern, matches in LEGITIMATE.items():
        assert bool(re.match(rf"(.*\.)?({pattern})$", key)) is matches, pattern
        assert Pattern(pattern).matches(key) is matches, pattern


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 1e30])
def test_an_alpha_that_is_no_number_is_refused_by_its_name(tmp_path, alpha):
    with pytest.raises(UserError, match=r"a\.safetensors says no usable alpha for .*(is (nan|-?inf)|alpha / rank is)"):
        lora.read(write(tmp_path / "a.safetensors", factors(), alpha=alpha))


@pytest.mark.parametrize("dtype", [mx.int32, mx.int64, mx.uint8, mx.bool_, mx.uint32, mx.complex64])
def test_matrices_of_other_kinds_are_refused(tmp_path, dtype):
    pair = {"a.lora_A.weight": mx.ones((2, 4)), "a.lora_B.weight": mx.ones((4, 2)).astype(dtype)}
    mx.save_safetensors(str(tmp_path / "x.safetensors"), pair)
    with pytest.raises(UserError, match=r"x\.safetensors: tensor 'a.lora_B.weight'"):
        lora.read(tmp_path / "x.safetensors", header_only=True)


def test_settings_of_every_wrong_kind_are_refused_or_read(tmp_path):
    for key in ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "r", "rank_pattern"):
        for value in (
            "x",
            [1],
            {"a": "b"},
            {"a": None},
            {"a": True},
            True,
            False,
            None,
            -1,
            0,
            1e300,
            1e9,
            10**30,
            {"": 1},
        ):
            (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, key: value}))
            with contextlib.suppress(UserError):
                pairs = lora.read(write(tmp_path / "a.safetensors", factors(rank=4), "PEFT")).pairs
                assert all(abs(pair.scale) <= 10_000 for pair in pairs.values())


def test_a_stray_settings_file_in_a_folder_of_loras_says_nothing(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 400}')
    write(tmp_path / "another.safetensors", factors())
    adapter = lora.read(write(tmp_path / "a.safetensors", factors()))
    assert {pair.scale for pair in adapter.pairs.values()} == {1.0}


def test_alpha_pattern_names_single_layers(tmp_path):
    settings = {"lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 12, r"ff\.net\.0\.proj": 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(rank=4), "PEFT"))
    scales = {name.removeprefix("model.diffusion_model."): pair.scale for name, pair in adapter.pairs.items()}
    assert scales["transformer_blocks.1.attn1.to_q"] == 3.0
    assert scales["transformer_blocks.0.ff.net.0.proj"] == 0.5
    assert scales["proj_out"] == 1.0


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_fusing_rounds_once_to_the_weights_dtype(tmp_path, network, dtype):
    network.set_dtype(dtype)
    before, first, second = weights(network), factors(1), factors(2)
    loras = [
        (lora.read(write(tmp_path / f"{i}.safetensors", p)), s) for i, (p, s) in enumerate([(first, 0.3), (second, -1)])
    ]
    fuse(network, loras)
    layer = network.transformer_blocks[0].attn1.to_q
    assert layer.weight.dtype == dtype
    name = "transformer_blocks.0.attn1.to_q"
    exact = before[name] + 0.3 * (first[name][1] @ first[name][0]) - second[name][1] @ second[name][0]
    nearest = np.array(mx.array(exact.astype(np.float32)).astype(dtype).astype(mx.float32))
    step = {mx.float32: 2e-6, mx.bfloat16: 2**-8, mx.float16: 2**-11}[dtype]
    got = np.array(layer.weight.astype(mx.float32))
    assert np.linalg.norm(got - nearest) <= 1e-2 * step * np.linalg.norm(nearest) + 1e-6 * np.linalg.norm(nearest)


def call(net, x, sigma):
    """Every layer of the network that the LoRA names, in a chain."""
    x = net.patchify_proj(x) + net.adaln_single.emb.timestep_embedder.linear_1(sigma)
    for block in net.transformer_blocks:
        x = x + block.attn1.to_out[0](block.attn1.to_q(x)) + block.ff.net[2](mx.tanh(block.ff.net[0].proj(x)))
        x = x * block.audio_to_video_attn.to_gate_logits(x).mean(-1, keepdims=True)
    return net.proj_out(net.av_ca_a2v_gate_adaln_single.linear(x))


def test_a_lora_beside_quantized_weights_goes_and_leaves_them(tmp_path, network):
    nn.quantize(network, group_size=32, bits=8, class_predicate=lambda path, _: path.endswith("ff.net.2"))
    layer = {"transformer_blocks.0.ff.net.2": (16, 64)}
    adapters = [
        (lora.read(write(tmp_path / f"{i}.safetensors", factors(i, layer, rank=3 + i))), s)
        for i, s in enumerate([0.4, 0.9])
    ]
    x, sigma = mx.random.normal((2, 5, 8)), mx.random.normal((2, 1, 32))
    plain = call(network, x, sigma)
    paths = [path for path, _ in tree_flatten(network.parameters())]
    fuse(network, adapters)
    beside = call(network, x, sigma)
    assert np.linalg.norm(beside - plain) > 0.01 * np.linalg.norm(plain)
    assert [path for path, _ in tree_flatten(network.parameters())] == paths
    lora.detach(network)
    assert mx.array_equal(call(network, x, sigma), plain)
    fuse(network, adapters)
    assert mx.array_equal(call(network, x, sigma), beside)


def test_quantized_layers_take_the_lora_beside_them(tmp_path, network):
    layers = {"transformer_blocks.0.ff.net.2": (16, 64), "patchify_proj": (16, 8)}
    nn.quantize(network, group_size=32, bits=4, class_predicate=lambda path, _: path.endswith("ff.net.2"))
    pairs = factors(3, layers)
    adapter = lora.read(write(tmp_path / "a.safetensors", pairs))
    layer = network.transformer_blocks[0].ff.net[2]
    x = mx.random.normal((2, 64))
    before, packed = layer(x), layer.weight
    (coverage,) = fuse(network, [(adapter, 2.0)])
    assert coverage.matched == 2
    assert mx.array_equal(layer.weight, packed)
    down, up = map(mx.array, pairs["transformer_blocks.0.ff.net.2"])
    wanted = before + 2.0 * (x @ down.T) @ up.T
    assert np.linalg.norm(layer(x) - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_fusing_beside_an_attached_quantized_layer_adds(tmp_path, network):
    nn.quantize(network, group_size=32, bits=8, class_predicate=lambda path, _: path.endswith("ff.net.2"))
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(3, {"transformer_blocks.0.ff.net.2": (16, 64)})))
    layer, x = network.transformer_blocks[0].ff.net[2], mx.random.normal((2, 64))
    plain = layer(x)
    fuse(network, [(adapter, 1.0)])
    once = layer(x) - plain
    fuse(network, [(adapter, 1.0)])
    assert np.linalg.norm(layer(x) - plain - 2 * once) <= 1e-5 * np.linalg.norm(once)


def test_strength_zero_changes_nothing(tmp_path, network):
    adapter = lora.read(write(tmp_path / "a.safetensors", factors()))
    before = weights(network)
    fuse(network, [(adapter, 0.0)])
    assert_fused(network, before, {}, 0)
    assert type(network.proj_out) is nn.Linear


# ------------------------------------------------------------------------------------------- which network


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "text_embedding_projection.aggregate_embed",
            "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0",
        ),
        ("connectors.text_proj_in", "connectors.video_connector.transformer_blocks.0"),
    ],
)
def test_the_text_projection_goes_to_the_connectors(tmp_path, network, first, second):
    rng = np.random.default_rng(0)
    extra = {
        f"{first}.lora_A.weight": rng.standard_normal((2, 12), np.float32),
        f"{first}.lora_B.weight": rng.standard_normal((10, 2), np.float32),
        f"{second}.lora_A.weight": rng.standard_normal((2, 10), np.float32),
        f"{second}.lora_B.weight": rng.standard_normal((10, 2), np.float32),
    }
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(), extra=extra))
    (coverage,) = fuse(network, [(adapter, 1.0)])
    assert (coverage.matched, coverage.total, coverage.strangers) == (len(LAYERS), len(LAYERS), ())
    connectors = Connectors()
    before = weights(connectors)
    (coverage,) = fuse(connectors, [(adapter, 0.5)], "connectors")
    assert (coverage.matched, coverage.total, coverage.strangers) == (2, 2, ())
    after = weights(connectors)["projection.aggregate_embed"]
    wanted = (
        before["projection.aggregate_embed"] + 0.5 * extra[f"{first}.lora_B.weight"] @ extra[f"{first}.lora_A.weight"]
    )
    np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_a_lora_without_text_layers_leaves_the_connectors_alone(tmp_path):
    adapter = lora.read(write(tmp_path / "a.safetensors", factors()))
    (coverage,) = fuse(Connectors(), [(adapter, 1.0)], "connectors", optional=True)
    assert (coverage.matched, coverage.total) == (0, 0)
    with pytest.raises(UserError, match="connectors"):
        fuse(Connectors(), [(adapter, 1.0)], "connectors")


def test_partial_matches_are_counted_and_named(tmp_path, network):
    strange = {f"transformer_blocks.{i}.attn9.to_q": (16, 16) for i in range(5)}
    extra = {"diffusion_model.proj_out.diff_b": np.zeros(8, np.float32)}
    adapter = lora.read(write(tmp_path / "my.safetensors", factors() | factors(1, strange), extra=extra))
    (coverage,) = fuse(network, [(adapter, 1.0)])
    assert (coverage.matched, coverage.total) == (len(LAYERS), len(LAYERS) + 5)
    text = str(coverage)
    assert "my.safetensors: 9 of 14 layers" in text
    assert "diffusion_model.proj_out.diff_b" in text
    assert "diffusion_model.transformer_blocks.0.attn9.to_q" in text
    assert text.endswith(", ...")


@pytest.mark.parametrize("spell", ["official", "kohya"])
def test_no_match_is_an_error_and_changes_nothing(tmp_path, network, spell):
    before = weights(network)
    other = lora.read(write(tmp_path / "wan.safetensors", factors(0, {"blocks.0.self_attn.q": (16, 16)}), spell))
    good = lora.read(write(tmp_path / "good.safetensors", factors()))
    with pytest.raises(UserError, match=r"wan\.safetensors.*none of its 1 layers.*blocks.0.self_attn.q|none of its 1"):
        fuse(network, [(good, 1.0), (other, 1.0)])
    assert_fused(network, before, {}, 0)
    assert type(network.proj_out) is nn.Linear


def test_another_size_is_refused_with_both_shapes(tmp_path, network):
    adapter = lora.read(write(tmp_path / "big.safetensors", factors(0, LAYERS | {"patchify_proj": (32, 8)})))
    with pytest.raises(UserError, match=r"patchify_proj.*\[32, 8\].*\[16, 8\]"):
        fuse(network, [(adapter, 1.0)])


def test_shapes_are_checked_on_quantized_layers_too(tmp_path, network):
    nn.quantize(network, group_size=32, bits=4, class_predicate=lambda path, _: path.endswith("ff.net.2"))
    adapter = lora.read(write(tmp_path / "big.safetensors", factors(0, {"transformer_blocks.0.ff.net.2": (16, 32)})))
    with pytest.raises(UserError, match=r"\[16, 32\].*\[16, 64\]"):
        fuse(network, [(adapter, 1.0)])


# ------------------------------------------------------------------------------------------- files


def test_a_folder_with_one_file_is_read(tmp_path):
    write(tmp_path / "only.safetensors", factors())
    assert lora.read(tmp_path).path.name == "only.safetensors"
    write(tmp_path / "second.safetensors", factors())
    with pytest.raises(UserError, match=r"holds 2 \(only.safetensors, second.safetensors\)"):
        lora.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 100, b"\x10\0\0\0\0\0\0\0{not json at al}"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        lora.read(file)


def test_missing_files_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="gone"):
        lora.read(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match="holds 0"):
        lora.read(tmp_path)


REFUSED = {
    "no LoRA": ({"transformer_blocks.0.attn1.to_q.weight": (4, 4)}, "not a LoRA"),
    "half a pair": ({"diffusion_model.a.lora_A.weight": (2, 4)}, r"a lacks its up \(lora_B\)"),
    "other half": ({"diffusion_model.a.lora_up.weight": (4, 2)}, r"a lacks its down \(lora_A\)"),
    "alpha alone": ({"diffusion_model.a.alpha": ()}, "lacks its"),
    "ranks differ": ({"a.lora_A.weight": (2, 4), "a.lora_B.weight": (4, 3)}, r"\[4, 3\] times \[2, 4\]"),
    "a convolution": ({"a.lora_A.weight": (2, 4, 1, 1), "a.lora_B.weight": (4, 2, 1, 1)}, "fit together"),
    "rank nought": ({"a.lora_A.weight": (0, 4), "a.lora_B.weight": (4, 0)}, "fit together"),
    "alpha of two numbers": (
        {"a.lora_A.weight": (2, 4), "a.lora_B.weight": (4, 2), "a.alpha": (2,)},
        "no usable alpha for a",
    ),
    "DoRA": ({"a.lora_A.weight": (2, 4), "a.lora_B.weight": (4, 2), "a.dora_scale": (4,)}, "DoRA"),
    "two adapters": (
        {"a.lora_A.x.weight": (2, 4), "a.lora_B.x.weight": (4, 2), "a.lora_A.y.weight": (2, 4)},
        "two adapters",
    ),
    "one layer twice": (
        {"a.lora_A.weight": (2, 4), "a.lora_B.weight": (4, 2)}
        | {"transformer.a.lora_A.weight": (2, 4), "transformer.a.lora_B.weight": (4, 2)},
        "one layer twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_loras_are_refused(tmp_path, case):
    shapes, message = REFUSED[case]
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {name: mx.ones(shape) for name, shape in shapes.items()})
    with pytest.raises(UserError, match=message) as caught:
        lora.read(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value)


def test_kohya_and_dotted_names_of_one_layer_are_refused(tmp_path, network):
    both = {"proj_out": LAYERS["proj_out"]}
    extra = {
        f"lora_unet_proj_out.lora_{r}.weight": a
        for r, a in zip(("down", "up"), factors(0, both)["proj_out"], strict=True)
    }
    adapter = lora.read(write(tmp_path / "a.safetensors", factors(0, both), extra=extra))
    with pytest.raises(UserError, match="twice"):
        fuse(network, [(adapter, 1.0)])


def test_reading_leaves_the_matrices_on_disk(tmp_path):
    wide = {f"transformer_blocks.{i}.attn1.to_q": (512, 512) for i in range(16)}
    file = write(tmp_path / "a.safetensors", factors(0, wide, rank=64))
    mx.clear_cache()
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    adapter = lora.read(file)
    assert len(adapter.pairs) == 16
    assert mx.get_peak_memory() - active < 1 << 20


@pytest.mark.parametrize("spell", ["official", "kohya"])
@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_the_published_distilled_loras_map_one_to_one(generation, spell):
    def layer(name):
        flat = f"lora_unet_{name.removeprefix('diffusion_model.').replace('.', '_')}"
        return flat if spell == "kohya" and name.startswith("diffusion_model.") else name

    tensors = {name: mx.zeros(entry.shape) for name, entry in real_keys.lora(generation).items()}
    keys = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    pairs = {}
    for key in keys:
        pair = lora.Pair(layer(key), tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"], 1.0)
        pairs[lora_file._official(layer(key))] = pair
    adapter = lora.Adapter(Path("distilled.safetensors"), pairs)
    config = real_keys.config(generation)
    transformer = Transformer(TransformerConfig.read(config))
    found, coverage = lora.match(transformer, adapter, "transformer")
    text = [key for key in keys if not key.startswith("diffusion_model.")]
    assert coverage.matched == coverage.total == len(found) == len(keys) - len(text) > 1300
    assert coverage.strangers == ()
    assert len(text) == (1 if generation == "2" else 0)
    linear = [m for _, m in transformer.named_modules() if isinstance(m, nn.Linear)]
    assert len(linear) == len(found)
