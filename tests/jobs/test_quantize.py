"""Weights in few bits: made while loading or by convert, read from packs, under LoRAs; 8-bit floats with scales."""

import functools
import json
import struct

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import LTXPipeline, UserError, generate
from mlx_video import convert as convert_command
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.jobs.convert import Wishes, block_errors, convert
from mlx_video.lending.loader import Loader, read_text_encoder
from mlx_video.models.families import DEFAULT
from mlx_video.models.ltx_2 import load
from mlx_video.weights import quantize
from mlx_video.weights.quantize import Quantization, QuantizedLinear
from tests.support import foreign, peaks, small, small_gemma4, wide
from tests.support.cases import error

pytestmark = pytest.mark.usefixtures("texts_are_kept")
Q8, Q4 = Quantization(8, 64), Quantization(4, 32)


@pytest.fixture(scope="module")
def folder(small_folder, tmp_path_factory):
    return wide.write(tmp_path_factory.mktemp("wide") / "source", small_folder("2"), wide.tensors())


@pytest.fixture(scope="module")
def rounded(small_folder, tmp_path_factory):
    """Official files with the weights that quantizing to 8 bit in groups of 64 leaves."""
    found = wide.rounded(wide.tensors(), *Q8)
    return wide.write(tmp_path_factory.mktemp("wide") / "rounded", small_folder("2"), found)


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("wide") / "q8"
    source = open_checkpoint(folder, "distilled")
    convert(source, output, Wishes(quantization=Q8))
    (output / "gemma").symlink_to(folder / "gemma")
    return output


def latents(path, quantize=None, **options):
    with LTXPipeline.from_pretrained(path, dtype="float32", quantize=quantize) as pipe:
        clip = pipe.generate(prompt="a red ball", height=64, width=64, num_frames=9, seed=3, **options)
    return {modality: np.array(value) for modality, value in clip.latents.items()}


unchanged = functools.cache(latents)
"""Runs of what nothing changes, made once."""


def apart(ours, reference):
    return max(error(ours[m], reference[m]) for m in reference)


def layers_of(network):
    return {path: m for path, m in network.named_modules() if isinstance(m, nn.QuantizedLinear)}


# ------------------------------------------------------------------------------------------------ made here


def test_quantizing_while_loading_computes_with_the_rounded_weights(folder, rounded):
    plain, found = unchanged(folder), unchanged(folder, 8)
    assert apart(found, unchanged(rounded)) < 1e-5
    assert 1e-4 < apart(found, plain) < 0.3


def test_a_converted_folder_gives_the_same_numbers_as_quantizing_while_loading(folder, converted):
    ours, theirs = latents(converted), unchanged(folder, 8)
    assert all(ours[m].tobytes() == theirs[m].tobytes() for m in theirs)


def test_a_folder_converted_in_16_bit_can_be_quantized_later(folder, converted, tmp_path):
    convert(open_checkpoint(folder, "distilled"), tmp_path / "plain")
    with pytest.raises(UserError, match="converted already"):
        convert(open_checkpoint(tmp_path / "plain", "distilled"), tmp_path / "same")
    convert(open_checkpoint(tmp_path / "plain", "distilled"), tmp_path / "q8", Wishes(quantization=Q8))
    ours, theirs = (mx.load(str(place / "transformer/model.safetensors")) for place in (tmp_path / "q8", converted))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[path], theirs[path]) for path in theirs)


def test_only_linear_layers_of_the_blocks_are_quantized(folder, converted):
    checkpoint = open_checkpoint(converted, "distilled")
    assert checkpoint.stated == Q8
    written = {p: e.dtype for p, e in checkpoint.part("transformer").tensors.entries.items()}
    packed = {path.removesuffix(".weight") for path, dtype in written.items() if dtype == "U32"}
    assert packed == {n[len(small.DIT) : -len(".weight")] for n in wide.transformer() if wide.is_quantized(n)}
    others = {path: dtype for path, dtype in written.items() if path.rpartition(".")[0] not in packed}
    assert {dtype for path, dtype in others.items() if "scale_shift_table" in path} == {"F32"}
    assert {dtype for path, dtype in others.items() if "scale_shift_table" not in path} == {"BF16"}
    assert any("to_gate_logits" in path for path in others)
    assert any("adaln" in path for path in others)
    with Loader(open_checkpoint(folder, "distilled"), mx.float32, Q8).borrow("transformer") as network:
        assert set(layers_of(network)) == packed
        assert {array.dtype for _, array in tree_flatten(network.parameters())} == {mx.float32, mx.uint32}


