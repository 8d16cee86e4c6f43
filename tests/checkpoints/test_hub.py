"""Fetching from a hub that runs in this process: what is chosen, fetched, resumed and refused; no network."""

import fcntl
import hashlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_video.checkpoints.hub import fetch as hub
from mlx_video.checkpoints.hub import repos
from mlx_video.checkpoints.hub.rules import choose, choose_all
from mlx_video.types import UserError
from tests.support import played_hub

LTX2 = [
    "LICENSE", "README.md", "ltx-2-19b-dev-fp4.safetensors", "ltx-2-19b-dev-fp8.safetensors",
    "ltx-2-19b-dev.safetensors", "ltx-2-19b-distilled-fp8.safetensors", "ltx-2-19b-distilled-lora-384.safetensors",
    "ltx-2-19b-distilled.safetensors",
    "ltx-2-spatial-upscaler-x2-1.0.safetensors", "ltx-2-temporal-upscaler-x2-1.0.safetensors", "model_index.json",
    "text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    "transformer/config.json", "transformer/diffusion_pytorch_model-00001-of-00008.safetensors", "media/a.mp4",
]  # fmt: skip
LTX23 = [
    "README.md", "ltx-2.3-22b-dev.safetensors", "ltx-2.3-22b-dev-fp8.safetensors", "ltx-2.3-22b-dev-nvfp4.safetensors",
    "ltx-2.3-22b-distilled.safetensors", "ltx-2.3-22b-distilled-1.1.safetensors",
    "ltx-2.3-22b-distilled-fp8.safetensors",
    "ltx-2.3-22b-distilled-lora-384.safetensors", "ltx-2.3-22b-distilled-lora-384-1.1.safetensors",
    "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors", "ltx-2.3-spatial-upscaler-x2-1.0.safetensors",
    "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", "ltx-2.3-temporal-upscaler-x2-1.0.safetensors",
]  # fmt: skip
GEMMA = [
    ".gitattributes", "README.md", "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "gemma-3-12b-it-q4_0.gguf", "original/consolidated.safetensors",
]  # fmt: skip

CHOICES = [
    (LTX2, "checkpoint", "distilled", "ltx-2-19b-distilled.safetensors"),
    (LTX2, "checkpoint", "dev", "ltx-2-19b-dev.safetensors"),
    (LTX2, "upsampler", "dev", "ltx-2-spatial-upscaler-x2-1.0.safetensors"),
    (LTX2, "lora", "dev", "ltx-2-19b-distilled-lora-384.safetensors"),
    (LTX23, "checkpoint", "distilled", "ltx-2.3-22b-distilled-1.1.safetensors"),
    (LTX23, "checkpoint", "dev", "ltx-2.3-22b-dev.safetensors"),
    (LTX23, "upsampler", "distilled", "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"),
    (LTX23, "lora", "dev", "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"),
    (LTX2, "temporal x2", "dev", "ltx-2-temporal-upscaler-x2-1.0.safetensors"),
    (LTX23, "temporal x2", "dev", "ltx-2.3-temporal-upscaler-x2-1.0.safetensors"),
    (LTX23, "spatial x1.5", "distilled", "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors"),
]


@pytest.mark.parametrize(("files", "kind", "variant", "wanted"), CHOICES)
def test_official_names_are_known(files, kind, variant, wanted):
    assert choose(files, kind, variant) == [wanted]
    assert choose(reversed(files), kind, variant) == [wanted]


def test_the_tenth_version_is_newer_than_the_ninth():
    files = [f"ltx-2.3-spatial-upscaler-x2-1.{i}.safetensors" for i in (9, 10, 2)]
    assert choose(files, "upsampler") == ["ltx-2.3-spatial-upscaler-x2-1.10.safetensors"]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["finetune.safetensors", "finetune-lora.safetensors", "sample.mp4"], ["finetune.safetensors"]),
        (
            ["my-dev.safetensors", "my-distilled.safetensors", "my-distilled-fp8.safetensors"],
            ["my-distilled.safetensors"],
        ),
        (["one.safetensors", "two.safetensors"], []),
        (["ltx-2-19b-distilled-fp8.safetensors"], []),
        (["ltx-2-19b-distilled-lora-384.safetensors", "spatial-upscaler-x2.safetensors"], []),
        ([], []),
    ],
)
def test_other_repos_are_read_by_their_words(files, wanted):
    assert choose(files, "checkpoint", "distilled") == wanted


def test_a_converted_folder_is_taken_whole_without_its_text_encoder():
    inside = ["transformer/model-00001-of-00002.safetensors", "transformer/model.safetensors.index.json"]
    inside += ["vae/decoder/model.safetensors", "vae/encoder/model.safetensors"]
    files = [
        *inside,
        "mlx_video.json",
        "README.md",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "a/b.png",
    ]
    assert choose(files, "checkpoint", "dev") == ["mlx_video.json", *sorted(inside)]


