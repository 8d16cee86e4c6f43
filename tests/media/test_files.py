"""Whole or not at all, and the checks before."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from mlx_video.media.files import check_input, check_new_folder, check_place, replacing, replacing_folder
from mlx_video.types import UserError


def test_file_appears_at_the_end_and_replaces(tmp_path):
    target = tmp_path / "out.bin"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.suffix == ".bin"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_writing_ends_early(error, tmp_path):
    target = tmp_path / "out.bin"
    target.write_text("old")

    def fail(file):
        file.write_text("half")
        raise error

    with pytest.raises(error), replacing(target) as temporary:
        fail(temporary)
    with pytest.raises(error), replacing_folder(tmp_path / "frames") as folder:
        fail(folder / "one")
    assert os.listdir(tmp_path) == ["out.bin"]
    assert target.read_text() == "old"


def test_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "frames"
    target.mkdir()  # an empty one may be there
    with replacing_folder(check_new_folder(target)) as folder:
        (folder / "one").write_text("1")
        assert not any(target.iterdir())
    assert os.listdir(tmp_path) == ["frames"]
    assert os.listdir(target) == ["one"]


def test_full_disk_is_named(tmp_path):
    with pytest.raises(UserError, match="is full"), replacing(tmp_path / "out.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), replacing(tmp_path / "out.bin"):
        raise PermissionError(errno.EACCES, "no")
    assert not os.listdir(tmp_path)


def test_check_place(tmp_path, monkeypatch):
    assert check_place(tmp_path / "a.MP4", (".mp4",)) == tmp_path / "a.MP4"
    with pytest.raises(UserError, match=r"'\.avi'.*\.mp4, \.mov"):
        check_place(tmp_path / "a.avi", (".mp4", ".mov"))
    with pytest.raises(UserError, match="'nothing'"):
        check_place(tmp_path / "a", (".mp4",))
    with pytest.raises(UserError, match="does not exist"):
        check_place(tmp_path / "none" / "a.mp4", (".mp4",))
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_place(tmp_path / "b.mp4", (".mp4",))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="does not exist"):
        check_place(tmp_path / "file" / "a.mp4", (".mp4",))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000_000))
    assert check_place(tmp_path / "a.mp4", (".mp4",), needed=4_000_000_000)
    with pytest.raises(UserError, match=r"5\.0 GB free.*6\.0 GB"):
        check_place(tmp_path / "a.mp4", (".mp4",), needed=6_000_000_000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        check_place(tmp_path / "a.mp4", (".mp4",))


def test_unwritable_place_whoever_asks():
    if not os.path.isdir("/proc"):
        pytest.skip("no /proc here")
    with pytest.raises(UserError, match="cannot be written"):
        check_place("/proc/a.mp4", (".mp4",))


def test_check_new_folder(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="is there already"):
            check_new_folder(tmp_path / name)
    assert check_new_folder(tmp_path / "new") == tmp_path / "new"


def test_check_input(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "some.png").write_bytes(b"x")
    for name, message in (("none.png", "does not exist"), ("", "is a folder"), ("empty.png", "0 bytes")):
        with pytest.raises(UserError, match=f"{message}.*give a picture"):
            check_input(tmp_path / name, "a picture")
    assert check_input(str(tmp_path / "some.png"), "a picture") == tmp_path / "some.png"
