"""Every key that a reader of configs reads, with values of every wrong kind: one sentence each, and nothing is built.

Keys are found by watching the readers, so that a new one is tried without being named here.
"""

import contextlib
import copy
import json
import math
import re
import tracemalloc
from collections.abc import Callable, Mapping

import pytest

from mlx_video.models.ltx_2 import config, family
from mlx_video.models.ltx_2.config import feature_width
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig, SpeechConfig
from mlx_video.models.section import Stated
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.support import published_25, real_keys, small

COMPONENTS = {name: one for name, one in family.COMPONENTS.items() if not one.optional}
"""Those that every checkpoint has."""
HUGE = (10**9, 10**30, -(10**30))
NO_NUMBERS = ("4", "", [4], {"a": 1}, True, math.nan, math.inf, -math.inf, -1)
WRONG = {
    int: (*NO_NUMBERS, *HUGE, 4.5, 1e30),
    float: (*NO_NUMBERS, *HUGE, 1e30, 0.0),
    bool: (0, 1, 2.5, "true", "", [], {}, [True]),
    str: (0, 5, True, [], {}, ["x"], "nonsense", ""),
    list: (0, 5, True, "x", {}, [None], ["x"], [-1], [10**30], [[]], [True], [1.5], [{}], [1] * 1000),
    dict: (5, "x", [], [1], True, 0.5),
}
"""What no key of a kind takes, by the kind of its published value."""

GEMMA = {
    "model_type": "gemma3", "mm_tokens_per_image": 256, "boi_token_index": 255999, "eoi_token_index": 256000,
    "image_token_index": 262144, "eos_token_id": [1, 106], "pad_token_id": 0,
    "vision_config": {
        "model_type": "siglip_vision_model", "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304,
        "num_attention_heads": 16, "patch_size": 14, "image_size": 896, "num_channels": 3, "layer_norm_eps": 1e-6,
    },
    "quantization": {"bits": 4, "group_size": 64, "mode": "affine", "a.layer": {"bits": 8, "group_size": 64}},
    "text_config": {
        "hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256,
        "intermediate_size": 15360, "vocab_size": 262208, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
        "sliding_window": 1024, "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "attention_bias": False,
        "hidden_activation": "gelu_pytorch_tanh", "layer_types": ["sliding_attention", "full_attention"] * 24,
    },
}  # fmt: skip
"""Gemma 3 12B's, with what mlx adds to it and what newer files of it have."""


class Watched(dict):
    """A config that notes which of its keys are read, by path."""

    def __init__(self, values: Mapping, seen: set, path: tuple = ()):
        super().__init__({k: Watched(v, seen, (*path, k)) if isinstance(v, dict) else v for k, v in values.items()})
        self.seen, self.path = seen, path

    def get(self, key, default=None):
        self.seen.add((*self.path, key))
        return super().get(key, default)

    def __getitem__(self, key):
        self.seen.add((*self.path, key))
        return super().__getitem__(key)


def everything(values: Mapping) -> None:
    for component, known in COMPONENTS.items():
        if component != "upsampler":
            known.read(values, **({"features": 188_160} if component == "connectors" else {}))


def gemma(values: Mapping) -> None:
    GemmaConfig.read(values)
    SpeechConfig.read(values)


def decoder_25(values: Mapping) -> None:
    config.DiffusionDecoderConfig.read(values)
    config.VideoVAEConfig.read(values)


READERS: dict[str, tuple[Callable, Mapping]] = {
    "LTX-2": (everything, real_keys.config("2")),
    "LTX-2.3": (everything, real_keys.config("2.3")),
    "small LTX-2": (everything, small.config("2")),
    "small LTX-2.3": (everything, small.config("2.3")),
    "upsampler": (config.UpsamplerConfig.read, {**small.UPSAMPLER_CONFIGS["2"], "spatial_scale": 2.0}),
    "gemma": (gemma, GEMMA),
    "LTX-2.5's diffusion decoder": (decoder_25, published_25.part("vae/ltx-2.5-video-vae-bf16")[0]),
}


def keys_read(read: Callable, values: Mapping) -> list[tuple]:
    seen: set[tuple] = set()
    read(Watched(copy.deepcopy(values), seen))
    return sorted(seen)


def value_at(values: Mapping, path: tuple) -> object:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def changed(values: Mapping, path: tuple, value: object) -> dict:
    result = copy.deepcopy(dict(values))
    inner = result
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    return result


def refusal(read: Callable, values: Mapping) -> str | None:
    try:
        read(values)
    except UserError as fault:
        return str(fault)
    return None


def test_published_and_small_configs_are_read():
    for read, values in READERS.values():
        read(values)
        assert len(keys_read(read, values)) > 7


