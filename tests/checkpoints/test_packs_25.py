"""LTX-2.5 in packs of other converters, made by the rules of tests/support/foreign_25.py, is the same checkpoint."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import LTXPipeline, Request, UserError
from mlx_video.checkpoints.describe import describe
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.models.ltx_2 import load, published
from tests.support import foreign_25, small, small_pack

SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}
ONE = {**SMALL, "pipeline": "distilled", "seed": 3}
PACKS = {
    "mlx-forge": {},
    "without metadata": {"stated": False},
    "bare names": {"bare": True},
}
OWN_25 = {
    "transformer": {**small.CONFIGS["2.3"]["transformer"], "ff_bias": False, "use_keyframes_abs_pos_embedding": True}
}


@pytest.fixture(scope="module", autouse=True)
def small_configs():
    # Packs that carry no config are of the published size; here they are of the small one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "CONFIGS", {**small.CONFIGS, "2.5": {**small.CONFIGS["2.3"], **OWN_25}})
        about = {
            "_class_name": "CausalDiffusionVAE",
            "dims": 3,
            "model_output_type": "x0",
            "decoder": small_pack.DECODER,
        }
        patch.setattr(published, "PARTS", {"2.5": {**published.PARTS["2.5"], "diffusion_decoder": {"vae": about}}})
        yield


@pytest.fixture(scope="module")
def pack(small_folder, tmp_path_factory):
    """pack("mlx-forge") is that pack, written once."""
    made = {}

    def make(name="mlx-forge"):
        if name not in made:
            place = tmp_path_factory.mktemp("pack") / "pack"
            made[name] = foreign_25.forge(place, small_folder("2.5"), **PACKS[name])
        return made[name]

    return make


@pytest.fixture
def own_pack(small_folder, tmp_path):
    """own_pack(...) is a pack to be changed; the options are `forge`'s."""
    return lambda **options: foreign_25.forge(tmp_path / "own", small_folder("2.5"), **options)


def latents(path, **options):
    with LTXPipeline.from_pretrained(path, **{"dtype": "float32", **options}) as pipe:
        clip = pipe.generate(**ONE)
    return {modality: np.array(value) for modality, value in clip.latents.items()}


@pytest.fixture(scope="module")
def official_latents(small_folder):
    return latents(small_folder("2.5"))


def same(found, expected) -> bool:
    return all(found[m].tobytes() == expected[m].tobytes() for m in expected)


def weights(component, path):
    return dict(tree_flatten(load(component, path).parameters()))


# ------------------------------------------------------------------------------------------------ whole packs


@pytest.mark.quick("without metadata")
@pytest.mark.parametrize("name", PACKS)
def test_a_pack_gives_the_latents_of_the_official_one(name, pack, official_latents):
    assert same(latents(pack(name)), official_latents)


@pytest.mark.quick("mlx-forge")
@pytest.mark.parametrize("name", PACKS)
def test_every_network_gets_the_very_same_weights(name, pack, small_folder):
    checkpoint = open_checkpoint(pack(name), "distilled")
    assert (checkpoint.layout, checkpoint.generation.name, checkpoint.variant) == (
        "split MLX files",
        "2.5",
        "distilled",
    )
    official = open_checkpoint(small_folder("2.5"), "distilled")
    assert set(checkpoint.parts) == set(official.parts)
    for component in official.parts:
        ours, theirs = weights(component, pack(name)), weights(component, small_folder("2.5"))
        assert ours.keys() == theirs.keys(), component
        assert all(mx.array_equal(ours[path], theirs[path]) for path in theirs), component
        assert checkpoint.part(component).component.read(
            checkpoint.part(component).settings, **checkpoint.part(component).measured
        ) == official.part(component).component.read(
            official.part(component).settings, **official.part(component).measured
        ), component
    assert set(checkpoint.upsamplers) == {"spatial x2", "temporal x2"}


def test_one_file_of_a_pack_brings_the_others(pack, small_folder):
    checkpoint = open_checkpoint(pack() / "transformer-distilled.safetensors", "dev")
    assert checkpoint.variant == "distilled"
    assert checkpoint.text_encoder == str(pack() / "text_encoder.safetensors")
    assert checkpoint.version == "2.5.0"


