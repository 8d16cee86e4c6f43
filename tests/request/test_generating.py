"""Every check of a request that needs no file: the message names the value, the rule and what would do."""

import pytest

from mlx_video import AudioIn, ImageAt, Lora, Request, UserError
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.types import AudioShape, VideoShape


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"height": 500}, ["--height 500", "multiple of 32", "480 or 512"]),
        ({"width": 90}, ["--width 90", "64 or 96"]),
        ({"height": -64}, ["--height -64", "nearest: 32"]),
        ({"width": 1_000_000}, ["--width 1000000", "8192"]),
        ({"pipeline": "dev", "height": 100}, ["multiple of 32", "96 or 128"]),
        ({"num_frames": 34, "strict_frames": True}, ["--num-frames 34", "1 + 8k", "33 or 41"]),
        ({"num_frames": 0}, ["nearest: 1"]),
        ({"num_frames": 100_000}, ["nearest: 4097"]),
        ({"prompt": " \n"}, ["prompt is empty"]),
        ({"pipeline": "fast"}, ["'fast'", "distilled, dev, dev-two-stage, dev-two-stage-hq"]),
        ({"fps": 0.0}, ["--fps 0", "1 to 240"]),
        ({"fps": float("nan")}, ["--fps nan"]),
        ({"tiling": "tiny"}, ["'tiny'", "aggressive"]),
        ({"steps": 9}, ["--steps 9", "distilled", "1 to 8"]),
        ({"pipeline": "dev", "stg_blocks": (1, 1)}, ["--stg-blocks 1 1", "each block once"]),
        ({"pipeline": "dev", "stg_blocks": ()}, ["--stg-blocks ()", "at least one"]),
        ({"cfg_scale": 3.0}, ["--cfg-scale has no effect", "dev"]),
        ({"apg": False}, ["--apg has no effect"]),
        ({"pipeline": "dev", "steps": 0}, ["--steps 0", "1 to 1000"]),
        ({"pipeline": "dev", "cfg_scale": -1.0}, ["--cfg-scale -1", "0 to 100"]),
        ({"pipeline": "dev", "cfg_rescale": 1.5}, ["--cfg-rescale 1.5", "0 to 1"]),
        ({"pipeline": "dev", "lora_strength_stage_2": 1.0}, ["--lora-strength-stage-2", "dev-two-stage-hq"]),
        ({"pipeline": "dev", "audio": False, "audio_cfg_scale": 7.0}, ["--audio-cfg-scale", "--no-audio"]),
        ({"pipeline": "dev", "audio": False, "modality_scale": 3.0}, ["--modality-scale", "--no-audio"]),
        ({"embedding": "e"}, ["--embedding e", "--prompt"]),
        ({"max_tokens": 5}, ["--max-tokens", "--enhance-prompt"]),
        ({"enhance_prompt": True, "temperature": -1.0}, ["--temperature -1", "0 (greedy) to 5"]),
        ({"lora": (Lora("x", float("inf")),)}, ["--lora x", "-10 to 10"]),
        ({"image": (ImageAt("a.png", 33),)}, ["a.png", "frame 33", "0 to 32"]),
        ({"image": (ImageAt("a.png", -34),)}, ["frame -34"]),
        ({"image": (ImageAt("a.png"), ImageAt("b.png", -33))}, ["a.png", "b.png", "frame 0"]),
        ({"image": (ImageAt("a.png", 0, 1.5),)}, ["strength 1.5", "0 to 1"]),
        ({"image": (ImageAt("a.png", 0, 1.0, 99),)}, ["CRF 99"]),
        ({"audio_file": AudioIn("a.wav", -1.0)}, ["--audio-start-time -1", "0 to 1,000,000"]),
        ({"audio_file": AudioIn("a.wav", 1e308)}, ["--audio-start-time 1e+308"]),
        ({"audio_file": AudioIn("a.wav", float("nan"))}, ["--audio-start-time nan"]),
        ({"audio_file": AudioIn("a.wav"), "audio": False}, ["--audio-file", "--no-audio"]),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence(options, said):
    with pytest.raises(UserError) as error:
        Request(**{"prompt": "a fox", **options}).check(RECIPES)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize("name", RECIPES)
def test_defaults_suit_every_pipeline(name):
    assert Request("a fox", pipeline=name).check(RECIPES) is RECIPES[name]


@pytest.mark.parametrize(("asked", "made"), [(100, 97), (101, 105), (33, 33), (2, 1), (4096, 4097), (8, 9)])
def test_frames_are_rounded_with_a_word(asked, made):
    request, said = Request("a fox", num_frames=asked).rounded()
    assert request.num_frames == made
    assert [f"--num-frames {asked} is made {made}" in line for line in said] == [True] * (asked != made)
    assert Request("a fox", num_frames=asked, strict_frames=True).rounded()[0].num_frames == asked


def test_a_picture_is_placed_among_the_frames_that_are_made():
    with pytest.raises(UserError, match="frames 0 to 96"):
        Request("a fox", num_frames=100, image=(ImageAt("a.png", 97),)).check(RECIPES)


def test_a_negative_frame_counts_from_the_end():
    assert ImageAt("a", -1).index(33) == ImageAt("a", "last").index(33) == 32


def test_geometry():
    shape = VideoShape(33, 512, 768, 24.0)
    assert shape.grid == (5, 16, 24)
    assert shape.tokens == 5 * 16 * 24
    assert shape.scaled(0.5)[:3] == (33, 256, 384)
    # 25 latents a second, half to even: 12.5 is 12, 13.5 is 14.
    assert AudioShape.of(VideoShape(12, 64, 64, 24.0)).frames == 12
    assert AudioShape.of(VideoShape(27, 64, 64, 50.0)).frames == 14
    assert AudioShape(18).mel_frames == 69
