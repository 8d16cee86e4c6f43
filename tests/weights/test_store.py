"""Safetensors files as users meet them: whole, cut short, damaged, in shards, with a shard missing."""

import json
import os
import random
import struct

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.types import UserError
from mlx_video.weights.store import DTYPE_BYTES, Entry, Tensors, read_header

GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
}


def write(path, header, data=b"\0" * 16):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def changed(name, **values):
    return GOOD | {name: GOOD[name] | values}


def test_names_shapes_dtypes_and_bytes_come_from_the_header(tmp_path):
    header = read_header(write(tmp_path / "x.safetensors", GOOD))
    assert header.tensors == {"a": Entry("F32", (2,), 8), "b": Entry("BF16", (2, 2), 8)}
    assert header.metadata == {}


def test_metadata_is_parsed_where_it_is_json(tmp_path):
    texts = {"config": '{"transformer": {"num_layers": 4}}', "model_version": "2.3.0", "license": "as is", "count": "7"}
    tensors = Tensors([write(tmp_path / "x.safetensors", GOOD | {"__metadata__": texts})])
    assert tensors.metadata["config"] == {"transformer": {"num_layers": 4}}
    assert tensors.metadata["model_version"] == "2.3.0"
    assert tensors.metadata["license"] == "as is"
    assert tensors.metadata["count"] == 7


def test_files_without_tensors_and_empty_tensors_are_read(tmp_path):
    assert read_header(write(tmp_path / "none.safetensors", {}, b"")).tensors == {}
    empty = {"e": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}, **GOOD}
    tensors = Tensors([write(tmp_path / "empty.safetensors", empty)])
    assert tensors.entries["e"] == Entry("F32", (0, 3), 0)
    assert tensors.load()["e"].shape == (0, 3)


def test_scalars_and_all_common_dtypes_come_back_as_written(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "scalar": mx.array(1.5),
        "bf16": mx.array(rng.standard_normal((3, 5), np.float32)).astype(mx.bfloat16),
        "f16": mx.array(rng.standard_normal(4).astype(np.float16)),
        "i64": mx.array(rng.integers(-5, 5, 3)),
        "u8": mx.array(rng.integers(0, 255, 7).astype(np.uint8)),
        "bool": mx.array([True, False]),
    }
    mx.save_safetensors(str(tmp_path / "x.safetensors"), arrays)
    loaded = Tensors([tmp_path / "x.safetensors"]).load()
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert mx.array_equal(loaded[name], array)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40])
def test_a_file_cut_in_its_head_is_refused(tmp_path, length):
    path = write(tmp_path / "x.safetensors", GOOD)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"x\.safetensors is not a whole safetensors file: it has {length} bytes"):
        read_header(path)


def test_a_truncated_file_says_both_byte_counts(tmp_path):
    path = write(tmp_path / "x.safetensors", GOOD, b"\0" * 13)
    with pytest.raises(UserError, match=r"x\.safetensors is truncated: 13 bytes of tensors, 16 expected; download"):
        read_header(path)
    write(path, GOOD, b"\0" * 17)
    with pytest.raises(UserError, match="longer than its header says: 17 bytes of tensors, 16 expected"):
        read_header(path)


def test_large_byte_counts_have_separators(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [2_500_000], "data_offsets": [0, 10_000_000]}}
    with pytest.raises(UserError, match="12 bytes of tensors, 10,000,000 expected"):
        read_header(write(tmp_path / "x.safetensors", header, b"\0" * 12))


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + b"z" * 200, b"<!DOCTYPE html>" * 20, b"version https://git-lfs" * 9]
)
def test_other_kinds_of_files_are_refused(tmp_path, content):
    # A zip of PyTorch, a web page saved instead of the file, a pointer of Git LFS.
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"x\.safetensors is not a whole safetensors file: it has {len(content)} bytes"
    ):
        read_header(path)


