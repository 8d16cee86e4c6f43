"""Networks read from disk part by part: the same numbers, a few parts in memory, one network at a time."""

import functools
import gc
import json
import os
import shutil
import time
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import Lora, LTXPipeline, UserError
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.jobs.convert import Wishes, convert
from mlx_video.lending import loader as lending
from mlx_video.lending.loader import Loader, parameter_bytes
from mlx_video.lending.visits import Streamed, Ways
from mlx_video.models.ltx_2.family import COMPONENTS
from mlx_video.models.ltx_2.transformer import Transformer
from mlx_video.planning.plan import Memory
from mlx_video.types import Context, Pass
from mlx_video.weights import lora, names
from mlx_video.weights.quantize import Quantization
from tests.jobs.test_quantize import save_with_float8, to_e4m3
from tests.support import peaks, small
from tests.support.cases import GENERATIONS, error

MIB = 1 << 20
CLIP = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9, "seed": 2}
GUIDED = {"steps": 2, "stg_blocks": (0, 2)}


def latents(folder, low_memory, dtype="float32", quantize=None, **options):
    with LTXPipeline.from_pretrained(folder, dtype=dtype, quantize=quantize, low_memory=low_memory) as pipe:
        clip = pipe.generate(**{**CLIP, **options})
    return {modality: np.array(value) for modality, value in clip.latents.items()}


@pytest.fixture
def own(tmp_path):
    """A LoRA of the user's own, for LTX-2.3."""
    mx.save_safetensors(str(tmp_path / "own.safetensors"), small.lora_tensors("2.3", seed=9))
    return Lora(str(tmp_path / "own.safetensors"), 0.7)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.quick("2-{}", "2-{'pipeline': 'dev'*", "2.3-{'pipeline': 'dev-two-stage', 'audio'*")
@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("2", {}),
        ("2", {"pipeline": "dev", **GUIDED}),
        ("2.3", {"pipeline": "dev-two-stage", "audio": False, **GUIDED}),
        ("2.3", {"pipeline": "dev-two-stage", "guidance_batch": True, "lora": True, **GUIDED}),
        ("2.3", {"dtype": "bfloat16", "lora": True}),
        ("2.3", {"quantize": 8, "lora": True}),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_is_bit_for_bit_that_of_whole_networks(small_folder, own, generation, options) -> None:
    options = {**options, "lora": own} if options.get("lora") else options
    whole = latents(small_folder(generation), False, **options)
    parts = latents(small_folder(generation), True, **options)
    assert whole.keys() == parts.keys()
    assert all(whole[m].tobytes() == parts[m].tobytes() for m in whole)


