"""What a user or a file names: paths that are none, files that are no files, JSON that is none."""

import json
import os
import threading

import pytest

from mlx_video import reading
from mlx_video.types import UserError

NO_PATHS = {
    "": "is empty", "   ": "is empty", "a\0b": "characters that no path has", "\ud800": "characters that no path has",
    "~nobody-of-that-name/x": "no home of a user 'nobody-of-that-name'", "x" * 300: "is too long for a path",
    "a fox runs over the hill, " * 20: "is too long for a path", "y/" * 5000: "is too long for a path",
    "\u96e8" * 100: "is too long for a path", "a/" + "z" * 256 + "/b": "is too long for a path",
}  # fmt: skip


def test_what_can_be_no_path_is_refused_by_the_flags_name():
    for text, why in NO_PATHS.items():
        with pytest.raises(UserError, match=f"--lora.* {why}") as caught:
            reading.path_of(text, "--lora")
        assert len(str(caught.value)) < 200
        assert not reading.is_there(text)


def test_paths_that_are_some(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reading.path_of("~/x", "--lora") == tmp_path / "x"
    assert reading.path_of(".", "--lora").is_dir()
    assert reading.path_of(tmp_path, "--lora") == tmp_path
    (tmp_path / "f").write_text("")
    assert reading.path_of(str(tmp_path / "f" / "under"), "--lora").name == "under"
    assert not reading.is_there(tmp_path / "f" / "under")


def specials(folder):
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "to fifo").symlink_to(folder / "fifo")
    return [
        folder / name for name in ("fifo", "folder", "loop", "gone", "zero", "to fifo", "absent", "a\0b", "x" * 300)
    ]


def test_only_files_are_opened_and_nothing_is_waited_for(tmp_path):
    refused = []

    def try_all():
        for path in specials(tmp_path):
            for read in (reading.open_file, reading.read_json, lambda path: reading.read_bytes(path, 10)):
                with pytest.raises(UserError):
                    read(path)
            refused.append(path)

    thread = threading.Thread(target=try_all, daemon=True)
    thread.start()
    thread.join(20)
    assert len(refused) == 9
    with pytest.raises(UserError, match="is a pipe; a file"):
        reading.open_file(tmp_path / "fifo")
    with pytest.raises(UserError, match=r"--model-repo .* is a device"):
        reading.check_kind(tmp_path / "zero", "--model-repo")


NO_JSON = {
    "BOM": b"\xef\xbb\xbf{}", "UTF-16": "{}".encode("utf-16"), "UTF-32": "{}".encode("utf-32"), "empty": b"",
    "half": b'{"a": ', "a list too deep": b"[" * 10**6, "closed, too deep": b"[" * 100 + b"]" * 100,
    "objects too deep": b'{"a":' * 5000 + b"1" + b"}" * 5000, "twice": b'{"a": 1, "b": 2, "a": 3}',
    "twice inside": b'{"x": [{"a": 1, "a": 1}]}', "NaN": b'{"a": NaN}', "infinity": b'{"a": -Infinity}',
    "beyond": b'{"a": 1e999}', "digits": b'{"a": ' + b"9" * 5000 + b"}", "half a pair": b'{"a": "\\ud800"}',
    "half a pair as a key": b'{"\\uDC00": 1}', "trailing": b"{} {}", "comment": b"{} // x", "comma": b'{"a": 1,}',
    "quotes": b"{'a': 1}", "latin": '{"a": "é"}'.encode("latin-1"), "control": b'{"a": "\x01"}', "NUL": b"{}\0",
}  # fmt: skip


def test_json_that_is_none_is_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    for content in NO_JSON.values():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"config\.json cannot be read: it is not JSON") as caught:
            reading.read_json(path)
        assert len(str(caught.value)) < 400
        assert "codec" not in str(caught.value)
    for content in (b"[]", b"5", b"null", b'"x"', b"true"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no JSON object"):
            reading.read_json(path)
    with path.open("wb") as file:
        file.truncate(reading.MAX_JSON + 1)
    with pytest.raises(UserError, match=r"has 8,388,609 bytes"):
        reading.read_json(path)


def test_json_that_is_some_is_read_as_it_is():
    for value in ({}, {"a": [1, -2.5, None, True, "é雨😀\\ud800 not"]}, [[[1]]], {"limit": 10**30}, "\\ud", 1e-9):
        assert reading.parse_json(json.dumps(value)) == value
        assert reading.parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_a_strangers_value_is_shown_in_short():
    for value in (
        "x" * 10**6,
        [1] * 10**5,
        {"a": {"b": [["c"] * 99]}},
        10**40,
        "\n\x1b[2J",
        {str(i): i for i in range(99)},
    ):
        text = reading.shown(value)
        assert len(text) <= reading.SHOWN
        assert text.isprintable()
