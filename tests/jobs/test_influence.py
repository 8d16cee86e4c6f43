"""What a user's LoRA changes is told before the first step, and measuring it changes nothing."""

import mlx.core as mx
import pytest

from mlx_video import Lora, LTXPipeline
from mlx_video.jobs import influence
from tests.support import small

ASKED = {"prompt": "a fox", "height": 64, "width": 64, "num_frames": 9, "seed": 3}


@pytest.fixture(scope="module")
def folder(small_folder):
    return small_folder("2.3")


@pytest.fixture(autouse=True)
def kept(texts_are_kept):
    """Its texts are of no interest here."""


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    """A LoRA of the user's own, and the same made of zeros."""
    files = {}
    for name, factor in (("style", 1), ("zeros", 0)):
        files[name] = tmp_path_factory.mktemp("lora") / f"{name}.safetensors"
        mx.save_safetensors(str(files[name]), {k: v * factor for k, v in small.lora_tensors("2.3", seed=9).items()})
    return files


def run(folder, loras, **asked):
    said = []
    with LTXPipeline.from_pretrained(folder, low_memory=asked.pop("low_memory", None)) as pipe:
        clip = pipe.generate(**ASKED, lora=loras, on_message=said.append, **asked)
    return clip.latents, [line for line in said if "matched" in line]


def test_a_lora_tells_its_layers_and_what_it_changes(folder, style):
    _, [line] = run(folder, Lora(str(style["style"]), 1.0))
    assert line.startswith("style.safetensors: 130 of 130 layers matched; what the model predicts")
    assert int(line.rpartition("by ")[2].removesuffix("%.")) >= 1


def test_one_that_does_nothing_is_warned_of(folder, style):
    _, [line] = run(folder, Lora(str(style["zeros"]), 1.0))
    assert "changes by 0.00%, under 1%: hardly anything will be seen" in line


def test_without_a_lora_nothing_is_measured(folder, monkeypatch):
    monkeypatch.setattr(influence, "velocity", lambda *a: pytest.fail("measured"))
    assert run(folder, ())[1] == []


@pytest.mark.slow
def test_of_blocks_that_are_read_in_every_call_nothing_is_measured(folder, style, monkeypatch):
    monkeypatch.setattr(influence, "velocity", lambda *a: pytest.fail("measured"))
    _, [line] = run(folder, Lora(str(style["style"]), 1.0), low_memory=True)
    assert "is not measured" in line


@pytest.mark.parametrize("pipeline", ["distilled", pytest.param("dev-two-stage", marks=pytest.mark.slow)])
def test_measuring_changes_no_bit_of_the_clip(folder, style, pipeline, monkeypatch):
    steps = {} if pipeline == "distilled" else {"steps": 2}
    loras = [Lora(str(style["style"]), 0.5), Lora(str(style["zeros"]), 1.0)]
    measured, _ = run(folder, loras, pipeline=pipeline, **steps)
    monkeypatch.setattr(influence, "measured", lambda adapters, *rest: adapters.fuse)
    plain, said = run(folder, loras, pipeline=pipeline, **steps)
    assert not said
    assert all(mx.array_equal(measured[m], plain[m]) for m in plain)
