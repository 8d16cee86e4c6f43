"""LTX-2.5's official split pack: which file brings what, on small packs and on the published headers."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import LTXPipeline, Request, UserError
from mlx_video.checkpoints import locate
from mlx_video.checkpoints.hub import models, rules
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs.convert import convert
from mlx_video.weights import names
from tests.support import published_25, small_pack

SMALL = {"prompt": "a fox", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The pack at its real size, all holes."""
    return published_25.write(tmp_path_factory.mktemp("published"))


@pytest.fixture
def pack(small_folder, tmp_path):
    """pack("vae/...") is a copy of the small pack without files whose names begin so."""

    def make(*without: str):
        def left_out(folder, found):
            inside = folder.removeprefix(str(small_folder("2.5"))).lstrip("/")
            return [name for name in found if f"{inside}/{name}".lstrip("/").startswith(without or ("\0",))]

        return shutil.copytree(small_folder("2.5"), tmp_path / "pack", ignore=left_out)

    return make


# ---------------------------------------------------------------------------------------------------- published names


def test_every_published_tensor_has_its_place_and_nothing_is_missing(published) -> None:
    before = mx.get_active_memory()
    checkpoint = open_checkpoint(published, "distilled")
    assert checkpoint.layout == "official split pack"
    assert (checkpoint.generation.name, checkpoint.variant, checkpoint.doubt) == ("2.5", "distilled", None)
    assert set(checkpoint.family.components) - set(checkpoint.parts) == {"upsampler"}
    for name, part in checkpoint.parts.items():
        network = checkpoint.build(name)
        names.match(network, part.shapes(), part.what)
    for kind, part in checkpoint.upsamplers.items():
        names.match(part.build(), part.shapes(), kind)
    assert set(checkpoint.upsamplers) == {"spatial x2", "temporal x2"}
    assert mx.get_active_memory() - before < 1 << 20


def test_the_published_text_encoder_goes_with_the_published_transformer(published) -> None:
    checkpoint, source = locate.text_encoder(None, open_checkpoint(published, "dev"))
    names.match(source.network(), {n: e.shape for n, e in source.tensors.entries.items()}, source.what)
    assert checkpoint.part("connectors").measured == {"features": 3840 * 49}


def test_the_published_lora_has_a_pair_for_every_linear_layer_of_the_transformer(published) -> None:
    from mlx_video.weights import lora

    adapter = lora.read(open_checkpoint(published, "dev").distilled_lora)
    assert len(adapter.pairs) == 1660
    assert not adapter.unread


# ---------------------------------------------------------------------------------------------------- what is fetched

FILES = [f"{name}.safetensors" for name in published_25.files()]
FILES += [f"{published_25.TRANSFORMER.replace('distilled', 'dev')}.safetensors", "README.md"]
FILES += [
    "diffusion_models/ltx-2.5-22b-distilled-transformer-comfy-int8-convrot.safetensors",
    "diffusion_models/ltx-2.5-22b-distilled-transformer-nvfp4.safetensors",
    "text_encoders/gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot.safetensors",
]


@pytest.mark.parametrize("variant", ["distilled", "dev"])
def test_a_run_fetches_the_files_that_it_needs_and_no_other(variant) -> None:
    transformer = f"diffusion_models/ltx-2.5-22b-{variant}-transformer-bf16.safetensors"
    vae = [f"vae/ltx-2.5-{name}-bf16.safetensors" for name in ("video-vae-conv", "audio-vae")]
    assert rules.choose(FILES, "checkpoint", variant) == [transformer, *vae]
    for kind, name in (
        ("upsampler", "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0"),
        ("temporal x2", "latent_upscale_models/ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0"),
        ("lora", "loras/ltx-2.5-22b-distilled-lora-450-bf16"),
        ("text_encoder", "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16"),
        ("diffusion video VAE", "vae/ltx-2.5-video-vae-bf16"),
        ("duration head", "model_patches/ltx-2.5-duration-head-bf16"),
    ):
        assert rules.choose(FILES, kind, variant) == [f"{name}.safetensors"], kind
    assert rules.choose(FILES, "spatial x1.5") == []


