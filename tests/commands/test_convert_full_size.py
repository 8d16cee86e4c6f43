"""Conversion at the published sizes: all names, the room on the disk, memory, progress, and ends in the middle."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs import convert as converting
from mlx_video.jobs.convert import Wishes, convert
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.types import UserError
from mlx_video.weights import names
from mlx_video.weights.quantize import Quantization
from mlx_video.weights.store import DTYPE_BYTES
from mlx_video.weights.write import Pending, write
from tests.support import real_keys, small, sparse, wide


def bytes_of(generation, bits):
    """What a conversion writes: in 4 bit half a byte and a sixteenth (scale and bias, by 64) for each weight."""
    total = 0
    for name, (dtype, shape) in real_keys.load(generation).items():
        size = math.prod(shape) * DTYPE_BYTES[dtype]
        packed = bits == 4 and wide.is_quantized(name) and len(shape) == 2
        total += size * 0.5625 / 2 if packed else size
    return total


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The real files, with every name and shape, as checkpoints."""
    folder = tmp_path_factory.mktemp("sparse")
    return {g: open_checkpoint(sparse.make(folder, g), "distilled") for g in ("2", "2.3")}


@pytest.fixture
def small_source(small_folder, tmp_path):
    """A checkpoint that a test may change, in a folder where nothing else may be left."""
    name = small.NAMES["2"].format("distilled")
    shutil.copyfile(small_folder("2") / name, tmp_path / name)
    yield open_checkpoint(tmp_path / name, "distilled")
    left = {path.name for path in tmp_path.iterdir()} - {name}
    assert not left


# ------------------------------------------------------------------------------------------------ the real names


