"""Blocks of a streamed transformer that stay in memory: the same numbers, less reading, gone when they are to be."""

import gc
import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import Lora, LTXPipeline, UserError
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs.convert import Wishes, convert
from mlx_video.lending.loader import Loader, parameter_bytes
from mlx_video.lending.visits import Streamed, Ways, _staying
from mlx_video.lending.weighing import weigh_component
from mlx_video.models.ltx_2.transformer.passes import Visits
from mlx_video.planning.plan import Memory
from mlx_video.types import Context, Pass
from mlx_video.weights.quantize import Quantization
from tests.jobs.test_quantize import save_with_float8, to_e4m3
from tests.support import peaks, small, small_pack

MIB = 1 << 20
CLIP = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9, "seed": 2}
IO = Path("/proc/self/io")


def call(network) -> bytes:
    """What two passes give for the same tokens, texts and noise level."""
    widths = [network.config.caption_channels or stream.context_dim for stream in network.config.streams.values()]
    contexts = {n: Context(*(mx.ones((1, 16, w)) * i for w in widths)) for i, n in enumerate(("positive", "negative"))}
    start = mx.arange(8, dtype=mx.float32).reshape(1, 1, 8)
    times = mx.stack([start, start + 1], axis=-1)
    positions = {"video": mx.broadcast_to(times, (1, 3, 8, 2)), "audio": times}
    x = {m: mx.ones((1, 8, 128)) for m in positions}
    result = network(x, dict.fromkeys(x, 0.5), network.prepare(contexts, positions), [Pass(), Pass("negative")])
    return b"".join(np.array(tree[m].astype(mx.float32)).tobytes() for tree in result for m in sorted(tree))


def borrow(folder, kept=None, quantization=None, dtype=mx.float32):
    """kept: None for a transformer that is whole in memory."""
    ways = Ways(stream_transformer=kept is not None, keep_text=False, kept=kept or 0)
    return Loader(open_checkpoint(folder, "distilled"), dtype, quantization, ways).borrow("transformer")


def latents(folder, monkeypatch, kept, *, aside=False, **options):
    ways = Ways(stream_transformer=True, keep_text=False, kept=kept, step_aside=aside)
    monkeypatch.setattr(Memory, "ways", property(lambda memory: iter([ways])))
    opened = {name: options.pop(name) for name in ("dtype", "quantize") if name in options}
    with LTXPipeline.from_pretrained(folder, low_memory=True, **opened) as pipe:
        clip = pipe.generate(**{**CLIP, **options})
    return {modality: np.array(value.astype(mx.float32)) for modality, value in clip.latents.items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(one[m].tobytes() == other[m].tobytes() for m in one)


def in_float8(folder: Path, to: Path, generation: str) -> Path:
    """A copy of a small folder whose feed-forward weights are 8-bit floats with a scale."""
    copy = shutil.copytree(folder, to, symlinks=True)
    name = small_pack.TRANSFORMER if generation == "2.5" else small.NAMES[generation]
    file = copy / name.format("distilled")
    arrays, metadata = mx.load(str(file), return_metadata=True)
    kept, codes = {}, {}
    for key, array in arrays.items():
        if ".ff.net." not in key or array.ndim != 2 or "transformer_blocks" not in key:
            kept[key] = array
            continue
        codes[key], _ = to_e4m3(np.array(array.astype(mx.float32)) / 0.01)
        kept[f"{key}_scale"] = mx.array(np.float32(0.01))
    assert codes
    save_with_float8(file, kept, codes, metadata)
    return copy


@pytest.fixture
def own(tmp_path):
    mx.save_safetensors(str(tmp_path / "own.safetensors"), small.lora_tensors("2.3", seed=9))
    return Lora(str(tmp_path / "own.safetensors"), 0.7)


# ------------------------------------------------------------------------------------------------ which


def test_what_is_read_lies_evenly_between_what_stays() -> None:
    paths = [str(i) for i in range(48)]
    for kept in (0, 1, 12, 24, 36, 47, 48, 60):
        stay = _staying(paths, kept)
        assert len(stay) == min(kept, 48)
        read = [i for i, path in enumerate(paths) if path not in stay]
        runs = np.diff([-1, *read])
        assert not read or (read[-1] == 47 and runs.max() - runs.min() <= 1)
    assert [i for i, path in enumerate(paths) if path not in _staying(paths, 44)] == [11, 23, 35, 47]


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.quick("2.5-fp8 file")
@pytest.mark.parametrize("how", ["bfloat16", "fp8 file", "quantize 8"])
@pytest.mark.parametrize("generation", ["2", "2.3", "2.5"])
def test_every_call_is_bit_for_bit_that_of_whole_and_of_streamed_networks(
    small_folder, tmp_path, generation, how
) -> None:
    folder, bits = small_folder(generation), Quantization.of(8) if how == "quantize 8" else None
    if how == "fp8 file":
        folder = in_float8(folder, tmp_path / "float8", generation)
    found = set()
    for kept in (None, 0, 1, 2, 3):
        with borrow(folder, kept, bits, mx.bfloat16) as network:
            found.update(call(network) for _ in range(2))
            if kept:
                assert len(network.parts._ready) == kept
    assert len(found) == 1


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.quick("2-*")
@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("2", {"pipeline": "dev-two-stage", "guidance_batch": True, "steps": 1, "stg_blocks": (0, 2)}),
        ("2.3", {"dtype": "bfloat16", "pipeline": "dev-two-stage-hq", "steps": 1, "lora": True}),
        ("2.3", {"quantize": 8, "pipeline": "dev-two-stage-hq", "steps": 1, "lora": True}),
        ("2.5", {"pipeline": "dev-two-stage", "steps": 1}),
    ],
    ids=str,
)
def test_strengths_that_change_between_stages_are_those_of_a_streamed_run(
    small_folder, own, monkeypatch, generation, options
) -> None:
    """What stays is made anew with the next stage's LoRAs, from the files: not by a difference, nor twice."""
    options = {**options, "lora": own} if options.get("lora") else options
    streamed, some = (latents(small_folder(generation), monkeypatch, kept, **options) for kept in (0, 2))
    assert same(streamed, some)


