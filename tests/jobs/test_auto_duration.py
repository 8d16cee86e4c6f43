"""The prompt decides how long the clip is, within what was asked, by LTX-2.5's duration head."""

import mlx.core as mx
import pytest

from mlx_video import LTXPipeline, Request, UserError
from mlx_video.models.families import RECIPES
from mlx_video.models.ltx_2.duration import DurationHead
from mlx_video.types import frames_of
from tests.support import played_hub, small_pack

SMALL = {"prompt": "a red fox", "height": 64, "width": 64}


@pytest.fixture
def heard(monkeypatch):
    """What the head was given and said."""
    found = []
    call = DurationHead.seconds

    def seconds(self, video, audio):
        found.append((video, audio, call(self, video, audio)))
        return found[-1][2]

    monkeypatch.setattr(DurationHead, "seconds", seconds)
    return found


@pytest.mark.parametrize("audio", [True, False])
def test_the_clip_is_as_long_as_the_head_says(small_folder, heard, audio) -> None:
    said = []
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        clip = pipe.generate(**SMALL, auto_duration="0.1:2", audio=audio, on_message=said.append)
    [(video, sound, seconds)] = heard
    assert (video.shape[1], sound.shape[1]) == (1024, 1024)  # both contexts tell, of all tokens
    frames = frames_of(seconds, 24.0, (0.1, 2))
    assert clip.latents["video"].shape[2] == (frames - 1) // 8 + 1
    assert len(clip) == frames
    assert [text for text in said if f"{seconds:.1f} seconds: the clip has {frames} frames" in text]


def test_it_stays_within_what_was_asked_and_is_the_clip_of_that_length(small_folder, heard) -> None:
    with LTXPipeline.from_pretrained(small_folder("2.5"), dtype="float32") as pipe:
        clip = pipe.generate(**SMALL, auto_duration="0.7:0.8")
        assert len(clip) == 17
        assert mx.array_equal(clip.latents["video"], pipe.generate(**SMALL, num_frames=17).latents["video"])


def test_the_plan_is_of_the_longest(small_folder) -> None:
    pipe = LTXPipeline.from_pretrained(small_folder("2.5"))
    asked, longest = Request(**SMALL, auto_duration="0.5:3"), Request(**SMALL, num_frames=65)
    assert asked.lengths == (17, 65)
    assert pipe.plan(asked).peak == pipe.plan(longest).peak > pipe.plan(Request(**SMALL, num_frames=17)).peak


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"auto_duration": "3:2"}, "auto_duration 3:2 should begin with the shorter"),
        ({"auto_duration": "0:2"}, "a frame at least"),
        ({"auto_duration": "2"}, "two numbers of seconds"),
        ({"auto_duration": "1:-2"}, "two numbers"),
        ({"auto_duration": "1:nan"}, "two numbers"),
        ({"auto_duration": "1:999"}, "beyond 4097 frames; at 24 frames a second the most is 170 seconds"),
        ({"auto_duration": "1:2", "num_frames": 9}, "exclude each other"),
        ({"auto_duration": "1:2", "placeholder": True}, "exclude each other"),
        ({"auto_duration": "1:2", "image": ("a.png", 30)}, "the clip has frames 0 to 24"),
        ({"auto_duration": "1:2", "num_generated_keyframes": 24}, "too many for a clip of 25 frames"),
        ({"auto_duration": (1, 2)}, "text"),
    ],
)
def test_what_cannot_be_is_refused(small_folder, asked, message) -> None:
    pipe = LTXPipeline.from_pretrained(small_folder("2.5"))
    with pytest.raises(UserError, match=message):
        pipe.generate(**SMALL, **asked)


def test_a_checkpoint_without_a_head_says_so(small_folder, tmp_path) -> None:
    with pytest.raises(UserError, match=r"needs LTX-2.5's duration head, and .* has none; say num_frames"):
        LTXPipeline.from_pretrained(small_folder("2.3")).generate(**SMALL, auto_duration="1:2")
    small_pack.make(tmp_path, without=(small_pack.DURATION,))
    with pytest.raises(UserError, match=r"has none; put ltx-2.5-duration-head-bf16.safetensors beside it"):
        LTXPipeline.from_pretrained(tmp_path).generate(**SMALL, auto_duration="1:2")


@pytest.mark.slow
def test_of_the_hub_the_heads_file_comes_where_it_is_asked_for(monkeypatch, tmp_path, small_folder) -> None:
    repo = {"Lightricks/LTX-2.5": played_hub.repo_of(small_folder("2.5"))}
    every = {small_pack.TRANSFORMER.format("distilled"), small_pack.VIDEO, small_pack.SOUND, small_pack.UPSAMPLER,
             small_pack.TEXT_ENCODER}  # fmt: skip
    for asked, more in (
        ({"num_frames": 9}, set()),
        ({"auto_duration": "0.1:0.4"}, {small_pack.DURATION}),
        ({"num_frames": 9, "video_decoder": "diffusion"}, {small_pack.DIFFUSION}),
    ):
        with played_hub.play(monkeypatch, tmp_path / str(len(more)) / "-".join(asked), repo) as hub:
            with LTXPipeline.from_pretrained("ltx-2.5") as pipe:
                pipe.generate(**SMALL, **asked)
            assert set(hub.fetched) == every | more


def test_recipes_have_no_length_of_their_own() -> None:
    assert all("num_frames" not in recipe.defaults for recipe in RECIPES.values())
