"""Commands on a Hugging Face id: what a run takes and fetches is known, and what cannot run refused, from headers."""

import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert, encode, generate, info, upscale
from mlx_video.checkpoints.layouts import open_checkpoint
from tests.support import played_hub, real_gemma, small, sparse
from tests.support.readback import read
from tests.support.small_gemma import make_gemma

MODEL = "Lightricks/LTX-2"
SMALL = ["--prompt", "a red ball", "--height", 64, "--width", 64, "--num-frames", 9]
FIRST_LINE = "Lightricks/LTX-2: 6 files, 14.8 MB to fetch, 0 here; "


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders go."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def server(monkeypatch, tmp_path, small_folder, temporary):
    """A hub with a small LTX-2, and what does not go with it."""
    folder, other = small_folder("2"), small_folder("2.3")
    model = played_hub.repo_of(folder)
    wider = tmp_path / "wider"
    make_gemma(wider, width=48)
    repos = {
        MODEL: model,
        "me/no-upsampler": {name: file for name, file in model.items() if "upscaler" not in name},
        "me/no-gemma": {name: file for name, file in model.items() if not name.startswith("gemma/")},
        "me/2.3": played_hub.repo_of(other),
        "me/gemma": played_hub.repo_of(folder / "gemma"),
        "me/wider": played_hub.repo_of(wider),
        "me/lora": {"a.safetensors": folder / small.LORAS["2"]},
        "me/loras": {"a.safetensors": folder / small.LORAS["2"], "b.safetensors": other / small.LORAS["2.3"]},
        "me/other-lora": {"a.safetensors": other / small.UPSAMPLERS["2.3"]},
    }
    with played_hub.play(monkeypatch, tmp_path, repos) as hub:
        hub.cache = tmp_path / "hub"
        yield hub
    assert list(temporary.iterdir()) == []


def looked_into(server):
    """Whether headers are all that was read: nothing is in the cache, and no file was served beyond its header."""
    heads = all(size < 140_000 for size in server.served.values())
    return heads and not list(server.cache.rglob("blobs/*"))


