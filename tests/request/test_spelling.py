"""One message, spelt for whom it is: flags for those who typed them, keywords for those who called."""

import inspect
from typing import get_type_hints

import pytest

from mlx_video import LTXPipeline, Request, UserError, generate
from mlx_video.cli.parser import Model
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import RequestOptions, Upscaling, kinds
from mlx_video.request.options import options_of
from mlx_video.request.spelling import NAMES, keywords
from mlx_video.request.upscaling import REFINING_STEPS, UpscalingOptions


@pytest.mark.parametrize(
    ("written", "respelt"),
    [
        ("--height 100 does not work", "height=100 does not work"),
        ("--audio-file and --no-audio exclude each other:", "audio_file and audio=False exclude each other:"),
        ("--apg has no effect in the dev pipeline;", "apg has no effect in the dev pipeline;"),
        ("--max-tokens is idle without --enhance-prompt.", "max_tokens is idle without enhance_prompt=True."),
        ("--audio-start-time -1 is out of range", "audio_file: start=-1 is out of range"),
        ("--memory-limit 1e+308 is out", "memory_limit=1e+308 is out"),
        ("--cfg-scale is 1, which is off.", "cfg_scale is 1, which is off."),
        ("(or --pipeline dev).", '(or pipeline="dev").'),
        ("with --tiling auto, no --enhance-prompt or --fps 24.", 'with tiling="auto", enhance_prompt=False or fps=24.'),
        ("--tiling 'tiny' is not known", "tiling='tiny' is not known"),
        ("(such as --text-encoder-repo org/gemma-4bit)", '(such as text_encoder="org/gemma-4bit")'),
        ("float32 (--vae-dtype float32, in place", 'float32 (vae_dtype="float32", in place'),
        ("add --prompt TEXT.", "add prompt=TEXT."),
        ("or another --model-repo.", "or another where."),
        ("with --no-low-memory it is tried", "with low_memory=False it is tried"),
        ("pip install --force-reinstall --no-deps x", "pip install --force-reinstall --no-deps x"),
    ],
)  # fmt: skip
def test_flags_become_keywords(written, respelt):
    assert keywords(written) == respelt


def test_a_value_is_told_to_each_caller_in_its_own_words(capsys):
    with LTXPipeline.from_pretrained("demo") as pipe, pytest.raises(UserError) as caught:
        pipe.generate(prompt="a", height=100)
    assert str(caught.value).startswith("height=100 does not work: it must be a multiple of 32")
    assert caught.value.field == "height"
    assert generate.main(["a", "--height", "100"]) == 2
    assert capsys.readouterr().err.startswith("mlx_video.generate: --height 100 does not work: it must be a multiple")


def test_a_command_says_flags_of_what_the_api_refuses(capsys):
    assert generate.main(["a", "--model-repo", "demo", "--memory-limit", "-1"]) == 2
    assert "--memory-limit -1 is out of range" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^memory_limit=-1 is out of range"):
        LTXPipeline.from_pretrained("demo", memory_limit=-1)


def test_the_keywords_of_a_call_are_the_fields_of_its_table():
    for table, options, first in ((Request, RequestOptions, 0), (Upscaling, UpscalingOptions, 1)):
        hints = get_type_hints(options)
        fields = options_of(table)[first:]
        assert set(hints) == {one.name for one in fields}
        for one in fields:  # whatever the table has is a type that the call takes
            assert kinds.item_of(one.hint) or set(kinds.members(one.hint)) <= set(kinds.members(hints[one.name]))


def test_every_keyword_of_from_pretrained_has_its_flag():
    keyword_only = set(inspect.signature(LTXPipeline.from_pretrained).parameters) - {"lora"}
    assert {
        NAMES[one.name] for one in options_of(Model) if one.name not in ("verbose", "quiet", "plan", "progress")
    } == keyword_only


def test_rules_that_are_known_twice_agree():
    from mlx_video.diffusion.schedules import REFINE

    assert len(REFINE) - 1 == REFINING_STEPS
    assert {one.name for one in options_of(Request) if one.used} == {
        name for recipe in RECIPES.values() for name in recipe.defaults if name in NAMES
    } | {"negative_prompt", "stg_blocks"}
