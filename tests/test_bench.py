"""What the measurements count: operations of a block, time by phase, rows of a table."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from bench import block, generations, kernels, measure, networks, phases, steps, weights
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.models.ltx_2.config import TransformerConfig
from mlx_video.models.ltx_2.transformer.block import Block
from mlx_video.types import CONTEXT_TOKENS, Progress
from mlx_video.weights import names
from tests.support import published_25, real_keys


@pytest.mark.parametrize("generation", [*real_keys.GENERATIONS, "2.5"])
def test_operations_are_those_of_the_blocks_own_layers(generation):
    config = TransformerConfig.read(block.published(generation))
    tokens = {"video": 96, "audio": 40}
    total = 0
    for path, layer in Block(config).named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        owner, part = path.split(".")[:2]
        reads, writes = ("audio", "audio") if owner.startswith("audio") else ("video", "video")
        if "_to_" in owner:
            reads, writes = owner.removesuffix("_attn").split("_to_")
        count = tokens[writes]
        if part in ("to_k", "to_v"):
            count = CONTEXT_TOKENS if owner.endswith("attn2") else tokens[reads]
        total += 2 * count * layer.weight.size
    for (queries, keys), dim in (
        (("video", "video"), config.video.dim),
        (("audio", "audio"), config.audio.dim),
        (("video", "audio"), config.audio.dim),
        (("audio", "video"), config.audio.dim),
    ):
        total += 4 * tokens[queries] * tokens[keys] * dim
    total += sum(4 * tokens[m] * CONTEXT_TOKENS * config.streams[m].dim for m in tokens)
    assert block.flops(config, tokens) == total


def test_rounds_alternate_and_the_first_does_not_count():
    calls = []
    found = measure.alternate({name: lambda name=name: calls.append(name) or mx.zeros(1) for name in "ab"}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert found.keys() == {"a", "b"}
    assert all(timing.seconds >= 0 for timing in found.values())


def test_products_make_up_the_operations_asked_for():
    for flops in (1.0, 3e6, 8e7):
        run, factor = measure.multiply(flops, size=64)
        times = max(1, round(flops / (2 * 64**3)))
        assert factor * times * 2 * 64**3 == pytest.approx(flops)
    assert run().shape == (64, 64)


def test_time_goes_to_the_phase_that_reports(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(phases, "clock", lambda: lambda: next(ticks))
    watch = phases.Watch()
    watch.add("start")
    watch(Progress("text", 0, 1))
    watch(Progress("text", 1, 1, 500))
    watch(Progress("stage 1", 0, 8))
    assert watch.phases == {
        "start": phases.Phase(1.0, None),
        "text": phases.Phase(5.0, 500),
        "stage 1": phases.Phase(4.0, None),
    }


def test_tables_have_aligned_columns():
    lines = measure.table("title", ["what", "s"], [["a", "1.00"], ["longer", "12.50"]]).splitlines()
    assert lines[0] == "title"
    assert {len(line) for line in lines[1:] if line} == {len("longer") + 2 + len("12.50")}


def test_operations_of_convolutions_are_counted_where_they_run():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.grown = nn.Conv1d(3, 4, 5, padding=2), nn.ConvTranspose1d(4, 2, 6, stride=3)

        def __call__(self, x):
            return self.grown(self.plain(x))

    network = Network()
    with networks.counted(network) as count:
        network(mx.zeros((1, 10, 3)))
    assert count["flops"] == 2 * 10 * (4 * 5 * 3) + 2 * 10 * (2 * 6 * 4)
    network(mx.zeros((1, 10, 3)))
    assert count["flops"] == 2 * 10 * (4 * 5 * 3) + 2 * 10 * (2 * 6 * 4)


@pytest.mark.parametrize(("generation", "most", "gigabytes"), [("2.5", 112, 6.70), ("2.3", 112, 6.95), ("2", 94, 6.41)])
def test_a_block_is_so_many_kernels_on_metal_and_moves_so_many_bytes(generation, most, gigabytes):
    """At 6,144 tokens, in 16 bit; a cast or a copy that leaves a compiled function would be one more."""
    found, _ = kernels.count(generation, {"video": 6144, "audio": kernels.AUDIO_TOKENS})
    assert sum(kind.count for kind in found.values()) <= most
    assert sum(kind.nbytes for kind in found.values()) / 1e9 < gigabytes + 0.005
    assert set(found) >= {"product", "attention", "norm", "modulate", "add gated", "turn", "GELU"}
    assert "AsType" not in found


def test_the_newer_generation_begins_with_its_keyframes():
    for generation, marked in (("2.3", False), ("2.5", True)):
        network, states, prepared = steps.make(generation)
        assert (prepared.keyframes is not None) == network.config.keyframe_embedding == marked
        assert network.config.video.feed_forward_bias != marked
    assert prepared.keyframes.sum().item() == states["video"].latent.shape[1] / steps.SHAPE.grid[0]


def test_layers_of_the_text_encoder_are_the_published_ones():
    shapes = {name: tensor.shape for name, tensor in published_25.tensors(published_25.TEXT_ENCODER).items()}
    layers = generations.text_layers()
    for kind, number in (("of a window", 0), ("of everything", 5)):
        found = names.shapes(layers[f"Gemma 4, {kind}"])
        start = f"model.layers.{number}."
        assert found == {n.removeprefix(start): shape for n, shape in shapes.items() if n.startswith(start)}


def test_a_packs_transformer_has_its_first_blocks(tmp_path):
    checkpoint = open_checkpoint(weights._holes(tmp_path, "2.5", 2), "distilled")
    names.match(checkpoint.build("transformer"), checkpoint.part("transformer").shapes(), "transformer")
    assert len(checkpoint.build("transformer").transformer_blocks) == 2


def test_the_newer_generations_convolutional_networks_need_no_rows_of_their_own():
    ours, before = published_25.config(), real_keys.config("2.3")
    for part in ("vae", "audio_vae", "vocoder"):
        assert ours[part] == before[part]