def test_text_encoders_come_with_their_tokenizer():
    found = choose(GEMMA, "text_encoder")
    assert set(found) == set(GEMMA) - {
        ".gitattributes", "README.md", "gemma-3-12b-it-q4_0.gguf", "original/consolidated.safetensors",
    }  # fmt: skip
    assert choose(LTX2, "text_encoder") == [name for name in LTX2 if name.startswith(("text_encoder/", "tokenizer/"))]
    assert choose(LTX23, "text_encoder") == []


def test_what_is_missing_is_said_with_what_is_there():
    with pytest.raises(UserError, match=r"a/b has no dev checkpoint, but a distilled one \(ltx-2-19b-distilled"):
        choose_all("a/b", ["ltx-2-19b-distilled.safetensors"], ["checkpoint"], "dev")
    with pytest.raises(UserError, match=r"no spatial x2 upsampler; its files are ltx-2-19b-distilled.safetensors\."):
        choose_all("a/b", ["ltx-2-19b-distilled.safetensors", "README.md"], ["checkpoint", "upsampler"])
    with pytest.raises(UserError, match=r"its files are README.md"):
        choose_all("a/b", ["README.md"], ["checkpoint"])
    with pytest.raises(UserError, match="its files are none"):
        choose_all("a/b", [], ["lora"])


# ---------------------------------------------------------------------------------------------------- a hub


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub with a few repos, and an empty cache."""
    repos = {
        "Lightricks/LTX-2": {name: name.encode() * 50 for name in LTX2},
        "me/lora": {
            "README.md": b"hello",
            "loras/my.safetensors": b"x" * 3_000_000,
            "loras/adapter_config.json": b"{}",
        },
        "me/loras": {"a.safetensors": b"a", "b.safetensors": b"b"},
        "me/gemma": {name: name.encode() for name in GEMMA},
    }
    with played_hub.play(monkeypatch, tmp_path, repos) as hub_:
        yield hub_


def test_only_what_the_run_needs_is_fetched(server):
    folder = repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", text_encoder=False)
    wanted = ["ltx-2-19b-distilled.safetensors", "ltx-2-spatial-upscaler-x2-1.0.safetensors"]
    assert server.fetched == wanted
    assert sorted(path.name for path in folder.iterdir()) == wanted
    assert (folder / wanted[0]).read_bytes() == wanted[0].encode() * 50
    repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", upsamplers=(), text_encoder=False)
    assert len(server.fetched) == 2
    kinds = ["spatial x2", "temporal x2"]
    repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", upsamplers=kinds, text_encoder=False)
    assert server.fetched[2:] == ["ltx-2-temporal-upscaler-x2-1.0.safetensors"]
    with pytest.raises(UserError, match=r"Lightricks/LTX-2 has no spatial x1\.5 upsampler"):
        repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", upsamplers=["spatial x1.5"], text_encoder=False)


def test_a_text_encoder_in_the_repo_comes_with_it(server):
    folder = repos.fetch_checkpoint("Lightricks/LTX-2", "dev", lora=True)
    assert (folder / "text_encoder" / "model.safetensors.index.json").is_file()
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    assert (folder / "ltx-2-19b-distilled-lora-384.safetensors").is_file()
    assert not (folder / "transformer").exists()


def test_text_encoder_repos_give_the_folder_with_the_config(server):
    folder = repos.fetch_text_encoder("me/gemma")
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.model").is_file()
    folder = repos.fetch_text_encoder("Lightricks/LTX-2")
    assert folder.name == "text_encoder"
    assert (folder.parent / "tokenizer" / "tokenizer.json").is_file()


def test_a_lora_repo_gives_its_one_file(server):
    file = repos.fetch_lora("me/lora")
    assert file.name == "my.safetensors"
    assert (file.parent / "adapter_config.json").is_file()
    with pytest.raises(UserError, match=r"me/loras must hold one .* holds 2 \(a.safetensors, b.safetensors\)"):
        repos.fetch_lora("me/loras")


def test_progress_counts_megabytes_of_all_files(server):
    seen = []
    repos.fetch_lora("me/lora", partial(hub.fetch, report=seen.append))
    assert {(p.phase, p.total) for p in seen} == {("download", 3)}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == 3


def test_what_is_here_already_needs_no_bytes_and_no_bar(server):
    repos.fetch_lora("me/lora")
    before, seen = len(server.fetched), []
    repos.fetch_lora("me/lora", partial(hub.fetch, report=seen.append))
    assert len(server.fetched) == before
    assert seen == []


@pytest.mark.parametrize("how", ["down", "offline"])
def test_without_a_network_the_cache_serves(server, how):
    first = repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", text_encoder=False)
    getattr(server, how)()
    assert repos.fetch_checkpoint("Lightricks/LTX-2", "distilled", text_encoder=False) == first
    with pytest.raises(UserError, match=r"Lightricks/LTX-2 cannot be fetched, and is not here from before"):
        repos.fetch_checkpoint("Lightricks/LTX-2", "dev")
    with pytest.raises(UserError, match="me/gemma cannot be fetched"):
        repos.fetch_text_encoder("me/gemma")


def test_without_a_network_and_without_a_cache(server):
    server.down()
    with pytest.raises(UserError, match="not here from before") as told:
        repos.fetch_lora("me/lora")
    assert "Errno" not in str(told.value)


def test_a_connection_that_breaks_within_a_header_says_so(server):
    chosen = hub.find("me/lora", lambda files: ["loras/my.safetensors"])
    server.breaks = 100
    with pytest.raises(UserError, match=r"of me/lora cannot be read: .*; try again\."):
        hub.read_bytes(chosen, "loras/my.safetensors", 0, 50_000)


@pytest.fixture
def part(server, monkeypatch):
    """Where a download of me/lora's weights keeps what it has so far."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "RESUMED_FROM", 1_000_000)
    blobs = Path(constants.HF_HUB_CACHE) / "models--me--lora" / "blobs"
    blobs.mkdir(parents=True)
    return blobs / (hashlib.sha256(server.repos["me/lora"]["loras/my.safetensors"]).hexdigest() + ".part")


