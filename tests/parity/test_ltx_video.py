"""LTX-Video's networks against diffusers' and transformers' classes, where their rules are Lightricks' own.

`python -m tests.parity.test_ltx_video` records the fixture that the tests without torch compare with. The tokenizer is
compared where sentencepiece is installed, too, with a model that it trains here.
"""

from __future__ import annotations

import io
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.models.ltx_video.config import VideoVAEConfig, diffusers
from mlx_video.models.ltx_video.text_encoder.pieces import read_pieces
from mlx_video.models.ltx_video.text_encoder.tokens import Tokenizer
from mlx_video.weights import names
from tests.models.ltx_video import cases
from tests.support import small_ltx_video as small

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity


def load(reference, network: nn.Module, official) -> object:
    """The reference's class with the weights that `small` makes for ours."""
    values = {}
    for name in reference.state_dict():
        path = names.module_path(network, official(name))
        values[name] = torch.from_numpy(small.weights(network)[path])
    reference.load_state_dict(values)
    return reference.eval()


def transformer():
    from diffusers import LTXVideoTransformer3DModel

    built = LTXVideoTransformer3DModel.from_config(small.TRANSFORMER)
    return load(built, small.networks()["transformer"], diffusers.transformer_name)


def autoencoder(version: str):
    from diffusers import AutoencoderKLLTXVideo

    built, ours = AutoencoderKLLTXVideo.from_config(small.VAE[version]), small.networks(version)
    rename = diffusers.vae_names(VideoVAEConfig.read(small.config(version)))
    values = {}
    for name in built.state_dict():
        network = ours["video_decoder" if name.startswith("decoder.") else "video_encoder"]
        values[name] = torch.from_numpy(small.weights(network)[names.module_path(network, rename(name))])
    built.load_state_dict(values)
    return built.eval()


def text_encoder():
    from transformers import T5Config, T5EncoderModel

    built = T5EncoderModel(T5Config(**{k: v for k, v in small.T5_CONFIG.items() if k != "model_type"}))
    ours = small.networks()["text_encoder"]
    return load(built, ours, lambda name: "shared.weight" if "embed_tokens" in name else name)


def velocities() -> dict[str, np.ndarray]:
    model, found = transformer(), {}
    coords = torch.from_numpy(np.array(cases.POSITIONS))
    for name, (one, timestep) in cases.TRANSFORMER.items():
        with torch.no_grad(), perturbed(model, one):
            found[name] = model(
                hidden_states=torch.from_numpy(cases.TOKENS), video_coords=coords, return_dict=False,
                encoder_hidden_states=torch.from_numpy(cases.TEXTS[one.context]), encoder_attention_mask=None,
                timestep=torch.as_tensor(timestep).reshape(1, -1).float() * 1000.0,
            )[0].numpy()  # fmt: skip
    return found


@contextmanager
def perturbed(model, one):
    """diffusers' blocks as Lightricks' spatio-temporal guidance has them: it knows none itself."""
    attend = [block.attn1.processor for block in model.transformer_blocks]
    blocks = list(model.transformer_blocks)
    for i in one.perturbed:
        if one.how == "transformer_block":
            model.transformer_blocks[i] = Nothing()
            continue
        values = one.how == "attention_values"

        def instead(attn, hidden_states, *args, values=values, **more):
            return attn.to_out[0](attn.to_v(hidden_states) if values else hidden_states)

        blocks[i].attn1.processor = instead
    yield
    for i, block in enumerate(blocks):
        model.transformer_blocks[i], block.attn1.processor = block, attend[i]


class Nothing(torch.nn.Module):
    def forward(self, hidden_states, **more):
        return hidden_states


def first(x: np.ndarray):
    """Channels last -> channels first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def last(x) -> np.ndarray:
    """Channels first -> channels last."""
    return np.ascontiguousarray(np.moveaxis(x.detach().numpy(), 1, -1))


@contextmanager
def told(monkey, decoder):
    """torch's noise is ours, in the order of our draws."""
    shapes = iter(decoder.draws(*cases.LATENT_GRID[1:]).items())

    def randn(*size, **more):
        name, shape = next(shapes)
        assert tuple(size[0] if not isinstance(size[0], int) else size) == shape
        return torch.from_numpy(cases.drawn(name, shape))

    monkey.setattr(torch, "randn", randn)
    yield
    monkey.undo()
    assert next(shapes, None) is None


@torch.no_grad()
def pixels(case: str, monkey) -> np.ndarray:
    version, timestep = cases.DECODE[case]
    vae, decoder = autoencoder(version), small.networks(version)["video_decoder"]
    raw = cases.LATENT * vae.latents_std.numpy() + vae.latents_mean.numpy()
    with told(monkey, decoder):
        return last(vae.decode(first(raw), None if timestep is None else torch.tensor([timestep])).sample)


@torch.no_grad()
def moments(version: str) -> dict[str, np.ndarray]:
    vae = autoencoder(version)
    found = vae.encode(first(cases.PIXELS)).latent_dist
    mean = last(found.mean)
    normal = (mean - vae.latents_mean.numpy()) / vae.latents_std.numpy()
    return {"latent": normal, "log_variance": last(found.logvar)[..., :1]}


