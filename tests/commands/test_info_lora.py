"""`mlx_video.info` of a LoRA: its base, ranks, alphas, layers that do nothing, and what its trainer has noted."""

import mlx.core as mx
import pytest

from mlx_video import info
from mlx_video.checkpoints import demo, describe_lora
from mlx_video.checkpoints.describe_lora import LONGEST_NOTE, MOST_NOTES
from tests.support import peaks

LAYER = "diffusion_model.transformer_blocks.{}.attn1.to_q"
NEWER = "diffusion_model.transformer_blocks.{}.attn1.to_gate_logits"


def pair(layer, out=4096, wide=4096, rank=8, alpha=None):
    down, up = mx.full((rank, wide), 0.01, mx.bfloat16), mx.full((out, rank), 0.01, mx.bfloat16)
    more = {} if alpha is None else {f"{layer}.alpha": mx.array(float(alpha))}
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, **more}


@pytest.fixture(scope="module")
def networks():
    return list(describe_lora._networks())


@pytest.fixture(autouse=True)
def known(networks, monkeypatch):
    """The published networks, built once for all tests."""
    monkeypatch.setattr(describe_lora, "_networks", lambda: iter(networks))


@pytest.fixture
def say(tmp_path, capsys):
    """The lines that info prints of a LoRA with these tensors and this metadata."""

    def run(tensors, metadata=None, name="style.safetensors"):
        mx.save_safetensors(str(tmp_path / name), tensors, metadata or {})
        assert info.main([str(tmp_path / name)]) == 0
        return capsys.readouterr().out

    return run


def field(text, label):
    return next(line[20:].strip() for line in text.splitlines() if line[2:20].strip() == label)


def test_what_both_generations_have_is_of_both(say):
    text = say(pair(LAYER.format(0), alpha=4))
    assert field(text, "base").startswith("LTX-2 or LTX-2.3 or LTX-2.5 (whose layers")
    assert field(text, "layers") == "1 of 1 matched"
    assert (field(text, "rank"), field(text, "alpha"), field(text, "scale")) == ("8", "4", "0.5")
    assert field(text, "dead layers") == "none"
    assert field(text, "size").endswith("bfloat16, float32")


def test_what_only_later_ones_have_tells_them(say):
    text = say({**pair(LAYER.format(0)), **pair(NEWER.format(0), out=32)})
    assert field(text, "base").startswith("LTX-2.3 or LTX-2.5")
    assert field(text, "layers") == "2 of 2 matched"


def test_another_models_lora_is_of_none(say):
    assert field(say(pair(LAYER.format(0), out=3072)), "base").startswith("none that is known: ")
    assert field(say(pair("unet.down.0.to_q")), "base").startswith("none that is known: ")


def test_the_demos_is_the_demos(capsys):
    assert info.main([str(demo.folder() / "ltx-2.3-demo-distilled-lora.safetensors")]) == 0
    assert field(capsys.readouterr().out, "base") == "the demo"


def test_layers_in_part_are_counted_and_named(say):
    text = say({**pair(LAYER.format(0)), **pair(LAYER.format(99))})
    assert field(text, "layers").startswith("1 of 2 matched; not known: diffusion_model.transformer_blocks.99.")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "add nothing (zeros)"), (float("nan"), "are no numbers"), (float("inf"), "are no numbers")],
)
@pytest.mark.parametrize("part", ["A", "B"])
def test_dead_layers_are_named(part, value, said, say):
    tensors = {**pair(LAYER.format(0)), **pair(LAYER.format(1))}
    name = f"{LAYER.format(1)}.lora_{part}.weight"
    tensors[name] = mx.full(tensors[name].shape, value, mx.bfloat16)
    text = field(say(tensors), "dead layers")
    assert text.startswith(f"1 of 2 {said}")
    assert text.endswith(LAYER.format(1))


def test_an_alpha_of_zero_is_dead(say):
    assert "1 of 1 add nothing" in field(say(pair(LAYER.format(0), alpha=0)), "dead layers")


def test_ranks_that_differ_are_counted(say):
    text = say({**pair(LAYER.format(0)), **pair(LAYER.format(1)), **pair(LAYER.format(2), rank=16)})
    assert field(text, "rank") == "8 (2 layers), 16 (1 layers)"


def test_notes_are_few_short_and_on_one_line(say):
    noted = {f"ss_{n:03}": "x" for n in range(100)}
    more = {"ss_base_model_version": "ltx-2.3", "author": "a\x1b[2Jb\nc", "long": "y" * 5000, "ss_tag_frequency": "{}"}
    text = say(pair(LAYER.format(0)), {**noted, **more, "nested": '{"a": 1}'})
    notes = [line for line in text.splitlines() if line[2:20].strip() == "note"]
    assert len(notes) == MOST_NOTES + 1
    assert notes[0].endswith("ss_base_model_version = ltx-2.3")
    assert max(map(len, notes)) <= 20 + LONGEST_NOTE
    assert "\x1b" not in text
    assert "tag_frequency" not in text


def test_one_matrix_is_in_memory_at_a_time(tmp_path):
    tensors = {name: value for n in range(24) for name, value in pair(LAYER.format(n), rank=64).items()}
    mx.save_safetensors(str(tmp_path / "large.safetensors"), tensors)
    whole = sum(value.nbytes for value in tensors.values())
    del tensors
    with peaks.measured() as taken:
        describe_lora.describe_lora(tmp_path / "large.safetensors")
    assert taken.peak < whole / 3