def test_a_lora_stays_whole_beside_quantized_weights(folder, rounded, tmp_path):
    for seed in (1, 2):
        mx.save_safetensors(str(tmp_path / f"{seed}.safetensors"), wide.lora(seed))
    loras = [(str(tmp_path / "1.safetensors"), 0.7), (str(tmp_path / "2.safetensors"), -0.4)]
    found = latents(folder, 8, lora=loras)
    assert apart(found, latents(rounded, lora=loras)) < 1e-5
    assert apart(found, unchanged(folder, 8)) > 1e-2


def test_only_one_block_is_held_twice(small_folder, tmp_path):
    sizes = {"attention_head_dim": 128, "cross_attention_dim": 256, "audio_attention_head_dim": 128, "num_layers": 8}
    sizes |= {"audio_cross_attention_dim": 256}
    mx.save_safetensors(str(tmp_path / wide.FILE), wide.tensors(**sizes), {"config": json.dumps(wide.config(**sizes))})
    checkpoint = open_checkpoint(tmp_path, "distilled")
    block = checkpoint.part("transformer").tensors.nbytes([f"{small.DIT}transformer_blocks.0."])
    with peaks.measured() as memory, Loader(checkpoint, mx.bfloat16, Q8).borrow("transformer") as network:
        held, peak = memory.held, memory.peak
        assert 0.5 * 8 * block < held < 0.6 * 8 * block
        assert len(layers_of(network)) == 8 * 28
    assert peak < held + 1.2 * block


def test_layers_whose_rows_are_no_whole_groups_stay_and_nothing_at_all_is_an_error(folder, small_folder):
    loader = Loader(open_checkpoint(folder, "distilled"), mx.float32, Quantization(4, 128))
    with loader.borrow("transformer") as network:
        found = {path.removeprefix("transformer_blocks.0.") for path in layers_of(network)}
        assert {path for path in found if not path.startswith("transformer_blocks")} == {"ff.net.2", "audio_ff.net.2"}
    block = nn.Module()
    block.layer = nn.Linear(40, 64)
    with pytest.raises(UserError, match="No layer here can be quantized in groups of 32"):
        quantize.quantize([block], Q4)


def test_fewer_bits_cost_more_and_the_measure_says_how_much(folder):
    checkpoint = open_checkpoint(folder, "distilled")
    found = {group: block_errors(checkpoint, group) for group in (32, 64)}
    for errors in found.values():
        assert set(errors) == {4, 8}
        assert errors[4] > 8 * errors[8]
        assert 5e-4 < errors[8] < 2e-2
    assert found[32][4] < found[64][4]


def test_the_cpu_s_own_way_to_multiply_is_the_same_product():
    rng = mx.random.key(0)
    layer = QuantizedLinear.from_linear(nn.Linear(64, 48), 32, 4)
    for rows in (1, 15, 16, 200):
        x = mx.random.normal((2, rows, 64), key=rng)
        expected = mx.quantized_matmul(x, layer.weight, layer.scales, layer.biases, group_size=32, bits=4) + layer.bias
        assert error(layer(x), expected) < 1e-6


def test_layers_of_other_peoples_stay_as_they_are(small_folder):
    own = nn.QuantizedLinear.__call__
    with LTXPipeline.from_pretrained(small_folder("2.3"), quantize=8) as pipe:
        pipe.generate(prompt="x", height=64, width=64, num_frames=9, audio=False)
    assert nn.QuantizedLinear.__call__ is own
    assert own.__module__.startswith("mlx.")


# ------------------------------------------------------------------------------------------------ arriving so


