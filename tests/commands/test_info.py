"""`mlx_video.info` says what lies at a path, from headers alone, for every layout."""

import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_video import UserError, generate, info
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.layouts.neighbours import kind_of
from mlx_video.jobs.convert import Wishes, convert
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import Tensors
from tests.support import foreign, small, sparse


@pytest.fixture
def say(capsys, monkeypatch):
    def run(path):
        monkeypatch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
        assert info.main([str(path)]) == 0
        checkpoints, _, machine = capsys.readouterr().out.rpartition("\n\n")
        assert machine.startswith("This machine: ")
        return checkpoints

    return run


def field(text, label):
    return next(line[20:].strip() for line in text.splitlines() if line[2:20].strip() == label)


def test_a_folder_with_both_variants_is_told_variant_by_variant(small_folder, say):
    folder = small_folder("2.3")
    first, second = say(folder).split("\n\n")
    for part, variant in ((first, "distilled"), (second, "dev")):
        assert part.splitlines()[0] == str(folder / small.NAMES["2.3"].format(variant))
        assert field(part, "layout") == "official file"
        assert field(part, "generation") == "LTX-2.3 (model version 2.3.0)"
        assert field(part, "variant") == variant
        assert field(part, "quantized") == "no"
        assert field(part, "transformer").endswith("MB  bfloat16, float32, 3 blocks, 32 wide")
        assert small.UPSAMPLERS["2.3"] in field(part, "upsampler")
        assert small.LORAS["2.3"] in field(part, "distilled LoRA")
        assert field(part, "text encoder").endswith(f"bfloat16, 3 layers of width 32, {folder / 'gemma'}")


@pytest.mark.parametrize(
    ("generation", "transformer", "everything"), [("2", "37.76 GB", "43.28 GB"), ("2.3", "37.99 GB", "46.15 GB")]
)
def test_the_real_files_are_told_with_their_sizes(generation, transformer, everything, tmp_path, say):
    text = say(sparse.make(tmp_path, generation))
    assert field(text, "transformer").startswith(transformer)
    assert field(text, "transformer").endswith("48 blocks, 4096 wide")
    assert field(text, "all of it") == everything
    assert field(text, "generation").startswith(f"LTX-{generation}")
    assert field(text, "upsampler") == field(text, "text encoder") == "none beside it"


def test_a_pack_of_another_converter_is_told(small_folder, tmp_path, say):
    text = say(foreign.forge(tmp_path / "pack", small_folder("2.3"), "2.3"))
    assert field(text, "layout") == "split MLX files"
    assert field(text, "variant") == "distilled"
    assert "spatial_upscaler_x2_v1_1" in field(text, "upsampler")
    assert field(text, "distilled LoRA") == "none beside it"


def test_a_quantized_folder_is_told_with_its_bits(small_folder, tmp_path, say):
    checkpoint = open_checkpoint(small_folder("2"), "distilled")
    few = Quantization(4, 32)
    wishes = Wishes(audio=False, quantization=few, text_encoder=checkpoint.text_encoder, text_quantization=few)
    convert(checkpoint, tmp_path / "q4", wishes)
    text = say(tmp_path / "q4")
    assert field(text, "layout") == "folder of mlx_video.convert"
    assert field(text, "quantized") == "transformer blocks, 4 bit, groups of 32"
    assert "packed" in field(text, "transformer")
    assert field(text, "without") == "audio encoder, audio decoder, vocoder"
    assert "4 bit, 3 layers" in field(text, "text encoder")


def test_every_checkpoint_of_a_folder_is_named(small_folder, tmp_path, say):
    names = [f"ltx-2-19b-distilled{end}.safetensors" for end in ("", "-fp8", "-1.1")]
    for name in names:
        (tmp_path / name).symlink_to(small_folder("2") / small.NAMES["2"].format("distilled"))
    blocks = say(tmp_path).split("\n\n")
    assert sorted(block.splitlines()[0] for block in blocks) == sorted(str(tmp_path / name) for name in names)


@pytest.mark.parametrize("config", [True, False])
def test_an_older_family_is_called_what_it_is(config, tmp_path, say, capsys):
    file = tmp_path / "ltxv-2b-0.9.8-distilled.safetensors"
    names = ["model.diffusion_model.transformer_blocks.0.attn1.to_q.weight", "vae.decoder.conv_in.conv.weight"]
    said = {"config": '{"transformer": {"_class_name": "Transformer3DModel"}, "vae": {}}'} if config else {}
    mx.save_safetensors(str(file), {name: mx.zeros((4, 4)) for name in names}, said)
    for path in (file, tmp_path):
        text = say(path)
        assert text.splitlines()[0] == str(file)
        assert field(text, "family") == "LTX-Video 0.9.x (an older family, not read yet)"
        with pytest.raises(UserError, match=r"LTX-Video 0\.9\.x"):
            open_checkpoint(path, "distilled")
    assert generate.main(["a fox", "--model-repo", str(tmp_path), "-o", str(tmp_path / "a.mp4")]) == 2
    assert "LTX-Video 0.9.x" in capsys.readouterr().err


def test_an_ltx_2_without_its_sound_is_not_taken_for_the_older_family(tmp_path):
    file = tmp_path / "a.safetensors"
    config = '{"transformer": {"audio_num_attention_heads": 32}, "vae": {}}'
    name = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"
    mx.save_safetensors(str(file), {name: mx.zeros((4, 4))}, {"config": config})
    assert kind_of(Tensors([file])) == "checkpoint"


def test_a_damaged_neighbour_is_told(small_folder, tmp_path, say):
    (tmp_path / small.NAMES["2"].format("dev")).symlink_to(small_folder("2") / small.NAMES["2"].format("dev"))
    (tmp_path / "lora.safetensors").write_bytes(b"half of it")
    text = say(tmp_path)
    assert field(text, "variant") == "dev"
    assert "lora.safetensors is not a whole safetensors file" in field(text, "unreadable")


@pytest.mark.parametrize(
    ("name", "said"), [("none", "neither a file"), ("", "holds no LTX-2 checkpoint"), ("up.safetensors", "spatial x2")]
)
def test_what_is_no_checkpoint_is_one_line_and_2(name, said, small_folder, tmp_path, capsys):
    if name == "up.safetensors":
        (tmp_path / name).symlink_to(small_folder("2") / small.UPSAMPLERS["2"])
    assert info.main([str(tmp_path / name)]) == 2
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert said in found.err


def test_help_imports_nothing_heavy():
    code = "import sys; from mlx_video import info; info.build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlx.core", "numpy", "transformers", "huggingface_hub"} & set(loaded)
