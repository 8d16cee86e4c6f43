"""What a run shows: on a terminal of any width, where there is none, and where nobody listens."""

import io
import os
import re
import shutil
import sys
import time

import pytest

from mlx_video.cli import bars
from mlx_video.cli.bars import Bars, Line, clock
from mlx_video.types import Progress

PHASES = ["text", "images", "stage 1", "upsample", "waveform", "decode", "transformer", "audio decoder"]


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def screen(monkeypatch):
    """screen(terminal, columns) takes what is written to standard error."""

    def make(terminal, columns=80):
        monkeypatch.setattr(sys, "stderr", Screen(terminal))
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
        return sys.stderr

    return make


def run(shown, phases=("text", "stage 1"), pause=0.0):
    for phase in phases:
        for done in range(3):
            shown(Progress(phase, done, 3))
            time.sleep(pause)
        shown(Progress(phase, 3, 3, 3 << 29))
    shown.close()


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 200])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("done", "seconds"), [(0, 0.0), (3, 71.0), (29, 40_000.0), (30, 3.0)])
def test_a_line_fits_and_says_the_phase_and_the_count(columns, phase, done, seconds):
    text = Line(phase, done, 30, seconds).drawn(columns)
    assert len(text) <= columns
    assert phase[:9] in text
    if columns >= 40:
        assert f"{done}/30" in text
        assert clock(seconds) in text


def test_at_40_columns_there_is_a_time_left():
    assert "10:39 left" in Line("stage 1", 3, 30, 71.0).drawn(39)


def test_a_finished_phase_has_no_time_left():
    ended = Line("stage 1", 30, 30, 71.0, 3 << 29).ended
    assert ended == "  stage 1  30/30 in 1:11, peak 1.50 GiB"
    assert len(ended) <= 40


def test_off_a_terminal_each_phase_is_a_line(screen):
    out = screen(False)
    run(Bars())
    assert out.getvalue() == "     text  3/3 in 0:00, peak 1.50 GiB\n  stage 1  3/3 in 0:00, peak 1.50 GiB\n"


def test_a_phase_without_a_peak_is_told_when_the_next_begins(screen):
    out, shown = screen(False), Bars()
    shown(Progress("download", 5, 5))
    shown(Progress("text", 0, 1))
    shown.close()
    assert out.getvalue() == " download  5/5 in 0:00\n"  # and what did not come to its end is not told


def test_what_is_over_too_soon_is_not_a_line(screen):
    out, shown = screen(False), Bars()
    shown(Progress("look-up", 3, 3))
    shown(Progress("text", 1, 1, 5 << 20))
    shown.close()
    assert out.getvalue() == "     text  1/1 in 0:00, peak 5.0 MiB\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(screen, terminal):
    out, shown = screen(terminal), Bars(quiet=True)
    run(shown)
    shown.say("something")
    assert out.getvalue() == ""


@pytest.mark.parametrize("columns", [30, 40, 80])
def test_on_a_terminal_what_stays_are_the_phases(screen, columns):
    out = screen(True, columns)
    run(Bars())
    text = out.getvalue()
    assert "00:00 left" not in text
    shown = [line.rpartition("\r\x1b[K")[2] for line in text.split("\n")]
    assert shown == ["     text  3/3 in 0:00, peak 1.50 GiB", "  stage 1  3/3 in 0:00, peak 1.50 GiB", ""]
    drawn = re.split("\r\x1b\\[K|\n", text)
    assert max(len(one) for one in drawn if "peak" not in one) < columns


def test_the_clock_moves_while_nothing_is_reported(screen, monkeypatch):
    monkeypatch.setattr(bars, "TICK", 0.005)
    out, shown = screen(True), Bars()
    shown(Progress("stage 1", 0, 8))
    before = out.getvalue().count("stage 1")
    deadline = time.monotonic() + 5
    while out.getvalue().count("stage 1") < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    shown.close()
    after = out.getvalue()
    time.sleep(0.03)
    assert out.getvalue() == after


def test_messages_do_not_end_in_a_line_that_moves(screen):
    out, shown = screen(True), Bars()
    shown(Progress("text", 1, 3))
    shown.say("a note")
    shown.close()
    assert "\r\x1b[Ka note\n" in out.getvalue()


@pytest.mark.parametrize("fault", [BrokenPipeError, ValueError])
def test_a_run_goes_on_where_nobody_listens(screen, monkeypatch, fault):
    out = screen(True)

    def fail(text):
        raise fault

    monkeypatch.setattr(out, "write", fail)
    run(Bars())


def test_times():
    assert [clock(s) for s in (0, 7.4, 59.6, 754, 3723)] == ["0:00", "0:07", "1:00", "12:34", "1:02:03"]


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("colour", [None, "1"])
def test_no_colour_at_any_width_with_a_terminal_and_in_a_pipe(screen, monkeypatch, columns, terminal, colour):
    if colour is not None:
        monkeypatch.setenv("NO_COLOR", colour)
    out, shown = screen(terminal, columns), Bars()
    shown.expect({"text": 1.0, "stage 1": 3.0})
    run(shown)
    text = out.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*m", text)
    if not terminal:
        assert "\x1b" not in text
        assert "\r" not in text
        assert [line[:9].strip() for line in text.splitlines()] == ["text", "stage 1"]
