"""Checkpoint names to module paths by the rules of the class: one to one, or one error that says what is wrong."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.types import UserError
from mlx_video.weights import names


class Twist(nn.Module):
    checkpoint_axes = {"kernel": (1, 0)}

    def __init__(self):
        super().__init__()
        self.kernel = mx.zeros((2, 5))


class Network(nn.Module):
    prefixes = {"net.": "", "net.side.": "other.", "stats.": "statistics."}
    renames = ((r"^blocks\.(\d+)\.ff\.net\.2\.", r"blocks.\1.down."), (r"-of-", "_of_"))
    ignored = (r"\.unused$", r"^extra\.")

    def __init__(self):
        super().__init__()
        self.blocks = [nn.Module(), nn.Module()]
        for block in self.blocks:
            block.down = nn.Linear(3, 2)
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(2, 3, 4), nn.Conv2d(2, 3, (4, 5)), nn.Conv3d(2, 3, (4, 5, 6))
        self.up = nn.ConvTranspose1d(2, 3, 4)
        self.twist = Twist()
        self.other, self.statistics = nn.Module(), nn.Module()
        self.other.conv1, self.statistics.mean_of_means = nn.Linear(2, 2), mx.zeros(4)


SHAPES = {
    "net.blocks.0.ff.net.2.weight": (2, 3),
    "net.blocks.0.ff.net.2.bias": (2,),
    "net.blocks.1.ff.net.2.weight": (2, 3),
    "net.blocks.1.ff.net.2.bias": (2,),
    "net.conv1.weight": (3, 2, 4),
    "net.conv1.bias": (3,),
    "net.conv2.weight": (3, 2, 4, 5),
    "net.conv2.bias": (3,),
    "net.conv3.weight": (3, 2, 4, 5, 6),
    "net.conv3.bias": (3,),
    "net.up.weight": (2, 3, 4),
    "net.up.bias": (3,),
    "net.twist.kernel": (5, 2),
    "net.side.conv1.weight": (2, 2),
    "net.side.conv1.bias": (2,),
    "stats.mean-of-means": (4,),
}


def tensors(dtype=mx.float32, **changes):
    rng = np.random.default_rng(1)
    made = {name: mx.array(rng.standard_normal(shape, np.float32)).astype(dtype) for name, shape in SHAPES.items()}
    return made | changes


def without(*gone, **changes):
    return {name: array for name, array in tensors(**changes).items() if name not in gone}


PATHS = {
    "net.blocks.1.ff.net.2.weight": "blocks.1.down.weight",
    "net.conv1.weight": "conv1.weight",
    "net.side.conv1.weight": "other.conv1.weight",  # the longest prefix wins
    "stats.mean-of-means": "statistics.mean_of_means",
    "elsewhere.weight": None,
    "net.anything.unused": None,
    "net.extra.weight": None,
}


@pytest.mark.parametrize("network", [Network, Network()], ids=["class", "instance"])
@pytest.mark.parametrize(("name", "path"), PATHS.items())
def test_where_a_tensor_belongs(network, name, path):
    assert names.module_path(network, name) == path


def test_a_class_without_rules_takes_names_as_they_are():
    assert names.module_path(nn.Linear, "weight") == "weight"


def test_shapes_are_the_checkpoints_own():
    found = names.shapes(Network())
    assert found == {names.module_path(Network, name): shape for name, shape in SHAPES.items()}


def test_every_layout_arrives_in_mlxs_axis_order():
    network, given = Network(), tensors()
    names.assign(network, given, "network")
    moved = {
        "conv1": (0, 2, 1),
        "conv2": (0, 2, 3, 1),
        "conv3": (0, 2, 3, 4, 1),
        "up": (1, 2, 0),
    }
    for layer, axes in moved.items():
        weight = network[layer].weight
        assert mx.array_equal(weight, given[f"net.{layer}.weight"].transpose(axes)), layer
    assert mx.array_equal(network.twist.kernel, given["net.twist.kernel"].T)
    assert mx.array_equal(network.blocks[1].down.weight, given["net.blocks.1.ff.net.2.weight"])
    assert mx.array_equal(network.other.conv1.weight, given["net.side.conv1.weight"])


def test_a_convolution_computes_what_its_checkpoint_weight_means():
    network, given = Network(), tensors()
    names.assign(network, given, "network")
    x = np.random.default_rng(2).standard_normal((1, 9, 2)).astype(np.float32)
    weight, bias = np.array(given["net.conv1.weight"]), np.array(given["net.conv1.bias"])
    wanted = np.stack([np.einsum("ki,oik->o", x[0, t : t + 4], weight) + bias for t in range(6)])
    np.testing.assert_allclose(np.array(network.conv1(mx.array(x)))[0], wanted, atol=1e-5)
    weight, bias = np.array(given["net.up.weight"]), np.array(given["net.up.bias"])
    wanted = np.zeros((12, 3), np.float32) + bias
    for t in range(9):
        wanted[t : t + 4] += np.einsum("i,iok->ko", x[0, t], weight)
    np.testing.assert_allclose(np.array(network.up(mx.array(x)))[0], wanted, atol=1e-5)


def test_floats_are_cast_and_others_are_not():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.table = mx.zeros(2), mx.zeros(3, dtype=mx.uint32)

    network = Mixed()
    given = {"scale": mx.ones(2), "table": mx.array([1, 2, 3], dtype=mx.uint32)}
    names.assign(network, given, "mixed", dtype=mx.bfloat16)
    assert (network.scale.dtype, network.table.dtype) == (mx.bfloat16, mx.uint32)
    names.assign(network, {**given, "scale": mx.ones(2, dtype=mx.float16)}, "mixed")
    assert network.scale.dtype == mx.float16


def test_native_tensors_are_taken_as_they_are():
    first, second = Network(), Network()
    names.assign(first, tensors(), "network")
    native = dict(tree_flatten(first.parameters()))
    names.assign(second, native, "network", form="native")
    for path, array in tree_flatten(second.parameters()):
        assert mx.array_equal(array, native[path]), path
    arrays = names.native_arrays(Network(), tensors(), "network")
    assert arrays.keys() == native.keys()
    assert all(mx.array_equal(arrays[path], native[path]) for path in native)


def test_official_axis_order_is_refused_where_native_is_promised():
    native = {names.module_path(Network, name): array for name, array in tensors().items()}
    with pytest.raises(UserError, match=r"conv1.weight has shape \[3, 2, 4\], expected \[3, 4, 2\]"):
        names.assign(Network(), native, "network", form="native")


REFUSED = {
    "missing": (without("net.conv1.bias"), r"1 tensor missing \(conv1\.bias\)"),
    "many missing": (
        without(*(n for n in SHAPES if "blocks" in n)),
        r"4 tensors missing \(blocks\.0\.down\.bias, blocks\.0\.down\.weight, blocks\.1\.down\.bias, \.\.\.\)",
    ),
    "surplus": (tensors(**{"net.conv9.weight": mx.zeros(1)}), r"1 tensor not known \(net\.conv9\.weight\)"),
    "doubled": (
        tensors(**{"net.blocks.0.down.weight": mx.zeros((2, 3))}),
        r"net\.blocks\.0\.ff\.net\.2\.weight and net\.blocks\.0\.down\.weight both stand for blocks\.0\.down\.weight",
    ),
    "misshapen": (
        tensors(**{"net.conv2.weight": mx.zeros((3, 4, 5, 2))}),
        r"net\.conv2\.weight has shape \[3, 4, 5, 2\], expected \[3, 2, 4, 5\]",
    ),
    "transposed custom layout": (
        tensors(**{"net.twist.kernel": mx.zeros((2, 5))}),
        r"net\.twist\.kernel has shape \[2, 5\], expected \[5, 2\]",
    ),
    "nothing": ({}, r"16 tensors missing"),
    "all of another network": ({f"other.{n}": a for n, a in tensors().items()}, "16 tensors missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_error_and_changes_nothing(case):
    given, message = REFUSED[case]
    network = Network()
    before = dict(tree_flatten(network.parameters()))
    with pytest.raises(UserError, match=f"The weights do not fit the small network: .*{message}"):
        names.assign(network, given, "small network")
    after = dict(tree_flatten(network.parameters()))
    assert all(after[path] is before[path] for path in before)


def test_several_faults_are_told_together_and_counted():
    shapes = {name: (1, *shape) for name, shape in SHAPES.items()}
    with pytest.raises(UserError, match=r"expected \[2, 3\]; .*; .* \(and 13 more\)\.$"):
        names.match(Network(), shapes, "network")


def test_ignored_tensors_and_other_networks_tensors_do_not_matter():
    extra = {"net.extra.bias": mx.zeros(7), "net.blocks.0.unused": mx.zeros(1), "vae.decoder.weight": mx.zeros(1)}
    network = Network()
    names.assign(network, tensors(**extra), "network")
    assert mx.array_equal(network.conv1.bias, tensors()["net.conv1.bias"])


def test_matching_allocates_nothing():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4096, 16384) for _ in range(64)]

    mx.reset_peak_memory()
    before = mx.get_active_memory()
    network = Wide()
    pairs = names.match(network, names.shapes(network), "wide")
    assert len(pairs) == 128
    assert mx.get_peak_memory() - before < 1 << 20