def ranges(state):
    return [asked for command, path, asked in state.asked if command == "GET" and path.endswith("my.safetensors")]


def test_a_broken_download_resumes_where_it_stopped(server, part):
    part.write_bytes(b"x" * 1_200_000)
    seen = []
    file = repos.fetch_lora("me/lora", partial(hub.fetch, report=seen.append))
    assert file.read_bytes() == b"x" * 3_000_000
    assert ranges(server) == ["bytes=1200000-"]
    assert seen[0].done == 1
    assert seen[-1].done == seen[-1].total == 3
    assert not part.exists()
    server.asked.clear()
    assert repos.fetch_lora("me/lora") == file
    assert ranges(server) == []


def test_a_large_file_is_fetched_once(server, part):
    assert repos.fetch_lora("me/lora").read_bytes() == b"x" * 3_000_000
    assert ranges(server) == [None]


def test_what_is_kept_of_a_broken_download(server, part, monkeypatch):
    # The server falls silent in the middle: the bytes that came are there for the next run.
    import huggingface_hub.file_download

    def breaks(url, file, **settings):
        file.write(b"x" * 2_000_000)
        raise huggingface_hub.errors.HTTPError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", breaks)
        with pytest.raises(UserError, match=r"my.safetensors from me/lora broke off \(connection lost\)"):
            repos.fetch_lora("me/lora")
    assert part.stat().st_size == 2_000_000
    assert repos.fetch_lora("me/lora").read_bytes() == b"x" * 3_000_000
    assert ranges(server) == ["bytes=2000000-"]


def test_a_damaged_part_is_not_kept(server, part):
    part.write_bytes(b"y" * 1_200_000)
    with pytest.raises(UserError, match=r"my.safetensors from me/lora arrived damaged"):
        repos.fetch_lora("me/lora")
    assert not part.exists()
    assert repos.fetch_lora("me/lora").read_bytes() == b"x" * 3_000_000


def test_two_programs_do_not_write_one_file(server, part):
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being downloaded by another program"):
            repos.fetch_lora("me/lora")


def test_a_download_that_breaks_off_says_so(server, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    def broken(*args, **settings):
        raise HTTPError("peer closed connection\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(UserError, match=r"my.safetensors from me/lora broke off \(peer closed connection\).*resumes"):
        repos.fetch_lora("me/lora")


def test_a_full_disk_is_noticed_before_the_download(server, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: SimpleNamespace(free=hub.SPARE + 2_000_000))
    with pytest.raises(UserError, match=r"me/lora needs 3.0 MB, but .* has 1.1 GB free; .*HF_HOME"):
        repos.fetch_lora("me/lora")
    assert server.fetched == []


def test_a_disk_that_fills_up_meanwhile_is_no_traceback(server, monkeypatch):
    import huggingface_hub

    def full(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(UserError, match=r"cannot be stored in .*: No space left on device"):
        repos.fetch_lora("me/lora")


def test_a_gated_repo_names_its_page_and_the_login(server, monkeypatch):
    server.gated.add("me/gemma")
    with pytest.raises(UserError, match=r"accept its licence at http://127.*/me/gemma and log in with `hf auth login`"):
        repos.fetch_text_encoder("me/gemma")
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    with pytest.raises(UserError, match="check that your token may read it"):
        repos.fetch_text_encoder("me/gemma")


def test_an_unknown_repo_says_so_and_what_was_meant(server):
    with pytest.raises(UserError, match=r"no model Lightricks/LTX2 .* Did you mean Lightricks/LTX-2"):
        repos.fetch_checkpoint("Lightricks/LTX2", "distilled")
    with pytest.raises(UserError, match=r"no model some/body .*private.*hf auth login"):
        repos.fetch_checkpoint("some/body", "distilled")


@pytest.mark.parametrize("repo", ["two/many/parts", "spaces in/name", "-x/y--z"])
def test_misspelled_ids_are_refused(server, repo):
    with pytest.raises(UserError, match="is not a Hugging Face id; they look like Lightricks/LTX-2"):
        hub.list_files(repo)


def test_a_hub_that_fails_says_its_status(server):
    server.status = 418
    with pytest.raises(UserError, match=r"answered 418 for me/lora .*try again later"):
        repos.fetch_lora("me/lora")
