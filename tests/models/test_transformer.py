"""The two-stream transformer: numbers from a recorded fixture, work done once, the real checkpoints' names.

`fixtures/transformer.npz` holds what the torch reference computes for `CASES` from the weights and inputs that this
file makes from seeds; `tests/parity/test_transformer.py` records it and compares more.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.models.layers import Attention
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer import Prepared, Transformer, adaln, network, prepared
from mlx_video.models.ltx_2.transformer.block import Block, step_operations
from mlx_video.types import MODALITIES, Context, Pass, Tree, UserError
from mlx_video.weights import names
from tests.support import real_keys

RECORDED = Path(__file__).parents[1] / "fixtures" / "transformer.npz"
PREFIX = "model.diffusion_model."
LAYERS = 3
COMMON: dict[str, Any] = {
    "num_layers": LAYERS, "num_attention_heads": 2, "attention_head_dim": 14, "in_channels": 10, "out_channels": 10,
    "cross_attention_dim": 28, "audio_num_attention_heads": 2, "audio_attention_head_dim": 6, "audio_in_channels": 6,
    "audio_out_channels": 6, "audio_cross_attention_dim": 12, "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20], "av_ca_timestep_scale_multiplier": 1000.0,
    "frequencies_precision": "float64", "rope_type": "split", "use_middle_indices_grid": True, "norm_eps": 1e-6,
    "attention_bias": True, "dropout": 0.0, "num_vector_embeds": None, "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000, "use_linear_projection": False, "only_cross_attention": False,
    "cross_attention_norm": True, "double_self_attention": False, "upcast_attention": False,
    "standardization_norm": "rms_norm", "norm_elementwise_affine": False, "qk_norm": "rms_norm",
    "positional_embedding_type": "rope", "use_audio_video_cross_attention": True, "share_ff": False,
    "av_cross_ada_norm": True,
}  # fmt: skip
"""28 wide over 3 axes leaves 2 angles that no axis fills, as the real 4096 does."""
CONFIGS: dict[str, dict[str, Any]] = {
    "2": {"transformer": {**COMMON, "caption_channels": 9}},
    "2.3": {
        "transformer": {
            **COMMON, "apply_gated_attention": True, "cross_attention_adaln": True,
            "caption_proj_before_connector": True, "caption_projection_first_linear": False,
            "caption_proj_input_norm": False, "caption_projection_second_linear": False,
        }
    },
}  # fmt: skip
CONFIGS["2.5"] = {
    "transformer": {**CONFIGS["2.3"]["transformer"], "ff_bias": False, "use_keyframes_abs_pos_embedding": True}
}
TOKENS = {"video": 12, "audio": 7}
MASKS = {"video": [0.0] * 4 + [0.25] * 2 + [1.0] * 6, "audio": [1.0] * 7}
MARKS = {
    "no frame": [0.0] * 12,
    "first frame": [1.0] * 4 + [0.0] * 8,
    "first and last": [1.0] * 4 + [0.0] * 4 + [1.0] * 4,
}
"""Of LTX-2.5's keyframes; in every other case the first frame is one."""
SIGMA = {"video": 0.7, "audio": 0.45}
STG = (("video", frozenset({1})), ("audio", frozenset({0, 2})))
CASES: dict[str, tuple[Pass, tuple[str, ...]]] = {
    "plain": (Pass(), ()),
    "negative": (Pass("negative"), ()),
    "stg": (Pass(skip_self_attention=STG), ()),
    "isolated": (Pass(cross_modal=False), ()),
    "video_only": (Pass(), ()),
    "audio_only": (Pass(), ()),
    "still_audio": (Pass(), ("audio",)),
    "still_video": (Pass(), ("video",)),
}
"""Case -> the pass and the modalities left still."""
GUIDED = [CASES[case][0] for case in ("plain", "negative", "stg", "isolated")]