def test_the_pack_s_text_encoder_serves_others_by_its_folder(pack, small_folder, official_latents):
    whole = small_folder("2.5")
    assert same(latents(whole, text_encoder=pack()), official_latents)
    assert same(latents(pack(), text_encoder=whole / small_pack.TEXT_ENCODER), official_latents)


def test_info_says_what_is_there(pack):
    lines = "\n".join(describe(pack()))
    for text in ("split MLX files", "LTX-2.5 (model version 2.5.0)", "diffusion decoder", "duration head",
                 "temporal x2", "distilled-lora-450", "6 layers of width 32"):  # fmt: skip
        assert text in lines, text


def test_a_plan_needs_no_tensor(pack, monkeypatch):
    monkeypatch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
    with LTXPipeline.from_pretrained(pack()) as pipe:
        assert pipe.plan(Request(**SMALL)) is not None


# ------------------------------------------------------------------------------------------------ other forms


def test_a_duration_head_with_its_projections_apart_says_the_same(own_pack, small_folder):
    folder = own_pack()
    foreign_25.apart(folder)
    head, official = load("duration_head", folder), load("duration_head", small_folder("2.5"))
    widths = (official.video_input_proj.weight.shape[1], official.audio_input_proj.weight.shape[1])
    video, audio = (mx.random.normal((1, 7, width), key=mx.random.key(width)) for width in widths)
    assert mx.array_equal(head(video, audio), official(video, audio))


@pytest.mark.quick("text_encoder-*")
@pytest.mark.parametrize("kind", ["gemma4", "gemma4_unified"])
@pytest.mark.parametrize("name", ["text_encoder", "gemma4-12b-ltx-v1"])
def test_a_text_encoder_in_a_folder_of_its_own_brings_its_projections(kind, name, own_pack, official_latents):
    folder = own_pack()
    foreign_25.text_folder(folder, name, kind)
    assert same(latents(folder), official_latents)


def test_projections_beside_the_connectors_stay(own_pack, official_latents):
    folder = own_pack()
    text, connector = folder / "text_encoder.safetensors", folder / "connector.safetensors"
    tensors, _ = foreign_25.read(text)
    own, metadata = foreign_25.read(connector)
    moved = {n: tensors.pop(n) for n in list(tensors) if "text_embedding_projection" in n}
    own |= {n.replace("text_encoder.", "connector.", 1): array for n, array in moved.items()}
    mx.eval(tensors, own)
    mx.save_safetensors(str(text), tensors)
    mx.save_safetensors(str(connector), own, metadata)
    assert same(latents(folder), official_latents)


def test_a_config_without_biases_is_ltx_2_5_s(own_pack):
    folder = own_pack(stated=False)
    file = folder / "transformer-distilled.safetensors"
    tensors, _ = foreign_25.read(file)
    del tensors["transformer.keyframes_abs_pos_embedding"]
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)
    assert open_checkpoint(folder, "distilled").generation.name == "2.5"
    (folder / "embedded_config.json").unlink()
    assert open_checkpoint(folder, "distilled").generation.name == "2.3"


