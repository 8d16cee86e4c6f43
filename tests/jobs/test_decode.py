"""From latents that anyone has to frames, by public means; and what a clip tells of itself."""

import copy
import json
import pickle
import shutil

import av
import mlx.core as mx
import numpy as np
import pytest

from mlx_video import AudioIn, ImageAt, Lora, LTXPipeline, UserError, __version__

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SMALL = {"prompt": "a red ball", "height": 64, "width": 128, "num_frames": 9}


def test_a_preview_becomes_a_picture(small_folder):
    shown = []
    with LTXPipeline.from_pretrained(small_folder("2.3")) as pipe:
        clip = pipe.generate(**SMALL, on_preview=lambda progress, latents: shown.append(latents))
        pictures = [pipe.decode(latents) for latents in shown]
        again = pipe.decode({name: np.array(value) for name, value in clip.latents.items()})
    assert [(p.shape.height, p.shape.width, p.shape.frames) for p in pictures] == [(32, 64, 9)] * 8 + [(64, 128, 9)] * 3
    assert all(np.shape(frame) == (64, 128, 3) for frame in pictures[-1])
    for name in clip.latents:  # the same axes, and in the end the same numbers
        assert shown[-1][name].shape == clip.latents[name].shape
    assert np.array_equal(list(again), list(clip))
    assert np.array_equal(again.waveform, clip.waveform)
    assert np.array_equal(list(pictures[-1]), list(clip))


def test_any_variants_decoder_decodes(small_folder, tmp_path):
    folder = shutil.copytree(small_folder("2"), tmp_path / "dev")
    next(folder.glob("*distilled.safetensors")).unlink()
    with LTXPipeline.from_pretrained(folder) as pipe:
        clip = pipe.decode({"video": mx.zeros((1, 128, 2, 2, 3))}, fps=12)
        assert len(list(clip)) == 9
        clip.save(tmp_path / "o.mp4")
    assert (clip.shape.width, clip.fps, clip.sound) == (96, 12, None)


def test_what_are_no_latents(small_folder):
    video, audio = np.zeros((1, 128, 2, 2, 2), np.float32), np.zeros((1, 8, 9, 16), np.float32)
    with LTXPipeline.from_pretrained(small_folder("2.3")) as pipe:
        for latents, said in (
            ({}, "are a mapping with 'video'"),
            (video, "got ndarray"),
            ({"video": video, "sound": audio}, r"got \['sound', 'video'\]"),
            ({"video": video[0]}, r"shape \(128, 2, 2, 2\); it must be \(1, 128, F, H, W\)"),
            ({"video": video.transpose(0, 2, 3, 4, 1)}, r"\(1, 2, 2, 2, 128\); it must be"),
            ({"video": np.concatenate([video, video])}, r"\(2, 128, 2, 2, 2\); it must be"),
            ({"video": video, "audio": audio[:, :4]}, r"audio latent has shape .*must be \(1, 8, T, 16\)"),
            ({"video": video, "audio": audio[:, :, :5]}, "has 5 frames; 0.38 s of video .* take 9"),
            ({"video": video * np.nan}, "not finite"),
            ({"video": "a.npy"}, "no array of numbers but str"),
        ):
            with pytest.raises(UserError, match=said):
                pipe.decode(latents)
        for options, said in (({"fps": 0}, "fps 0 is out of range"), ({"tiling": "few"}, "'few' is not known")):
            with pytest.raises(UserError, match=said):
                pipe.decode({"video": video}, **options)


# ------------------------------------------------------------------------------------------------ clips


def test_a_clips_file_names_its_model_and_no_folder(small_folder, inputs, tmp_path):
    folder = small_folder("2.3")
    home = tmp_path / "home of somebody"
    shutil.copytree(inputs, home)
    shutil.copy(folder / "ltx-2.3-22b-distilled-lora-384.safetensors", home / "style.safetensors")
    with LTXPipeline.from_pretrained(folder) as pipe:
        clip = pipe.generate(
            **SMALL, image=ImageAt(str(home / "picture.png"), 0, 0.5), audio_file=AudioIn(str(home / "sound.wav")),
            lora=Lora(str(home / "style.safetensors"), 0.25),
        )  # fmt: skip
    clip.save(tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert str(folder) not in str(container.metadata)
        comment = container.metadata["mlx_video"]
    assert "somebody" not in comment
    assert str(folder) not in comment
    said = json.loads(comment)
    assert said["image"][0]["path"] == "picture.png"
    assert said["image"][0]["strength"] == 0.5
    assert said["audio_file"]["path"] == "sound.wav"
    assert said["lora"] == [{"path": "style.safetensors", "strength": 0.25}]
    assert said["model"] == "ltx-2.3-22b-distilled.safetensors"
    assert said["model_version"].startswith("2.3")
    assert said["mlx_video"] == __version__
    assert "lora_strengths" not in said


def test_a_clip_shows_itself_and_says_that_it_cannot_be_pickled(small_folder):
    with LTXPipeline.from_pretrained(small_folder("2.3")) as pipe:
        clip = pipe.generate(**SMALL, audio=False)
    assert repr(clip) == "<Clip 128x64, 9 frames at 24 fps (0.38 s), silent>"
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"A Clip cannot be pickled or copied: save it"):
            attempt(clip)
