"""What is around the code: dependencies against the lock, console scripts, licence, and the CI script's own grammar."""

import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def locked():
    """Name -> (versions, number of hashes of all of them)."""
    found: dict[str, tuple[list[str], int]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", LOCK):
        head = re.match(r"([a-z0-9.-]+)(?:\[[^]]+\])?==([^\s;\\]+)", entry)
        if head:
            versions, hashes = found.get(head[1], ([], 0))
            found[head[1]] = ([*versions, head[2]], hashes + len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return found


def requirements():
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras["test"], *extras["dev"]]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_the_lock_pins_every_dependency_within_its_bounds(requirement):
    versions, hashes = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions)
    assert hashes >= len(versions)


def test_every_line_of_the_lock_has_hashes_and_no_address():
    assert all(hashes for _, hashes in locked().values())
    assert len(locked()) > 60
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links)", LOCK, re.MULTILINE)


def test_there_is_one_build_of_opencv():
    # Two builds overwrite each other's files; mlx-vlm asks for this one.
    assert [name for name in locked() if name.startswith("opencv")] == ["opencv-python"]


@pytest.mark.parametrize(("name", "target"), PROJECT["scripts"].items())
def test_console_scripts_point_to_functions(name, target):
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert name == module


def test_the_licence_says_what_it_does_not_cover():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert "Lightricks" in text
    assert "Gemma" in text
    assert PROJECT["license"] == "MIT"


def test_the_ci_script_can_run():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""