@pytest.mark.slow
def test_a_converted_and_quantized_folder(small_folder, own, monkeypatch, tmp_path) -> None:
    source = open_checkpoint(small_folder("2.3"), "distilled")
    wishes = Wishes(mx.bfloat16, quantization=Quantization(8, 32), text_encoder=source.text_encoder)
    convert(source, tmp_path / "converted", wishes)
    (tmp_path / "converted" / "gemma").symlink_to(small_folder("2.3") / "gemma")
    streamed, some = (latents(tmp_path / "converted", monkeypatch, kept, lora=own) for kept in (0, 2))
    assert same(streamed, some)


# ------------------------------------------------------------------------------------------------ reading


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A transformer of 8 blocks of more than a MiB in float32, and nothing else."""
    from mlx_video.models.ltx_2.family import COMPONENTS
    from mlx_video.weights import names

    folder, config = tmp_path_factory.mktemp("wide"), small.config("2.3")
    config["transformer"].update(
        num_layers=8, num_attention_heads=2, attention_head_dim=64, cross_attention_dim=128,
        audio_num_attention_heads=1, audio_attention_head_dim=64, audio_cross_attention_dim=64,
    )  # fmt: skip
    drawn = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    tensors = {}
    for path, shape in names.shapes(COMPONENTS["transformer"].build(config)).items():
        scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
        tensors[small.DIT + path] = mx.array(np.resize(drawn, shape) * np.float32(scale))
    metadata = {"config": json.dumps(config), "model_version": "2.3.0"}
    mx.save_safetensors(str(folder / "ltx-2.3-distilled.safetensors"), tensors, metadata)
    return folder


def read_by_the_process() -> int:
    """Bytes that this process has asked the system for, from the file cache or not."""
    return int(IO.read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not IO.exists(), reason="only Linux counts what a process reads")
@pytest.mark.quick("None")
@pytest.mark.parametrize("quantization", [None, Quantization.of(8)], ids=str)
def test_a_step_reads_the_share_of_the_file_that_does_not_stay(wide, quantization) -> None:
    checkpoint = open_checkpoint(wide, "distilled")
    entries = checkpoint.part("transformer").tensors.entries
    blocks = sum(entry.nbytes for name, entry in entries.items() if "transformer_blocks" in name)
    for kept in (0, 6):
        steps = []
        with borrow(wide, kept, quantization) as network:
            for _ in range(2):
                before, counted = read_by_the_process(), network.parts.bytes_read
                call(network)
                steps.append((read_by_the_process() - before, network.parts.bytes_read - counted))
        (first, told), *others = steps
        assert told == blocks
        assert first >= blocks
        for step, told in others:
            assert told == blocks * (8 - kept) // 8
            # The file's header besides, and what is outside the blocks is not read again.
            assert told <= step <= told + MIB // 2


def test_one_is_read_ahead_while_those_that_stay_compute(wide, monkeypatch) -> None:
    events = []
    fill, ahead = Streamed._fill, mx.async_eval
    with borrow(wide, 6) as network:
        call(network)
        monkeypatch.setattr(
            Streamed, "_fill", lambda self, part, visit: (events.append("read"), fill(self, part, visit))
        )
        monkeypatch.setattr(mx, "async_eval", lambda arrays: (events.append("ahead"), ahead(arrays)))
        through = Visits.through
        monkeypatch.setattr(
            Visits, "through", lambda self, index, block: (events.append(index), through(self, index, block))[1]
        )
        call(network)
    assert events == [
        "ahead", 0, 1, 2, "read", "ahead", 3, 4, 5, 6, "read", 7
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.quick("8 bit*")
@pytest.mark.parametrize("how", [None, Quantization.of(8)], ids=str)
def test_blocks_that_stay_take_what_is_planned_for_them(wide, how) -> None:
    """Those in few bits stay packed: so many more of them fit."""
    loader = Loader(open_checkpoint(wide, "distilled"), mx.float32, how)
    weights = weigh_component(loader, "transformer")
    assert weights.parts == 8
    assert weights.part == pytest.approx((weights.whole - weights.rest) / 8, rel=1e-6)
    taken = {}
    for kept in (0, 6):
        with borrow(wide, kept, how) as network:
            with peaks.measured() as memory:
                call(network)
                held, peak = memory.held, memory.peak
            taken[kept] = peak
            assert kept * weights.part <= held <= weights.rest + kept * weights.part + MIB
    assert taken[6] <= taken[0] + 6 * weights.part + MIB


def test_what_stays_goes_with_the_network_and_when_it_is_to(wide) -> None:
    with borrow(wide, 6) as network:
        call(network)
        gc.collect()
        full, streamed = mx.get_active_memory(), network.parts
        streamed.let_go()
        assert mx.get_active_memory() < full - 6 * MIB
        call(network)
        assert mx.get_active_memory() > full - MIB
        streamed.keep(6)
        assert len(streamed._ready) == 6
        streamed.keep(2)
        assert not streamed._ready
        call(network)
    assert not streamed._ready  # whoever still holds it
    assert mx.get_active_memory() < full - 6 * MIB
    assert parameter_bytes(network) == 0


@pytest.mark.slow
def test_it_steps_aside_between_stages_and_comes_back(wide) -> None:
    loader = Loader(
        open_checkpoint(wide, "distilled"), mx.float32,
        ways=Ways(stream_transformer=True, keep_text=False, kept=6, step_aside=True),
    )  # fmt: skip
    with loader.borrow("transformer") as network:
        expected, full = call(network), mx.get_active_memory()
        with loader.aside(network):
            assert mx.get_active_memory() < full - 6 * MIB
        assert call(network) == expected
        assert len(network.parts._ready) == 6
    assert mx.get_active_memory() < full - 6 * MIB


@pytest.mark.slow
@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": 8}], ids=str)
def test_after_stepping_aside_loras_are_there_once(small_folder, own, monkeypatch, options) -> None:
    beside, aside = (
        latents(small_folder("2.3"), monkeypatch, 2, aside=away, lora=own, **options) for away in (False, True)
    )
    assert same(beside, aside)


def test_an_interrupted_call_leaves_no_block_half_made(wide, monkeypatch) -> None:
    with borrow(wide) as network:
        expected = call(network)
    with borrow(wide, 6) as network:
        block, read = type(network.transformer_blocks[0]), []
        read_text = block.read_text

        def fail_in_the_sixth(self, *given):
            read.append(self)
            return 1 / 0 if len(read) == 6 else read_text(self, *given)

        monkeypatch.setattr(block, "read_text", fail_in_the_sixth)
        with pytest.raises(ZeroDivisionError):
            call(network)
        monkeypatch.setattr(block, "read_text", read_text)
        ready = network.parts._ready
        assert 0 < len(ready) < 6
        for path, (_, idle) in network.parts._idle.items():
            now = dict(tree_flatten(network.parts._parts[path].parameters()))
            assert all((now[name] is array) is (path not in ready) for name, array in tree_flatten(idle))
        assert call(network) == expected


@pytest.mark.slow
def test_a_file_that_changes_is_told_even_where_nothing_is_read_any_more(wide, tmp_path) -> None:
    folder = shutil.copytree(wide, tmp_path / "own")
    with borrow(folder, 8) as network:
        call(network)
        os.utime(folder / "ltx-2.3-distilled.safetensors", ns=(1, 1))
        with pytest.raises(UserError, match="changed while the run was reading it; start it again"):
            call(network)
