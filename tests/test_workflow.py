"""The hosted checks are those of `.ci/run`, on machines that exist, and every Python that is promised is among them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = FILE.read_text()
WORKFLOW = yaml.safe_load(TEXT)
JOBS = WORKFLOW["jobs"]
SCRIPT = (ROOT / ".ci" / "run").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNNERS = {"ubuntu-24.04", "macos-15", "macos-26"}
"""Labels of hosted runners: macOS 14's was retired on 2 November 2026."""


def runs() -> list[str]:
    """Every command line of the workflow, with stand-ins for what is filled in by the host."""
    steps = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{.*?\}\}", "x", run) for run in steps]


def promised() -> list[str]:
    """The Python versions of the classifiers."""
    found = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    return sorted(found, key=lambda version: int(version[2:]))


def test_every_promised_python_is_tested_on_every_system():
    matrix = JOBS["quick"]["strategy"]["matrix"]
    assert matrix["python"] == promised()
    assert set(matrix["os"]) == RUNNERS
    assert PYPROJECT["project"]["requires-python"] == f">={promised()[0]}"
    minors = re.search(r"for minor in ([\d ]+); do", SCRIPT)
    assert minors
    assert [f"3.{minor}" for minor in minors[1].split()] == promised()[:0:-1]  # the second Python: newest first


@pytest.mark.parametrize("name", JOBS)
def test_jobs_run_on_machines_that_exist_and_end(name):
    job = JOBS[name]
    runner = job["runs-on"]
    assert set(job["strategy"]["matrix"]["os"] if "matrix" in runner else [runner]) <= RUNNERS
    assert 5 <= job["timeout-minutes"] <= 90
    first = job["steps"][0]["uses"]
    assert first.startswith("actions/checkout@")


def test_it_runs_on_pushes_and_proposals_with_no_rights_and_no_addresses():
    assert set(WORKFLOW[True]) == {"push", "pull_request", "workflow_dispatch"}  # YAML reads the key `on` as true
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "://" not in TEXT
    assert not re.search(r"index-url|find-links|continue-on-error", TEXT)


@pytest.mark.parametrize("line", runs())
def test_commands_have_the_shells_grammar_and_name_files_that_exist(line):
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True).stderr == ""
    for path in re.findall(r"(?<![\w/$\"{}])(?:\.ci/\S+\.py|requirements\.lock)", line):
        assert (ROOT / path).is_file()
    for words in re.findall(r'-m "([^"]+)"', line):
        marks = set(words.split()) - {"not", "or", "and"}
        assert marks <= {mark.split(":")[0] for mark in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}


def test_both_install_the_same_reference_and_make_the_same_checks():
    pinned = re.compile(r"\b(?:torch|ltx-core|ltx-pipelines)==[\d.]+")
    assert set(pinned.findall(TEXT)) == set(pinned.findall(SCRIPT))
    assert len(set(pinned.findall(TEXT))) == 3
    for check in ("ruff check .", "ruff format --check .", "lint-imports", "mypy", ".ci/demo.py", "--require-hashes"):
        assert check in TEXT
        assert check in SCRIPT