def test_short_names_stand_for_repos_unless_something_of_that_name_is_here(tmp_path, monkeypatch) -> None:
    assert models.full_name("ltx-2.5") == models.full_name("LTX-2.5") == "Lightricks/LTX-2.5"
    assert models.full_name("someone/ltx-2.5") == "someone/ltx-2.5"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ltx-2.5").mkdir()
    assert models.full_name("ltx-2.5") == "ltx-2.5"
    assert [line for line in models.listed() if "71.1 GB" in line]


# -------------------------------------------------------------------------------------------------- what goes together


def test_a_files_settings_mark_every_file_by_its_place(small_folder, tmp_path) -> None:
    pack = small_folder("2.5")
    with LTXPipeline.from_pretrained(pack) as pipe:
        marks = pipe.generate(**SMALL).metadata["files"]
    files = (small_pack.VIDEO, small_pack.TEXT_ENCODER, small_pack.TRANSFORMER.format("distilled"))
    assert {Path(file).name for file in files} <= {Path(name).name for name in marks}
    convert(open_checkpoint(pack, "distilled"), tmp_path / "made")
    with LTXPipeline.from_pretrained(tmp_path / "made", text_encoder=pack / small_pack.TEXT_ENCODER) as pipe:
        marks = pipe.generate(**SMALL).metadata["files"]
    assert {"transformer/model.safetensors", "vae/decoder/model.safetensors"} <= set(marks)
    assert str(tmp_path) not in json.dumps(marks)


def test_a_file_of_a_pack_brings_the_others(small_folder) -> None:
    file = small_folder("2.5") / small_pack.TRANSFORMER.format("dev")
    checkpoint = open_checkpoint(file, "distilled")
    assert checkpoint.variant == "dev"
    assert checkpoint.audio
    assert checkpoint.text_encoder == str(small_folder("2.5") / small_pack.TEXT_ENCODER)


@pytest.mark.parametrize("place", [small_pack.TEXT_ENCODER, small_pack.VIDEO, small_pack.DURATION, "vae"])
def test_another_part_than_the_transformer_is_told_from_it(small_folder, place) -> None:
    with pytest.raises(UserError, match=r"is a part of LTX-2.5's pack, its .*; name the pack's folder"):
        open_checkpoint(small_folder("2.5") / place, "distilled")


def test_files_side_by_side_are_a_pack_too(small_folder, tmp_path) -> None:
    for file in small_folder("2.5").rglob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    flat, nested = (open_checkpoint(folder, "distilled") for folder in (tmp_path, small_folder("2.5")))
    assert set(flat.parts) == set(nested.parts)
    assert flat.text_encoder is not None


def test_in_a_folder_that_generations_share_each_takes_its_own(small_folder, tmp_path) -> None:
    """As ComfyUI's `models` is one; other families' files are there, too."""
    folders = {"loras": ("lora",), "latent_upscale_models": ("upscaler",)}
    for file in (*small_folder("2.5").rglob("*.safetensors"), *small_folder("2.3").glob("*.safetensors")):
        kind = next((name for name, words in folders.items() if words[0] in file.name), "diffusion_models")
        place = tmp_path / (file.parent.name if file.parent.name in (*folders, "vae", "text_encoders") else kind)
        place.mkdir(exist_ok=True)
        (place / file.name).symlink_to(file)
    mx.save_safetensors(
        str(tmp_path / "loras" / "wan-distilled-lora.safetensors"), {"a.lora_A.weight": mx.zeros((1, 1))}
    )
    for generation, name in (("2.3", "ltx-2.3-22b-dev"), ("2.5", "ltx-2.5-22b-dev-transformer-bf16")):
        found = open_checkpoint(tmp_path / "diffusion_models" / f"{name}.safetensors", "dev")
        beside = [found.distilled_lora, found.upsampler.tensors.paths[0]]
        assert found.generation.name == generation
        assert all(file.name.startswith(f"ltx-{generation}-") for file in beside), beside
        assert generation == "2.3" or found.text_encoder == str(tmp_path / small_pack.TEXT_ENCODER)


