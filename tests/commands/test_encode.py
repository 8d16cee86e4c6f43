"""The command `encode`: a prompt as a file that gives the same clip as the prompt itself, without the text encoder."""

import numpy as np
import pytest

from mlx_video import encode, generate
from mlx_video.pipelines import loader
from tests.pipelines.cases import GENERATIONS

SIZE = ["--height", 64, "--width", 64, "--num-frames", 9, "--quiet"]
PROMPT = ["--prompt", "a red ball in the rain"]


def latents(clip):
    return {modality: np.array(value).tobytes() for modality, value in clip.latents.items()}


def test_an_embedding_is_its_prompt(command, small_folder, tmp_path, made, monkeypatch):
    for generation in GENERATIONS:
        for pipeline, variant in (("distilled", "distilled"), ("dev", "dev")):
            model = ["--model-repo", small_folder(generation)]
            where = [*model, "-o", tmp_path / "a.mp4", "--pipeline", pipeline, *SIZE]
            where += ["--steps", 2] if pipeline == "dev" else []
            file = tmp_path / f"{generation}-{variant}.safetensors"
            text = [*PROMPT, *(["--negative-prompt", "blue"] if pipeline == "dev" else [])]
            assert command(encode.main, *text, *model, "-o", file, "--variant", variant)[0] == 0
            assert command(generate.main, *text, *where) == (0, "")
            with monkeypatch.context() as patch:
                patch.setattr(loader, "read_text_encoder", None)  # a call of it would fail
                assert command(generate.main, "--embedding", file, *where) == (0, "")
            assert latents(made[-1]) == latents(made[-2])


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
    refused(encode.main, *PROMPT, *model, "-o", tmp_path / "b" / "a.safetensors", said=[tmp_path / "b", "does not exist"])
    refused(encode.main, *PROMPT, "--model-repo", tmp_path / "c", "-o", tmp_path / "a.safetensors", said=[tmp_path / "c"])


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
