"""Packs of other converters, made from official tensors by the rules of tests/foreign.py, are the same checkpoint."""

import functools
import json
import time

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import LTXPipeline, UserError
from mlx_video.checkpoints.hub.rules import choose
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.models.ltx_2 import family, load, published
from tests.support import foreign, real_keys, small

COMPONENTS = {name: one for name, one in family.COMPONENTS.items() if not one.optional}
"""Those that every checkpoint has."""

LAYOUTS = {
    "mlx-forge": (foreign.forge, "2.3", "split MLX files"),
    "unified LTX-2": (foreign.unified, "2", "unified MLX file"),
    "unified LTX-2.3": (foreign.unified, "2.3", "unified MLX file"),
    "split": (foreign.split, "2.3", "split MLX files"),
    "folders LTX-2": (foreign.folders, "2", "MLX folders"),
    "folders LTX-2.3": (foreign.folders, "2.3", "MLX folders"),
}
WITHOUT_AUDIO_ENCODER = (foreign.unified, foreign.split)
PUBLISHED = published.CONFIGS


@pytest.fixture(scope="module", autouse=True)
def small_configs():
    # Packs that carry no config are of the published size; here they are of the small one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "CONFIGS", small.CONFIGS)
        yield


@pytest.fixture(scope="module")
def pack(small_folder, tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            write, generation, _ = LAYOUTS[name]
            made[name] = write(tmp_path_factory.mktemp("pack") / "distilled", small_folder(generation), generation)
        return made[name]

    return make


@pytest.fixture(scope="module")
def official_latents(small_folder):
    kept = {}

    def get(generation):
        if generation not in kept:
            kept[generation] = latents(small_folder(generation))
        return kept[generation]

    return get


def latents(path):
    with LTXPipeline.from_pretrained(path, dtype="float32") as pipe:
        clip = pipe.generate(prompt="a red ball", height=64, width=64, num_frames=9, seed=3)
    return {modality: np.array(value) for modality, value in clip.latents.items()}


@pytest.mark.quick("mlx-forge", "split")
@pytest.mark.parametrize("name", LAYOUTS)
def test_generate_gives_the_latents_of_the_official_file(name, pack, official_latents):
    found, expected = latents(pack(name)), official_latents(LAYOUTS[name][1])
    assert all(found[m].tobytes() == expected[m].tobytes() for m in expected)


def weights(component, path):
    return dict(tree_flatten(load(component, path).parameters()))


@pytest.fixture(scope="module")
def official_weights():
    """What six layouts are compared with, read once."""
    return functools.cache(weights)


@pytest.mark.quick("mlx-forge", "split")
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_network_gets_the_very_same_weights(name, pack, small_folder, official_weights):
    write, generation, layout = LAYOUTS[name]
    checkpoint = open_checkpoint(pack(name), "distilled")
    assert (checkpoint.layout, checkpoint.generation.name, checkpoint.variant) == (layout, generation, "distilled")
    for component in COMPONENTS:
        if component == "audio_encoder" and write in WITHOUT_AUDIO_ENCODER:
            assert component not in checkpoint.parts
            continue
        ours, theirs = weights(component, pack(name)), official_weights(component, small_folder(generation))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(ours[path], theirs[path]) for path in theirs), component


def test_the_published_configs_are_those_of_the_published_files():
    for generation in real_keys.GENERATIONS:
        real = real_keys.config(generation)
        for name, component in COMPONENTS.items():
            if name != "upsampler":
                options = {"features": 1} if name == "connectors" else {}
                assert component.read(PUBLISHED[generation], **options) == component.read(real, **options)


