"""The command `encode`: a prompt as a file that gives the same clip as the prompt itself, without the text encoder."""

import numpy as np
import pytest

from mlx_video import encode, generate
from mlx_video.pipelines import loader

SIZE = ["--height", 64, "--width", 64, "--num-frames", 9, "--quiet"]
PROMPT = ["--prompt", "a red ball in the rain"]


def latents(clip):
    return {modality: np.array(value).tobytes() for modality, value in clip.latents.items()}


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
