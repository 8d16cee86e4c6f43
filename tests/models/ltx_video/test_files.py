"""LTX-Video's networks from files: the official form, diffusers' folders, text encoders; the real files' names."""

import gzip
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.models.ltx_video import family, load
from mlx_video.models.ltx_video.config import TransformerConfig, diffusers
from mlx_video.models.ltx_video.config.told import config_of
from mlx_video.models.section import Stated
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.jobs.test_quantize import save_with_float8, to_e4m3
from tests.models.ltx_video import cases
from tests.support import real_keys
from tests.support import small_ltx_video as small

REAL = json.loads(gzip.decompress((Path(__file__).parents[2] / "fixtures" / "keys_ltx_video.json.gz").read_bytes()))
"""Every tensor of the published files, as in `real_keys`, and the config in their metadata."""
CHECKPOINTS = [name for name in REAL if name.startswith("ltx") and "upscaler" not in name]
COUNTS = {"v0.9.safetensors": 908, "v0.9.1": 1012, "v0.9.5": 944, "0.9.6": 944, "13b": 1444}
NETWORKS = ("transformer", "video_encoder", "video_decoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ltx-video-")
    return {version: small.write_official(folder / f"{version}.safetensors", version) for version in small.VERSIONS}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A diffusers folder of 0.9.1 with T5 and its tokenizer."""
    folder = small.write_text_encoder(tmp_path_factory.mktemp("diffusers-") / "0.9.1")
    return small.write_diffusers(folder, "0.9.1")


def parameters(network) -> dict[str, mx.array]:
    return dict(tree_flatten(network.parameters()))


def same(one, other) -> bool:
    found, wanted = parameters(one), parameters(other)
    return found.keys() == wanted.keys() and all(mx.array_equal(found[path], wanted[path]).item() for path in wanted)


@pytest.mark.parametrize("version", small.VERSIONS)
@pytest.mark.parametrize("component", NETWORKS)
def test_an_official_file_gives_each_network(files, component, version) -> None:
    assert same(load(component, files[version]), small.network(component, version))


@pytest.mark.parametrize("component", NETWORKS)
def test_a_diffusers_folder_gives_the_same(files, pipeline, component) -> None:
    """By the pipeline's folder, and by the network's own."""
    wanted = load(component, files["0.9.1"])
    for place in (pipeline, pipeline / ("transformer" if component == "transformer" else "vae")):
        assert same(load(component, place), wanted)


@pytest.mark.parametrize("version", ["0.9.0", "0.9.5"])
def test_other_autoencoders_of_diffusers_give_the_same(files, tmp_path, version) -> None:
    folder = small.write_diffusers(tmp_path, version)
    for component in NETWORKS:
        found = load(component, folder)
        assert same(found, load(component, files[version]))
    assert load("transformer", folder).config.causal_positions is (version == "0.9.5")


def test_a_text_encoder_comes_with_its_tokenizer(pipeline, tmp_path) -> None:
    """From a pipeline's folder, its own, and from one file that says nothing of itself."""
    single = small.write_text_encoder(tmp_path, single=True)
    wanted = [np.array(states) for states in load("text_encoder", pipeline).encode(["a red fox", ""])]
    assert [states.shape for states in wanted] == [(1, 4, 24), (1, 1, 24)]
    for place in (pipeline / "text_encoder", single):
        found = load("text_encoder", place).encode(["a red fox", ""])
        assert all(np.array_equal(one, other) for one, other in zip(wanted, found, strict=True)), place