def test_a_variant_of_a_pack_can_be_named_by_its_file(pack, small_folder, tmp_path):
    folder = foreign.forge(tmp_path / "both", small_folder("2.3"), "2.3")
    dev = small.tensors("2.3", "dev")
    foreign.save(folder / "transformer-dev.safetensors", foreign.prefixed("transformer.", foreign.transformer(dev)))
    assert open_checkpoint(folder, "distilled").source.name == "transformer-distilled.safetensors"
    assert open_checkpoint(folder, "dev").source.name == "transformer-dev.safetensors"
    assert open_checkpoint(folder / "transformer-dev.safetensors", "distilled").variant == "dev"


# ------------------------------------------------------------------------------------------------ what is wrong


TRANSFORMERS = {
    "mlx-forge": "transformer-distilled.safetensors",
    "unified LTX-2": "model.safetensors",
    "split": "transformer.safetensors",
    "folders LTX-2.3": "transformer/model-00001-of-00002.safetensors",
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_missing_and_a_strange_tensor_are_told(name, small_folder, tmp_path):
    write, generation, _ = LAYOUTS[name]
    folder = write(tmp_path / "pack", small_folder(generation), generation)
    file = folder / TRANSFORMERS[name]
    tensors = dict(mx.load(str(file)))
    gone = next(n for n in sorted(tensors) if "transformer_blocks.1." in n and n.endswith("weight"))
    foreign.save(file, {n: array for n, array in tensors.items() if n != gone})
    with pytest.raises(UserError, match=r"do not fit the transformer.*1 tensor missing \(transformer_blocks\.1\."):
        load("transformer", folder)
    strange = "transformer.strange.weight" if gone.startswith("transformer.") else "strange.weight"
    foreign.save(file, {**tensors, strange: mx.zeros(3)})
    with pytest.raises(UserError, match=r"1 tensor not known \(model\.diffusion_model\.strange\.weight\)"):
        load("transformer", folder)


def test_a_tensor_of_neither_order_of_axes_is_told(small_folder, tmp_path):
    folder = foreign.forge(tmp_path / "pack", small_folder("2.3"), "2.3")
    file = folder / "vae_decoder.safetensors"
    tensors = dict(mx.load(str(file)))
    name = "vae_decoder.conv_in.conv.weight"
    foreign.save(file, {**tensors, name: tensors[name].transpose(4, 0, 1, 2, 3)})
    with pytest.raises(UserError, match=r"vae\.decoder\.conv_in\.conv\.weight has shape .*, expected"):
        load("video_decoder", folder)


def test_a_half_downloaded_folder_names_the_missing_shard(small_folder, tmp_path):
    folder = foreign.folders(tmp_path / "pack", small_folder("2"), "2")
    (folder / "transformer/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"incomplete: .*index\.json names model-00002-of-00002\.safetensors"):
        open_checkpoint(folder, "distilled")


def test_a_part_that_is_absent_is_named_when_it_is_needed(small_folder, tmp_path):
    folder = foreign.forge(tmp_path / "pack", small_folder("2.3"), "2.3")
    (folder / "vae_decoder.safetensors").unlink()
    with pytest.raises(UserError, match="has no video decoder; it has transformer"):
        load("video_decoder", folder)


def test_a_folder_of_something_else_is_refused_with_what_was_looked_for(tmp_path):
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"x": mx.zeros(1)})
    with pytest.raises(UserError, match=r"holds no LTX-2 checkpoint.*Found: a\.safetensors: other"):
        open_checkpoint(tmp_path, "distilled")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"pack of another MLX converter.*Found: no \.safetensors file"):
        open_checkpoint(tmp_path / "empty", "distilled")


def test_a_damaged_config_is_told(small_folder, tmp_path):
    folder = foreign.forge(tmp_path / "pack", small_folder("2.3"), "2.3")
    (folder / "embedded_config.json").write_text("{")
    with pytest.raises(UserError, match=r"embedded_config\.json cannot be read"):
        open_checkpoint(folder, "distilled")


def test_opening_reads_headers_only(pack, monkeypatch):
    packs = [pack(name) for name in LAYOUTS]  # some are made of others' tensors
    monkeypatch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
    start = time.perf_counter()
    for place in packs:
        open_checkpoint(place, "distilled")
    assert time.perf_counter() - start < 5  # 0.1 s on a quiet machine


