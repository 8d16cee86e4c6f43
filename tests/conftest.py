"""Sets MLX up as the commands do, and lends small checkpoints that are written once and then only read."""

import functools
import gc
import os
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("MLX_VIDEO_BLAS", "on")
os.environ["MLX_VIDEO_CACHE"] = "off"  # no test reads or leaves anything in the user's own cache

import mlx.core as mx
import pytest

from mlx_video import platform

mx.set_default_device(mx.cpu)  # the numbers that tests hold are the CPU's; on a Mac Metal is the default
platform.prepare()


def pytest_collection_modifyitems(items):
    """Of a test with `quick(...)`, the cases that it does not name are slow ones."""
    for item in items:
        mark = item.get_closest_marker("quick")
        if mark is not None and not any(fnmatch(item.callspec.id, pattern) for pattern in mark.args):
            item.add_marker("slow")


def pytest_collection_finish():
    """What imports have left is gone through by no collection of garbage: in small runs those were a tenth."""
    gc.freeze()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """small_folder("2") is the folder of a whole small checkpoint, both variants, made when first asked for."""
    from tests.support import small, small_pack

    @functools.cache
    def make(generation: str) -> Path:
        folder = tmp_path_factory.mktemp(f"ltx-{generation}-") / "small"
        if generation == "2.5":
            return small_pack.make(folder)
        return small.make(folder, generation, ("distilled", "dev"))

    return make


@pytest.fixture(scope="session")
def upscale_folder(small_folder, tmp_path_factory):
    """As small_folder, with the x1.5 and temporal upsamplers beside it."""
    from tests.support import small

    @functools.cache
    def make(generation: str) -> Path:
        folder = tmp_path_factory.mktemp(f"upscale-{generation}-")
        for item in small_folder(generation).iterdir():
            (folder / item.name).symlink_to(item)
        return small.add_upsamplers(folder, generation)

    return make


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with picture.png and sound.wav."""
    from tests.support.cases import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def _texts(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@pytest.fixture
def texts_are_kept(_texts, monkeypatch):
    """A prompt is encoded once a session and then kept, as users have it: for tests of something else than texts."""
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(_texts))


@pytest.fixture
def texts_are_new(texts_are_kept, monkeypatch):
    """Where all of a module's texts are kept: a test of what is read and told while they are encoded."""
    monkeypatch.setenv("MLX_VIDEO_CACHE", "off")


@pytest.fixture
def command(capfd):
    """command(main, "--flag", value, ...) runs a command in this process: (exit status, what it said)."""

    def run(main, *line) -> tuple[int, str]:
        try:
            status = main([str(word) for word in line])
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        assert out == ""  # messages go to standard error
        return status, err

    return run


@pytest.fixture
def made(monkeypatch):
    """The clips that commands make during a test, in order."""
    from mlx_video import LTXPipeline

    clips = []
    run = LTXPipeline.run
    monkeypatch.setattr(LTXPipeline, "run", lambda *a, **k: clips.append(run(*a, **k)) or clips[-1])
    return clips
