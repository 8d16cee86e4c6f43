"""Verdicts of the checkup, each from a fault that is put there; and what is fit to be shared."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video import doctor, platform
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkup import demo_run, disk, hub, machine, rounds, speed
from mlx_video.checkup.finding import Finding, Verdict, block, shareable, summary, worst
from mlx_video.types import RunError, UserError
from tests.support import peaks, played_hub, small

GIB = 1 << 30
Usage = namedtuple("Usage", "total used free")
OK, LOOK, WRONG = Verdict


# ------------------------------------------------------------------------------------------------ what is said


def test_the_worst_decides():
    findings = [Finding("a", OK, ""), Finding("b", LOOK, ""), Finding("c", WRONG, ""), Finding("d", LOOK, "")]
    assert (worst(findings), worst(findings[:2]), worst(findings[:1]), worst([])) == (WRONG, LOOK, OK, OK)
    assert summary(findings) == "Something is wrong: c."
    assert summary(findings[:2]) == "Nothing is wrong; worth a look: b."


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("in /opt/models/x-1.safetensors, here", "in (path), here"),
        ("token hf_AbCdEf123 said", "token (token) said"),
        ("Lightricks/LTX-2.3 at 90 GFLOP/s and 1.9 GB/s", "Lightricks/LTX-2.3 at 90 GFLOP/s and 1.9 GB/s"),
        ("(/root/.cache) and ~/models/a", "((path)) and (path)"),
        ("https://huggingface.co/Lightricks/LTX-2.5 is gated", "https://huggingface.co/Lightricks/LTX-2.5 is gated"),
    ],
)
def test_what_is_shared_has_no_paths_and_no_tokens(text, shared):
    assert shareable(text) == shared


def test_the_block_does_not_name_the_home_of_somebody_with_two_names(monkeypatch):
    home = "/Users/Ada Lovelace"
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    text = block([Finding("disk", OK, f"5 GB free ({home}/.cache/huggingface/hub)")])
    assert "Ada" not in text
    assert "Lovelace" not in text
    assert "5 GB free ((path))" in text


# ------------------------------------------------------------------------------------------------ the machine


def test_an_old_mlx_is_worth_a_look():
    found = machine.versions({"mlx_video": "1", "mlx": "0.20.1"})
    assert found.verdict is LOOK
    assert "pip install -U mlx" in found.said
    assert machine.versions({"mlx": ".".join(map(str, platform.LEAST_MLX))}).verdict is OK
    assert machine.versions({}).verdict is WRONG


@pytest.mark.parametrize(("free", "verdict"), [(9 * GIB, OK), (2 * GIB, LOOK), (None, OK)])
def test_memory_that_others_hold_is_worth_a_look(free, verdict):
    assert machine.memory(free, 16 * GIB, 11 * GIB).verdict is verdict


def test_this_machine_says_how_much_memory_is_free():
    assert 0 < machine.free_memory() <= platform.memory_limit()


def test_a_macs_free_memory_is_what_no_page_has_to_go_for():
    told = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:            100.\n"
        "Pages active:          900.\nPages inactive:         50.\nPages speculative:       7.\n"
        "Pages wired down:      300.\nPages purgeable:         3.\n"
    )
    assert machine._free_on_mac(told) == 16384 * 160
    assert machine._free_on_mac("") is None


@pytest.mark.parametrize(("free", "verdict"), [(100 << 20, WRONG), (5 * GIB, LOOK), (50 * GIB, OK)])
def test_a_full_disk_is_wrong(free, verdict, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GIB, 0, free))
    assert machine.disks().verdict is verdict


def test_reading_is_measured_and_leaves_nothing(tmp_path):
    found = disk.examine(tmp_path / "not" / "there", size=1 << 20)
    assert found.figures["bytes_per_second"] > 1e6
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, GIB, 1000))
    assert disk.examine(tmp_path).said.startswith("not measured")


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def models(monkeypatch, tmp_path):
    with played_hub.play(monkeypatch, tmp_path, {}) as found:
        yield found


def test_to_be_offline_is_no_fault(models):
    models.down()
    found = hub.examine_access()
    assert (found.verdict, found.figures["reachable"]) == (OK, False)


def test_a_gated_repo_is_named_with_what_to_do(models):
    def refuse(repo):
        raise UserError(f"{repo} is gated: accept its licence.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.access, "is_reachable_and_open", refuse)
        found = hub.examine_access()
    assert found.verdict is LOOK
    assert "Lightricks/LTX-2.5 is gated" in found.said


def test_a_token_is_never_shown(models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    models.down()
    found = hub.examine_access()
    assert found.figures["token"] is True
    assert "hf_secret" not in str(found)


@pytest.fixture
def fetched(models, tmp_path, small_folder):
    """The folder of LTX-2 in the hub's cache, as if its files had been fetched; here all is there."""
    state = tmp_path / "hub" / "models--Lightricks--LTX-2" / "snapshots" / ("c" * 40)
    shutil.copytree(small_folder("2"), state, symlinks=False)
    (state / "gemma").rename(state / "text_encoder")
    return state


def test_no_model_here_is_no_fault(models):
    [found] = hub.examine_models()
    assert (found.topic, found.verdict) == ("models", OK)


def test_a_whole_model_is_told(fetched):
    [found] = hub.examine_models()
    assert (found.topic, found.verdict, found.figures) == ("ltx-2", OK, {"whole": True})


def test_a_file_whose_content_is_gone_is_named(fetched):
    name = small.NAMES["2"].format("distilled")
    (fetched / name).unlink()
    (fetched / name).symlink_to(fetched / "blobs" / "gone")
    [found] = hub.examine_models()
    assert found.verdict is LOOK
    assert f"{name} of Lightricks/LTX-2 was not fetched whole" in found.said


