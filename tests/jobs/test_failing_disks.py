"""A disk that fills up, however late: a sentence, nothing left; a run outlives its cache."""

import os
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, UserError
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs import convert
from mlx_video.jobs.texts import embeddings as contexts
from mlx_video.media.audio import write_wav
from mlx_video.media.image import save_image
from mlx_video.media.video import frame_folder, write_video
from mlx_video.types import Context

SOUND = np.random.default_rng(2).uniform(-1, 1, (2, 40_000)).astype(np.float32)
PICTURES = list(np.random.default_rng(1).integers(0, 256, (9, 128, 128, 3), np.uint8))


@contextmanager
def no_file_larger(size):
    """The system itself refuses to write more, wherever it happens (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_frames(path):
    with frame_folder(path.with_suffix("")) as tee:
        list(tee(PICTURES))


def save_context(path):
    context = Context(mx.ones((1, 1024, 64)), mx.ones((1, 1024, 32)))
    contexts.save(path.with_suffix(".safetensors"), {"positive": context}, {"positive": "x"}, "mark")


WRITERS = {
    "video": lambda path: write_video(path, PICTURES, 24),
    "video with sound": lambda path: write_video(path, PICTURES, 24, audio=(SOUND, 24_000)),
    "sound": lambda path: write_wav(path.with_suffix(".wav"), SOUND, 24_000),
    "picture": lambda path: save_image(path.with_suffix(".png"), PICTURES[0]),
    "frames": save_frames,
    "embedding": save_context,
}


@pytest.mark.parametrize("size", [0, 4096, 20_000])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_writer_says_so_and_leaves_nothing(write, size, tmp_path):
    with no_file_larger(size), pytest.raises(UserError, match=r"was not written: .*(larger than a file may|full)"):
        write(tmp_path / "o.mp4")
    assert os.listdir(tmp_path) == []


def test_convert_says_so_and_leaves_nothing(small_folder, tmp_path):
    checkpoint = open_checkpoint(small_folder("2.3"), "distilled")
    with no_file_larger(30_000), pytest.raises(UserError, match="was not written"):
        convert.convert(checkpoint, tmp_path / "o")
    assert os.listdir(tmp_path) == []


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    cache = contexts.Cache("mark")
    context = Context(mx.ones((1, 1024, 64)), mx.ones((1, 1024, 32)))
    with no_file_larger(4096):
        cache.put("a text", context)
    assert os.listdir(tmp_path / "cache") == []
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "taken"))
    (tmp_path / "taken").write_text("a file")
    contexts.Cache("mark").put("a text", context)
    cache.put("a text", context)
    assert cache.get("a text") is not None


def test_a_run_survives_a_full_disk_under_its_cache(small_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    with no_file_larger(4096), LTXPipeline.from_pretrained(small_folder("2.3")) as pipe:
        clip = pipe.generate(prompt="x", height=64, width=64, num_frames=9)
    assert clip.latents["video"].shape == (1, 128, 2, 2, 2)


def test_two_converts_into_one_folder(small_folder, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(small_folder("2.3"), "distilled")
    write, others = convert._write, []

    def slow(job, folder, report):
        write(job, folder, report)
        if not others:
            others.append(SimpleNamespace(done=True))
            convert.convert(open_checkpoint(small_folder("2.3"), "distilled"), tmp_path / "o")

    monkeypatch.setattr(convert, "_write", slow)
    with pytest.raises(UserError, match="was made by another run meanwhile"):
        convert.convert(checkpoint, tmp_path / "o")
    assert os.listdir(tmp_path) == ["o"]
    assert open_checkpoint(tmp_path / "o", "distilled").audio
