"""The flags --keep, --latents and --decode, and Ctrl-C in a run that is kept."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Clip, LTXPipeline, UserError, generate, info
from mlx_video.models.ltx_2.transformer import Transformer
from tests.support import readback

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SIZE = ("-H", 64, "-W", 64, "-n", 9)
DONE = ["latents.safetensors", "request.json", "settings.json"]


@pytest.fixture
def line(small_folder):
    """The words of a small run."""
    return ("a red ball", *SIZE, "--model-repo", small_folder("2.3"), "--dtype", "float32")


@pytest.fixture(scope="module")
def stored(small_folder, tmp_path_factory):
    """A clip, and where its latents are."""
    place = tmp_path_factory.mktemp("latents") / "a.latents.safetensors"
    with LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32") as pipe:
        clip = pipe.generate(prompt="a red ball", height=64, width=64, num_frames=9)
    clip.store(place)
    return clip, place


def interrupting(monkeypatch, call):
    """Ctrl-C within the `call`-th evaluation of the transformer."""
    calls, plain = [], Transformer.__call__

    def interrupted(self, *given, **more):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *given, **more)

    monkeypatch.setattr(Transformer, "__call__", interrupted)
    return calls


@pytest.fixture
def heard():
    """A shell's background job begins with SIGINT switched off, and hands that on to what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_after_the_step_and_the_same_command_goes_on(line, stored, tmp_path, command, heard, monkeypatch):
    kept = tmp_path / "kept"
    line = (*line, "--keep", kept, "-o", tmp_path / "o.mp4")
    calls = interrupting(monkeypatch, 3)
    status, said = command(generate.main, *line)
    assert status == 130
    assert said.endswith(
        f"interrupted after stage 1, 3 of 8; what is done is kept in {kept}, and the same command goes on from there.\n"
    )
    assert len(calls) == 3
    assert not (tmp_path / "o.mp4").exists()
    status, _ = command(generate.main, *line)
    assert (status, len(calls)) == (0, 11)
    assert sorted(os.listdir(kept)) == DONE
    assert all(mx.array_equal(stored[0].latents[m], array) for m, array in Clip.open(kept).latents.items())
    assert command(generate.main, *line)[0] == 0
    assert len(calls) == 11  # it is decoded again, and nothing else


@pytest.mark.slow
def test_ctrl_c_outside_of_steps_ends_at_once_and_says_the_same(line, tmp_path, command, heard, monkeypatch):
    def interrupted(*given, **more):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Clip, "save", interrupted)
    status, said = command(generate.main, *line, "--keep", tmp_path / "kept", "-o", tmp_path / "o.mp4")
    assert status == 130
    assert f"interrupted; what is done is kept in {tmp_path / 'kept'}" in said
    assert sorted(os.listdir(tmp_path / "kept")) == DONE


def test_without_keep_it_is_as_before(line, tmp_path, command, heard, monkeypatch):
    calls = interrupting(monkeypatch, 3)
    status, said = command(generate.main, *line, "-o", tmp_path / "o.mp4")
    assert (status, len(calls)) == (130, 3)
    assert said.endswith("interrupted; nothing was written.\n")


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_even_within_a_long_step(line, tmp_path):
    code = """
    import ctypes, os, signal, sys, threading
    from mlx_video import generate
    from mlx_video.models.ltx_2.transformer import Transformer

    def long(self, *given, **more):
        for after in (0.2, 1.0):
            threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:  # as within a long product of matrices, the interpreter hears of nothing
            ctypes.CDLL(None).sleep(60)

    Transformer.__call__ = long
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(generate.main(sys.argv[1:]))
    """
    words = [str(word) for word in (*line, "--keep", tmp_path / "kept", "-o", tmp_path / "o.mp4")]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words], capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 130
    assert "Ending after this step; Ctrl-C once more ends at once." in ended.stderr
    assert f"interrupted; what is done is kept in {tmp_path / 'kept'}" in ended.stderr


# ------------------------------------------------------------------------------------------------ latents, decode


def test_latents_beside_the_video_decode_to_the_same_video(line, tmp_path, command, monkeypatch):
    line = [*line, "-n", 1]
    status, _ = command(generate.main, *line, "--latents", "-o", tmp_path / "a.mp4")
    assert status == 0
    assert sorted(os.listdir(tmp_path)) == ["a.latents.safetensors", "a.mp4"]
    monkeypatch.setattr(Transformer, "__call__", None)
    model = ("--model-repo", line[line.index("--model-repo") + 1])
    status, said = command(
        generate.main, "--decode", tmp_path / "a.latents.safetensors", *model, "-o", tmp_path / "b.mp4", "--latents"
    )
    assert status == 0
    assert f"{tmp_path / 'b.mp4'}: 64x64, 1 frames at 24 fps (0.04 s), with sound; " in said
    assert readback.read(tmp_path / "a.mp4") == readback.read(tmp_path / "b.mp4")
    assert (tmp_path / "a.latents.safetensors").read_bytes() == (tmp_path / "b.latents.safetensors").read_bytes()


