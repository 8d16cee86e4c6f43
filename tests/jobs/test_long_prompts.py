"""A prompt with more tokens than the text encoder reads is told before that is loaded, with the words cut off."""

import pytest

from mlx_video import LTXPipeline, UserError
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.jobs.texts import prompts as text
from mlx_video.models.families import DEFAULT

WORDS = " ".join(f"fox{n:04}" for n in range(1500))


@pytest.fixture(scope="module", params=["2.3", "2.5"])
def source(request, small_folder):
    folder = small_folder(request.param)
    where = folder / "gemma" if request.param == "2.3" else next(folder.rglob("gemma4*.safetensors"))
    return TextSource.open(DEFAULT, where)


def test_what_is_cut_off_is_what_is_not_encoded(source):
    tokenizer = source.tokenizer()
    cut = tokenizer.cut(WORDS)
    assert (cut.limit, len(tokenizer.encode(WORDS))) == (1024, 1024)
    assert WORDS.endswith(cut.words)
    read = WORDS[: len(WORDS) - len(cut.words)]
    assert tokenizer.encode(read) == tokenizer.encode(WORDS)
    assert len(tokenizer.encode(read + WORDS[len(read)])) == 1024  # one more is beyond
    assert tokenizer.cut(read) is None


def test_a_prompt_that_fits_is_not_told(source):
    assert source.tokenizer().cut("a fox") is None
    assert list(text.cut_off(source, {"positive": "a fox", "negative": "blurry " * 20})) == []


def test_a_short_prompt_reads_no_tokenizer(source, monkeypatch):
    monkeypatch.setattr(type(source), "tokenizer", lambda self: pytest.fail("read"))
    assert list(text.cut_off(source, {"positive": "x" * 1023})) == []


def test_the_sentence_counts_and_shows_the_words(source):
    [said] = text.cut_off(source, {"positive": "a fox", "negative": WORDS + "\n\x1b[2J the very end"})
    assert said.startswith("The negative prompt has ")
    assert "the text encoder reads 1,024; the last " in said
    assert said.endswith('the very end".')
    assert "\x1b" not in said
    assert len(said) < 400


def test_a_run_tells_it_before_anything_is_loaded(small_folder, monkeypatch):
    said = []
    monkeypatch.setattr("mlx_video.lending.loader.Loader.borrow_text_encoder", lambda *a: pytest.fail(said[-1]))
    with (
        LTXPipeline.from_pretrained(small_folder("2.3")) as pipe,
        pytest.raises(pytest.fail.Exception, match="cut off"),
    ):
        pipe.generate(prompt=WORDS, height=64, width=64, num_frames=9, on_message=said.append)


def test_text_that_is_no_unicode_is_refused_as_before(source):
    with pytest.raises(UserError, match="not valid text"):
        list(text.cut_off(source, {"positive": "\udcff" * 2000}))