def quantized_pack(place, small, bits, group):
    """mlx-forge's quantized variant: every matrix of the blocks, gates too; the rest as in its plain packs."""
    tensors = wide.tensors()
    found = {}
    for name, array in foreign.transformer(tensors).items():
        if name.startswith("transformer_blocks.") and name.endswith(".weight") and array.ndim == 2:
            parts = zip(("weight", "scales", "biases"), mx.quantize(array, group, bits), strict=True)
            found |= {f"transformer.{name.removesuffix('weight')}{leaf}": part for leaf, part in parts}
        else:
            found[f"transformer.{name}"] = array
    foreign.forge(place, small, "2")
    foreign.save(place / "transformer-distilled.safetensors", found)
    foreign.write_json(place / "embedded_config.json", wide.config())
    foreign.write_json(place / "config.json", {"model_version": "2.0.0"})
    foreign.write_json(place / "quantize_config.json", {"quantization": {"bits": bits, "group_size": group}})
    return place


@pytest.fixture(scope="module")
def forge(small_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small.VERSIONS, "2", "2.0.0")
        return quantized_pack(tmp_path_factory.mktemp("forge") / "q4", small_folder("2"), 4, 32)


def test_a_quantized_pack_is_read_as_it_is(forge, small_folder, tmp_path):
    checkpoint = open_checkpoint(forge, "distilled")
    assert checkpoint.stated == Q4
    network = load("transformer", forge)
    assert quantize.used(network) == Q4
    assert any("to_gate_logits" in path for path in layers_of(network))
    matrices = wide.rounded(wide.tensors(), 4, 32, lambda n: "transformer_blocks." in n and n.endswith("weight"))
    same = wide.write(tmp_path / "rounded", small_folder("2"), matrices)
    assert apart(unchanged(forge), latents(same)) < 1e-5


def test_a_quantized_pack_is_converted_without_losing_anything(forge, tmp_path):
    convert(open_checkpoint(forge, "distilled"), tmp_path / "ours")
    (tmp_path / "ours" / "gemma").symlink_to(forge / "gemma")
    found, expected = latents(tmp_path / "ours"), unchanged(forge)
    assert all(found[m].tobytes() == expected[m].tobytes() for m in expected)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"bits": 7, "group_size": 32}, "have 7 bits in groups of 32 .*supported here: 2, 3, 4, 5, 6 and 8 bits"),
        ({"bits": 4, "group_size": 48}, "groups of 48"),
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mxfp4"),
        ({"bits": 8, "group_size": 32}, "says 8 bit, groups of 32, but its weights have 4 bit, groups of 32"),
        ("four", "'four'"),
    ],
    ids=str,
)
def test_what_a_pack_says_of_its_bits_must_be_known_and_true(forge, stated, said, monkeypatch, tmp_path):
    place = tmp_path / "pack"
    place.mkdir()
    for file in forge.iterdir():
        (place / file.name).symlink_to(file)
    (place / "quantize_config.json").unlink()
    foreign.write_json(place / "quantize_config.json", {"quantization": stated})
    with pytest.raises(UserError, match=said):
        load("transformer", place)


def test_a_pack_whose_shapes_are_no_quantization_is_told(forge, tmp_path):
    place = tmp_path / "pack"
    place.mkdir()
    for file in forge.iterdir():
        (place / file.name).symlink_to(file)
    (place / "quantize_config.json").unlink()
    file = place / "transformer-distilled.safetensors"
    tensors = dict(mx.load(str(file)))
    file.unlink()
    name = "transformer.transformer_blocks.0.attn1.to_q.weight"
    foreign.save(file, {**tensors, name: tensors[name][:, :-1]})
    with pytest.raises(UserError, match=r"to_q\.weight is U32 \[64, 7\] with scales \[64, 2\] for a layer of 64 x 64"):
        load("transformer", place)


def test_quantizing_again_is_refused_and_the_same_again_changes_nothing(forge, converted):
    with pytest.raises(UserError, match=r"already \(8 bit, groups of 64\); 4 bit, groups of 64 cannot be made of it"):
        latents(converted, 4)
    with Loader(open_checkpoint(converted, "distilled"), mx.float32, Q8).borrow("transformer") as network:
        assert quantize.used(network) == Q8