def test_the_folders_of_another_converter_are_told_by_their_tensors(own_pack, small_folder, official_latents):
    folder = own_pack(bare=True, stated=False)
    for file, place in {
        "transformer-distilled": "transformer", "connector": "text_projections", "vae_decoder_conv": "vae/decoder",
        "vae_encoder_conv": "vae/encoder", "vocoder": "vocoder",
    }.items():  # fmt: skip
        (folder / place).mkdir(parents=True)
        (folder / f"{file}.safetensors").rename(folder / place / "model.safetensors")
    sound, _ = foreign_25.read(folder / "audio_vae.safetensors")
    statistics = {n: array for n, array in sound.items() if n.startswith("per_channel")}
    for half in ("decoder", "encoder"):
        own = {n.removeprefix(f"{half}."): array for n, array in sound.items() if n.startswith(f"{half}.")}
        (folder / "audio_vae" / half).mkdir(parents=True)
        mx.eval(own, statistics)
        mx.save_safetensors(str(folder / "audio_vae" / half / "model.safetensors"), {**own, **statistics})
    config = json.loads((folder / "embedded_config.json").read_text())["transformer"]
    (folder / "transformer/config.json").write_text(json.dumps(config))
    for left in ("embedded_config.json", "split_model.json", "audio_vae.safetensors"):
        (folder / left).unlink()
    foreign_25.text_folder(folder, "text_encoder", "gemma4_unified")
    for file in (small_pack.UPSAMPLER, small_pack.LORA):
        shutil.copy(small_folder("2.5") / file, folder)
    for file in folder.glob("*upscaler_x2*"):
        file.unlink()
    assert open_checkpoint(folder, "distilled").layout == "MLX folders"
    assert same(latents(folder), official_latents)


# ------------------------------------------------------------------------------------------------ quantized


def test_a_quantized_pack_is_ours_quantized(own_pack, small_folder, tmp_path):
    from mlx_video import convert

    line = ["--source", str(small_folder("2.5")), "-o", str(tmp_path / "ours"), "--quiet"]
    assert convert.main([*line, "--quantize", "8", "--quantize-text-encoder", "8", "--group-size", "32"]) == 0
    assert same(latents(own_pack(bits=8)), latents(tmp_path / "ours"))


def test_a_pack_is_converted_like_the_official_one(pack, official_latents, tmp_path):
    from mlx_video import convert

    assert convert.main(["--source", str(pack()), "-o", str(tmp_path / "ours"), "--quiet"]) == 0
    assert same(latents(tmp_path / "ours", text_encoder=pack()), official_latents)


def test_gates_may_be_packed_too_and_the_text_encoder_alone(own_pack):
    folder = own_pack(bits=8, gates=True)
    lines = "\n".join(describe(folder))
    assert "transformer blocks, 8 bit, groups of 32" in lines
    assert "8 bit, 6 layers" in lines
    assert all(np.isfinite(value).all() for value in latents(folder).values())


def test_packed_layers_of_which_nothing_is_said_are_told(own_pack):
    folder = own_pack(bits=8)
    (folder / "quantize_config.json").unlink()
    with pytest.raises(UserError, match=r"text_encoder\.safetensors has packed weights, and neither.*quantize_config"):
        LTXPipeline.from_pretrained(folder).plan(Request(**SMALL))


# ------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("connector.safetensors", "has no connectors"),
        ("vae_decoder_conv.safetensors", "has no convolutional video decoder"),
        ("tokenizer.json", "has no tokenizer .*tokenizer.json beside it"),
        ("text_encoder_config.json", "No text encoder was found"),
    ],
)
def test_a_file_that_is_not_there_is_named(file, expected, own_pack):
    folder = own_pack()
    (folder / file).unlink()
    with pytest.raises(UserError, match=expected):
        LTXPipeline.from_pretrained(folder).generate(**ONE)


@pytest.mark.parametrize("file", ["audio_vae.safetensors", "vae_decoder_conv.safetensors"])
def test_a_file_that_cannot_be_read_is_named_and_not_called_missing(file, own_pack):
    folder = own_pack()
    (folder / file).write_bytes((folder / file).read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{file} is truncated"):
        LTXPipeline.from_pretrained(folder).generate(**ONE)


def test_a_pack_without_its_transformer_says_so(own_pack):
    folder = own_pack()
    (folder / "transformer-distilled.safetensors").unlink()
    with pytest.raises(UserError, match=r"has a part of LTX-2.5's pack \(duration_head.safetensors, .*no transformer"):
        open_checkpoint(folder, "distilled")


def test_without_its_encoder_a_pack_has_that_of_the_other_autoencoder(own_pack, small_folder):
    folder = own_pack()
    (folder / "vae_encoder_conv.safetensors").unlink()
    ours, theirs = weights("video_encoder", folder), weights("video_encoder", small_folder("2.5"))
    assert all(mx.array_equal(ours[path], theirs[path]) for path in theirs)
