"""Outlines: headers and small JSON files of what is on the hub, never a tensor; files that are here as they are."""

import struct
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors import SafetensorError, safe_open

from mlx_video.checkpoints.hub import fetch as hub
from mlx_video.checkpoints.hub import repos
from mlx_video.checkpoints.hub.outlines import FIRST, Outlines
from mlx_video.types import UserError
from mlx_video.weights import lora_file, store
from mlx_video.weights.store import Tensors, read_header, size_of
from tests.support import played_hub, small

MODEL = "Lightricks/LTX-2"
CHECKPOINT, LORA = small.NAMES["2"].format("distilled"), small.LORAS["2"]


@pytest.fixture
def folder(small_folder):
    return small_folder("2")


@pytest.fixture
def server(monkeypatch, tmp_path, folder):
    """A hub with a small model, a LoRA, and files whose beginnings are not to be believed."""
    whole = (folder / LORA).read_bytes()
    texts = {
        "none": b"<!DOCTYPE html>",
        "endless": struct.pack("<Q", 1 << 62) + bytes(1000),
        "beyond": struct.pack("<Q", 10_000) + bytes(1000),
        "cut": whole[:-100],
        "longer": whole + bytes(100),
        "no-json": struct.pack("<Q", 100) + b"{" * 1000,
    }
    repos = {
        MODEL: played_hub.repo_of(folder),
        "me/lora": {"my.safetensors": folder / LORA, "adapter_config.json": b'{"lora_alpha": 4}'},
        **{f"bad/{name}": {"a.safetensors": text} for name, text in texts.items()},
    }
    with played_hub.play(monkeypatch, tmp_path, repos) as hub:
        yield hub


def take_all(outlines):
    return repos.fetch_checkpoint(MODEL, "dev", lora=True, take=outlines.take)


# ------------------------------------------------------------------------------------------------ what they are


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_outline_says_what_the_file_says(server, folder, ranges):
    server.ranges = ranges
    with Outlines() as outlines:
        outlined = take_all(outlines)
        names = sorted(path.name for path in outlined.glob("*.safetensors"))
        assert names == [small.NAMES["2"].format("dev"), LORA, small.UPSAMPLERS["2"]]
        for name in (*names, "gemma/model.safetensors"):
            assert read_header(outlined / name) == read_header(folder / name)
            assert size_of(outlined / name) == size_of(folder / name) == (folder / name).stat().st_size
            header = (folder / name).read_bytes()[: 8 + struct.unpack("<Q", (folder / name).read_bytes()[:8])[0]]
            assert (outlined / name).read_bytes()[16:] == header
            if ranges:
                assert server.served[name] <= max(FIRST, len(header))
        assert (outlined / "gemma" / "config.json").read_bytes() == (folder / "gemma" / "config.json").read_bytes()
        assert not list(outlined.rglob("tokenizer*"))
        # A server without ranges goes on until the connection is closed; what is on its way by then is sent.
        assert server.served[small.NAMES["2"].format("dev")] < (140_000 if ranges else 10_000_000)
        assert (adapter := lora_file.read(outlined / LORA, header_only=True)).pairs
        assert {p.key for p in adapter.pairs.values()} == {p.key for p in lora_file.read(folder / LORA).pairs.values()}
    assert not outlined.exists()


def test_nobody_reads_tensors_from_an_outline(server):
    with Outlines() as outlines:
        path = repos.fetch_lora("me/lora", outlines.take)
        with pytest.raises(RuntimeError, match="Invalid json header length"):
            Tensors([path]).load()
        with pytest.raises(RuntimeError):
            mx.load(str(path))
        with pytest.raises(SafetensorError):
            safe_open(str(path), "numpy")
        with pytest.raises(RuntimeError):
            lora_file.read(path)
        assert path.stat().st_size < size_of(path)


def test_what_is_to_be_fetched_is_told(server, folder):
    size = {name: (folder / name).stat().st_size for name in (CHECKPOINT, small.UPSAMPLERS["2"])}
    with Outlines() as outlines:
        repos.fetch_checkpoint(MODEL, "distilled", text_encoder=False, take=outlines.take)
        repos.fetch_lora("me/lora", outlines.take)
        repos.fetch_lora("me/lora", outlines.take)  # twice in one run
        model, lora = outlines.summary()
    megabytes = sum(size.values()) / 1e6
    assert model.startswith(f"{MODEL}: 2 files, {megabytes:.1f} MB to fetch, 0 here; ")
    assert lora.startswith("me/lora: 2 files, 0.1 MB to fetch, 0 here; ")
    assert lora.endswith(" GB free")


def test_a_disk_that_is_too_small_is_told_and_refused(server, monkeypatch):
    from mlx_video.checkpoints.hub import fetch as hub

    with Outlines() as outlines:
        take_all(outlines)
        repos.fetch_lora("me/lora", outlines.take)
        monkeypatch.setattr(hub, "free_space", lambda: (Path("/disk"), hub.SPARE))
        assert outlines.summary()[-1].startswith(f"{MODEL} and me/lora needs 15.0 MB, but /disk has 1.1 GB free")
        server.forget()
        with pytest.raises(UserError, match="make room, or set HF_HOME"):
            outlines.fetch()
    assert server.served == {}


# ------------------------------------------------------------------------------------------------ then the files