def test_a_pack_names_its_variant_for_the_pipeline(pack):
    told = pytest.raises(UserError, match="is a distilled checkpoint")
    with LTXPipeline.from_pretrained(pack("mlx-forge")) as pipe, told:
        pipe.generate(prompt="a", pipeline="dev", steps=1, height=64, width=64, num_frames=9)


def test_json_of_the_unified_layout_is_not_taken_for_a_whole_config(pack):
    stated = json.loads((pack("unified LTX-2.3") / "embedded_config.json").read_text())
    config = open_checkpoint(pack("unified LTX-2.3"), "distilled").config
    assert "caption_proj_before_connector" not in stated["transformer"]
    assert config["transformer"]["caption_proj_before_connector"] is True


# ------------------------------------------------------------------------------------------------ where packs are


PACK = ["connector", "vae_decoder", "vae_encoder", "audio_vae", "vocoder"]
FORGE = ["config.json", "embedded_config.json", *(f"{part}.safetensors" for part in PACK)]
FORGE += ["transformer-dev.safetensors", "transformer-distilled.safetensors", "transformer-distilled-1.1.safetensors"]
FORGE += ["spatial_upscaler_x2_v1_1.safetensors", "temporal_upscaler_x2_v1_0.safetensors", "README.md"]
FOLDERS = ["transformer/config.json", "transformer/model-00001-of-00002.safetensors", "vae/decoder/model.safetensors"]
FOLDERS += ["text_projections/model.safetensors", "vocoder/config.json", "ltx-2-spatial-upscaler-x2-1.0.safetensors"]
DIFFUSERS = [
    "transformer/diffusion_pytorch_model-00001-of-00008.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_of_a_pack_s_repo_the_variant_s_files_are_fetched():
    found = set(choose(FORGE, "checkpoint", "distilled"))
    assert found == {"transformer-distilled-1.1.safetensors", *FORGE[:7]}
    assert "transformer-dev.safetensors" in choose(FORGE, "checkpoint", "dev")
    assert choose(FORGE, "upsampler") == ["spatial_upscaler_x2_v1_1.safetensors"]
    assert set(choose([*FOLDERS, "text_encoder/model.safetensors"], "checkpoint")) == set(FOLDERS[:5])
    assert choose(["README.md", "config.json", "model.safetensors"], "checkpoint") == [
        "config.json",
        "model.safetensors",
    ]
    assert choose(["config.json", "model.safetensors"], "upsampler") == ["model.safetensors"]


def test_an_official_file_goes_before_what_lies_in_folders_beside_it(small_folder, tmp_path):
    official = small.NAMES["2"].format("distilled")
    assert choose([official, *DIFFUSERS, *FOLDERS], "checkpoint") == [official]
    assert choose(DIFFUSERS, "checkpoint") == []
    folder = foreign.folders(tmp_path / "both", small_folder("2"), "2")
    (folder / official).symlink_to(small_folder("2") / official)
    assert open_checkpoint(folder, "distilled").layout == "official file"


def test_folders_of_diffusers_are_no_pack(tmp_path):
    foreign.save(
        tmp_path / DIFFUSERS[0],
        {"transformer_blocks.0.attn1.to_q.weight": mx.zeros((2, 2)), "proj_in.weight": mx.zeros(1)},
    )
    with pytest.raises(UserError, match="holds no LTX-2 checkpoint"):
        open_checkpoint(tmp_path, "distilled")


def test_in_the_hub_s_cache_the_repo_s_name_tells_the_variant(pack, tmp_path):
    folder = tmp_path / "models--somebody--LTX-2-dev" / "snapshots" / "0123abcd"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(pack("folders LTX-2"))
    assert open_checkpoint(folder, "dev").variant == "dev"