TAKEN = (
    ("connector_num_layers", 0), ("audio_connector_num_layers", 0), ("num_res_blocks", 0), ("num_blocks_per_stage", 0),
    ("dropout", 0.0), ("pad_token_id", 0), ("eos_token_id", 0), ("eos_token_id", 5),
    ("timestep_scale_multiplier", 4.5), ("query_pre_attn_scalar", 4.5),
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_no_key_takes_a_value_of_another_kind(name):
    read, values = READERS[name]
    tried, accepted = 0, []
    for path in keys_read(read, values):
        published = value_at(values, path)
        if published is None:
            continue
        for wrong in WRONG[type(published)]:
            if wrong == published and type(wrong) is type(published):
                continue
            tried += 1
            said = refusal(read, changed(values, path, wrong))
            if said is None and (path[-1], wrong) not in TAKEN:
                accepted.append((".".join(path), wrong))
            if said is not None:
                assert {path[-1], *path[-2:-1]} & set(re.findall(r"\w+", said)), (path, wrong, said)
                assert len(said) < 400
    assert accepted == []
    assert tried > 60


def tensors_of(generation: str, component: str) -> dict[str, tuple[int, ...]]:
    recorded = small.recorded()[generation]["upsampler" if component == "upsampler" else "checkpoint"]
    prefixes = COMPONENTS[component].prefixes
    return {name: tuple(shape) for name, shape in recorded.items() if name.startswith(prefixes)}


def build(generation: str, component: str, values: Mapping) -> None:
    """As a checkpoint does: only the depth is told before."""
    found, known = tensors_of(generation, component), COMPONENTS[component]
    options = {"features": feature_width(found)} if component == "connectors" else {}
    paths = {names.module_path(known.network, name) for name in found} - {None}
    names.match(known.build(values, paths, **options), found, component)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("generation", ["2", "2.3"])
def test_a_config_beside_its_tensors_is_read_or_refused(generation, component):
    values = small.UPSAMPLER_CONFIGS[generation] if component == "upsampler" else small.config(generation)
    read = COMPONENTS[component].read
    if component == "connectors":
        read = lambda values: COMPONENTS[component].read(values, features=128)  # noqa: E731
    build(generation, component, values)
    same = read(values)
    for path in keys_read(read, values):
        for value in (None, 0, 2, 3, 60, True, False, [2, 2], [1, 1, 1], [[1], [1]]):
            other = changed(values, path, value)
            # Whatever else is raised fails the test.
            with contextlib.suppress(UserError):
                if read(other) != same:
                    build(generation, component, other)


BLOCKS = (
    [], {}, 5, "res_x", [5], ["res_x"], [["res_x"]], [["res_x", 1, 2]], [[5, {"num_layers": 1}]], [["res_x", {}]],
    [["res_x", "1"]], [["res_x", True]], [["res_x", {"num_layers": 10**8}]], [["res_x", {"num_layers": "4"}]],
    [["res_x", -1]], [["res_x", 10**9]], [["attn", 1]], [["compress_all_res", {"multiplier": 0}]],
    [["compress_all_res", {"multiplier": 1.5}]], [["compress_all", {"residual": "yes"}]], [["res_x", 1]] * 1000,
    [["res_x", {"num_layers": 1, "inject_noise": 1}]], [["compress_all", {"multiplier": 3}]],
    [["compress_all", {"multiplier": 3, "residual": True}]], [["compress_time_res", {"multiplier": 64}]] * 9,
    [[]], [None],
    [[["res_x"], {"num_layers": 1}]], [["res_x_y", {"multiplier": 7}]],
)  # fmt: skip


@pytest.mark.parametrize(
    ("component", "key"), [("video_encoder", "encoder_blocks"), ("video_decoder", "decoder_blocks")]
)
def test_strange_lists_of_blocks_are_refused(component, key):
    for blocks in BLOCKS:
        values = changed(small.config("2.3"), ("vae", key), blocks)
        with pytest.raises(UserError):
            build("2.3", component, values)


@pytest.mark.parametrize(
    ("component", "path"),
    [
        ("transformer", ("transformer", "num_layers")),
        ("connectors", ("transformer", "connector_num_layers")),
        ("audio_decoder", ("audio_vae", "model", "params", "ddconfig", "num_res_blocks")),
        ("audio_encoder", ("audio_vae", "model", "params", "ddconfig", "num_res_blocks")),
        ("upsampler", ("num_blocks_per_stage",)),
    ],
)
def test_a_line_of_config_never_fills_the_memory(component, path):
    values = small.UPSAMPLER_CONFIGS["2.3"] if component == "upsampler" else small.config("2.3")
    tracemalloc.start()
    try:
        for count in (60, 512, 10**4, 10**8, 10**30):
            with pytest.raises(UserError, match=path[-1]):
                build("2.3", component, changed(values, path, count))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_as_many_video_blocks_as_the_tensors_are_of():
    for component, key in (("video_encoder", "encoder_blocks"), ("video_decoder", "decoder_blocks")):
        values = small.config("2.3")
        next(block for block in values["vae"][key] if block[0] == "res_x")[1]["num_layers"] = 500
        with pytest.raises(UserError, match=r"num_layers = 500, but has tensors of 1 \("):
            build("2.3", component, values)


def test_the_file_is_named():
    stated = Stated(json.loads('{"vae": {"dims": 2}}'), "here/model.safetensors")
    with pytest.raises(UserError, match=r"here/model.safetensors says config.vae.dims = 2; supported here: 3\."):
        config.VideoVAEConfig.read(stated)
