"""LTX-2.5's text encoder against transformers' Gemma 4, in float32, through the official file.

`python -m tests.parity.test_text25` writes `fixtures/text25.npz` anew from transformers.
"""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.weights.store import Tensors
from tests.models import test_gemma4 as ours
from tests.support import small_gemma4 as small

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT = 1024
SENTENCE = "The camera moves slowly from left to right, and a child laughs. "


def gemma4(file):
    """transformers' own model with the weights of a file, in float32; of the towers there is nothing."""
    tensors = Tensors([file])
    stated = {**tensors.metadata["gemma_config"], "vision_config": None, "audio_config": None}
    config = transformers.CONFIG_MAPPING["gemma4_unified"].from_dict(stated)
    model = transformers.AutoModel.from_config(config).float().eval()
    arrays = {name: mx.array(a.astype(mx.float32)) for name, a in tensors.load(["model."]).items()}
    state = {name.replace("model.", "language_model.", 1): torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    missing, surplus = model.load_state_dict(state, strict=False)
    assert not surplus
    assert not [name for name in missing if name.startswith("language_model.")]
    return model


def hidden_states(model, ids):
    """(T, width, layers + 1) of the prompt's own tokens, from 1024 padded on the left."""
    padded = torch.zeros(1, CONTEXT, dtype=torch.int64)
    padded[0, CONTEXT - len(ids) :] = torch.tensor(ids)
    mask = torch.zeros_like(padded)
    mask[0, CONTEXT - len(ids) :] = 1
    with torch.no_grad():
        out = model(input_ids=padded, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return torch.stack([h[0, -len(ids) :] for h in out.hidden_states], -1).numpy()


def reference_ids(prompt):
    """The rule of the reference, on transformers' own tokenizer."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_str(small.tokenizer_files()["tokenizer.json"])
    words.enable_truncation(CONTEXT)
    ids = words.encode(prompt.strip()).ids
    return ids if ids[:1] == [2] else [2, *ids][:CONTEXT]


@pytest.mark.parametrize("prompt", ["", "a", SENTENCE * 3, "caf\u00e9 \u96e8", "<bos>fox", SENTENCE * 40])
def test_tokens(prompt, tmp_path):
    assert ours.open_encoder(small.write_file(tmp_path / small.NAME)).tokenizer.encode(prompt) == reference_ids(prompt)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("", {}),
        (SENTENCE, {}),
        (SENTENCE * 5, {}),
        (ours.PROMPTS[2], {}),
        (SENTENCE * 3, {"sliding_window": 1024, "rms_norm_eps": 1e-5, "num_hidden_layers": 7, "layer_types": None}),
        (SENTENCE, {"attention_k_eq_v": False, "rope_parameters": None}),
        (
            SENTENCE,
            {
                "hidden_size": 48, "head_dim": 256, "global_head_dim": 512, "num_attention_heads": 2,
                "rope_parameters": {
                    "full_attention": {
                        "rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0
                    },
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                },
            },
        ),
    ],
    ids=["empty", "window", "long", "placeholders", "default kinds", "own values", "wide heads"],
)  # fmt: skip
def test_hidden_states(prompt, text, tmp_path):
    file = small.write_file(tmp_path / small.NAME, seed=3, **text)
    encoder = ours.open_encoder(file)
    wanted = hidden_states(gemma4(file), encoder.tokenizer.encode(prompt))
    assert ours.error(encoder.encode([prompt])[0], wanted) < 1e-5


def record(file) -> dict[str, np.ndarray]:
    """What `fixtures/text25.npz` holds."""
    model, found = gemma4(small.write_file(file)), {}
    for i, prompt in enumerate(ours.PROMPTS):
        ids = reference_ids(prompt)
        found[f"ids{i}"], found[f"hidden{i}"] = np.array(ids), hidden_states(model, ids)
    return found


def test_fixture_is_what_the_reference_gives(tmp_path):
    found, kept = record(tmp_path / small.NAME), np.load(ours.RECORDED)
    assert set(found) == set(kept.files)
    for name, value in found.items():
        assert ours.error(kept[name], value) < 1e-5


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        np.savez_compressed(ours.RECORDED, **record(Path(place) / small.NAME))