@pytest.mark.quick("*-2.3")
@pytest.mark.parametrize("generation", ["2", "2.3"])
@pytest.mark.parametrize("quantization", [None, Quantization(4)])
def test_all_real_names_are_known_and_room_is_asked_for(whole, generation, quantization, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(converting, "check_new_folder", lambda path, needed: asked.append(needed))

    def stop(*_, **__):
        raise UserError("stopped before writing")

    monkeypatch.setattr(converting, "replacing", stop)
    mx.clear_cache()
    before = mx.get_active_memory()
    with pytest.raises(UserError, match="stopped before writing"):
        convert(whole[generation], tmp_path / "out", Wishes(quantization=quantization))
    expected = bytes_of(generation, 4 if quantization else 16)
    assert asked[0] == pytest.approx(expected + converting.SPARE_BYTES, rel=1e-4)
    assert mx.get_active_memory() - before < 1 << 20  # planned, and nothing read


def test_a_disk_without_room_for_it_is_told_before_anything_is_read(whole, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40_000_000_000))
    with pytest.raises(UserError, match=r"has 40\.0 GB free; out may need 46\.2 GB"):
        convert(whole["2.3"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ memory

MEASURE = """
    import resource, sys
    from pathlib import Path
    import mlx.core as mx
    from mlx_video import platform
    from mlx_video.jobs.convert import Wishes, convert
    from mlx_video.checkpoints.layouts import open_checkpoint
    from mlx_video.weights.quantize import Quantization
    platform.prepare()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    how = Quantization(4) if sys.argv[3] == "4" else None
    convert(open_checkpoint(Path(sys.argv[1]), "distilled"), Path(sys.argv[2]), Wishes(quantization=how))
    unit = 1 if sys.platform == "darwin" else 1024
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * unit)
"""


def peak_of(source, output, bits):
    """Bytes by which a process that converts grows at most."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(source), str(output), str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [16, 4])
def test_memory_does_not_grow_with_the_size_of_the_source(bits, tmp_path):
    sizes = {"attention_head_dim": 512, "cross_attention_dim": 1024, "audio_attention_head_dim": 256}
    sizes |= {"audio_cross_attention_dim": 512, "num_layers": 8}
    shapes = names.shapes(COMPONENTS["transformer"].build(wide.config(**sizes)))
    tensors = {small.DIT + path: ("F32" if "table" in path else "BF16", shape) for path, shape in shapes.items()}
    source = tmp_path / "big-distilled.safetensors"
    sparse.write(source, tensors, {"config": json.dumps(wide.config(**sizes))})
    size = source.stat().st_size
    assert size > 400e6
    assert peak_of(source, tmp_path / "out", bits) < 100e6
    shutil.rmtree(tmp_path / "out")


# ------------------------------------------------------------------------------------------------ progress


def test_progress_is_told_component_by_component_in_megabytes(small_folder, tmp_path):
    told = []
    checkpoint = open_checkpoint(small_folder("2"), "distilled")
    convert(checkpoint, tmp_path / "out", report=told.append)
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases[:2] == ["transformer", "connectors"]
    assert {"vocoder", "spatial x2 upsampler", "distilled lora"} <= set(phases)
    for phase in phases:
        steps = [progress for progress in told if progress.phase == phase]
        assert [p.done for p in steps] == sorted(p.done for p in steps)
        assert steps[0].done == 0
        assert (steps[-1].done, steps[-1].peak is not None) == (steps[-1].total, True)
    size = sum(file.stat().st_size for file in (tmp_path / "out/audio_vae/decoder").iterdir())
    assert next(p.total for p in told if p.phase == "audio decoder") == size // 1_000_000


# ------------------------------------------------------------------------------------------------ ends in the middle


def test_an_interruption_leaves_nothing(small_source, tmp_path):
    def interrupt(progress):
        if progress.phase == "video decoder":
            assert any(path.name.endswith(".part") for path in tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(small_source, tmp_path / "out", report=interrupt)


@pytest.mark.parametrize("change", ["touched", "cut short", "removed"])
def test_a_source_that_changes_underneath_is_told_and_leaves_nothing(change, small_source, tmp_path):
    file = small_source.source
    saved = file.read_bytes()

    def meddle(progress):
        if progress.phase == "connectors" and file.exists():
            if change == "touched":
                os.utime(file, ns=(1, 1))
            elif change == "cut short":
                with file.open("r+b") as opened:
                    opened.truncate(1000)
            else:
                file.unlink()

    with pytest.raises(UserError, match=rf"{file.name} changed while it was being converted; nothing was written"):
        convert(small_source, tmp_path / "out", report=meddle)
    file.write_bytes(saved)


def test_a_disk_that_fills_up_is_told_and_leaves_nothing(small_source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(converting, "write_shards", full)
    with pytest.raises(UserError, match=r"out was not written: the disk that holds .* is full\."):
        convert(small_source, tmp_path / "out")


@pytest.mark.parametrize("value", [70000.0, -65520.0, float("inf")])
def test_values_that_float16_does_not_hold_are_told_with_their_tensor(value, small_folder, tmp_path):
    tensors = small.tensors("2", "distilled")
    name = "vae.decoder.conv_in.conv.bias"
    bias = np.array(tensors[name].astype(mx.float32))
    bias[5] = value
    tensors[name] = mx.array(bias).astype(mx.bfloat16)
    file = tmp_path / small.NAMES["2"].format("distilled")
    mx.save_safetensors(str(file), tensors, {"config": json.dumps(small.config("2"))})
    with pytest.raises(UserError, match=r"conv_in\.bias of model\.safetensors holds values beyond 65504"):
        convert(open_checkpoint(file, "distilled"), tmp_path / "out", Wishes(mx.float16))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# ------------------------------------------------------------------------------------------------ the writer


def test_what_is_written_in_pieces_is_read_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_video.weights.write.PIECE_BYTES", 64)
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": mx.array(rng.standard_normal((40, 7), np.float32)),
        "turned": mx.array(rng.standard_normal((3, 4, 5), np.float32)).transpose(2, 0, 1),
        "bf16": mx.array(rng.standard_normal((9, 3), np.float32)).astype(mx.bfloat16),
        "packed": mx.array(rng.integers(0, 1 << 32, (5, 6), np.uint32)),
        "scalar": mx.array(2.5),
        "nothing": mx.zeros((0, 4)),
    }
    counted = []
    pending = {name: Pending(array, array.dtype) for name, array in arrays.items()}
    pending["narrowed"] = Pending(arrays["matrix"], mx.float16)
    write(tmp_path / "x.safetensors", pending, {"format": "mlx"}, counted.append)
    assert pending == {}
    found, metadata = mx.load(str(tmp_path / "x.safetensors"), return_metadata=True)
    assert metadata == {"format": "mlx"}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert mx.array_equal(found[name], array), name
    assert mx.array_equal(found["narrowed"], arrays["matrix"].astype(mx.float16))
    assert sum(counted) == sum(array.nbytes for array in found.values())