def test_latents_are_decoded_otherwise(small_folder, stored, tmp_path, command):
    clip, place = stored
    with LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32") as pipe:
        other = pipe.open(place, fps=12, audio=False, tiling="aggressive", stream=True)
        assert str(other) == "64x64, 9 frames at 12 fps (0.75 s), silent"
        assert np.stack(list(other)).shape == np.stack(list(clip)).shape
        for options, said in {
            ("fps", 12): "fps=12 would part the pictures from their sound",
            ("tiling", "few"): "tiling='few' is not known",
            ("video_decoder", "diffusion"): "needs|no diffusion|has none",
            ("fps", 0.5): "out of range",
        }.items():
            with pytest.raises(UserError, match=said):
                pipe.open(place, **dict([options]))
        clip.decoded_by(None)
        silent = Clip.open(place)
        silent.look = silent.look.otherwise(audio=False)
        with pytest.raises(UserError, match="made without sound"):
            silent.look.otherwise(audio=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a fox",), "--prompt has no effect with --decode"),
        (("--pipeline", "dev"), "--pipeline has no effect with --decode"),
        (("--takes", "2"), "--takes has no effect with --decode"),
        (("--prompts", "some.txt"), "--prompts has no effect with --decode"),
        (("--seed", "0"), "--seed has no effect"),
        (("--image", "a.png"), "--image has no effect"),
        (("--lora-strength", "1"), "--lora-strength has no effect"),
        (("--keep", "k"), "--keep has no effect"),
        (("--plan",), "--plan has no effect"),
        (("--again", "a.mp4"), "--again has no effect"),
        (("--quantize", "4"), "--quantize has no effect"),
        (("--dtype", "float32"), "--dtype has no effect"),
        ((), "a file of somebody's own; name it with --model-repo"),
    ],
)
def test_what_has_no_effect_beside_decode_is_refused(stored, flags, said, command):
    status, message = command(generate.main, "--decode", stored[1], *flags)
    assert status == 2
    assert said in message


def test_what_is_no_stored_clip_is_told(line, stored, tmp_path, command):
    model = line[line.index("--model-repo") + 1]
    damaged = tmp_path / "b.latents.safetensors"
    content = bytearray(stored[1].read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    half = tmp_path / "half"
    half.mkdir()
    (half / "request.json").write_text("{}")
    other = next(model.glob("*distilled.safetensors"))
    for path, said in (
        (tmp_path / "no.latents.safetensors", "does not exist"),
        (damaged, "its numbers are not those that were written"),
        (half, "keeps a run that is not finished; the same command with --keep goes on from it"),
        (other, "is not a stored clip"),
    ):
        status, message = command(generate.main, "--decode", path, "--model-repo", model)
        assert status == 2
        assert said in message
        assert message.count("\n") == 1


def test_a_file_of_another_kind_is_never_written_over(stored, small_folder, tmp_path, command, line):
    clip, place = stored
    model = next(small_folder("2.3").glob("*distilled.safetensors"))
    other = shutil.copy(model, tmp_path / "o.latents.safetensors")
    with pytest.raises(UserError, match="is there already and is no stored clip"):
        clip.store(other)
    status, said = command(generate.main, *line, "--latents", "-o", tmp_path / "o.mp4")
    assert (status, "is no stored clip" in said) == (2, True)
    clip.store(shutil.copy(place, tmp_path / "again.safetensors"))
    assert Clip.open(tmp_path / "again.safetensors").metadata == clip.metadata


def test_a_single_file_names_no_place_of_its_maker(small_folder, inputs, tmp_path):
    size = {"height": 64, "width": 64, "num_frames": 1}
    with LTXPipeline.from_pretrained(small_folder("2.3"), dtype="float32") as pipe:
        clip = pipe.generate(prompt="x", **size, placeholder=True, image=inputs / "picture.png")
    clip.store(tmp_path / "a.safetensors")
    assert str(inputs).encode() not in (tmp_path / "a.safetensors").read_bytes()
    assert b"picture.png" in (tmp_path / "a.safetensors").read_bytes()
    clip.store(tmp_path / "b.safetensors", metadata=False)
    assert Clip.open(tmp_path / "b.safetensors").metadata == {}


def test_info_prints_stored_latents_and_kept_folders(stored, tmp_path, capsys):
    _, place = stored
    assert info.main([str(place)]) == 0
    said = capsys.readouterr().out
    for words in ("latents             64x64, 9 frames", "prompt              a red ball", "seed                42"):
        assert words in said
    (tmp_path / "request.json").write_text('{"asked": {"prompt": "a cube"}, "found": {}}')
    assert info.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "kept so far         nothing yet" in said
    assert "a cube" in said


def test_the_plan_says_what_is_kept(line, tmp_path, command, capfd, monkeypatch, heard):
    kept = tmp_path / "kept"
    interrupting(monkeypatch, 10)
    assert command(generate.main, *line, "--keep", kept)[0] == 130
    assert generate.main([*map(str, line), "--keep", str(kept), "--plan"]) == 0
    assert f"{kept} keeps of a run so far: the texts, stage 1, 2 steps of stage 2." in capfd.readouterr().out