def test_a_file_that_was_cut_is_named(fetched):
    file = fetched / small.NAMES["2"].format("distilled")
    file.write_bytes(file.read_bytes()[:-1000])
    [found] = hub.examine_models()
    assert found.verdict is LOOK
    assert file.name in found.said


# ------------------------------------------------------------------------------------------------ what is computed


def only(monkeypatch, *examinations):
    monkeypatch.setattr(rounds, "examinations", lambda quick=False: list(examinations))


def demo():
    return "demo float32", lambda: demo_run.examine(rounds._make, "float32")


def test_the_demo_is_what_was_recorded_and_the_command_ends_with_0(monkeypatch, capsys):
    only(monkeypatch, demo())
    assert doctor.main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok     demo float32 ")
    assert "Nothing is wrong" in out
    assert err == ""


def test_a_machine_that_computes_wrong_is_named_and_ends_with_1(monkeypatch, capsys):
    right = nn.Linear.__call__
    monkeypatch.setattr(nn.Linear, "__call__", lambda self, x: right(self, x) * 1.05)
    only(monkeypatch, demo())
    assert doctor.main(["--json"]) == 1
    out, err = capsys.readouterr()
    [finding] = json.loads(out)["findings"]
    assert (finding["topic"], finding["verdict"]) == ("demo float32", "wrong")
    assert "Something is wrong: demo float32." in err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far(value):
    wanted = {"frames": np.ones((2, 2))}
    assert demo_run.errors({"frames": np.array([[1, 1], [1, value]])}, wanted) == {"frames": np.inf}
    assert demo_run.errors({}, wanted) == {"frames": np.inf}
    assert demo_run.errors(wanted, wanted) == {"frames": 0.0}


@pytest.mark.parametrize(
    ("dtype", "error", "verdict"),
    [(mx.float32, 3e-7, OK), (mx.float32, 5e-4, LOOK), (mx.float32, 0.5, WRONG), (mx.bfloat16, np.nan, WRONG)],
)
def test_products_that_are_wrong(dtype, error, verdict):
    assert speed.examine_product(speed.Product(dtype, 1e11, error)).verdict is verdict


def test_a_product_is_measured():
    found = speed.product(mx.float32, sizes=(64, 128))
    assert found.rate > 1e7
    assert found.error < 1e-5


@pytest.fixture(scope="module")
def settings(small_folder):
    return open_checkpoint(small_folder("2.3"), "distilled").config


@pytest.mark.parametrize("examine", [speed.examine_block, speed.examine_decoder])
def test_networks_are_measured_small(examine, settings):
    plain = speed.Product(mx.float32, 1e9, 0.0)
    with peaks.measured() as taken:
        found = examine(plain, GIB, settings, seconds=0.5)
    assert found.figures["gflop_per_second"] > 0
    assert taken.peak < 1 << 28
    assert taken.held < 1 << 20


@pytest.mark.parametrize("examine", [speed.examine_block, speed.examine_decoder])
def test_what_does_not_fit_or_would_take_too_long_is_not_tried(examine):
    with peaks.measured() as taken:
        found = examine(speed.Product(mx.float32, 1e11, 0.0), 1 << 20)
        slow = examine(speed.Product(mx.float32, 1e8, 0.0), GIB)
    assert (found.verdict, slow.verdict) == (LOOK, LOOK)
    assert "are free" in found.said
    assert "would take more than" in slow.said
    assert taken.peak < 1 << 20


def test_what_an_examination_stumbles_over_is_its_finding_and_the_next_goes_on():
    def fail(fault):
        raise fault

    faults = [UserError("a"), RunError("b"), OSError("c"), RuntimeError("[metal] d"), MemoryError()]
    todo = [(str(n), lambda fault=fault: fail(fault)) for n, fault in enumerate(faults)]
    reports = []
    found = list(rounds.examine([*todo, ("last", lambda: [Finding("last", OK, "")])], reports.append))
    assert [one.verdict for one in found] == [WRONG] * 5 + [OK]
    assert [one.said for one in found[:5]] == ["a", "b", "c", "[metal] d", "MemoryError"]
    assert [(one.done, one.total) for one in reports] == [(n, 6) for n in range(7)]


@pytest.mark.slow
def test_the_whole_round_at_real_width_finds_nothing_wrong(capsys, models):
    models.down()
    with peaks.measured() as taken:
        assert doctor.main(["--quiet"]) == 0
    assert taken.peak < 4 * GIB  # a machine of 16 GB has room for it
    out = capsys.readouterr().out
    topics = [line.split("  ")[0] for line in out.partition("\n\n")[0].split("\n")]
    assert "wrong" not in topics
    assert str(Path.home()) not in out.partition("```")[2]


def test_quick_measures_nothing():
    assert {topic for topic, _ in rounds.examinations(True)}.isdisjoint({"demo float32", "speed", "reading"})
    assert [topic for topic, _ in rounds.examinations()][-3:] == ["demo float32", "speed", "reading"]


def test_the_plain_findings_of_this_machine_are_one_line_each(models, capsys):
    models.down()
    assert doctor.main(["--quick", "--quiet"]) == 0
    found, _, pasted = capsys.readouterr().out.partition("\n\n")
    lines = found.split("\n")
    assert [line[7:19].strip() for line in lines] == [
        "versions", "chip", "backend", "memory", "disk", "hub", "models"
    ]  # fmt: skip
    assert pasted.rstrip().endswith("```")
    assert pasted.count("\n") >= len(lines) + 4