def test_the_table_of_embeddings_may_have_its_second_name(tmp_path) -> None:
    path = small.write_text_encoder(tmp_path, single=True)
    tensors = mx.load(str(path))
    wanted = load("text_encoder", path).network
    mx.eval(wanted.parameters())
    both = {**tensors, family.SPARE_TABLE: tensors[family.TABLE]}
    alone = {name: array for name, array in both.items() if name != family.TABLE}
    for name, some in (("both", both), ("alone", alone)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spiece.model").write_bytes(small.spiece())
        mx.save_safetensors(str(tmp_path / name / "t5.safetensors"), some)
        assert same(load("text_encoder", tmp_path / name / "t5.safetensors").network, wanted)


def test_8_bit_floats_are_the_numbers_that_they_stand_for(files, tmp_path) -> None:
    """Of the blocks as Lightricks has them, without scales; of T5 as ComfyUI has them, with a scale for each layer."""
    whole = mx.load(str(files["0.9.5"]))
    codes, plain = {}, {}
    for name, array in whole.items():
        if ".transformer_blocks." in name and name.endswith("weight") and array.ndim == 2:
            codes[name], plain[name] = to_e4m3(np.array(array))
    kept = {name: array for name, array in whole.items() if name not in codes}
    metadata = {"config": json.dumps(small.config())}
    save_with_float8(tmp_path / "ltxv-fp8.safetensors", kept, codes, metadata)
    found = parameters(load("transformer", tmp_path / "ltxv-fp8.safetensors"))
    assert len(codes) == 3 * 10
    for name, values in plain.items():
        path = name.removeprefix("model.diffusion_model.")
        assert np.array_equal(np.array(found[path]), values.astype(np.float32)), name

    single = small.write_text_encoder(tmp_path / "t5", single=True)
    texts = mx.load(str(single))
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    packed, values = to_e4m3(np.array(texts.pop(name)) / 0.5)
    texts["encoder.block.1.layer.1.DenseReluDense.wo.scale_weight"] = mx.array(0.5)
    save_with_float8(single, texts, {name: packed, "scaled_fp8": np.zeros(2, np.uint8)}, None)
    found = load("text_encoder", single).network.layers[1].feed_forward.wo.weight
    assert np.array_equal(np.array(found), (values * 0.5).astype(np.float32))


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_parts_are_read_when_they_are_visited(files, pipeline, component) -> None:
    """The numbers are those of the whole network, and between visits a part has no weights of its own."""
    path = files["0.9.1"] if component == "transformer" else pipeline
    whole, streamed = (load(component, path, streamed=how) for how in (False, True))
    if component == "text_encoder":
        ids = list(cases.PROMPTS.values())
        wanted, found = whole.network(ids), streamed.network(ids)
        part = streamed.network.layers[0].attention.q
    else:
        contexts = {name: mx.array(text) for name, text in cases.TEXTS.items()}
        wanted, found = (
            one(mx.array(cases.TOKENS), 0.85, one.prepare(contexts, cases.POSITIONS)) for one in (whole, streamed)
        )
        part = streamed.transformer_blocks[0].attn1.to_q
    assert all(mx.array_equal(one, other).item() for one, other in zip(wanted, found, strict=True))
    before = mx.get_active_memory()
    mx.eval(part.weight)
    assert mx.get_active_memory() > before  # until now it was an array that nobody had asked for


# ------------------------------------------------------------------------------------------------ the real files


@pytest.mark.quick("*v0.9.safetensors", "*v0.9.1*", "*v0.9.5*")
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tensor_of_a_published_file_has_its_place(name) -> None:
    """One to one, with the file's own config and without it; nothing is allocated."""
    shapes = {key: tensor.shape for key, tensor in real_keys._unfold(REAL[name]["tensors"]).items()}
    assert next(count for part, count in COUNTS.items() if part in name) == len(shapes)
    told, stated = config_of(shapes, name), REAL[name]["config"]
    assert TransformerConfig.read(told) == TransformerConfig.read(stated)
    before, taken = mx.get_active_memory(), 0
    for component in NETWORKS:
        kind = family.COMPONENTS[component]
        own = {key: shape for key, shape in shapes.items() if key.startswith(kind.prefixes)}
        for config in (stated, told):
            pairs = names.match(kind.build(Stated(config, name)), own, component)
        taken += len(pairs) - (2 if component == "video_encoder" else 0)  # both halves have the statistics
    assert taken == len(shapes) - 3
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize("name", [name for name in REAL if "upscaler" in name])
def test_upscalers_are_ltx_2_s(name) -> None:
    shapes = {key: tensor.shape for key, tensor in real_keys._unfold(REAL[name]["tensors"]).items()}
    network = family.COMPONENTS["upsampler"].build(Stated(REAL[name]["config"], name))
    assert len(names.match(network, shapes, "upsampler")) == len(shapes) == 72


def test_the_real_text_encoder_s_tensors_have_their_places() -> None:
    shapes = {key: tensor.shape for key, tensor in real_keys._unfold(REAL["t5xxl_fp16.safetensors"]["tensors"]).items()}
    network = family.COMPONENTS["text_encoder"].build(family.of_text(shapes, "t5xxl_fp16.safetensors"))
    assert len(names.match(network, shapes, "text encoder")) == len(shapes) == 219
    config = network.config
    assert (config.width, config.layers, config.heads, config.head_dim, config.feed_forward) == (
        4096,
        24,
        64,
        64,
        10240,
    )


# ------------------------------------------------------------------------------------------------ what cannot be


def test_a_file_without_metadata_and_autoencoder_is_not_guessed(tmp_path) -> None:
    path = small.write_official(tmp_path / "whole.safetensors", metadata=False)
    tensors = {name: array for name, array in mx.load(str(path)).items() if not name.startswith("vae.")}
    mx.save_safetensors(str(tmp_path / "bare.safetensors"), tensors)
    with pytest.raises(UserError, match=r"transformer of 3 blocks, no metadata and no video autoencoder"):
        load("transformer", tmp_path / "bare.safetensors")


def test_an_autoencoder_without_metadata_is_told_by_its_tensors(files, tmp_path) -> None:
    for version in small.VERSIONS:
        bare = small.write_official(tmp_path / f"{version}.safetensors", version, metadata=False)
        for component in ("video_encoder", "video_decoder"):
            assert same(load(component, bare), load(component, files[version]))


def test_a_diffusers_transformer_alone_is_not_guessed(pipeline, tmp_path) -> None:
    (tmp_path / "transformer").symlink_to(pipeline / "transformer")
    with pytest.raises(UserError, match=r"there is no vae/ beside its folder that tells it"):
        load("transformer", tmp_path)


@pytest.mark.parametrize(
    ("component", "said"),
    [
        ("audio_decoder", "There is no component 'audio_decoder'; there are transformer, video_encoder"),
        ("upsampler", "is not a latent upsampler"),
        ("text_encoder", "is not a T5 v1.1 encoder: it has no shared.weight"),
    ],
)
def test_what_a_file_is_not_is_said(files, component, said) -> None:
    with pytest.raises(UserError, match=said):
        load(component, files["0.9.5"])


def test_a_folder_of_files_asks_for_one(files) -> None:
    with pytest.raises(UserError, match=r"no transformer/config\.json\. Of its files, name one: 0\.9\.0\.safetensors"):
        load("transformer", files["0.9.0"].parent)


def test_a_decoder_is_not_read_part_by_part(files) -> None:
    with pytest.raises(UserError, match=r"A video decoder is not read part by part; transformer and text_encoder are"):
        load("video_decoder", files["0.9.0"], streamed=True)


def test_a_missing_tensor_is_named(files, tmp_path) -> None:
    tensors = mx.load(str(files["0.9.5"]))
    tensors.pop("model.diffusion_model.transformer_blocks.1.ff.net.2.bias")
    with open(files["0.9.5"], "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size))["__metadata__"]
    mx.save_safetensors(str(tmp_path / "torn.safetensors"), tensors, metadata=metadata)
    with pytest.raises(UserError, match=r"1 tensor missing \(transformer_blocks\.1\.ff\.net\.2\.bias\)"):
        load("transformer", tmp_path / "torn.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "AutoencoderKL"}, "vae._class_name = 'AutoencoderKL'"),
        ({"layers_per_block": [1, 1]}, r"block_out_channels for 5 blocks; by its layers there are 2"),
        ({"downsample_type": ["conv"]}, r"downsample_type = .*it should be 4 of conv, spatial"),
        ({"block_out_channels": [4, 6, 16, 32, 64]}, "with 6 beside 4; one must be a multiple"),
        ({"upsample_residual": [1, 2, 3]}, "it should be a list of 3 true or false"),
    ],
)
def test_a_diffusers_config_that_is_not_supported_is_named(changes, said) -> None:
    with pytest.raises(UserError, match=said):
        diffusers.video_vae({**small.VAE["0.9.5"], **changes}, "here")
