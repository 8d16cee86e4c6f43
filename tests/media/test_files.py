"""Whole or not at all, and the checks before."""

import errno
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_video.media import files
from mlx_video.media.files import (
    check_apart,
    check_input,
    check_new_folder,
    check_place,
    check_room,
    replacing,
)
from mlx_video.types import RunError, UserError


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
    with pytest.raises(error), replacing(tmp_path / "frames", folder=True) as folder:
        fail(folder / "one")
    assert os.listdir(tmp_path) == ["out.bin"]
    assert target.read_text() == "old"


def test_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "frames"
    target.mkdir()  # an empty one may be there
    with replacing(check_new_folder(target), folder=True) as folder:
        (folder / "one").write_text("1")
        assert not any(target.iterdir())
    assert os.listdir(tmp_path) == ["frames"]
    assert os.listdir(target) == ["one"]


@pytest.mark.parametrize(
    ("number", "said", "kind"),
    [
        (errno.ENOSPC, "is full", UserError),
        (errno.EDQUOT, "is full", UserError),
        (errno.EFBIG, "larger than a file may be", UserError),
        (errno.EROFS, "can no longer be written to", UserError),
        (errno.EACCES, "Permission denied", UserError),
        (errno.EIO, "failed", RunError),
    ],
)
@pytest.mark.parametrize("begin", [replacing, partial(replacing, folder=True)])
def test_a_failure_while_writing_is_named_and_leaves_nothing(number, said, kind, begin, tmp_path):
    with pytest.raises(kind, match=rf"out\.bin was not written: .*{said}"), begin(tmp_path / "out.bin"):
        raise OSError(number, os.strerror(number))
    assert not os.listdir(tmp_path)


def test_a_failure_elsewhere_is_not_laid_to_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.bin"):
        (tmp_path / "weights").open()


@pytest.mark.parametrize("begin", [replacing, partial(replacing, folder=True)])
def test_a_folder_that_goes_while_it_is_written_to(begin, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.raises(UserError, match="gone is not there any more"), begin(folder / "out.bin"):
        shutil.rmtree(folder)
    folder.mkdir()

    def replaced():
        shutil.rmtree(folder)
        folder.write_text("in the way")

    with pytest.raises(UserError, match="gone is no folder any more"), begin(folder / "out.bin"):
        replaced()


def test_the_second_of_two_runs_into_one_folder_is_told(tmp_path):
    def another():
        with replacing(tmp_path / "out", folder=True) as folder:
            (folder / "theirs").write_text("")

    with pytest.raises(UserError, match="made by another run"), replacing(tmp_path / "out", folder=True):
        another()
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["theirs"]


# ------------------------------------------------------------------------------------------------ killed runs

KILLED = """
import os, sys
from pathlib import Path
from mlx_video.media.files import replacing
with replacing(Path(sys.argv[1])) as file, replacing(Path(sys.argv[2]), folder=True) as folder:
    file.write_text("half")
    (folder / "one").write_text("half")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    target, folder = tmp_path / "out [1].mp4", tmp_path / "frames"
    neighbour = tmp_path / ".out [1].keep.part.mp4"
    neighbour.write_text("not ours")
    line = [sys.executable, "-c", KILLED, str(target), str(folder)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"there\n"
        check_place(target, (".mp4",))
        check_new_folder(folder)
        assert len(os.listdir(tmp_path)) == 3  # both are being written
        run.kill()
        run.communicate()
    assert len(os.listdir(tmp_path)) == 3
    check_place(tmp_path / "other.mp4", (".mp4",))
    assert len(os.listdir(tmp_path)) == 3  # a name of its own
    check_place(target, (".mp4",))
    check_new_folder(folder)
    assert os.listdir(tmp_path) == [neighbour.name]


def test_unfinished_files_without_locks_stay_for_a_day(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    left = tmp_path / ".out.0123abcd.part.mp4"
    left.write_text("half")
    check_place(tmp_path / "out.mp4", (".mp4",))
    assert left.exists()
    os.utime(left, (1, 1))
    check_place(tmp_path / "out.mp4", (".mp4",))
    assert not left.exists()


# ------------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize("path", ["", " ", "a\0.mp4", "~nobodyknowsme/a.mp4", "x" * 300 + ".mp4", "a\ud800/b.mp4"])
def test_texts_that_can_be_no_file(path):
    for check in (partial(check_place, suffixes=(".mp4",)), check_new_folder, partial(check_input, what="a picture")):
        with pytest.raises(UserError, match=r"; give ") as caught:
            check(path)
        assert len(str(caught.value)) < 250


def test_a_long_name_can_be_written(tmp_path):
    path = check_place(tmp_path / ("\u00fc" * 120 + ".mp4"), (".mp4",))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == [path.name]


def test_no_output_is_an_input_however_it_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "soft.mp4").symlink_to("a.mp4")
    os.link("a.mp4", "hard.mp4")
    for name in ("a.mp4", "soft.mp4", "hard.mp4", "folder/../a.mp4", str(tmp_path / "a.mp4")):
        with pytest.raises(UserError, match=r"is the input itself \(--audio-file a\.mp4\)"):
            check_apart([Path(name)], {"--audio-file a.mp4": "a.mp4"})
    check_apart([Path("b.mp4")], {"--audio-file a.mp4": "a.mp4", "--lora x": "some/repo", "--image": "\0"})


def test_room_is_asked_for_all_outputs_of_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=9e9, free=5_000_000_000))
    sizes = {tmp_path / "a.mp4": 3_000_000_000, tmp_path / "b": 1_000_000_000}
    check_room(sizes)
    with pytest.raises(UserError, match=r"5\.0 GB free; a\.mp4 and b may need 6\.0 GB"):
        check_room({**sizes, tmp_path / "b": 3_000_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    check_room(sizes)


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
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=9e9, free=5_000_000_000))
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
    for name, message in (("none.png", "does not exist"), (".", "is a folder"), ("empty.png", "0 bytes")):
        with pytest.raises(UserError, match=f"{message}.*give a picture"):
            check_input(tmp_path / name, "a picture")
    assert check_input(str(tmp_path / "some.png"), "a picture") == tmp_path / "some.png"
