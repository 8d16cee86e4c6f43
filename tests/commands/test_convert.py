"""The command `convert`: a folder per component that gives the same clips, whole or not at all."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, convert, generate
from mlx_video.checkpoints.layouts.converted import MARKER
from mlx_video.jobs import convert as converting
from mlx_video.types import UserError
from mlx_video.weights import write
from tests.support import small
from tests.support.cases import GENERATIONS

FOLDERS = ["audio_vae/decoder", "audio_vae/encoder", "text_projections", "transformer", "vae/decoder", "vae/encoder"]
FOLDERS += ["vae/statistics", "vocoder"]
SMALL = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9}


@pytest.fixture(scope="session")
def converted(small_folder, tmp_path_factory):
    """converted(generation, *flags) is a converted folder, made by the command when first asked for."""
    folders = {}

    def make(generation, *flags):
        if (generation, flags) not in folders:
            path = tmp_path_factory.mktemp("converted") / "model"
            line = ["--source", str(small_folder(generation)), "--output", str(path), "--quiet", *flags]
            assert convert.main(line) == 0
            # A folder notes no path of this machine.
            (path / "gemma").symlink_to(small_folder(generation) / "gemma")
            folders[generation, flags] = path
        return folders[generation, flags]

    return make


def latents(where, **options):
    with LTXPipeline.from_pretrained(where) as pipe:
        clip = pipe.generate(**{**SMALL, **options})
        return {modality: np.array(value).tobytes() for modality, value in clip.latents.items()}, clip


@pytest.mark.quick("2")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_converted_folder_gives_the_same_bytes(small_folder, converted, inputs, generation):
    folder = converted(generation)
    found = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("model*.safetensors"))
    assert [name for name in found if name != "gemma"] == FOLDERS
    options = {"image": str(inputs / "picture.png"), "seed": 3}
    official, one = latents(small_folder(generation), **options)
    ours, two = latents(folder, **options)
    assert ours == official
    np.testing.assert_array_equal(np.stack(list(one)), np.stack(list(two)))
    np.testing.assert_array_equal(one.waveform, two.waveform)


@pytest.mark.quick("2.3")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_one_without_sound_gives_the_same_video(small_folder, converted, generation):
    folder = converted(generation, "--no-audio")
    assert not (folder / "vocoder").exists()
    assert not (folder / "audio_vae").exists()
    names = mx.load(str(next((folder / "transformer").glob("*.safetensors"))))
    assert not any("audio" in name for name in names)
    silent = latents(small_folder(generation), audio=False)[0]
    assert latents(folder, audio=False)[0] == latents(folder)[0] == silent
    with pytest.raises(UserError, match="without sound; add audio=False"):
        latents(folder, audio=True)


@pytest.mark.slow
def test_the_dev_variant_with_its_lora(small_folder, converted, tmp_path, made, command):
    for where in (small_folder("2.3"), converted("2.3", "--variant", "dev")):
        line = ["--pipeline", "dev-two-stage", "--steps", 2, "--model-repo", where, "-o", tmp_path / "a.mp4", "--quiet"]
        flags = [word for name, value in SMALL.items() for word in ("--" + name.replace("_", "-"), value)]
        assert command(generate.main, *flags, *line) == (0, "")
    first, second = ({m: np.array(v).tobytes() for m, v in clip.latents.items()} for clip in made)
    assert first == second
    assert json.loads((converted("2.3", "--variant", "dev") / MARKER).read_text())["variant"] == "dev"


@pytest.mark.quick("float16")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtypes(converted, small_folder, dtype):
    folder = converted("2.3", "--dtype", dtype)
    for part in FOLDERS:
        for name, array in mx.load(str(folder / part / "model.safetensors")).items():
            kept = part == "vocoder" or "scale_shift_table" in name
            wanted = {mx.float32, mx.bfloat16} if kept else {getattr(mx, dtype)}
            assert array.dtype in wanted, (part, name)
    official, clip = latents(small_folder("2.3"))
    ours, other = latents(folder)
    # float32 holds every bfloat16; float16 rounds small ones.
    assert (ours == official) == (dtype == "float32")
    np.testing.assert_allclose(np.array(other.latents["video"]), np.array(clip.latents["video"]), atol=0.05)


def test_shards(small_folder, converted, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SHARD_BYTES", 100_000)
    path = tmp_path / "sharded"
    assert convert.main(["--source", str(small_folder("2")), "--output", str(path), "--quiet"]) == 0
    (path / "gemma").symlink_to(small_folder("2") / "gemma")
    files = sorted(file.name for file in (path / "transformer").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert latents(path)[0] == latents(small_folder("2"))[0]


def test_what_is_said(command, small_folder, tmp_path):
    status, said = command(convert.main, "--hf-path", small_folder("2"), "--mlx-path", tmp_path / "a")
    assert status == 0
    *phases, last = said.splitlines()
    assert any("transformer" in phase for phase in phases)
    assert last.startswith(f"{tmp_path / 'a'}: converted from {small_folder('2')}, in ")


@pytest.fixture
def refused(command, tmp_path):
    def run(*line, said):
        before = sorted(tmp_path.rglob("*"))
        status, message = command(convert.main, *line)
        assert status == 2, message
        assert message.count("\n") == 1, message
        assert all(str(part) in message for part in said), message
        assert sorted(tmp_path.rglob("*")) == before

    return run


def test_what_cannot_be_converted(refused, small_folder, converted, tmp_path):
    source = small_folder("2")
    refused("--source", source, "--output", tmp_path / "a" / "b", said=[tmp_path / "a", "does not exist"])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").write_text("")
    refused("--source", source, "--output", tmp_path / "there", said=[tmp_path / "there", "already"])
    refused("--source", converted("2"), "--output", tmp_path / "a", said=["converted already"])
    refused("--source", source, "--output", tmp_path / "a", "--dtype", "int8", said=["int8", "bfloat16"])
    refused("--source", tmp_path / "none", "--output", tmp_path / "a", said=[tmp_path / "none"])
    refused("--source", tmp_path / "there", "--output", tmp_path / "a", said=["no LTX-2 checkpoint"])


def test_a_damaged_source_leaves_nothing(refused, small_folder, tmp_path):
    name = small.NAMES["2"].format("distilled")
    tensors, metadata = mx.load(str(small_folder("2") / name), return_metadata=True)
    tensors = dict(tensors)
    del tensors["vocoder.conv_pre.weight"]
    mx.save_safetensors(str(tmp_path / name), tensors, metadata)
    refused("--source", tmp_path / name, "--output", tmp_path / "a", said=["vocoder", "missing", "conv_pre.weight"])
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
    refused("--source", tmp_path / name, "--output", tmp_path / "a", said=["truncated", name])


def test_a_disk_without_room(refused, small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SPARE_BYTES", 1 << 60)
    refused("--source", small_folder("2"), "--output", tmp_path / "a", said=["GB free", "may need"])