@pytest.mark.parametrize("header", [b"{'a': 1}", b"\xff\xfe{}", b"[]", b"77", b"null", b'{"a"'])
def test_headers_that_are_no_json_object_are_refused(tmp_path, header):
    with pytest.raises(UserError, match=r"x\.safetensors is not a safetensors file: its header is not"):
        read_header(write(tmp_path / "x.safetensors", header))


DAMAGED = {
    "not described": (GOOD | {"a": 3}, "at tensor 'a'"),
    "no dtype": (GOOD | {"a": {"shape": [2], "data_offsets": [0, 8]}}, "at tensor 'a'"),
    "no offsets": (GOOD | {"b": {"dtype": "BF16", "shape": [2, 2]}}, "at tensor 'b'"),
    "three offsets": (changed("a", data_offsets=[0, 4, 8]), "at tensor 'a'"),
    "offsets of text": (changed("a", data_offsets=["0", "8"]), "at tensor 'a'"),
    "dtype as a list": (changed("a", dtype=["F32"]), "at tensor 'a'"),
    "sides of text": (changed("a", shape=["2"]), "at tensor 'a'"),
    "negative sides": (changed("b", shape=[-2, -2]), "at tensor 'b'"),
    "strange dtype": (changed("a", dtype="Q4_K"), "'a' has dtype 'Q4_K'; known are BOOL"),
    "span too short": (changed("a", data_offsets=[0, 4]), r"'a' is F32 \[2\] but spans 4 bytes"),
    "another shape": (changed("b", shape=[3, 2]), r"'b' is BF16 \[3, 2\] but spans 8 bytes"),
    "overlapping": (changed("b", data_offsets=[4, 12]), "overlap or leave a gap at byte 8"),
    "the same place": (changed("b", data_offsets=[0, 8]), "overlap or leave a gap at byte 8"),
    "a gap": (changed("b", data_offsets=[9, 17]), "overlap or leave a gap at byte 8"),
    "metadata as a list": (GOOD | {"__metadata__": ["x"]}, "metadata must be texts"),
    "metadata of numbers": (GOOD | {"__metadata__": {"config": 5}}, "metadata must be texts"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_refused(tmp_path, case):
    header, message = DAMAGED[case]
    with pytest.raises(UserError, match=rf"x\.safetensors.*{message}"):
        read_header(write(tmp_path / "x.safetensors", header))


def test_flipped_bytes_never_end_in_anything_but_a_user_error(tmp_path):
    path = write(tmp_path / "x.safetensors", GOOD | {"__metadata__": {"config": "{}"}})
    whole, rng, messages = path.read_bytes(), random.Random(0), []
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged) - 16)] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.3 else damaged)
        try:
            read_header(path)
        except UserError as fault:
            messages.append(str(fault))
    assert len(messages) > 130
    assert all("x.safetensors" in message for message in messages)


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.safetensors cannot be read: No such file"):
        read_header(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match="is a folder; a file is needed"):
        read_header(tmp_path)


STRANGE = [
    *(GOOD | {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}
      for shape in ([True, 2], [2.0], [None], [[2]], "2", 2, {"a": 2}, [10**12], [2] + [1] * 40, ["\u00b2"])),
    *(GOOD | {"a": {"dtype": "F32", "shape": [2], "data_offsets": span}}
      for span in ([False, 8], [0.0, 8.0], ["0", "8"], [8, 0], [-8, 0], [0, 10**30], [0], [], None, {}, 8)),
    *(GOOD | {"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 8]}}
      for kind in (5, None, "", "F31", "C64", "x" * 10**5, ["F32"], {}, "f32")),
    *(GOOD | {"a": described} for described in (None, [], "x", 5, {}, {"dtype": "F32"})),
    *({**GOOD, "__metadata__": texts} for texts in
      ([], "x", 5, [["a", "b"]], {"a": None}, {"a": {"b": "c"}}, {"a": 1.5})),
    *({**GOOD, "__metadata__": {"config": text}} for text in
      ("[" * 10**5, '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}',
       '{"a": "\\ud800"}', "[" * 90 + "]" * 90, '{"a": ' + "9" * 5000 + "}")),
    {"e": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}, **GOOD},
    {"x" * 1000: GOOD["a"], "b": GOOD["b"]}, {"a\x1b[2J": GOOD["a"], "b": GOOD["b"]},
    {"a\n": GOOD["a"], "b": GOOD["b"]},
]  # fmt: skip