def seeded(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Weights by seed and name that keep activations near 1: float32."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if "norm" in name and name.endswith("weight"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    scale = 0.2 if len(shape) == 1 or "table" in name else 1 / math.sqrt(shape[-1])
    return rng.normal(0, scale, shape).astype(np.float32)


def inputs(generation: str, samples: int = 1, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Latents, positions and texts by modality: 3 x 2 x 2 video tokens, the first frame causal, and 7 of audio."""
    rng = np.random.default_rng(seed)
    frames, rows, columns = np.meshgrid(range(3), range(2), range(2), indexing="ij")
    start = np.stack([np.maximum(frames * 8 - 7, 0) / 24, rows * 32, columns * 32])
    end = np.stack([(frames * 8 + 1) / 24, rows * 32 + 32, columns * 32 + 32])
    i = np.arange(TOKENS["audio"])
    positions = {
        "video": np.stack([start, end], -1).reshape(1, 3, TOKENS["video"], 2),
        "audio": np.stack([np.maximum(4 * i - 3, 0), 4 * i + 1], -1)[None, None] * 0.01,
    }
    made = {}
    for m, channels, width in (("video", 10, 28), ("audio", 6, 12)):
        made[m] = {
            "latent": rng.standard_normal((samples, TOKENS[m], channels)),
            "positions": np.repeat(positions[m], samples, 0),
            **{
                name: rng.standard_normal((samples, 8, 9 if generation == "2" else width))
                for name in ("positive", "negative")
            },
        }
    if generation == "2.5":
        made["video"]["keyframes"] = np.reshape(MARKS["first frame"] * samples, (samples, -1, 1))
    return {m: {key: value.astype(np.float32) for key, value in part.items()} for m, part in made.items()}


def build(generation: str, *, audio: bool = True, dtype: mx.Dtype = mx.float32, **changes) -> Transformer:
    """A small transformer with seeded weights, given to it by the checkpoint's names."""
    config = {"transformer": {**CONFIGS[generation]["transformer"], **changes}}
    full = Transformer(TransformerConfig.read(config))
    tensors = {PREFIX + name: mx.array(seeded(name, shape)) for name, shape in names.shapes(full).items()}
    network = full if audio else Transformer(TransformerConfig.read(config, audio=False))
    names.assign(network, tensors, "transformer", dtype=dtype)
    return network


def prepare(network: Transformer, data: dict, masks: dict | None = MASKS) -> Prepared:
    """Contexts "positive" and "negative" for the modalities in `data`, and its keyframes."""
    blank = {"positive": mx.zeros((1, 1, 1)), "negative": mx.zeros((1, 1, 1))}
    contexts = {
        name: Context(*(mx.array(data[m][name]) if m in data else blank[name] for m in MODALITIES)) for name in blank
    }
    tokens = None if masks is None else {m: mx.array(masks[m])[None, :, None] for m in data}
    marks = data.get("video", {}).get("keyframes")
    positions = {m: mx.array(data[m]["positions"]) for m in data}
    return network.prepare(contexts, positions, tokens, None if marks is None else mx.array(marks))


def latents(data: dict) -> Tree:
    """The noisy tokens of `data`."""
    return {m: mx.array(part["latent"]) for m, part in data.items()}


def of_case(case: str, data: dict) -> dict:
    """`data` without the modality that a case leaves out."""
    return {m: part for m, part in data.items() if not case.endswith("_only") or case.startswith(m)}


def error(ours: mx.array, theirs: np.ndarray) -> float:
    """||ours - theirs|| / ||theirs||."""
    ours = np.array(ours.astype(mx.float32), np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def count(monkeypatch, owner, name: str) -> list:
    """Lets `owner.name` go on as it is and lists the arguments of its calls."""
    calls, plain = [], getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("generation", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_velocity_is_the_reference_s(generation: str, case: str) -> None:
    recorded = np.load(RECORDED)
    one, still = CASES[case]
    data = of_case(case, inputs(generation))
    net = build(generation)
    [velocity] = net(latents(data), SIGMA, prepare(net, data), (one,), still=still)
    assert set(velocity) == set(data)
    for m in data:
        assert error(velocity[m], recorded[f"{generation}/{case}/{m}"]) < 5e-6, m


@pytest.mark.parametrize("marks", MARKS)
def test_keyframes_are_told_to_the_network(marks: str) -> None:
    """With other frames marked it gives other numbers, and those are the reference's."""
    recorded, data, net = np.load(RECORDED), inputs("2.5"), build("2.5")
    data["video"]["keyframes"] = np.array(MARKS[marks], np.float32).reshape(1, -1, 1)
    [velocity] = net(latents(data), SIGMA, prepare(net, data))
    for m in data:
        assert error(velocity[m], recorded[f"2.5/{marks}/{m}"]) < 5e-6, m
        others = [recorded[f"2.5/{other}/{m}"] for other in MARKS if other != marks]
        assert min(error(velocity[m], other) for other in others) > 1e-3, m


@pytest.mark.parametrize("generation", CONFIGS)
@pytest.mark.parametrize("batched", [False, True])
def test_passes_together_give_what_each_gives_alone(generation: str, batched: bool) -> None:
    """Two samples, each with positions and noise levels of its own; a pass twice over is allowed."""
    data = inputs(generation, samples=2, seed=1)
    data["video"]["positions"][1, 0] += 0.5
    net = build(generation)
    ready = prepare(net, data)
    sigma = {"video": mx.array([0.9, 0.2]), "audio": mx.array([0.3, 0.6])}
    together = net(latents(data), sigma, ready, [*GUIDED, GUIDED[2]], batched=batched)
    assert len(together) == 5
    for one, result in zip([*GUIDED, GUIDED[2]], together, strict=True):
        [alone] = net(latents(data), sigma, prepare(net, data), (one,))
        for m in MODALITIES:
            assert error(result[m], np.array(alone[m])) < 1e-6


def test_samples_do_not_mix() -> None:
    """A batch of two with its own masks gives what two calls give."""
    data = inputs("2.3", samples=2, seed=2)
    net = build("2.3")
    rng = np.random.default_rng(0)
    masks = {m: mx.array(rng.choice([0.0, 0.3, 1.0], (2, TOKENS[m], 1)).astype(np.float32)) for m in MODALITIES}
    sigma = {"video": mx.array([0.9, 0.2]), "audio": mx.array([0.3, 0.6])}
    positions = {m: mx.array(data[m]["positions"]) for m in MODALITIES}

    def call(rows: slice) -> Tree:
        context = Context(*(mx.array(data[m]["positive"][rows]) for m in MODALITIES))
        ready = net.prepare(
            {"positive": context}, {m: p[rows] for m, p in positions.items()}, {m: a[rows] for m, a in masks.items()}
        )
        return net({m: x[rows] for m, x in latents(data).items()}, {m: s[rows] for m, s in sigma.items()}, ready)[0]

    both, first, second = call(slice(0, 2)), call(slice(0, 1)), call(slice(1, 2))
    for m in MODALITIES:
        assert error(both[m], np.array(mx.concatenate([first[m], second[m]]))) < 1e-6


def test_one_text_serves_all_samples() -> None:
    data = inputs("2", samples=2)
    one = {m: {**part, "positive": part["positive"][:1], "negative": part["negative"][:1]} for m, part in data.items()}
    two = {
        m: {**part, "positive": np.repeat(part["positive"], 2, 0), "negative": part["negative"]}
        for m, part in one.items()
    }
    net = build("2")
    [short] = net(latents(data), SIGMA, prepare(net, one))
    [long] = net(latents(data), SIGMA, prepare(net, two))
    assert error(short["video"], np.array(long["video"])) < 1e-6


def test_a_number_and_an_array_of_equal_noise_levels_are_one() -> None:
    data = inputs("2.3", samples=2)
    net = build("2.3")
    ready = prepare(net, data)
    [a] = net(latents(data), SIGMA, ready)
    [b] = net(latents(data), {m: mx.array([s, s]) for m, s in SIGMA.items()}, ready)
    assert error(a["audio"], np.array(b["audio"])) < 1e-6


def test_a_mask_of_ones_is_no_mask() -> None:
    data = inputs("2.3")
    net = build("2.3")
    [a] = net(latents(data), SIGMA, prepare(net, data, None))
    [b] = net(latents(data), SIGMA, prepare(net, data, {m: [1.0] * n for m, n in TOKENS.items()}))
    for m in MODALITIES:
        assert mx.array_equal(a[m], b[m])


def test_video_only_network_is_the_full_one_without_audio() -> None:
    """It takes a full checkpoint and passes over the audio tensors."""
    data = of_case("video_only", inputs("2.3"))
    full, alone = build("2.3"), build("2.3", audio=False)
    assert not [
        path for path, _ in tree_flatten(alone.parameters()) if "audio" in path or "av_ca" in path or "a2v" in path
    ]
    [a], [b] = (net(latents(data), SIGMA, prepare(net, data)) for net in (full, alone))
    assert mx.array_equal(a["video"], b["video"])


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("generation", CONFIGS)
def test_float32_tables_leave_a_bfloat16_network_in_bfloat16(generation: str, monkeypatch) -> None:
    """Official files keep the AdaLN tables in float32; a sum with one must not widen the stream."""
    net = build(generation, dtype=mx.bfloat16)
    for path, module in net.named_modules():
        if isinstance(module, Block) or path == "":
            for key in [key for key in module if key.endswith("table") or "_a2v_ca_" in key]:
                module[key] = module[key].astype(mx.float32)
    data = inputs(generation)
    seen = count(monkeypatch, Attention, "__call__")
    [velocity] = net(latents(data), SIGMA, prepare(net, data))
    assert {arg.dtype for args in seen for arg in args[1:2]} == {mx.bfloat16}
    exact = np.load(RECORDED)
    for m in MODALITIES:
        assert velocity[m].dtype == mx.bfloat16
        assert error(velocity[m], exact[f"{generation}/plain/{m}"]) < 0.05


def test_a_quantized_network_still_runs() -> None:
    """Linear layers stay reachable and replaceable; the precision is then that of what is not quantized."""
    net = build("2.3", num_attention_heads=2, attention_head_dim=32, cross_attention_dim=64)
    data = inputs("2.3")
    data["video"]["positive"] = np.random.default_rng(0).standard_normal((1, 8, 64)).astype(np.float32)
    data["video"]["negative"] = data["video"]["positive"]
    [plain] = net(latents(data), SIGMA, prepare(net, data))
    nn.quantize(net, 32, 8, class_predicate=lambda _, m: isinstance(m, nn.Linear) and m.weight.shape[-1] % 32 == 0)
    assert isinstance(net.transformer_blocks[0].attn1.to_q, nn.QuantizedLinear)
    [rough] = net(latents(data), SIGMA, prepare(net, data))
    assert 1e-6 < error(rough["video"], np.array(plain["video"])) < 0.05


# ------------------------------------------------------------------------------------------------ work done once


def test_rotary_tables_are_made_once_per_stage(monkeypatch) -> None:
    net, data = build("2.3"), inputs("2.3")
    made = count(monkeypatch, prepared, "rotary_table")
    ready = prepare(net, data)
    assert len(made) == 4
    for _ in range(3):
        mx.eval(net(latents(data), SIGMA, ready, GUIDED))
    assert len(made) == 4


@pytest.mark.parametrize(("generation", "keep", "per_call"), [("2", True, 0), ("2", False, 12), ("2.3", True, 12)])
def test_texts_are_read_once_per_context_and_for_ltx_2_once_per_stage(monkeypatch, generation, keep, per_call) -> None:
    """3 blocks x 2 contexts x 2 modalities; a text's keys depend on the noise level in LTX-2.3 only."""
    net, data = build(generation), inputs(generation)
    net.keep_text = keep
    ready = prepare(net, data)
    read = count(monkeypatch, Block, "read_text")
    mx.eval(net(latents(data), SIGMA, ready, GUIDED))
    assert len(read) == 12
    mx.eval(net(latents(data), SIGMA, ready, GUIDED))
    assert len(read) == 12 + per_call


def test_captions_are_projected_once_per_stage(monkeypatch) -> None:
    """A call embeds timesteps: main, audio-video scale and shift, gate, for two modalities; and projects no caption."""
    net, data = build("2"), inputs("2")
    calls = count(monkeypatch, adaln.TwoLinear, "__call__")
    ready = prepare(net, data)
    assert len(calls) == 4
    assert ready.contexts["positive"]["video"].shape == (1, 8, 28)
    for _ in range(2):
        calls.clear()
        net(latents(data), SIGMA, ready, GUIDED)
        assert len(calls) == 6


def test_passes_share_blocks_until_they_part(monkeypatch) -> None:
    """Perturbed in block 1 alone, the second pass costs nothing in block 0."""
    net, data = build("2.3"), inputs("2.3")
    ready = prepare(net, data)
    runs = count(monkeypatch, Block, "steps")
    same_text = (Pass(), Pass(skip_self_attention=(("video", frozenset({1})),)))
    net(latents(data), SIGMA, ready, same_text)
    order = {id(block): index for index, block in enumerate(net.transformer_blocks)}
    assert [order[id(args[0])] for args in runs] == [0, 1, 1, 2, 2]
    runs.clear()
    net(latents(data), SIGMA, ready, same_text, batched=True)
    assert [order[id(args[0])] for args in runs] == [0, 1, 1, 2]
    assert runs[-1][1]["video"].shape[0] == 2


def test_a_pass_without_cross_attention_does_none(monkeypatch) -> None:
    net, data = build("2.3"), inputs("2.3")
    ready = prepare(net, data)
    runs = count(monkeypatch, Attention, "__call__")
    net(latents(data), SIGMA, ready, (Pass(cross_modal=False),))
    assert len(runs) == 4 * LAYERS
    runs.clear()
    net(latents(data), SIGMA, ready)
    assert len(runs) == 6 * LAYERS


def test_noise_levels_are_embedded_once_for_each_distinct_one(monkeypatch) -> None:
    net, data = build("2.3"), inputs("2.3")
    ready = prepare(net, data)
    assert sorted(ready.levels["video"].values.tolist()) == [0.0, 0.25, 1.0]
    assert ready.levels["audio"].tokens is None
    seen = count(monkeypatch, adaln, "timestep_features")
    net(latents(data), SIGMA, ready, GUIDED)
    assert sorted(args[0].size for args in seen) == [1, 1, 1, 1, 1, 1, 3, 3]


@pytest.mark.parametrize(("limit", "evaluations"), [(0.0, 3 * (4 * 4 - 1)), (math.inf, 0), (None, 0)])
def test_graphs_are_evaluated_when_they_grow_past_the_limit(monkeypatch, limit, evaluations) -> None:
    """At 0 after each of the 4 steps of each of the 4 passes in each block, but where a pass skips the step; this small
    network never reaches the platform's limit.
    """
    net, data = build("2.3"), inputs("2.3")
    ready = prepare(net, data)
    several = [
        CASES["plain"][0],
        CASES["negative"][0],
        Pass(skip_self_attention=(("video", frozenset({0})),)),
        GUIDED[3],
    ]
    evaluated = count(monkeypatch, network.mx, "eval")
    results = net(latents(data), SIGMA, ready, several, flops_limit=limit)
    assert len(evaluated) == evaluations
    monkeypatch.undo()
    for one, result in zip(several, results, strict=True):
        [alone] = net(latents(data), SIGMA, ready, (one,))
        assert error(result["video"], np.array(alone["video"])) < 1e-6


def test_operations_are_counted_as_the_matrices_are() -> None:
    """Against a count of every product of one LTX-2 block at its real widths, 6,144 and 126 tokens, 1,024 of text."""
    v, a, t, dv, da = 6144, 126, 1024, 4096, 2048
    tokens, widths = {"video": v, "audio": a}, {"video": dv, "audio": da}
    linear = 0
    for n, d in ((v, dv), (a, da)):
        linear += 4 * n * d * d + 2 * n * n * d  # self-attention: q, k, v, out; scores and their sum
        linear += 2 * n * d * d + 2 * t * d * d + 2 * n * t * d  # text
        linear += 8 * n * d * d  # feed-forward
    for n, d, k, e in ((v, dv, a, da), (a, da, v, dv)):
        linear += 2 * n * d * da + 2 * k * e * da + 2 * n * k * da
    counted = step_operations(tokens, widths, dict.fromkeys(MODALITIES, t), True)
    assert sum(counted) == pytest.approx(2 * linear, rel=1e-6)


def test_each_block_is_visited_once_per_call_whatever_the_passes() -> None:
    """So a network that brings blocks in and out reads each once per step."""

    class Streaming(Transformer):
        visited: list[int] = []

        def parts(self, results):
            for index, block in enumerate(self.transformer_blocks):
                self.visited.append(index)
                yield block

    data = inputs("2.3")
    plain = build("2.3")
    net = Streaming(plain.config)
    net.update(plain.parameters())
    results = net(latents(data), SIGMA, prepare(net, data), GUIDED, flops_limit=0.0)
    assert net.visited == [0, 1, 2]
    expected = plain(latents(data), SIGMA, prepare(plain, data), GUIDED)
    assert error(results[2]["video"], np.array(expected[2]["video"])) < 1e-6


# ------------------------------------------------------------------------------------------------ real checkpoints


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_real_checkpoint_fits_one_to_one(generation: str) -> None:
    """All names and shapes of the published file against the network at full size, which allocates nothing."""
    listed = real_keys.load(generation)
    config = real_keys.config(generation)
    before = mx.get_active_memory()
    net = Transformer(TransformerConfig.read(config))
    pairs = names.match(net, {name: shape for name, (_, shape) in listed.items()}, "transformer")
    assert mx.get_active_memory() - before < 1 << 20
    ours = {name for name in listed if name.startswith(PREFIX) and "_embeddings_connector." not in name}
    assert set(pairs) == ours
    assert all(name == PREFIX + path for name, path in pairs.items())
    parameters = sum(math.prod(listed[name].shape) for name in ours)
    assert parameters == {"2": 18_876_174_592, "2.3": 18_988_838_144}[generation]


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_video_only_network_fits_a_real_checkpoint(generation: str) -> None:
    listed = real_keys.load(generation)
    net = Transformer(TransformerConfig.read(real_keys.config(generation), audio=False))
    pairs = names.match(net, {name: shape for name, (_, shape) in listed.items()}, "transformer")
    assert len(pairs) == {"2": 25 * 48 + 15, "2.3": 30 * 48 + 17}[generation]


@pytest.mark.parametrize("generation", real_keys.GENERATIONS)
def test_every_lora_module_is_a_linear_of_the_network(generation: str) -> None:
    net = Transformer(TransformerConfig.read(real_keys.config(generation)))
    linears = {path: module for path, module in net.named_modules() if isinstance(module, nn.Linear)}
    pairs = {name: tensor for name, tensor in real_keys.lora(generation).items() if name.startswith("diffusion_model.")}
    bases = {name.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0] for name in pairs}
    assert bases == set(linears)
    for base, linear in linears.items():
        rank, width = pairs[f"diffusion_model.{base}.lora_A.weight"].shape
        assert (pairs[f"diffusion_model.{base}.lora_B.weight"].shape[0], width) == linear.weight.shape
        assert rank == min(real_keys.LORA_RANK, *linear.weight.shape)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_type", "interleaved"), ("use_keyframes_abs_pos_embedding", 1), ("use_prompt_adaln_single", False),
     ("qk_norm", "layer_norm"), ("frequencies_precision", "bfloat16"), ("activation_fn", "silu")],
)  # fmt: skip
def test_a_config_that_the_code_does_not_implement_is_refused_by_name(key: str, value) -> None:
    config = {"transformer": {**CONFIGS["2.3"]["transformer"], key: value}}
    with pytest.raises(UserError, match=f"transformer.{key} = {value!r}"):
        TransformerConfig.read(config)


def test_positions_that_do_not_fit_the_stream_are_refused() -> None:
    net, data = build("2.3"), inputs("2.3")
    data["video"]["positions"] = data["video"]["positions"][:, :1]
    with pytest.raises(ValueError, match=r"expected \(B, 3, T\)"):
        prepare(net, data)


def test_a_missing_surplus_or_misshapen_tensor_is_refused() -> None:
    shapes = {PREFIX + name: shape for name, shape in names.shapes(build("2.3")).items()}
    net = build("2.3")
    for change, message in (
        ({PREFIX + "proj_out.bias": None}, "1 tensor missing"),
        ({PREFIX + "keyframes_abs_pos_embedding": (1, 28)}, "1 tensor not known"),
        ({PREFIX + "proj_out.bias": (11,)}, "expected"),
    ):
        found = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
        with pytest.raises(UserError, match=message):
            names.match(net, found, "transformer")
