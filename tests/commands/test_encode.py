"""The command `encode`: a prompt as a file that gives the same clip as the prompt itself, without the text encoder."""

import io
import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import encode, generate
from mlx_video.jobs.texts import embeddings as contexts
from mlx_video.jobs.texts import npz as contexts_npz
from mlx_video.lending import loader

SIZE = ["--height", 64, "--width", 64, "--num-frames", 9, "--quiet"]
PROMPT = ["--prompt", "a red ball in the rain"]


def latents(clip):
    return {modality: np.array(value).tobytes() for modality, value in clip.latents.items()}


@pytest.mark.quick("2.3-dev")
@pytest.mark.parametrize(("generation", "pipeline"), [("2", "distilled"), ("2.3", "dev")])
def test_an_embedding_is_its_prompt(command, small_folder, tmp_path, made, monkeypatch, generation, pipeline):
    model = ["--model-repo", small_folder(generation)]
    line = [*model, "-o", tmp_path / "a.mp4", "--pipeline", pipeline, *SIZE]
    text = PROMPT
    if pipeline == "dev":
        line, text = [*line, "--steps", 2], [*PROMPT, "--negative-prompt", "blue"]
    file = tmp_path / "prompt.safetensors"
    assert command(encode.main, *text, *model, "-o", file, "--variant", pipeline)[0] == 0
    assert command(generate.main, *text, *line) == (0, "")
    monkeypatch.setattr(loader, "read_text_encoder", None)  # a call of it would fail
    assert command(generate.main, "--embedding", file, *line) == (0, "")
    first, second = map(latents, made)
    assert first == second


@pytest.fixture
def refused(command, tmp_path):
    def run(main, *line, said):
        before = sorted(tmp_path.iterdir())
        status, message = command(main, *line)
        assert status == 2, message
        assert message.count("\n") == 1, message
        assert all(str(part) in message for part in said), message
        assert sorted(tmp_path.iterdir()) == before

    return run


def test_what_cannot_be_encoded(refused, small_folder, tmp_path):
    model = ["--model-repo", small_folder("2")]
    refused(encode.main, "--prompt", " ", *model, "-o", tmp_path / "a.safetensors", said=["prompt is empty"])
    refused(encode.main, *PROMPT, *model, "-o", tmp_path / "a.txt", said=["a.txt", ".safetensors"])
    nowhere, other = tmp_path / "b" / "a.safetensors", tmp_path / "c"
    refused(encode.main, *PROMPT, *model, "-o", nowhere, said=[tmp_path / "b", "does not exist"])
    refused(encode.main, *PROMPT, "--model-repo", other, "-o", tmp_path / "a.safetensors", said=[other])


def test_an_embedding_belongs_to_its_checkpoint(command, refused, small_folder, tmp_path):
    file = tmp_path / "a.safetensors"
    assert command(encode.main, *PROMPT, "--model-repo", small_folder("2"), "-o", file)[0] == 0
    line = ["--embedding", file, "-o", tmp_path / "a.mp4", *SIZE, "--model-repo"]
    refused(generate.main, *line, small_folder("2.3"), said=[file, "another checkpoint"])
    # The connectors of dev and distilled differ too.
    refused(generate.main, *line, small_folder("2"), "--pipeline", "dev", said=[file, "another checkpoint"])
    refused(generate.main, *line, small_folder("2"), *PROMPT, said=["--embedding", "leave --prompt"])
    other = small_folder("2") / "gemma" / "model.safetensors"
    refused(
        generate.main, "--embedding", other, "-o", tmp_path / "a.mp4", *SIZE, "--model-repo", small_folder("2"),
        said=[other, "not an embedding"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(small_folder, tmp_path_factory):
    """One prompt as .safetensors and as .npz, in 16 bit."""
    folder = tmp_path_factory.mktemp("both")
    for suffix in ("safetensors", "npz"):
        words = [*PROMPT, "--model-repo", str(small_folder("2")), "-o", str(folder / f"a.{suffix}")]
        assert encode.main([*words, "--dtype", "bfloat16", "--quiet"]) == 0
    return folder


def test_an_npz_holds_what_the_safetensors_holds(both):
    first, prompts = contexts.load(both / "a.safetensors")
    second, same = contexts.load(both / "a.npz")
    assert prompts == same
    assert first.keys() == second.keys() == {"positive", "negative"}
    for name, context in first.items():
        for modality in context._fields:
            one, other = getattr(context, modality), getattr(second[name], modality)
            assert one.dtype == other.dtype == mx.bfloat16
            assert mx.array_equal(one, other)


def test_an_npz_is_read_with_numpy_alone_and_without_pickle(both):
    with np.load(both / "a.npz", allow_pickle=False) as file:
        names = {f"{name}.{modality}" for name in ("positive", "negative") for modality in ("video", "audio")}
        assert set(file.files) == {*names, "metadata"}
        assert all(file[name].dtype == np.float32 for name in names)
        metadata = json.loads(str(file["metadata"]))
    assert metadata["dtype"] == "bfloat16"
    assert json.loads(metadata["prompts"])["positive"] == PROMPT[1]


def test_an_npz_makes_the_same_clip(command, both, small_folder, tmp_path, made):
    for suffix in ("safetensors", "npz"):
        line = ["--embedding", both / f"a.{suffix}", "-o", tmp_path / "a.mp4", *SIZE, "--model-repo", small_folder("2")]
        assert command(generate.main, *line, "--steps", 1)[0] == 0
    assert latents(made[0]) == latents(made[1])


def spoiled(both, path, **changes):
    with np.load(both / "a.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


def test_a_spoiled_npz_is_refused(refused, both, small_folder, tmp_path):
    def said(**changes):
        return np.array(json.dumps({**json.loads(str(np.load(both / "a.npz")["metadata"])), **changes}))

    changes = {
        "pickled": {"extra": np.array([len], object)},
        "no metadata": {"metadata": None},
        "other metadata": {"metadata": np.array("[1, 2]")},
        "no json": {"metadata": np.array("{")},
        "no precision": {"metadata": said(dtype="int8")},
        "numbers": {"metadata": said(prompts=5)},
        "whole numbers": {"positive.video": np.zeros((1, 2, 3), np.int64)},
    }
    files = [spoiled(both, tmp_path / f"{name}.npz", **change) for name, change in changes.items()]
    for name, content in (("cut", (both / "a.npz").read_bytes()[:-500]), ("text", b"a red ball")):
        files.append(tmp_path / f"{name}.npz")
        files[-1].write_bytes(content)
    packed = io.BytesIO()
    np.savez_compressed(packed, metadata=np.array("x" * 5000))
    whole = packed.getvalue()
    files.append(tmp_path / "bytes.npz")
    files[-1].write_bytes(whole[:90] + bytes(9) + whole[99:])
    model = ["--model-repo", small_folder("2")]
    for file in files:
        line = ["--embedding", file, "-o", tmp_path / "a.mp4", *SIZE, *model]
        refused(generate.main, *line, said=[file, "is not an embedding of mlx_video.encode"])
    line = ["--embedding", both / "a.npz", "-o", tmp_path / "a.mp4", *SIZE, "--model-repo", small_folder("2.3")]
    refused(generate.main, *line, said=["another checkpoint"])


def test_a_bomb_is_not_unpacked(refused, small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(contexts_npz, "MOST_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", **{"positive.video": np.zeros(1 << 19, np.float32)})
    line = ["--embedding", tmp_path / "a.npz", "-o", tmp_path / "a.mp4", *SIZE, "--model-repo", small_folder("2")]
    refused(generate.main, *line, said=["unpacks to more than"])