def test_strange_headers_are_refused_by_the_files_name(tmp_path):
    for header in STRANGE:
        with pytest.raises(UserError, match=r"x\.safetensors") as caught:
            read_header(write(tmp_path / "x.safetensors", header))
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()


RAW = (
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"[" * 10**5,
    b'{"a":' * 10**4,
    b'{"a": 1, "a": 1}',
    b"\x80{}",
    b"{}{}",
)


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_headers_of_other_spellings_are_refused(tmp_path, raw):
    with pytest.raises(UserError, match=r"x\.safetensors is not a safetensors file: its header is not JSON"):
        read_header(write(tmp_path / "x.safetensors", raw, b""))


@pytest.mark.parametrize("dtype", ["I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "F64", "F8_E5M2"])
def test_weights_of_other_kinds_are_refused_by_name(tmp_path, dtype):
    size = DTYPE_BYTES[dtype]
    header = {"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}
    tensors = Tensors([write(tmp_path / "x.safetensors", header, b"\0" * 2 * size)])
    with pytest.raises(UserError, match=r"x\.safetensors: tensor 'w' is "):
        tensors.check_floats(["w"])


def test_one_tensor_that_mlx_does_not_load_is_named_before_another_is_loaded(tmp_path):
    header = GOOD | {"far.away": {"dtype": "F64", "shape": [1], "data_offsets": [16, 24]}}
    tensors = Tensors([write(tmp_path / "x.safetensors", header, b"\0" * 24)]).renamed(lambda name: f"new.{name}")
    for use in (lambda: tensors.load(["new.a"]), lambda: tensors.check_floats(["new.a"])):
        with pytest.raises(UserError, match=r"x\.safetensors: tensor 'far.away' is F64"):
            use()


def test_packs_of_few_bits_and_8_bit_floats_are_weights(tmp_path):
    kinds = {"l.weight": "U32", "l.scales": "BF16", "l.biases": "F16", "m.weight": "F8_E4M3", "m.weight_scale": "F32",
             "n.weight": "U32", "n.scales": "U8"}  # fmt: skip
    header, end = {}, 0
    for name, dtype in kinds.items():
        header[name] = {"dtype": dtype, "shape": [1], "data_offsets": [end, end + DTYPE_BYTES[dtype]]}
        end += DTYPE_BYTES[dtype]
    tensors = Tensors([write(tmp_path / "x.safetensors", header, b"\0" * end)])
    tensors.check_floats(kinds)
    with pytest.raises(UserError, match=r"'m.weight' is F8_E4M3"):
        tensors.check_floats(kinds, float8=False)


# ---------------------------------------------------------------------------------------------------- several files


def save(path, **arrays):
    mx.save_safetensors(str(path), {name: mx.array(value, dtype=mx.float32) for name, value in arrays.items()})


def test_several_files_are_one_mapping(tmp_path):
    save(tmp_path / "1.safetensors", **{"x.a": [1.0], "y.b": [2.0, 3.0]})
    save(tmp_path / "2.safetensors", **{"x.c": [4.0]})
    tensors = Tensors([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert "x.c" in tensors
    assert "x.d" not in tensors
    assert {name: array.tolist() for name, array in tensors.load(["x."]).items()} == {"x.a": [1.0], "x.c": [4.0]}
    assert tensors.load().keys() == {"x.a", "y.b", "x.c"}
    assert tensors.load(["x.c", "y."]).keys() == {"x.c", "y.b"}
    assert tensors.load([]) == {}
    assert (tensors.nbytes(), tensors.nbytes(["y."]), tensors.nbytes(["z"]), tensors.nbytes([])) == (16, 8, 0, 0)


def test_the_first_files_metadata_counts(tmp_path):
    write(tmp_path / "1.safetensors", {"__metadata__": {"config": "1"}}, b"")
    write(tmp_path / "2.safetensors", {"__metadata__": {"config": "2", "more": "3"}}, b"")
    assert Tensors([tmp_path / f"{i}.safetensors" for i in (1, 2)]).metadata == {"config": 1, "more": 3}


def test_a_tensor_in_two_files_is_refused(tmp_path):
    save(tmp_path / "1.safetensors", a=[1.0])
    save(tmp_path / "2.safetensors", a=[2.0])
    with pytest.raises(UserError, match=r"'a' stands both in .*1\.safetensors and in .*2\.safetensors"):
        Tensors.of_folder(tmp_path)


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_an_index_says_which_files_belong_together(tmp_path):
    save(tmp_path / "model-00001-of-00002.safetensors", a=[1.0])
    save(tmp_path / "model-00002-of-00002.safetensors", b=[2.0])
    save(tmp_path / "consolidated.safetensors", a=[1.0], b=[2.0])
    index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    tensors = Tensors.of_folder(tmp_path)
    assert [path.name for path in tensors.paths] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert tensors.load()["b"].tolist() == [2.0]


def test_a_missing_shard_is_named(tmp_path):
    save(tmp_path / "model-00001-of-00002.safetensors", a=[1.0])
    index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    with pytest.raises(UserError, match=r"is incomplete: .*index\.json names model-00002-of-00002\.safetensors"):
        Tensors.of_folder(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    save(tmp_path / "model-00001-of-00002.safetensors", a=[1.0])
    save(tmp_path / "model-00002-of-00002.safetensors", b=[2.0] * 50)
    index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(
        UserError, match=r"00002-of-00002\.safetensors is truncated: 140 bytes of tensors, 200 expected"
    ):
        Tensors.of_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "\udcff"])
def test_a_damaged_index_is_named(tmp_path, content):
    save(tmp_path / "model.safetensors", a=[1.0])
    (tmp_path / "model.safetensors.index.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is not a safetensors index"):
        Tensors.of_folder(tmp_path)


OUTSIDE = (
    "../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b.safetensors", "x\0.safetensors",
    "secret.txt", "a\n.safetensors", "~/x.safetensors", "./model.safetensors", "C:\\x.safetensors",
)  # fmt: skip


def test_an_index_names_files_beside_it_alone(tmp_path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "secret.safetensors", a=[1.0])
    for name in (*OUTSIDE, str(tmp_path / "secret.safetensors")):
        index(tmp_path / "in", {"a": name})
        with pytest.raises(UserError, match=r"names the file .*beside it, without folders"):
            Tensors.of_folder(tmp_path / "in")


def test_an_index_of_links_as_in_the_hubs_cache_is_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save(tmp_path / "blobs" / "0123", a=[1.0])
    (tmp_path / "blobs" / "0123.safetensors").rename(tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0123")
    index(tmp_path / "snapshot", {"a": "model.safetensors"})
    assert Tensors.of_folder(tmp_path / "snapshot").load()["a"].tolist() == [1.0]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    index(tmp_path, {"a": "model.safetensors"})
    with pytest.raises(UserError, match=r"model\.safetensors is a pipe; a file is needed"):
        Tensors.of_folder(tmp_path)


def test_a_folder_without_an_index_is_all_its_files(tmp_path):
    assert Tensors.of_folder(tmp_path).entries == {}
    save(tmp_path / "b.safetensors", b=[1.0])
    save(tmp_path / "a.safetensors", a=[1.0])
    (tmp_path / "notes.txt").write_text("not weights")
    assert [path.name for path in Tensors.of_folder(tmp_path).paths] == ["a.safetensors", "b.safetensors"]


def test_loading_reads_no_bytes_until_they_are_needed(tmp_path):
    save(tmp_path / "x.safetensors", **{f"layer{i}": np.ones((512, 512)) for i in range(16)})
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    arrays = Tensors([tmp_path / "x.safetensors"]).load()
    assert mx.get_peak_memory() - before < 1 << 20
    mx.eval(arrays["layer3"])
    assert mx.get_peak_memory() - before < 2 << 20