@pytest.mark.slow
@pytest.mark.usefixtures("texts_are_kept")
def test_strengths_that_change_between_stages_agree(small_folder, own) -> None:
    """A whole network is given the difference of two strengths, a part that is read anew the second strength itself."""
    options = {"pipeline": "dev-two-stage-hq", "steps": 2, "lora": own}
    whole, parts = (latents(small_folder("2.3"), low, **options) for low in (False, True))
    assert all(error(parts[m], whole[m]) < 1e-6 for m in whole)
    plain = latents(small_folder("2.3"), True, pipeline="dev-two-stage-hq", steps=2)
    assert all(error(plain[m], parts[m]) > 1e-3 for m in parts)


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("2", {"dtype": "bfloat16"}),
        ("2.3", {"quantize": 8, "lora": True}),
        ("2.3", {"pipeline": "dev-two-stage", "audio": False, "lora": True, **GUIDED}),
    ],
    ids=str,
)  # fmt: skip
def test_a_transformer_that_steps_aside_comes_back_as_it_was(
    small_folder, own, generation, options, monkeypatch
) -> None:
    options = {**options, "lora": own} if options.get("lora") else options
    held = []

    def watch(progress) -> None:
        # Not the peak, in which it shows little beside the upsampler's work, and more or less by threads' luck.
        if progress.phase == "upsample" and progress.done == progress.total:
            held.append(mx.get_active_memory() - others)

    gc.collect()
    others = mx.get_active_memory()  # what fixtures of this process hold
    whole = latents(small_folder(generation), None, on_step=watch, **options)
    monkeypatch.setattr(Memory, "ways", property(lambda memory: iter([Ways(step_aside=True)])))
    aside = latents(small_folder(generation), None, on_step=watch, **options)
    assert whole.keys() == aside.keys()
    assert all(whole[m].tobytes() == aside[m].tobytes() for m in whole)
    assert held[1] < 0.9 * held[0]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_texts_are_the_same(small_folder, generation) -> None:
    checkpoint = open_checkpoint(small_folder(generation), "distilled")
    found = {}
    for streamed in (False, True):
        lender = Loader(checkpoint, mx.float32)
        with lender.borrow_text_encoder(
            TextSource.open(checkpoint.family, small_folder(generation) / "gemma"), streamed=streamed
        ) as encoder:
            assert isinstance(encoder.network.parts, Streamed) is streamed
            hidden = encoder.encode(["a red ball", "slow music and the rain"])
        with lender.borrow("connectors", streamed=streamed) as connectors:
            contexts = [connectors(states) for states in hidden]
        found[streamed] = [np.array(a) for a in (*hidden, *(a for context in contexts for a in context))]
    assert len(found[True]) == 6
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[True], found[False], strict=True))


@pytest.mark.slow
def test_a_converted_and_quantized_folder(small_folder, tmp_path) -> None:
    """Tensors under the module's own paths, packed in 8 bit."""
    source = open_checkpoint(small_folder("2.3"), "distilled")
    wishes = Wishes(mx.bfloat16, quantization=Quantization(8, 32), text_encoder=source.text_encoder)
    convert(source, tmp_path / "converted", wishes)
    (tmp_path / "converted" / "gemma").symlink_to(small_folder("2.3") / "gemma")
    whole, parts = (latents(tmp_path / "converted", low) for low in (False, True))
    assert all(whole[m].tobytes() == parts[m].tobytes() for m in whole)


@pytest.mark.slow
def test_a_file_of_8_bit_floats(small_folder, tmp_path) -> None:
    """Scales are read with the part that they belong to."""
    folder = shutil.copytree(small_folder("2.3"), tmp_path / "float8")
    kept, codes = {}, {}
    for name, array in small.tensors("2.3", "distilled").items():
        if ".ff.net." not in name or array.ndim != 2:
            kept[name] = array
            continue
        codes[name], _ = to_e4m3(np.array(array.astype(mx.float32)) / 0.01)
        kept[f"{name}_scale"] = mx.array(np.float32(0.01))
    assert len(codes) == 10  # 6 of them in blocks, 4 in the connectors
    metadata = {"config": json.dumps(small.config("2.3")), "model_version": "2.3.0"}
    save_with_float8(folder / small.NAMES["2.3"].format("distilled"), kept, codes, metadata)
    whole, parts = (latents(folder, low) for low in (False, True))
    assert all(whole[m].tobytes() == parts[m].tobytes() for m in whole)
    exact = latents(small_folder("2.3"), False)
    assert all(1e-4 < error(whole[m], exact[m]) < 0.3 for m in whole)