def shown(main, capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ --plan


def test_a_plan_fetches_headers_and_says_what_a_run_would_fetch(server, capsys, tmp_path):
    words = [*SMALL, "--model-repo", MODEL, "--plan", "-o", tmp_path / "a.mp4"]
    text = shown(generate.main, capsys, *words)
    assert text.splitlines()[-1].startswith(FIRST_LINE)
    assert "stage 2" in text
    assert looked_into(server)
    assert server.lists == 1
    server.forget()
    more = ["--lora", "me/lora", "--text-encoder-repo", "me/gemma", "--pipeline", "dev"]
    lines = shown(generate.main, capsys, *words, *more).splitlines()
    assert [line.partition(",")[0] for line in lines[-3:]] == [
        f"{MODEL}: 1 file",
        "me/gemma: 4 files",
        "me/lora: 1 file",
    ]
    assert looked_into(server)


def test_a_plan_of_files_that_are_here_asks_for_none(server, capsys, tmp_path):
    from mlx_video.checkpoints.hub import repos

    repos.fetch_checkpoint(MODEL, "distilled")
    server.forget()
    text = shown(generate.main, capsys, *SMALL, "--model-repo", MODEL, "--plan", "-o", tmp_path / "a.mp4")
    assert text.splitlines()[-1] == f"{MODEL}: nothing to fetch, 6 here"
    assert (server.lists, server.fetched) == (1, [])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The published LTX-2 as a repo, with Gemma 3 12B in it: names, shapes and 67 GB of holes."""
    folder = tmp_path_factory.mktemp("real")
    sparse.make(folder, "2").rename(folder / "ltx-2-19b-dev.safetensors")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(real_gemma.config_json())
    tensors = {name: (entry.dtype, entry.shape) for name, entry in real_gemma.entries().items()}
    sparse.write(folder / "text_encoder" / "model.safetensors", tensors, {"format": "pt"})
    return folder


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_plan_of_the_real_files_fetches_a_hundred_thousandth(real, ranges, capsys, tmp_path, monkeypatch, temporary):
    with played_hub.play(monkeypatch, tmp_path, {MODEL: played_hub.repo_of(real)}) as server:
        server.ranges = ranges
        words = ["-p", "a fox", "--model-repo", MODEL, "--pipeline", "dev", "--memory-limit", 64, "--plan"]
        text = shown(generate.main, capsys, *words)
    assert f"{MODEL}: 3 files, 66.8 GB to fetch, 0 here; " in text
    everything = sum(path.stat().st_size for path in real.rglob("*.safetensors"))
    assert sum(server.served.values()) < everything * (2e-5 if ranges else 1e-3)
    # What stays of it in the temporary folder goes, too.
    assert list(temporary.iterdir()) == []


# ------------------------------------------------------------------------------------------------ runs


def test_a_run_says_what_it_fetches_then_fetches_it_and_works(server, command, tmp_path, made, small_folder):
    words = [*SMALL, "-o", tmp_path / "a.mp4"]
    status, said = command(generate.main, *words, "--model-repo", MODEL)
    assert status == 0, said
    assert said.startswith(FIRST_LINE)
    assert read(tmp_path / "a.mp4").frames == 9
    assert server.served[small.NAMES["2"].format("distilled")] > 13_996_543
    assert not any("dev" in name or "lora" in name for name in server.served)
    assert server.lists == 1
    server.forget()
    status, said = command(generate.main, *words, "--model-repo", MODEL)
    assert (status, "to fetch" in said) == (0, False)
    assert (server.lists, server.fetched) == (1, [])
    assert command(generate.main, *words, "--model-repo", small_folder("2"), "--quiet") == (0, "")
    clips = [np.array(clip.latents["video"]).tobytes() for clip in made]
    assert clips[0] == clips[1] == clips[2]


@pytest.mark.slow
def test_an_embedding_spares_the_text_encoder(server, command, tmp_path):
    embedding = tmp_path / "a.safetensors"
    status, said = command(encode.main, "-p", "a red ball", "-o", embedding, "--model-repo", MODEL)
    assert (status, said.startswith(FIRST_LINE)) == (0, True)
    server.forget()
    words = [*SMALL[2:], "--embedding", embedding, "-o", tmp_path / "a.mp4", "--quiet", "--model-repo"]
    assert command(generate.main, *words, MODEL) == (0, "")
    assert server.fetched == []
    assert command(generate.main, *words, "me/no-gemma") == (0, "")  # as far as it is not there, it is fetched
    status, said = command(generate.main, *words, "me/2.3")
    assert (status, said.count("\n")) == (2, 1)
    assert "was encoded for another checkpoint" in said


def test_upscaling_and_converting_say_what_they_fetch(server, command, tmp_path, inputs):
    words = ["-i", inputs / "picture.png", "-o", tmp_path / "a.png", "--model-repo", MODEL]
    status, said = command(upscale.main, *words, "--scale", 1.5)
    assert (status, said.count("\n")) == (2, 1)
    assert f"{MODEL} has no spatial x1.5 upsampler" in said
    assert looked_into(server)
    status, said = command(upscale.main, *words)
    assert (status, said.startswith(f"{MODEL}: 2 files, 14.7 MB to fetch, 0 here; ")) == (0, True), said
    status, said = command(convert.main, "--source", MODEL, "-o", tmp_path / "dev", "--variant", "dev")
    assert (status, said.startswith(f"{MODEL}: 2 files, 14.1 MB to fetch, 1 here; ")) == (0, True), said


REFUSED = {
    "too little memory": (["--model-repo", MODEL, "--memory-limit", 0.001], "the smallest clip takes"),
    "no upsampler": (["--model-repo", "me/no-upsampler"], "me/no-upsampler has no spatial x2 upsampler"),
    "no text encoder": (
        ["--model-repo", "me/no-gemma"], "No text encoder was found beside me/no-gemma/ltx-2-19b-distilled.safetensors;"
    ),
    "another text encoder": (["--model-repo", MODEL, "--text-encoder-repo", "me/wider"], "48"),
    "no LoRA": (["--model-repo", MODEL, "--lora", "me/other-lora"], "me/other-lora/a.safetensors is not a LoRA"),
    "no picture": (["--model-repo", MODEL, "--image", "none.png"], "none.png"),
    "no embedding": (["--model-repo", MODEL, "--embedding", "none.safetensors"], "none.safetensors"),
    "gated": (["--model-repo", MODEL, "--text-encoder-repo", "me/gemma"], "me/gemma is gated: accept its licence"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_before_the_download(server, command, tmp_path, case):
    server.gated.add("me/gemma")
    more, said = REFUSED[case]
    words = SMALL if "--embedding" not in more else SMALL[2:]
    status, message = command(generate.main, *words, *more, "-o", tmp_path / "a.mp4")
    assert (status, message.count("\n")) == (2, 1), message
    assert said in message
    assert "temporary" not in message
    assert looked_into(server)


@pytest.mark.slow
def test_a_pipeline_forgets_outlines(server, small_folder):
    from mlx_video import LTXPipeline, Request, UserError

    request = Request(prompt="a red ball", height=64, width=64, num_frames=9)
    with LTXPipeline.from_pretrained(MODEL, memory_limit=0.001) as pipe:
        for _ in range(2):
            with pytest.raises(UserError, match=r"would fit|smallest clip"):
                pipe.run(request)
    with LTXPipeline.from_pretrained(MODEL) as pipe:
        first = pipe.plan(request)
        assert str(pipe.plan(request)) == str(first)
        server.forget()
        assert pipe.run(request).latents["video"].shape == (1, 128, 2, 2, 2)
        server.forget()
        pipe.run(request)
        assert server.asked == []


# ------------------------------------------------------------------------------------------------ info


def test_info_tells_a_repo_from_its_headers(server, capsys, monkeypatch, small_folder):
    with monkeypatch.context() as patch:
        patch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
        text = shown(info.main, capsys, MODEL)
    assert looked_into(server)
    distilled, dev, fetching, machine = text.split("\n\n")
    assert distilled.splitlines()[0] == f"{MODEL}/{small.NAMES['2'].format('distilled')}"
    assert dev.splitlines()[0] == f"{MODEL}/{small.NAMES['2'].format('dev')}"
    folder = small_folder("2")
    local = shown(info.main, capsys, folder)
    assert "\n\n".join((distilled, dev, machine)) == local.replace(str(folder), MODEL)
    head, *lines = fetching.splitlines()
    assert head.startswith("A run would fetch (")
    assert [" ".join(line.split()[:3]) for line in lines] == [
        "distilled 6 files,", "dev 5 files,", "dev-two-stage 7 files,", "dev-two-stage-hq 7 files,",
    ]  # fmt: skip
    assert open_checkpoint(Path(folder), "dev").variant == "dev"


def test_info_says_what_a_repo_has_not(server, capsys):
    text = shown(info.main, capsys, "me/no-upsampler")
    assert "  distilled         me/no-upsampler has no spatial x2 upsampler" in text
    assert info.main(["me/lora"]) == 2
    assert capsys.readouterr().err.startswith("mlx_video.info: me/lora holds no LTX-2 checkpoint, which is ")
    assert info.main(["me/loras"]) == 2
    assert (
        "me/loras has no distilled checkpoint; its files are a.safetensors, b.safetensors.\n" in capsys.readouterr().err
    )
    assert info.main(["me/unknown"]) == 2
    assert "There is no model me/unknown on Hugging Face" in capsys.readouterr().err