@torch.no_grad()
def states(model, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids]))[0].numpy()


def everything() -> dict[str, np.ndarray]:
    found = {f"transformer/{name}": value for name, value in velocities().items()}
    with pytest.MonkeyPatch.context() as monkey:
        found |= {f"decode/{case}": pixels(case, monkey).ravel()[:: cases.STEP] for case in cases.DECODE}
    for version in small.VERSIONS:
        found |= {f"encode/{version}/{name}": value for name, value in moments(version).items()}
    model = text_encoder()
    return found | {f"text/{name}": states(model, ids) for name, ids in cases.PROMPTS.items()}


@pytest.mark.slow
def test_fixture_is_what_the_reference_gives():
    recorded = np.load(cases.RECORDED)
    found = everything()
    assert set(found) == set(recorded.files)
    for name, value in found.items():
        assert cases.error(value, recorded[name]) < 2e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.DECODE)
def test_every_pixel(case, monkeypatch):
    version, timestep = cases.DECODE[case]
    wanted = pixels(case, monkeypatch)
    decoder = small.network("video_decoder", version)
    assert cases.error(decoder(mx.array(cases.LATENT), timestep, cases.noise), wanted) < cases.LIMIT


# ------------------------------------------------------------------------------------------------ the tokenizer

WORDS = (
    "a red fox runs through deep snow at dawn while the camera follows it slowly from left to right",
    "waves crash on a dark beach under a stormy sky; the wind blows sand across the stones.",
    "Time-lapse of clouds over mountains, 4k, high detail, 35mm film, (close-up), it's done!",
)
ODD = (
    "", " ", "a", "A red fox",
    "  two  spaces  ", "tab\tand\nline\r\nbreaks", "…", "—", "“quotes” ‘and’ 'others'",
    "5×5", "½ ⅓ ²", "ﬁne ﬂow", "Ünïcode", "Ünïcode", "Straße", "ĲSSEL ĳ", "ＦＵＬＬ ｗｉｄｔｈ", "①②③", "㎏ ㎞²",
    "한국어", "日本語テキスト", "ﾊﾝｶｸ", "Ελληνικά", "кириллица", "עברית", "العربية", "हिन्दी", "🦊", "👩‍🚀 flies", "🏳️‍🌈",
    "<extra_id_0>", "a <extra_id_1> b", "x<extra_id_99>y", "</s>", "a</s>b", "<pad> <unk>", "<extra_id_100>",
    "<EXTRA_ID_0>", "▁under▁score", "▁", "a\u00a0b", "a\u3000b", "a\u200bb", "a\u00adb", "\ufeffbom",
    "a\u0000b", "a\u0007b", "e\u0301", "ŀ", "K Å Ω", "ſ long", "…...", "a" * 300, "fox " * 300,
    "supercalifragilistic", "RED fox, Red FOX", "{json: [1, 2]}", "C:\\path\\file",
    "http://example.org/?q=1&r=2", "50% off!!!", "3.14159", "1,000,000", "a.b.c", "don't can't",
    "\u202eright to left", "𝒻𝑜𝓍", "ǅ", "﷽", "\U0001f1e9\U0001f1ea", "na\u0308ive", "\t", "snow.Snow.SNOW",
)  # fmt: skip


def train(folder, characters: str = "nmt_nfkc"):
    """A model of T5's form, and sentencepiece's own reading of it."""
    spm = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*WORDS * 20, *"abcdefghijklmnopqrstuvwxyz0123456789.,;:-'!?()&%"]), model_writer=out,
        vocab_size=300, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        normalization_rule_name=characters, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(out.getvalue())
    return spm.SentencePieceProcessor(model_proto=out.getvalue())


def test_tokens_are_those_of_transformers(tmp_path):
    """And the pieces and scores are those that sentencepiece reads from the file."""
    from transformers import T5Tokenizer

    model = train(tmp_path)
    pieces = read_pieces((tmp_path / "spiece.model").read_bytes(), "here")
    assert pieces.scores == [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    assert pieces.unknown == model.unk_id()
    vocabulary = [*pieces.scores, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(100)))]
    theirs, ours = T5Tokenizer(vocabulary, _spm_precompiled_charsmap=pieces.characters), Tokenizer(tmp_path)
    assert len(ODD) > 60
    for text in (*ODD, *WORDS, " ".join(WORDS)):
        wanted = theirs(text.strip(), truncation=True, max_length=256)["input_ids"]
        assert ours.encode(text) == wanted, text


def test_a_folder_s_json_gives_the_same_tokens(tmp_path):
    from transformers import T5Tokenizer

    train(tmp_path)
    pieces = read_pieces((tmp_path / "spiece.model").read_bytes(), "here")
    vocabulary = [*pieces.scores, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(100)))]
    (tmp_path / "json").mkdir()
    T5Tokenizer(vocabulary, _spm_precompiled_charsmap=pieces.characters).save_pretrained(tmp_path / "json")
    plain, written = Tokenizer(tmp_path), Tokenizer(tmp_path / "json")
    assert [plain.encode(text) for text in ODD] == [written.encode(text) for text in ODD]


if __name__ == "__main__":
    np.savez_compressed(cases.RECORDED, **everything())
    print(cases.RECORDED.stat().st_size, "bytes")
