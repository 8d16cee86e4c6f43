"""`--progress json`: all that a command tells on standard error is lines of JSON, the last one how it ended."""

import io
import json
import subprocess
import sys

import pytest

from mlx_video import cli, generate
from mlx_video.cli.events import Events, asked_for
from mlx_video.types import Progress, RunError, UserError

JSON = ["--progress", "json"]


def parser():
    found = cli.Parser(prog="p")
    found.add_argument("--progress", choices=("bars", "json"), default="bars")
    found.add_argument("--quiet", action="store_true")
    found.add_argument("--output-path", default="a.mp4")
    found.add_argument("--model-repo", default="demo")
    return found


@pytest.fixture
def run(capsys):
    """run(action, *words) -> exit status, and the events."""

    def go(action, *words):
        try:
            status = cli.run(parser, action, [*JSON, *words])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert out == ""
        return status, [json.loads(line) for line in err.splitlines()]

    return go


def test_a_run_is_events_and_ends_with_what_was_written(run):
    def action(args):
        bars = cli.bars_for(args)
        bars.say("a note")
        for done in range(3):
            bars(Progress("stage 1", done, 2, 1 << 20 if done == 2 else None))
            bars(Progress("stage 1", done, 2, 1 << 20 if done == 2 else None))
        bars.close()
        cli.done(args, bars, "made by ")

    status, (note, *told, closing, end) = run(action)
    assert status == 0
    assert note == {"event": "message", "message": "a note"}
    assert [(one["event"], one["phase"], one["done"], one["total"]) for one in told] == [
        ("progress", "stage 1", done, 2) for done in range(3)
    ]
    assert "peak" not in told[0]
    assert told[2]["peak"] == 1 << 20
    assert all(one["seconds"] >= 0 for one in told)
    assert closing["message"].startswith("made by demo, in ")
    assert (end["event"], end["status"], end["outputs"]) == ("end", 0, ["a.mp4"])
    assert "error" not in end


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (UserError("too wide"), 2, "p: too wide"),
        (RunError("a disk"), 1, "p: a disk"),
        (KeyboardInterrupt(), 130, "p: interrupted; nothing was written."),
        (ZeroDivisionError("a fault of ours"), 1, "ZeroDivisionError: a fault of ours"),
    ],
)
def test_however_it_ends_the_last_event_says_so(run, fault, status, said):
    def action(args):
        cli.wrote("half.mp4")
        raise fault

    ended, (*_, last) = run(action)
    assert ended == last["status"] == status
    assert (last["event"], last["error"], last["outputs"]) == ("end", said, [])


def test_a_wrong_flag_is_an_event_too(run):
    status, (message, end) = run(lambda args: None, "--no-such-flag")
    assert status == end["status"] == 2
    assert message["message"] == end["error"]
    assert "there is no --no-such-flag" in end["error"]


def test_what_others_write_is_a_message(run):
    def action(args):
        print("half a", file=sys.stderr, end="")
        print(" line\nand another", file=sys.stderr)
        print(file=sys.stderr)
        sys.stderr.write("without an end")

    _, events = run(action)
    said = [one["message"] for one in events if one["event"] == "message"]
    assert said[:2] == ["half a line", "and another"]
    assert said[2:] == ["without an end"]
    assert events[-1]["event"] == "end"


def test_quiet_and_json_exclude_each_other(run):
    status, (*_, end) = run(lambda args: cli.bars_for(args), "--quiet")
    assert (status, end["error"]) == (
        2, "p: --quiet and --progress json exclude each other: the one says nothing, the other everything."
    )  # fmt: skip


def test_standard_error_is_as_it_was_afterwards(run):
    before = sys.stderr
    run(lambda args: None)
    assert sys.stderr is before


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(JSON, True), (["--progress=json"], True), (["--progress", "bars"], False), (["json", "--progress"], False)],
)
def test_events_are_asked_for_in_words(words, wanted):
    assert asked_for(words) is wanted


def test_a_run_goes_on_where_nobody_listens(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with Events() as events:
        events(Progress("text", 1, 2))
    assert events.status == 0


@pytest.mark.slow
def test_a_whole_clip_tells_every_phase(tmp_path):
    command = [sys.executable, "-m", "mlx_video.generate", "a red circle", "--model-repo", "demo", "-W", "64", "-H",
               "64", "-n", "1", "--no-audio", "-o", str(tmp_path / "a.mp4"), *JSON]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert events[-1]["outputs"] == [str(tmp_path / "a.mp4")]
    phases = dict.fromkeys(one["phase"] for one in events if one["event"] == "progress")
    assert list(phases)[-2:] == ["decode", "save"]
    last = {one["phase"]: one for one in events if one["event"] == "progress"}
    assert all(one["done"] == one["total"] for one in last.values())


@pytest.mark.parametrize("main", [generate.main])
def test_a_refusal_of_a_real_command_is_an_event(main, capsys):
    assert main(["a fox", "-n", "0", *JSON]) == 2
    *_, end = map(json.loads, capsys.readouterr().err.splitlines())
    assert end["status"] == 2
    assert "num-frames" in end["error"]
