"""The trials judge rightly, can be made again, and a few of each kind end as they should."""

import os
import time

import pytest

from tests.trials import farm
from tests.trials.__main__ import chosen, table
from tests.trials.case import Case, Run, Verdict, judge
from tests.trials.groups import GROUPS, flags, shares
from tests.trials.material import Material, environment
from tests.trials.worker import attempt

CASE = Case("flags", "--fps 'x'", "generate", ("--fps", "x"), ("--fps",), twin=None)
REFUSED = "mlx_video.generate: --fps 'x' is not a number.\n"


@pytest.mark.parametrize(
    ("expect", "run", "verdict"),
    [
        ("right", Run(2, REFUSED), "clear"),
        ("right", Run(2, "noise\n" * 9 + REFUSED), "clear"),
        ("right", Run(0, "", made=("out.mp4",)), "accepted"),
        ("refused", Run(0, "", made=("out.mp4",)), "silent"),
        ("right", Run(0, "", faults=["of one colour"]), "silent"),
        ("right", Run(None, "Traceback (most recent call last):\nKeyError: 'a'"), "traceback"),
        ("right", Run(1, "Traceback (most recent call last):\nKeyError: 'a'"), "traceback"),
        ("right", Run(1, REFUSED), "wrong status"),
        ("right", Run(2, REFUSED, made=(".out.part.mp4",)), "partial files"),
        ("right", Run(0, "", made=("out.mp4", "left.tmp")), "partial files"),
        ("right", Run(2, REFUSED, changed=("in.png",)), "lost input"),
        ("right", Run(2, ""), "unclear"),
        ("right", Run(2, "mlx_video.generate: something is wrong.\n"), "unclear"),
        ("right", Run(2, "mlx_video.generate: --fps 'x': [Errno 2] nothing there\n"), "unclear"),
        ("right", Run(2, "mlx_video.generate: --fps 'x'\na\nb\nc\n"), "unclear"),
    ],
)
def test_a_run_is_judged(expect, run, verdict):
    case = Case(CASE.group, CASE.what, CASE.command, CASE.line, CASE.names, expect)
    assert judge(case, run)[0] == verdict


def test_a_fault_of_the_run_may_end_with_1_where_it_is_only_seen_there():
    case = Case("values", "NaN", "generate", (), ("finite",), fault=True)
    assert judge(case, Run(1, "mlx_video.generate: stage 1 gave numbers that are not finite.\n"))[0] == "clear"


def test_every_option_of_every_command_is_tried():
    options = flags.options()
    assert {option.command for option in options} == set(flags.commands())
    tried = {(option.command, option.flag) for option, _, _ in flags.pairs()}
    for command in flags.commands():
        assert {(command, flag) for action in flags.actions(command) for flag in action.option_strings or [""]} <= tried


def test_the_table_counts():
    found = [Verdict("a", "flags", 0, "clear"), Verdict("b", "flags", 1, "hang"), Verdict("c", "lora", 0, "accepted")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(found).splitlines()]
    counts = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    assert counts["flags"]["clear"] == counts["flags"]["hang"] == "1"
    assert counts["**all**"]["tried"] == "3"
    assert chosen({"flags": 2, "lora": 1}, ["flags:7", "lora"]) == [("flags", 7), ("lora", 0)]
    assert set(shares(1500)) == set(GROUPS)
    assert abs(sum(shares(1500).values()) - 1500) < len(GROUPS)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patched:
        for key, value in environment(folder).items():
            patched.setenv(key, value)
        from huggingface_hub import constants

        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        Material(folder / "material").prepare()
        yield folder


@pytest.mark.quick(
    "conflicts",
    "prompts",
    "truncated",
    "header",
    "tensors",
    "values",
    "hostile",
    "index",
    "pickle",
    "lora",
    "upsampler",
    "embedding",
    "folder",
    "gemma",
    "image",
    "upscale-image",
    "audio",
    "video",
)
@pytest.mark.parametrize("group", GROUPS)
def test_a_trial_of_each_kind_ends_as_it_should(group, scratch):
    verdict = attempt(GROUPS[group], group, FAST.get(group, 0), 1, Material(scratch / "material"), scratch)
    assert verdict.good, verdict


FAST: dict[str, int] = {}
"""Numbers of trials that take less than the first of their group."""


def test_a_trial_can_be_made_again(scratch, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    material = Material(scratch / "material")
    first, again = (GROUPS["lora"](3, 1, material, tmp_path / name) for name in "ab")
    assert first.title == again.title
    assert (tmp_path / "a/lora/mine.safetensors").read_bytes() == (tmp_path / "b/lora/mine.safetensors").read_bytes()
    assert GROUPS["lora"](4, 1, material, tmp_path / "a/..").title != first.title


def _serve(connection, scratch, seed):
    connection.send("ready")
    while True:
        group, _ = connection.recv()
        connection.send(f"a trial that {group}s")
        if group == "die":
            os._exit(3)
        held = bytearray(os.urandom(1) * (200 << 20)) if group == "grow" else b""
        time.sleep(30 + len(held) * 0)


def test_what_a_trial_cannot_tell_itself_is_told_from_outside(monkeypatch, tmp_path):
    monkeypatch.setattr(farm, "serve", _serve)
    monkeypatch.setattr(farm, "MEMORY", 100 << 20)
    worker = farm.Worker(tmp_path, 1, limit=2.0)
    try:
        found = [worker.attempt(group, 0) for group in ("die", "grow", "sleep")]
    finally:
        worker.close()
    assert [verdict.verdict for verdict in found] == ["crash", "memory", "hang"]
    assert found[0].case == "a trial that dies"