# ------------------------------------------------------------------------------------------------ memory


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint with a transformer of 12 blocks, 17 MiB each in bfloat16, and nothing else."""
    folder = tmp_path_factory.mktemp("wide")
    config = small.config("2.3")
    config["transformer"].update(
        num_layers=12, num_attention_heads=12, attention_head_dim=64, cross_attention_dim=768,
        audio_num_attention_heads=4, audio_attention_head_dim=64, audio_cross_attention_dim=256,
    )  # fmt: skip
    network = COMPONENTS["transformer"].build(config)
    draw = functools.cache(np.random.default_rng(0).standard_normal)
    tensors = {}
    for number, (path, shape) in enumerate(names.shapes(network).items()):
        scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
        array = np.roll(draw(shape, np.float32), number) * np.float32(scale)  # drawn once: that is what takes time
        tensors[small.DIT + path] = mx.array(array).astype(mx.bfloat16)
    metadata = {"config": json.dumps(config), "model_version": "2.3.0"}
    mx.save_safetensors(str(folder / "ltx-2.3-dev.safetensors"), tensors, metadata)
    return folder


def call(network: Transformer) -> dict:
    """One call with two texts."""
    widths = [stream.context_dim for stream in network.config.streams.values()]
    contexts = {n: Context(*(mx.ones((1, 64, w)) * i for w in widths)) for i, n in enumerate(("positive", "negative"))}
    start = mx.arange(8, dtype=mx.float32).reshape(1, 1, 8)
    times = mx.stack([start, start + 1], axis=-1)
    positions = {"video": mx.broadcast_to(times, (1, 3, 8, 2)), "audio": times}
    prepared = network.prepare(contexts, positions)
    x = {m: mx.ones((1, 8, 128)) for m in positions}
    result = network(x, dict.fromkeys(x, 0.5), prepared, [Pass(), Pass("negative")])
    mx.eval(result)
    return {(i, m): np.array(a.astype(mx.float32)) for i, tree in enumerate(result) for m, a in tree.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_memory_stays_at_a_few_blocks(wide, dtype) -> None:
    checkpoint = open_checkpoint(wide, "dev")
    taken, results = {}, {}
    for streamed in (False, True):
        with Loader(checkpoint, dtype).borrow("transformer", streamed=streamed) as network:
            block = parameter_bytes(network.transformer_blocks[0]) // (2 if dtype == mx.bfloat16 and streamed else 1)
            rest = sum(a.nbytes for path, a in tree_flatten(network.parameters()) if "transformer_blocks" not in path)
            with peaks.measured() as memory:
                results[streamed] = call(network)
                taken[streamed], held = memory.peak - rest, memory.held - rest
            assert held < (2 * MIB if streamed else 13 * block)
    assert block > 15 * MIB
    # The block in hand, the next one as the file has it, and what is computed.
    assert taken[True] < 2.5 * block
    assert taken[False] > 12 * block
    assert all(results[True][key].tobytes() == results[False][key].tobytes() for key in results[False])


@pytest.mark.slow
def test_each_part_is_read_once_per_call_and_one_ahead(wide, monkeypatch) -> None:
    events = []
    fill, empty, ahead = Streamed._fill, Streamed._empty, mx.async_eval
    monkeypatch.setattr(Streamed, "_fill", lambda self, part, visit: (events.append("use"), fill(self, part, visit)))
    monkeypatch.setattr(Streamed, "_empty", lambda self, path, part: (events.append("drop"), empty(self, path, part)))
    monkeypatch.setattr(mx, "async_eval", lambda arrays: (events.append("read"), ahead(arrays)))
    with Loader(open_checkpoint(wide, "dev"), mx.float32).borrow("transformer", streamed=True) as network:
        for _ in range(2):
            call(network)
    assert events == [*["use", "read", "drop"] * 11, "use", "drop"] * 2


def test_an_interrupted_call_leaves_no_part_in_memory(wide, monkeypatch) -> None:
    loader = Loader(open_checkpoint(wide, "dev"), mx.float32)
    with loader.borrow("transformer", streamed=True) as network:
        mx.eval([a for path, a in tree_flatten(network.parameters()) if "transformer_blocks" not in path])
        before = mx.get_active_memory()
        read = type(network.transformer_blocks[0]).read_text
        monkeypatch.setattr(type(network.transformer_blocks[0]), "read_text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(network)
        monkeypatch.setattr(type(network.transformer_blocks[0]), "read_text", read)
        # What was being read ahead arrives, and goes, in its own time.
        until = time.monotonic() + 10
        while mx.get_active_memory() - before >= 5 * MIB and time.monotonic() < until:
            time.sleep(0.01)
        assert mx.get_active_memory() - before < 5 * MIB
        assert call(network)


@pytest.mark.usefixtures("texts_are_kept")
def test_matrices_of_a_lora_do_not_stay(small_folder, own, monkeypatch) -> None:
    """They are read for each part anew, so that a LoRA as large as Lightricks' own takes no memory of its own."""
    pairs = []
    add = lora.add

    def watched(module, terms):
        pairs.append(len(terms))
        return add(module, terms)

    monkeypatch.setattr(lora, "add", watched)
    latents(small_folder("2.3"), True, lora=own)
    layers = 3
    resident, visits = [n for n in pairs if n], len(pairs)
    assert len(resident) == 1 + 11 * layers  # outside the blocks once; every block in each of 8 + 3 steps
    assert visits == 1 + 11 * layers * 2  # the second, empty ones stand for the distilled LoRA


