"""LTX-Video's transformer: the recorded numbers, passes together, bounded evaluations, positions."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.layers import Attention, Rotation, rotary_table, rotate, rotate_pairs
from mlx_video.models.ltx_video.config import TransformerConfig
from mlx_video.models.ltx_video.transformer import Pass, Transformer, corners
from mlx_video.models.ltx_video.transformer.prepared import place
from mlx_video.types import UserError
from tests.models.ltx_video import cases
from tests.support import small_ltx_video as small


@pytest.fixture(scope="module")
def network() -> Transformer:
    return small.network("transformer")


def prepared(network: Transformer):
    return network.prepare({name: mx.array(text) for name, text in cases.TEXTS.items()}, cases.POSITIONS)


@pytest.mark.parametrize("case", cases.TRANSFORMER)
def test_velocity_is_the_reference_s(network, case) -> None:
    one, timestep = cases.TRANSFORMER[case]
    [found] = network(mx.array(cases.TOKENS), timestep, prepared(network), (one,))
    assert cases.error(found, np.load(cases.RECORDED)[f"transformer/{case}"]) < cases.LIMIT


@pytest.mark.parametrize("kept", [True, False])
def test_passes_together_give_what_each_gives_alone(network, kept) -> None:
    """Whether texts' keys are kept or not; a pass twice over is computed once."""
    passes = [one for one, timestep in cases.TRANSFORMER.values() if isinstance(timestep, float)]
    recorded = np.load(cases.RECORDED)
    network.keep_text = kept
    around = prepared(network)
    assert (around.text is not None) is kept
    found = network(mx.array(cases.TOKENS), 0.85, around, passes)
    assert found[0] is found[1]
    for name, result in zip(
        (name for name, (_, t) in cases.TRANSFORMER.items() if isinstance(t, float)), found, strict=True
    ):
        if name != "noise":
            assert cases.error(result, recorded[f"transformer/{name}"]) < cases.LIMIT, name
    del network.keep_text


def test_two_samples_have_timesteps_of_their_own(network) -> None:
    x, around = mx.array(np.concatenate([cases.TOKENS, cases.TOKENS])), prepared(network)
    [found] = network(x, np.array([0.85, 1.0]), around)
    recorded = np.load(cases.RECORDED)
    for sample, name in zip(found, ("plain", "noise"), strict=True):
        assert cases.error(sample[None], recorded[f"transformer/{name}"]) < cases.LIMIT


def test_work_is_evaluated_in_pieces(network, monkeypatch) -> None:
    """Within every block, not only between them, and with the same numbers."""
    whole = network(mx.array(cases.TOKENS), 0.85, prepared(network))[0]
    counted, plain = [], mx.eval
    monkeypatch.setattr(mx, "eval", lambda *arrays: counted.append(arrays) or plain(*arrays))
    found = network(mx.array(cases.TOKENS), 0.85, prepared(network), flops_limit=1.0)[0]
    assert len(counted) == 3 * small.TRANSFORMER["num_layers"]
    assert mx.array_equal(found, whole)


def test_norms_of_queries_and_keys_have_an_eps_of_their_own(network) -> None:
    """Ten times the config's, whatever that says: too little of a difference for the recorded numbers."""
    for block in network.transformer_blocks:
        layers = (block.attn1, block.attn2)
        assert {norm.eps for layer in layers for norm in (layer.q_norm, layer.k_norm)} == {1e-5}
    assert network.config.norm_eps == 1e-6


def test_an_unknown_perturbation_is_refused(network) -> None:
    with pytest.raises(ValueError, match="perturbed by 'residual'"):
        network(mx.array(cases.TOKENS), 0.85, prepared(network), (Pass(how="residual"),))


def test_neighbours_turn_as_halves_do_elsewhere() -> None:
    """The two ways of turning differ by an order of the values alone."""
    table = rotary_table(cases.POSITIONS, 2, 10, (20, 2048, 2048), float64=False)
    x = mx.array(cases.drawn("turned", (1, 2, 12, 10)))
    order = mx.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])
    assert mx.array_equal(rotate_pairs(x, table)[..., order], rotate(x[..., order], table))


def test_frequencies_are_powers_in_float32() -> None:
    """At the real width that shows."""
    config = TransformerConfig.read({"transformer": {}})
    found = place(config, cases.POSITIONS, mx.float32)
    single, double = (rotary_table(cases.POSITIONS, 32, 64, (20, 2048, 2048), float64=wide) for wide in (False, True))
    assert mx.array_equal(found.cos, single.cos)
    assert not mx.array_equal(found.cos, double.cos)


def test_attention_turns_halves_unless_told_otherwise() -> None:
    layer, x = Attention(10, 1, 10), mx.array(cases.drawn("x", (1, 3, 10)))
    turn = Rotation(*(mx.array(cases.drawn(name, (1, 1, 3, 5))) for name in "cs"))
    keys = layer.k_norm(layer.to_k(x))[:, None]
    assert mx.array_equal(layer.remember(x, turn).keys, rotate(keys, turn))


@pytest.mark.parametrize(
    ("options", "frames"),
    [({"causal": False}, [0, 8, 16]), ({"causal": True}, [0, 1, 9]), ({"causal": True, "start": 16}, [16, 17, 25])],
)
def test_tokens_lie_where_their_patches_begin(options, frames) -> None:
    """In seconds, rows and columns; a clip of its own begins at its first frame."""
    found = corners((3, 2, 2), 25.0, **options)
    assert found.dtype == np.float32
    assert np.array_equal(found[0, 0, ::4], np.array(frames, np.float32) * np.float32(1 / 25.0))
    assert found[0, 1:, :4].tolist() == [[0, 0, 32, 32], [0, 32, 0, 32]]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("_class_name", "AVTransformer3DModel", "Transformer3DModel"),
        ("num_layers", 0, "whole number"),
        ("cross_attention_dim", 21, "its own width, 20"),
        ("attention_head_dim", 11, "must be even"),
        ("qk_norm", "layer_norm", "rms_norm"),
    ],
)
def test_a_config_that_is_not_supported_is_named(key, value, said) -> None:
    config = small.config()
    config["transformer"] |= {key: value}
    if key == "attention_head_dim":
        config["transformer"].pop("cross_attention_dim")
    with pytest.raises(UserError, match=rf"transformer\.(num_attention_heads|{key}) = .*{said}"):
        TransformerConfig.read(config)