@pytest.mark.parametrize("bits", [3, 16, 0])
def test_other_bits_are_refused(folder, bits):
    with pytest.raises(UserError, match=rf"Quantizing to {bits!r} bits is not supported; there are 4 and 8 bits\."):
        LTXPipeline.from_pretrained(folder, quantize=bits)


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        (generate, ["--prompt", "a", "--quantize", "3"], "choose from 4, 8"),
        (convert_command, ["--source", ".", "--output", "x", "--quantize", "3"], "choose from 4, 8"),
        (convert_command, ["--source", ".", "--output", "x", "--quantize", "4", "--group-size", "48"], "32, 64, 128"),
        (convert_command, ["--source", ".", "--output", "x", "--group-size", "64"], "no effect without --quantize"),
    ],
    ids=str,
)
def test_flags_that_cannot_be_are_one_line_and_2(command, flags, said, capsys):
    try:
        status = command.main(flags)
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr().err
    assert (status, told.count("\n")) == (2, 1)
    assert said in told


# ------------------------------------------------------------------------------------------------ the text encoder


def test_a_quantized_text_encoder_lies_in_the_folder_and_is_used(folder, tmp_path):
    checkpoint = open_checkpoint(folder, "distilled")
    wishes = Wishes(text_encoder=checkpoint.text_encoder, text_quantization=Quantization(8, 32))
    convert(checkpoint, tmp_path / "out", wishes)
    found = open_checkpoint(tmp_path / "out", "distilled")
    assert found.text_encoder == str(tmp_path / "out" / "text_encoder")
    plain, few = (
        read_text_encoder(TextSource.open(DEFAULT, p), mx.float32)
        for p in (folder / "gemma", tmp_path / "out" / "text_encoder")
    )
    layers = layers_of(few.network)
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}  # rows of 48 are no groups of 32
    assert {path.rpartition(".")[2] for path in layers} == projections
    (expected,), (hidden,) = plain.encode(["a red ball"]), few.encode(["a red ball"])
    assert 1e-4 < error(hidden, expected) < 5e-2
    assert apart(latents(tmp_path / "out"), unchanged(folder)) < 0.1
    with pytest.raises(UserError, match="is quantized already"):
        convert(found, tmp_path / "again", Wishes(mx.bfloat16, text_encoder=found.text_encoder, text_quantization=Q8))
    assert not (tmp_path / "again").exists()


def test_a_text_encoder_in_one_file_becomes_a_quantized_folder(folder, tmp_path):
    file = small_gemma4.write_file(tmp_path / small_gemma4.NAME)
    wishes = Wishes(text_encoder=str(file), text_quantization=Quantization(8, 32))
    convert(open_checkpoint(folder, "distilled"), tmp_path / "out", wishes)
    source = TextSource.open(DEFAULT, tmp_path / "out" / "text_encoder")
    assert source.gemma_version == small_gemma4.VERSION
    assert all(name.startswith("model.") for name in source.tensors.entries)
    plain, few = (read_text_encoder(one, mx.float32) for one in (TextSource.open(DEFAULT, file), source))
    assert len(layers_of(few.network)) == 6 * 7 - 2  # two layers have no v_proj
    (expected,), (hidden,) = plain.encode(["a red ball"]), few.encode(["a red ball"])
    assert 1e-4 < error(hidden, expected) < 5e-2


# ------------------------------------------------------------------------------------------------ 8-bit floats


def e4m3_table():
    codes = np.arange(256)
    sign, exponent, mantissa = codes >> 7, (codes >> 3) & 15, codes & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value[(codes & 127) == 127] = np.nan
    return np.where(sign == 1, -value, value)


def to_e4m3(array):
    """Codes of the nearest 8-bit floats, and their values."""
    table = e4m3_table()[:127]  # the positive ones, in order
    nearest = np.abs(np.abs(array)[..., None] - table).argmin(-1)
    return (nearest + 128 * (array < 0)).astype(np.uint8), np.sign(array) * table[nearest]


