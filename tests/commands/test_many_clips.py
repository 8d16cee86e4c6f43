"""`generate` with takes, several prompts and files of them: names, statuses, what stays and what is made again."""

import io
import json
import shutil
from types import SimpleNamespace

import pytest

from mlx_video import LTXPipeline, generate
from mlx_video.media import settings
from mlx_video.results.clip import Clip

pytestmark = pytest.mark.usefixtures("texts_are_kept")
SIZE = ("--height", 64, "--width", 64, "--num-frames", 9)
QUICK = (*SIZE, "--placeholder")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def unused(monkeypatch):
    """A pipeline that must not be opened."""

    def opened(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr(LTXPipeline, "from_pretrained", opened)


def test_takes_and_prompts_are_numbered(command, tmp_path):
    line = ("-p", "waves", "-p", "a fox", "--takes", 2, "--seed", 7, "-o", tmp_path / "out.mp4")
    more = ("--output-audio", tmp_path / "a.wav", "--save-frames")
    status, said = command(generate.main, *line, *QUICK, *more)
    assert status == 0, said
    made = [f"out-{number:04}" for number in (1, 2, 3, 4)]
    wanted = [*made, *(f"{name}.mp4" for name in made), *(f"a-{number:04}.wav" for number in (1, 2, 3, 4))]
    assert names(tmp_path) == sorted(wanted)
    found = [settings.read(tmp_path / f"{name}.mp4") for name in made]
    assert [(one["prompt"], one["seed"]) for one in found] == [("waves", 7), ("waves", 8), ("a fox", 7), ("a fox", 8)]
    assert "4 of 4 clips" in said
    assert said.count("This is a placeholder") == 1


def test_a_file_of_prompts_and_standard_input(command, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    text = '# two\nwaves\n{"prompt": "a fox", "seed": 3, "output": "fox.mp4"}\n'
    (tmp_path / "mine" / "list.txt").write_text(text)
    (tmp_path / "out").mkdir()
    line = ("--prompts", tmp_path / "mine" / "list.txt", "-o", tmp_path / "out" / "a.mp4")
    status, said = command(generate.main, *line, *QUICK)
    assert status == 0, said
    assert (names(tmp_path / "out"), names(tmp_path / "mine")) == (["a-0001.mp4"], ["fox.mp4", "list.txt"])
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    status, said = command(generate.main, "--prompts", "-", "-o", "b.mp4", "--takes", 2, *QUICK, "--quiet")
    assert (status, said) == (0, "")
    assert names(tmp_path / "out") == [
        "a-0001.mp4", "b-0001.mp4", "b-0002.mp4", "fox-0001.mp4", "fox-0002.mp4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        ((), '{"promt": "a"}', "list.txt, line 1: there is no option 'promt'; did you mean prompt?"),
        ((), 'a\n{"prompt": "b", "width": 33}', "list.txt, line 2: width=33 does not work"),
        ((), 'a\n{"prompt": "b", "output": "a-0001.mp4"}', "Two clips of this run would be written to"),
        ((), '{"prompt": "b", "image": "a-0001.mp4"}', "is the input itself"),
        ((), '{"prompt": "b", "output": "nowhere/b.mp4"}', "nowhere does not exist"),
        (("-p", "a", "-p", "b"), "a", "--prompts and several --prompt exclude each other"),
        (("--takes", 0), "a", "--takes 0 is out of range; it must be from 1 to 1000"),
        (("--takes", 1000), "a\n" * 11, "These are 11,000 clips; 10,000 is the most"),
        (("--embedding", "e.safetensors"), "a", "line 1: embedding e.safetensors holds its prompts already"),
        (("--plan", "--placeholder"), "a", "--plan and --placeholder exclude each other"),
        (("--keep", "kept"), "a", "--keep is of one clip"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_opened(command, tmp_path, unused, line, text, said):
    (tmp_path / "list.txt").write_text(text)
    (tmp_path / "a-0001.mp4").write_bytes(b"kept")
    command_line = ("--prompts", tmp_path / "list.txt", "-o", tmp_path / "a.mp4", *SIZE, *line)
    status, told = command(generate.main, *command_line)
    assert (status, told.count("\n")) == (2, 1), told
    assert said in told
    assert names(tmp_path) == ["a-0001.mp4", "list.txt"]


def test_there_must_be_room_for_all(command, tmp_path, unused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, used=0, free=1 << 20))
    big = ("-p", "a", "-H", 256, "-W", 256, "-n", 33, "-o", tmp_path / "a.mp4", "--placeholder")
    status, said = command(generate.main, *big, "--takes", 100)
    assert status == 2
    assert "free" in said
    assert names(tmp_path) == []


def test_one_that_fails_leaves_the_others_and_a_status_of_1(command, tmp_path):
    lines = ["waves", {"prompt": "a fox", "image": "gone.png"}, "a hare"]
    (tmp_path / "list.txt").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    status, said = command(generate.main, "--prompts", tmp_path / "list.txt", "-o", tmp_path / "o.mp4", *QUICK)
    assert status == 1
    assert names(tmp_path) == ["list.txt", "o-0001.mp4", "o-0003.mp4"]
    last = said.strip().splitlines()[-2:]
    assert last[0].endswith("1 of 3 clips were not made:")
    assert last[1].startswith("  clip 2, ")
    assert last[1].endswith("gone.png does not exist; give a picture file.")


def test_an_end_in_between_leaves_what_is_finished(command, tmp_path, monkeypatch):
    save, saved = Clip.save, []

    def stopped(self, *given, **how):
        if saved:
            raise KeyboardInterrupt
        saved.append(1)
        save(self, *given, **how)

    monkeypatch.setattr(Clip, "save", stopped)
    status, said = command(generate.main, "-p", "a", "--takes", 3, "-o", tmp_path / "o.mp4", *QUICK)
    assert status == 130
    assert "interrupted; 1 of 3 clips are finished." in said
    assert names(tmp_path) == ["o-0001.mp4"]


def test_what_is_there_by_the_same_request_stays(command, tmp_path, small_folder, made_many):
    line = ("-p", "a red ball", "--model-repo", small_folder("2.3"), *SIZE, "-o", tmp_path / "o.mp4", "--no-audio")
    assert command(generate.main, *line, "--takes", 2)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    made_many.clear()
    status, said = command(generate.main, *line, "--takes", 3)
    assert (status, len(made_many)) == (0, 1), said
    assert said.count("is there, made by this very request; it stays") == 2
    assert "3 of 3 clips" in said
    assert before == {path: path.stat().st_mtime_ns for path in before}
    made_many.clear()
    status, said = command(generate.main, *line, "--takes", 2, "--save-frames", "--tiling", "none")
    assert (status, len(made_many)) == (0, 2), said  # another request, and other outputs
    assert (tmp_path / "o-0002").is_dir()
    made_many.clear()
    status, said = command(generate.main, *line, "--takes", 2, "--save-frames", "--tiling", "none")
    assert (status, len(made_many)) == (0, 0), said
    shutil.copy(tmp_path / "o-0001.mp4", tmp_path / "again.mp4")
    again = ("--again", tmp_path / "again.mp4", "--model-repo", small_folder("2.3"))
    status, said = command(generate.main, *again, "--takes", 2, "-o", tmp_path / "o.mp4", "--quiet")
    assert (status, said, len(made_many)) == (0, "", 0)


@pytest.fixture
def made_many(monkeypatch):
    """The clips that are made and not found."""
    clips, run = [], LTXPipeline.run_many

    def watched(self, *given, **how):
        for number, clip in run(self, *given, **how):
            clips.append(clip)
            yield number, clip

    monkeypatch.setattr(LTXPipeline, "run_many", watched)
    return clips


def test_a_plan_is_for_all(capfd, tmp_path, small_folder):
    line = ("a red ball", "--model-repo", small_folder("2.3"), *SIZE, "--takes", 8, "--plan", "-o", tmp_path / "o.mp4")
    assert generate.main([str(word) for word in line]) == 0
    out, _ = capfd.readouterr()
    assert out.count("stage 1") == 1
    assert "8 clips, phase by phase" in out
    assert names(tmp_path) == []