@pytest.mark.quick("False")
@pytest.mark.parametrize("low_memory", [False, True])
def test_one_large_network_is_in_memory_at_a_time(small_folder, monkeypatch, low_memory) -> None:
    """By the lender's own doors: text encoder, transformer, decoders and vocoder never overlap."""
    alive: list[str] = []
    together: set[frozenset] = set()
    borrow, borrow_text = Loader.borrow, Loader.borrow_text_encoder

    def watch(door, name):
        @contextmanager
        def watched(self, *args, **options):
            component = name or args[0]
            with door(self, *args, **options) as network:
                alive.append(component)
                together.add(frozenset(alive))
                yield network
                alive.remove(component)
                module = network.network if component == "text_encoder" else network
            assert parameter_bytes(module) == 0, component

        return watched

    monkeypatch.setattr(lending.Loader, "borrow", watch(borrow, None))
    monkeypatch.setattr(lending.Loader, "borrow_text_encoder", watch(borrow_text, "text_encoder"))
    with LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32", low_memory=low_memory) as pipe:
        clip = pipe.generate(**CLIP)
        assert clip.waveform is not None
        assert len(list(clip)) == 9
    large = {"text_encoder", "connectors", "transformer", "video_decoder", "audio_decoder", "vocoder"}
    assert large <= set().union(*together)
    assert max(len(names & large) for names in together) == 1


def test_a_file_that_does_not_fit_is_refused_as_ever(wide, tmp_path) -> None:
    tensors = mx.load(str(wide / "ltx-2.3-dev.safetensors"), return_metadata=True)
    arrays, metadata = tensors
    arrays.pop(small.DIT + "transformer_blocks.7.ff.net.2.bias")
    mx.save_safetensors(str(tmp_path / "ltx-2.3-dev.safetensors"), arrays, metadata)
    loader = Loader(open_checkpoint(tmp_path, "dev"), mx.float32)
    missing = pytest.raises(UserError, match=r"1 tensor missing \(transformer_blocks\.7\.ff\.net\.2\.bias\)")
    with missing, loader.borrow("transformer", streamed=True):
        pass


@pytest.mark.usefixtures("texts_are_kept")
@pytest.mark.parametrize("change", ["touched", "cut short", "removed"])
def test_a_file_that_changes_underneath_a_run_ends_it(small_folder, tmp_path, change) -> None:
    folder = shutil.copytree(small_folder("2.3"), tmp_path / "own")
    file = folder / small.NAMES["2.3"].format("distilled")

    def meddle(progress):
        if (progress.phase, progress.done) == ("stage 1", 3):
            if change == "touched":
                os.utime(file, ns=(1, 1))
            elif change == "cut short":
                os.truncate(file, 1000)
            else:
                file.unlink()

    told = pytest.raises(UserError, match=rf"{file.name} changed while the run was reading it; start it again")
    with LTXPipeline.from_pretrained(folder, low_memory=True) as pipe, told:
        pipe.generate(**CLIP, on_step=meddle)