def test_the_same_call_gives_the_files_once_they_are_fetched(server, folder):
    said = []
    with Outlines() as outlines:
        outlined = take_all(outlines)
        outlines.fetch(say=said.append)
        assert outlines.absent == ()
        fetched = take_all(outlines)
        assert fetched != outlined
    assert not outlined.exists()
    for path in (path for path in fetched.rglob("*") if path.is_file()):
        assert path.read_bytes() == (folder / path.relative_to(fetched)).read_bytes()
    assert server.lists == 1
    assert [line.split(",")[0] for line in said] == [f"{MODEL}: 7 files"]


def test_files_that_are_here_are_taken_as_they_are(server):
    real = repos.fetch_checkpoint(MODEL, "distilled", upsamplers=(), text_encoder=False)
    server.forget()
    with Outlines() as outlines:
        assert repos.fetch_checkpoint(MODEL, "distilled", upsamplers=(), text_encoder=False, take=outlines.take) == real
        assert outlines.summary() == [f"{MODEL}: nothing to fetch, 1 here"]
        outlined = repos.fetch_checkpoint(MODEL, "distilled", text_encoder=False, take=outlines.take)
        assert (outlined / CHECKPOINT).resolve() == (real / CHECKPOINT).resolve()
        assert outlines.summary()[0].startswith(f"{MODEL}: 1 file, 0.7 MB to fetch, 1 here")
    assert set(server.fetched) == {small.UPSAMPLERS["2"]}
    assert real.is_dir()
    assert server.lists == 1


def test_a_new_commit_with_the_same_contents_brings_nothing_again(server):
    before = repos.fetch_checkpoint(MODEL, "distilled")
    server.forget()
    server.commit = "d" * 40
    with Outlines() as outlines:
        after = repos.fetch_checkpoint(MODEL, "distilled", take=outlines.take)
        assert outlines.absent == ()
    assert after != before
    assert (after / CHECKPOINT).resolve() == (before / CHECKPOINT).resolve()
    assert server.served == {}


@pytest.mark.parametrize("how", ["down", "offline"])
def test_without_a_network_the_cache_serves(server, how):
    real = repos.fetch_checkpoint(MODEL, "distilled")
    getattr(server, how)()
    with Outlines() as outlines:
        assert repos.fetch_checkpoint(MODEL, "distilled", take=outlines.take) == real
        with pytest.raises(UserError, match=f"{MODEL} cannot be fetched, and is not here from before"):
            take_all(outlines)


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "15 bytes and its first 8 do not give the length of a header"),
        ("endless", "1,008 bytes and its first 8 do not give the length of a header"),
        ("beyond", "1,008 bytes and its first 8 do not give the length of a header"),
        ("cut", "is truncated"),
        ("longer", "is longer than its header says"),
        ("no-json", "its header is not JSON"),
    ],
)
def test_a_header_that_lies_is_refused_by_the_files_name_in_the_repo(server, name, said):
    with pytest.raises(UserError, match=f"^bad/{name}/a.safetensors ") as fault, Outlines() as outlines:
        read_header(repos.fetch_lora(f"bad/{name}", outlines.take))
    assert said in str(fault.value)
    assert server.served["a.safetensors"] <= FIRST


def test_a_header_longer_than_any_is_not_asked_for(server, monkeypatch):
    monkeypatch.setattr(store, "MAX_HEADER", 1000)
    with pytest.raises(UserError, match="do not give the length of a header"), Outlines() as outlines:
        take_all(outlines)
    assert max(server.served.values()) <= FIRST


def test_a_gated_repo_is_told_as_when_it_is_fetched(server):
    server.gated.add("me/lora")
    said = r"me/lora is gated: accept its licence at .*/me/lora and log in"
    with pytest.raises(UserError, match=said), Outlines() as outlines:
        repos.fetch_lora("me/lora", outlines.take)


def test_a_hub_that_falls_silent_is_one_sentence(server, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    said = r"my\.safetensors of me/lora cannot be read: .*; try again"
    with pytest.raises(UserError, match=said), Outlines() as outlines:
        repos.fetch_lora("me/lora", outlines.take)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ZeroDivisionError, UserError])
def test_outlines_go_whatever_happens(server, fault):
    folders = []

    def outline_and_fail():
        with Outlines() as outlines:
            folders.append(take_all(outlines))
            assert folders[0].is_dir()
            raise fault(f"{folders[0]}/a is at fault")

    with pytest.raises(fault, match="Lightricks/LTX-2/a is" if fault is UserError else "snapshots/c+/a is"):
        outline_and_fail()
    assert not folders[0].parents[2].exists()


@pytest.mark.parametrize(
    "name", ["../../x/model.safetensors", "/abs/model.safetensors", "a\\b.safetensors", "a//b.safetensors", "./a"]
)
def test_a_listed_name_that_leads_elsewhere_is_not_followed(monkeypatch, tmp_path, name):
    with played_hub.play(monkeypatch, tmp_path, {"me/x": {name: b"x" * 100}}), Outlines() as outlines:
        for take in (outlines.take, hub.fetch):
            with pytest.raises(UserError, match=r"me/x lists a file .*outside its folder"):
                take("me/x", list)
    assert sorted(path.name for path in tmp_path.rglob("*.safetensors")) == []
