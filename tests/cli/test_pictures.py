"""Which terminals are shown pictures, and how; what is written where nothing can be shown or written."""

import base64
import re

import numpy as np
import pytest

from mlx_video.cli.pictures import Preview, beside, inline, protocol_of
from mlx_video.types import Progress


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "Apple_Terminal", "TERM": "xterm-256color"}, None),
        ({"TERM_PROGRAM": "vscode"}, None),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({"TERM_PROGRAM": "tmux", "TERM": "tmux-256color", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "dumb", "TERM_PROGRAM": "iTerm.app"}, None),
        ({}, None),
    ],
)
def test_a_terminal_is_known_by_its_environment(environment, protocol):
    assert protocol_of(environment, terminal=True) == protocol
    assert protocol_of(environment, terminal=False) is None


def test_both_protocols_carry_the_whole_file():
    png = bytes(range(256)) * 40
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=10240;[^:]*:([^\x07]*)\x07", inline(png, "iterm"))
    assert found
    assert base64.b64decode(found[1]) == png
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", inline(png, "kitty"))
    assert [controls for controls, _ in parts] == ["a=T,f=100,q=2,m=1", "m=1", "m=1", "m=0"]
    assert all(len(data) <= 4096 for _, data in parts)
    assert base64.b64decode("".join(data for _, data in parts)) == png


def test_a_picture_is_named_after_its_video():
    assert str(beside("clips/waves.mp4", "preview")) == "clips/waves.preview.png"
    assert beside("", "sheet") is None


def test_every_few_steps_and_each_last_are_written_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.delenv("STY", raising=False)
    said, path, seen = [], tmp_path / "a.preview.png", []
    shown = Preview(path, 3, said.append)
    for done in range(1, 8):
        shown(Progress("stage 1", done, 7), np.full((2, 8, 8, 3), done, np.uint8))
        seen.append(path.read_bytes() if path.exists() else None)
    assert [bool(now) and now != before for before, now in zip([None, *seen], seen, strict=False)] == [
        False, False, True, False, False, True, True,
    ]  # fmt: skip
    assert len(said) == 3
    assert all(one.startswith("\x1b_Ga=T") for one in said)


def test_a_strip_that_cannot_be_written_costs_the_strip_alone(tmp_path):
    said = []
    shown = Preview(tmp_path / "gone" / "a.preview.png", 1, said.append)
    for done in (1, 2):
        shown(Progress("stage 1", done, 2), np.zeros((1, 8, 8, 3), np.uint8))
    assert len(said) == 1
    assert "no more previews" in said[0]
    assert "does not exist" in said[0]