@pytest.mark.parametrize(
    ("without", "component", "file"),
    [
        (("vae/ltx-2.5-video",), "video_decoder", r"vae-conv-bf16.safetensors \(1.5 GB\)"),
        (("vae/ltx-2.5-video-vae-conv",), "video_decoder", r"video-vae-conv-bf16.safetensors \(1.5 GB\)"),
        (("vae/ltx-2.5-audio",), "audio_decoder", r"audio-vae-bf16.safetensors \(364.9 MB\)"),
        (("vae/ltx-2.5-video-vae-bf16",), "diffusion_decoder", r"video-vae-bf16.safetensors \(1.5 GB\)"),
        (("model_patches",), "duration_head", r"duration-head-bf16.safetensors \(3.8 MB\)"),
    ],
)
def test_a_missing_file_is_named_with_its_size(pack, without, component, file) -> None:
    with pytest.raises(UserError, match=rf"has no {component.replace('_', ' ')} beside it; LTX-2.5's is .*{file}"):
        open_checkpoint(pack(*without), "distilled").part(component)


def test_the_encoder_of_the_other_autoencoder_serves(pack) -> None:
    checkpoint = open_checkpoint(pack("vae/ltx-2.5-video-vae-conv"), "distilled")
    names.match(checkpoint.build("video_encoder"), checkpoint.part("video_encoder").shapes(), "video encoder")
    assert {"diffusion_decoder", "latent_statistics"} <= set(checkpoint.parts)


def test_parts_of_another_version_are_refused(pack) -> None:
    folder = pack()
    restated(folder / small_pack.VIDEO, model_version="2.6.0")
    with pytest.raises(UserError, match=r"is of version 2.5.0, but ltx-2.5-video-vae-conv.*is of version 2.6.0; put"):
        open_checkpoint(folder, "distilled")


def test_without_a_text_encoder_it_is_named(pack) -> None:
    pipe = LTXPipeline.from_pretrained(pack("text_encoders"))
    with pytest.raises(UserError, match=r"No text encoder.*put gemma4-12b-with-proj-ltx-2.5-bf16.safetensors there"):
        pipe.plan(Request(**SMALL))


def test_a_text_encoder_elsewhere_brings_its_projections(pack, small_folder) -> None:
    whole = small_folder("2.5")
    with LTXPipeline.from_pretrained(pack("text_encoders"), text_encoder=whole / small_pack.TEXT_ENCODER) as pipe:
        ours = pipe.generate(**SMALL).latents["video"]
    with LTXPipeline.from_pretrained(whole) as pipe:
        assert mx.array_equal(ours, pipe.generate(**SMALL).latents["video"])


def test_a_text_encoder_of_another_version_is_refused(pack) -> None:
    folder = pack()
    file = folder / small_pack.TEXT_ENCODER
    arrays, metadata = mx.load(str(file), return_metadata=True)
    config = json.loads(metadata["gemma_config"]) | {"gemma_version": "gemma4-12b-ltx-v2"}
    mx.eval(arrays)
    mx.save_safetensors(str(file), arrays, {**metadata, "gemma_config": json.dumps(config)})
    with pytest.raises(UserError, match=r"gemma4-12b-ltx-v[12]"):
        LTXPipeline.from_pretrained(folder).plan(Request(**SMALL))


@pytest.mark.parametrize(("generation", "encoder"), [("2.3", "2.5"), ("2.5", "2.3")])
def test_a_text_encoder_of_another_generation_is_refused(small_folder, generation, encoder) -> None:
    place = small_folder(encoder) / ("gemma" if encoder == "2.3" else small_pack.TEXT_ENCODER)
    pipe = LTXPipeline.from_pretrained(small_folder(generation), text_encoder=place)
    with pytest.raises(UserError, match="Gemma"):
        pipe.plan(Request(**SMALL))


def restated(file, **said: str) -> None:
    arrays, metadata = mx.load(str(file), return_metadata=True)
    mx.eval(arrays)
    mx.save_safetensors(str(file), arrays, {**metadata, **said})
