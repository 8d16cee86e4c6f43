"""Prompt to contexts against the reference: transformers' Gemma 3 and ltx_core's feature extractors and connectors.

`python -m tests.parity.test_text` writes `fixtures/text.npz` anew from the reference.
"""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_2.config import TextConfig, feature_width
from mlx_video.models.ltx_2.text_encoder.connectors import Connectors
from mlx_video.models.ltx_2.text_encoder.gemma import TextRotation
from mlx_video.models.ltx_2.text_encoder.gemma_config import Rotary
from mlx_video.weights import names
from mlx_video.weights.store import Tensors
from tests.models import test_text_encoder as small
from tests.parity.reference import build, error, normal, randomize, save, torch

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

CONTEXT = 1024
SENTENCE = "The camera moves slowly from left to right, and a child laughs. "


def gemma(folder):
    """transformers' own Gemma 3 text model with the weights of a folder, in float32."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    config = transformers.Gemma3TextConfig(**{key: value for key, value in text.items() if key != "model_type"})
    model = transformers.Gemma3TextModel(config).eval()
    prefix = "language_model.model."
    state = {
        name.removeprefix(prefix): torch.from_numpy(np.array(array.astype(mx.float32)))
        for name, array in Tensors.of_folder(folder).load([prefix]).items()
    }
    model.load_state_dict(state)
    return model


def padded(folder, prompt: str):
    """Ids and mask as the reference has them: stripped, cut, padded on the left."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.padding_side = "left"
    return tokenizer(prompt.strip(), padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")


def hidden_states(folder, prompt: str):
    """(T, width, layers + 1) of the valid tokens, the tuple that the reference goes on with, and its mask."""
    inputs = padded(folder, prompt)
    out = gemma(folder)(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, output_hidden_states=True, use_cache=False
    )
    valid = int(inputs.attention_mask.sum())
    return torch.stack([h[0, -valid:] for h in out.hidden_states], -1), out.hidden_states, inputs.attention_mask


def processor(transformer: dict, width: int, states: int):
    """The reference's way from hidden states to contexts, built by its own configurators."""
    from ltx_core.text_encoders.gemma.embeddings_connector import (
        AudioEmbeddings1DConnectorConfigurator,
        Embeddings1DConnectorConfigurator,
    )
    from ltx_core.text_encoders.gemma.embeddings_processor import EmbeddingsProcessor
    from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV1, FeatureExtractorV2

    config = {"transformer": transformer}
    video = build(Embeddings1DConnectorConfigurator, config)
    audio = build(AudioEmbeddings1DConnectorConfigurator, config)
    if "caption_proj_before_connector" in transformer:
        extractor = FeatureExtractorV2(
            torch.nn.Linear(width * states, video.inner_dim), width, torch.nn.Linear(width * states, audio.inner_dim)
        )
    else:
        extractor = FeatureExtractorV1(torch.nn.Linear(width * states, video.inner_dim, bias=False), is_av=True)
    return EmbeddingsProcessor(feature_extractor=extractor, video_connector=video, audio_connector=audio).float().eval()


def official_parts(module) -> dict:
    return {
        "text_embedding_projection.": module.feature_extractor,
        "model.diffusion_model.video_embeddings_connector.": module.video_connector,
        "model.diffusion_model.audio_embeddings_connector.": module.audio_connector,
    }


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a",
        SENTENCE * 3,
        "  two\n\nlines\tand   spaces ",
        "caf\u00e9 \u96e8 \U0001f98a",
        "<start_of_turn>user<bos>",
        SENTENCE * 40,
    ],
    ids=["empty", "letter", "sentences", "blanks", "unicode", "special", "cut"],
)
def test_tokens(prompt, tmp_path_factory):
    folder = small.write_gemma(tmp_path_factory.mktemp("g") / "gemma")
    inputs = padded(folder, prompt)
    wanted = inputs.input_ids[0][inputs.attention_mask[0].bool()].tolist()
    assert small.Tokenizer(folder).encode(prompt) == wanted


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("", {}),
        (SENTENCE, {}),
        (SENTENCE * 12, {}),
        (
            SENTENCE * 3,
            {"sliding_window": 1024, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 3.0, "rope_type": "linear"}},
        ),
        (
            SENTENCE,
            {
                "hidden_size": 48,
                "num_attention_heads": 3,
                "num_key_value_heads": 3,
                "head_dim": 256,
                "num_hidden_layers": 7,
            },
        ),
    ],
    ids=["empty", "window", "long", "factor 3", "wide heads"],
)
def test_hidden_states(prompt, text, tmp_path):
    folder = small.write_gemma(tmp_path / "gemma", seed=3, **text)
    ours = small.open_encoder(folder).encode([prompt])[0]
    assert error(ours, hidden_states(folder, prompt)[0]) < 5e-6


