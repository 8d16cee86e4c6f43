"""Embeddings and kept prompts as a stranger, a bad disk or an earlier version may leave them."""

import contextlib
import json
import random

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.jobs.texts import embeddings as contexts
from mlx_video.jobs.texts.embeddings import Cache, Widths, load, save
from mlx_video.types import Context, UserError

WIDTHS = Widths(8, 4)


def context(seed: int = 0) -> Context:
    rng = np.random.default_rng(seed)
    return Context(*(mx.array(rng.normal(size=(1, 1024, width))).astype(mx.bfloat16) for width in WIDTHS))


def written(path, change=lambda arrays, metadata: None):
    """An embedding of two prompts, with its tensors and its metadata changed."""
    arrays = {f"{name}.{m}": getattr(context(), m) for name in ("positive", "negative") for m in Context._fields}
    prompts = json.dumps({"positive": "a fox", "negative": "a blur"})
    metadata = {"format": contexts.FORMAT, "prompts": prompts, "connectors": "abc"}
    change(arrays, metadata)
    mx.save_safetensors(str(path), arrays, metadata)
    return path


def test_what_is_saved_is_read(tmp_path):
    save(tmp_path / "a.safetensors", {"positive": context()}, {"positive": "a fox"}, "abc")
    found, prompts = load(tmp_path / "a.safetensors", "abc", WIDTHS, ["positive"])
    assert prompts == {"positive": "a fox"}
    assert all(mx.array_equal(one, other) for one, other in zip(found["positive"], context(), strict=True))
    assert set(load(written(tmp_path / "old.safetensors"), "abc", WIDTHS)[0]) == {"positive", "negative"}


ARRAYS = {
    "of no tokens": mx.zeros((1, 0, 8)), "short": mx.zeros((1, 3, 8)), "wide": mx.zeros((1, 1024, 9)),
    "narrow": mx.zeros((1, 1024, 0)), "two": mx.zeros((2, 1024, 8)), "flat": mx.zeros((1024, 8)),
    "a number": mx.array(1.0),
    "whole numbers": mx.zeros((1, 1024, 8), mx.int32), "bools": mx.zeros((1, 1024, 8), mx.bool_),
    "complex": mx.zeros((1, 1024, 8), mx.complex64), "nan": mx.full((1, 1024, 8), float("nan")),
    "inf": mx.full((1, 1024, 8), float("inf"), mx.bfloat16), "bytes": mx.zeros((1, 1024, 8), mx.uint8),
}  # fmt: skip
PROMPTS = ("", "x", "[]", "{}", "5", "null", '{"positive": 5}', '{"positive": ["a"]}', '{"other": "a"}', '["positive"]',
           '{"positive": "a"}', "{", '{"positive": "a", "positive": "b", "negative": "c"}', "[" * 10**5)  # fmt: skip
METADATA = [("prompts", text) for text in PROMPTS]
METADATA += [("connectors", text) for text in ("", "x", "[1]")] + [("format", text) for text in ("", "x", "{}", "pt")]
METADATA += [(key, None) for key in ("format", "prompts", "connectors")] + [("sum", "5"), ("sum", "[]")]


def test_an_embedding_of_other_contents_is_refused(tmp_path):
    names = "positive.video", "negative.video", "other.video", "positive", "video", "a.b.c"
    changes = [lambda a, m, n=name, v=value: a.update({n: v}) for value in ARRAYS.values() for name in names]
    changes += [lambda a, m, n=name: a.pop(n) for name in ("positive.video", "negative.audio")]
    changes += [lambda a, m, n=name, to=to: a.update({to: a.pop(n)}) for name in ("positive.video", "negative.audio")
                for to in ("x", "positive.x", "Positive.video", "positive..video")]  # fmt: skip
    changes += [lambda a, m, k=key, v=v: m.pop(k) if v is None else m.update({k: v}) for key, v in METADATA]
    changes.append(lambda a, m: a.clear())
    for number, change in enumerate(changes):
        path = written(tmp_path / f"{number}.safetensors", change)
        with pytest.raises(UserError, match=rf"{number}\.safetensors"):
            load(path, "abc", WIDTHS, ["positive", "negative"])
    assert len(changes) > 100


def test_a_prompt_that_is_not_there_is_named(tmp_path):
    save(tmp_path / "a.safetensors", {"positive": context()}, {"positive": "a fox"}, "abc")
    with pytest.raises(UserError, match=r"has no negative prompt, but \['positive'\]"):
        load(tmp_path / "a.safetensors", wanted=["positive", "negative"])


def test_flipped_bytes_of_an_embedding_are_noticed(tmp_path):
    path, rng = tmp_path / "a.safetensors", random.Random(0)
    save(path, {"positive": context()}, {"positive": "a fox"}, "abc")
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            found, _ = load(path, "abc", WIDTHS, ["positive"])
            # What is read all the same is what was written: the flip is in a space or in a key that nobody reads.
            assert mx.array_equal(found["positive"].video, context().video)
            assert mx.array_equal(found["positive"].audio, context().audio)


# ---------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(contexts.CACHE_VARIABLE, str(tmp_path / "kept"))
    cache = Cache("connectors", "encoder", "bfloat16")
    cache.put("a fox", context())
    return cache


def test_a_kept_prompt_comes_back(cache):
    assert mx.array_equal(cache.get("a fox").video, context().video)
    assert cache.get("a cat") is None
    assert Cache("other", "encoder", "bfloat16").get("a fox") is None


def test_a_damaged_entry_is_made_anew(cache, caplog):
    (path,) = cache.folder.iterdir()
    whole, rng = path.read_bytes(), random.Random(1)
    for number in range(80):
        damaged = bytearray(whole)
        if number % 4:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        else:
            damaged = damaged[: rng.randrange(len(damaged))]
        path.write_bytes(damaged)
        found = cache.get("a fox")
        assert found is None or mx.array_equal(found.video, context().video)
    path.write_bytes(whole[:-1])
    with caplog.at_level("INFO"):
        assert cache.get("a fox") is None
    assert "made anew" in caplog.text
    cache.put("a fox", context())
    assert cache.get("a fox") is not None


def test_entries_of_other_contents_are_made_anew(cache):
    (path,) = cache.folder.iterdir()
    save(path, {"positive": context()}, {"positive": "a cat"}, "x")
    assert cache.get("a fox") is None
    save(path, {"other": context()}, {"other": "a fox"}, "x")
    assert cache.get("a fox") is None
    written(path)
    assert cache.get("a fox") is None
    path.unlink()
    path.mkdir()
    assert cache.get("a fox") is None


def test_a_folder_of_nobody_keeps_nothing(monkeypatch):
    monkeypatch.setenv(contexts.CACHE_VARIABLE, "~nobody-of-that-name/x")
    with pytest.raises(UserError, match="no home of a user"):
        contexts.cache_folder()


def test_a_cache_that_is_a_circle_of_links_costs_only_time(monkeypatch, tmp_path, caplog):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv(contexts.CACHE_VARIABLE, str(tmp_path / "loop"))
    assert contexts.Cache("marks").get("a fox") is None
    assert "Prompts are not kept: MLX_VIDEO_CACHE" in caplog.text