def save_with_float8(path, tensors, float8, metadata):
    """`float8`: name -> codes. Written by hand, because MLX writes none."""
    mx.save_safetensors(str(path), tensors, metadata)
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    for name, codes in float8.items():
        span = [len(data), len(data) + codes.size]
        header[name] = {"dtype": "F8_E4M3", "shape": list(codes.shape), "data_offsets": span}
        data += codes.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_mlx_knows_every_8_bit_float():
    found = np.array(mx.from_fp8(mx.arange(256).astype(mx.uint8), dtype=mx.float32))
    np.testing.assert_array_equal(found, e4m3_table().astype(np.float32))


@pytest.fixture(scope="module")
def float8(small_folder, tmp_path_factory):
    """An fp8 checkpoint (a scale for the tensor, for each row, or none), and the same numbers in float32."""
    kept, codes, plain = {}, {}, {}
    for i, (name, array) in enumerate(wide.tensors().items()):
        values = np.array(array.astype(mx.float32))
        if not wide.is_quantized(name):
            kept[name] = plain[name] = array
            continue
        scale = [np.float32(0.01), np.geomspace(0.005, 0.08, len(values)).astype(np.float32), None][i % 3]
        rows = 1.0 if scale is None else np.reshape(scale, (-1, 1))
        codes[name], decoded = to_e4m3(values / rows)
        plain[name] = mx.array((decoded * rows).astype(np.float32))
        if scale is not None:
            kept[f"{name}_scale"] = mx.array(scale)
            kept[name.removesuffix("weight") + "input_scale"] = mx.array(np.float32(1.5))
    metadata = {"config": json.dumps(wide.config())}
    places = [tmp_path_factory.mktemp("fp8") / kind for kind in ("fp8", "plain")]
    for place in places:
        wide.write(place, small_folder("2"), plain)
    (places[0] / wide.FILE).unlink()
    save_with_float8(places[0] / "ltx-2-19b-distilled-fp8.safetensors", kept, codes, metadata)
    return places


def test_an_fp8_file_computes_with_its_scales(float8):
    assert apart(latents(float8[0]), unchanged(float8[1])) < 1e-6


def test_an_fp8_file_is_converted_to_16_bit(float8, tmp_path):
    convert(open_checkpoint(float8[0], "distilled"), tmp_path / "out")
    (tmp_path / "out" / "gemma").symlink_to(float8[0] / "gemma")
    written = open_checkpoint(tmp_path / "out", "distilled").part("transformer").tensors
    assert {entry.dtype for entry in written.entries.values()} == {"BF16", "F32"}
    assert not any(name.endswith("_scale") for name in written.entries)
    assert apart(latents(tmp_path / "out"), unchanged(float8[1])) < 2e-2  # rounded to bfloat16


def test_an_fp8_file_can_be_quantized_further(float8):
    found = latents(float8[0], 8)
    assert 1e-4 < apart(found, unchanged(float8[1])) < 0.3


def test_scales_by_block_are_refused(tmp_path):
    codes = {"model.diffusion_model.patchify_proj.weight": np.zeros((64, 128), np.uint8)}
    scales = {f"{name}_scale": mx.ones((2, 2)) for name in codes}
    file = tmp_path / "blocks.safetensors"
    save_with_float8(file, {**scales, **wide.transformer()} | scales, {}, {"config": json.dumps(wide.config())})
    kept = {n: a for n, a in mx.load(str(file)).items() if n not in codes}
    save_with_float8(file, kept, codes, {"config": json.dumps(wide.config())})
    with pytest.raises(UserError, match=r"patchify_proj\.weight_scale has shape \[2, 2\].*one for each of its 64 rows"):
        load("transformer", file)


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_scales_and_biases_are_in_the_type_that_is_computed_in(folder, converted, name, packed, streamed):
    """An M1 and an M2 multiply in float16; scales in the file's bfloat16 would take the products back to it."""
    dtype = getattr(mx, name)
    loader = Loader(open_checkpoint(converted if packed else folder, "distilled"), dtype, None if packed else Q8)
    with loader.borrow("transformer", streamed=streamed) as network:
        seen = set()
        for part in network.parts([]):
            seen |= {array.dtype for layer in layers_of(part).values() for array in (layer.scales, layer.biases)}
    assert seen == {dtype}