@pytest.mark.parametrize("rotary", [Rotary(10_000.0, 1.0), Rotary(1_000_000.0, 8.0), Rotary(500_000.0, 3.0)])
def test_rotary_frequencies_to_the_bit(rotary):
    wanted = 1.0 / (rotary.base ** (torch.arange(0, 256, 2, dtype=torch.float) / 256)) / rotary.divisor
    ours = TextRotation(256, rotary)._frequencies
    # Almost all bits: where the two libraries' powers differ by one unit in the last place, so does the frequency.
    assert (ours == wanted.numpy()).mean() > 0.9
    np.testing.assert_allclose(ours, wanted.numpy(), rtol=1.3e-7)


CHANGES = {
    "2": {},
    "2.3": {},
    "2, gated, float32 frequencies, one position": {
        "connector_apply_gated_attention": True,
        "frequencies_precision": "float32",
        "connector_positional_embedding_max_pos": [1],
    },
    "2.3, other sizes": {
        "connector_num_attention_heads": 3,
        "connector_attention_head_dim": 10,
        "connector_num_layers": 1,
        "audio_connector_num_attention_heads": 1,
        "audio_connector_attention_head_dim": 24,
        "audio_connector_num_layers": 3,
        "connector_apply_gated_attention": False,
    },
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("tokens", [1, 147])
def test_contexts(case, tokens, tmp_path):
    width, states = 20, 4
    transformer = small.CHECKPOINTS[case.split(",")[0]] | CHANGES[case]
    reference = randomize(processor(transformer, width, states), seed=tokens)
    path = save(tmp_path / "c.safetensors", official_parts(reference), {"transformer": transformer})

    tensors = Tensors([path])
    features = feature_width({name: entry.shape for name, entry in tensors.entries.items()})
    network = Connectors(TextConfig.read(tensors.metadata["config"], features=features))
    names.assign(network, tensors.load(Connectors.prefixes), "connectors", dtype=mx.float32)

    # Padding is garbage in the reference and must not matter; one layer is far off zero, as Gemma's are.
    hidden = normal(5, 1, CONTEXT, width, states) * torch.tensor([0.1, 1.0, 30.0, 2.0]) + torch.tensor(
        [0.0, 5.0, 0.0, 0.0]
    )
    mask = torch.zeros(1, CONTEXT, dtype=torch.int64)
    mask[:, -tokens:] = 1
    wanted = reference.process_hidden_states(tuple(hidden.unbind(-1)), mask)
    ours = network(mx.array(hidden[0, -tokens:].numpy()))
    assert error(ours.video, wanted.video_encoding) < 1e-5
    assert error(ours.audio, wanted.audio_encoding) < 1e-5


@pytest.mark.parametrize("generation", ["2", "2.3"])
def test_prompt_to_contexts(generation, tmp_path):
    folder = small.write_gemma(tmp_path / "gemma", seed=4)
    encoder, network = small.open_encoder(folder), small.open_connectors(generation, seed=6)
    _, states, mask = hidden_states(folder, SENTENCE * 2)
    wanted = seeded_processor(generation, seed=6).process_hidden_states(states, mask)
    ours = network(encoder.encode([SENTENCE * 2])[0])
    assert error(ours.video, wanted.video_encoding) < 5e-5
    assert error(ours.audio, wanted.audio_encoding) < 5e-5


def seeded_processor(generation: str, seed: int):
    module = processor(small.CHECKPOINTS[generation], small.TEXT["hidden_size"], small.STATES)
    tensors = small.connector_tensors(generation, seed)
    for prefix, part in official_parts(module).items():
        part.load_state_dict(
            {n.removeprefix(prefix): torch.from_numpy(np.array(v)) for n, v in tensors.items() if n.startswith(prefix)}
        )
    return module


def record(folder) -> dict[str, np.ndarray]:
    """What `fixtures/text.npz` holds."""
    found = {}
    for i, prompt in enumerate(small.PROMPTS):
        hidden, states, mask = hidden_states(small.write_gemma(folder), prompt)
        found[f"hidden{i}"] = hidden.numpy()
        for generation in small.CHECKPOINTS:
            out = seeded_processor(generation, seed=0).process_hidden_states(states, mask)
            found[f"{generation}/video{i}"] = out.video_encoding[0, small.ROWS].numpy()
            found[f"{generation}/audio{i}"] = out.audio_encoding[0, small.ROWS].numpy()
    return found


def test_fixture_is_what_the_reference_gives(tmp_path):
    found, kept = record(tmp_path / "gemma"), np.load(small.RECORDED)
    assert set(found) == set(kept.files)
    for name, value in found.items():
        assert error(kept[name], value) < 1e-5


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        np.savez_compressed(small.RECORDED, **record(Path(place) / "gemma"))
