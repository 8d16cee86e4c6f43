"""T5 as a text encoder: the recorded numbers, float16, distances; tokens from both kinds of files."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_video.config import T5Config
from mlx_video.models.ltx_video.text_encoder.pieces import read_pieces
from mlx_video.models.ltx_video.text_encoder.t5 import TextEncoder, buckets
from mlx_video.models.ltx_video.text_encoder.tokens import PROMPT_TOKENS, Tokenizer
from mlx_video.types import UserError
from tests.models.ltx_video import cases
from tests.support import small_ltx_video as small


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "spiece.model").write_bytes(small.spiece())
    return tmp_path


def test_states_are_the_reference_s() -> None:
    """All prompts in one call, each of its own length."""
    recorded = np.load(cases.RECORDED)
    found = small.network("text_encoder")(list(cases.PROMPTS.values()))
    for name, states in zip(cases.PROMPTS, found, strict=True):
        assert cases.error(states, recorded[f"text/{name}"]) < cases.TEXT_LIMIT, name


def test_sums_that_leave_float16_do_not() -> None:
    """The feed-forward's last product is taken in float32, as its sum with what it is added to."""
    plain, half = (small.network("text_encoder", dtype=dtype) for dtype in (mx.float32, mx.float16))
    for one in (plain, half):
        for layer in one.layers:
            layer.feed_forward.wo.weight = layer.feed_forward.wo.weight * 1e4
            layer.feed_forward.wi_1.weight = layer.feed_forward.wi_1.weight * 100
    ids = [cases.PROMPTS["short"]]
    [wanted], [found] = plain(ids), half(ids)
    assert found.dtype == mx.float16
    assert cases.error(found.astype(mx.float32), np.array(wanted)) < 5e-3


def test_distances_share_biases() -> None:
    """Near ones have one each, far ones share; keys ahead have the second half."""
    found = buckets(300, T5Config.read(small.T5_CONFIG))
    assert found[7].tolist()[:8] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert found[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert found[299, 299 - 16] == 10
    assert found[299, 0] == found[299, 299 - 128] == 15
    assert found.max() == 31


def test_ids_end_with_the_end(folder) -> None:
    words = Tokenizer(folder)
    assert words.encode(" a red fox ") == [4, 5, 6, 1]
    assert words.encode("") == [1]
    assert words.encode("foxes") == [6, 15, 1]
    assert words.encode("a <extra_id_0>") == [4, 115, 1]
    assert words.encode("a</s>a") == [4, 1, 4, 1]
    assert words.encode("zz") == [3, 2, 1]


def test_long_prompts_are_cut_before_the_end(folder) -> None:
    found = Tokenizer(folder).encode("fox " * 300)
    assert len(found) == PROMPT_TOKENS
    assert found == [6] * (PROMPT_TOKENS - 1) + [1]


def test_a_written_tokenizer_is_read_as_well(folder, tmp_path) -> None:
    """And before the model beside it, with its own cutting and padding set aside."""
    plain = Tokenizer(folder)
    rules = json.loads(plain.words.to_str())
    rules["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    below = tmp_path / "tokenizer"
    below.mkdir()
    (below / "tokenizer.json").write_text(json.dumps(rules))
    other = tmp_path / "text_encoder"
    other.mkdir()
    assert Tokenizer(other).encode("a red fox foxes") == plain.encode("a red fox foxes")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has 0 pieces"),
        (small.spiece()[:50], "it ends within a field"),
        (b"\xff" * 20, "a number is too long"),
        (b"\x80", "it ends within a number"),
        (b"\x0b", "a field is of the kind 3"),
        (b"\x08\x01", "a number stands where"),
        (small.spiece([("a", 0.0, 1)]), "0 of them for what is not known"),
        (small.spiece(model_type=2), "no plain unigram"),
        (small.spiece([("<unk>", 0.0, 2)]), "has no tokens '<pad>' and '</s>'"),
        (small.spiece(characters=b"\xff\xff\xff\x7f"), "table of characters is damaged"),
        (small.spiece(characters=b"\0\0\0\0\xff"), "utf-8"),
        (small.spiece([("\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), 0.0, 2)]), "has no tokens"),
    ],
)
def test_what_is_no_model_is_told_in_a_sentence(content, said, folder) -> None:
    (folder / "spiece.model").write_bytes(content)
    with pytest.raises(UserError, match=said) as told:
        Tokenizer(folder)
    assert "spiece.model" in str(told.value)


def test_pieces_keep_their_scores() -> None:
    found = read_pieces(small.spiece(), "here")
    assert found.scores == [
        (text, score if score in (0.0, -3.0, -2.5) else pytest.approx(score)) for text, score, _ in small.PIECES
    ]
    assert found.unknown == 2


def test_a_tokenizer_of_a_larger_model_is_told(folder) -> None:
    network = small.network("text_encoder")
    object.__setattr__(network.config, "vocabulary", 6)
    with pytest.raises(UserError, match=r"gives token 6, but its model knows 6"):
        TextEncoder(network, Tokenizer(folder)).encode(["a fox"])


def test_a_missing_tokenizer_says_where_it_was_looked_for(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has a tokenizer\.json or a spiece\.model; put T5's there"):
        Tokenizer(tmp_path / "text_encoder")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gemma3"}, "of type 'gemma3', not T5"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj = 'relu'"),
    ],
)
def test_another_model_is_refused(changes, said) -> None:
    with pytest.raises(UserError, match=said):
        T5Config.read({**small.T5_CONFIG, **changes})
