"""The CPU's own forms of computing: one switch, and nothing else in the package asks what it computes on."""

import re
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_video
from mlx_video import platform
from mlx_video.cpu import forms
from mlx_video.models import layers

PACKAGE = Path(mlx_video.__file__).parent
ASKS = {"platform.py", "checkup/machine.py", "models/ltx_2/costs.py", "models/ltx_2/video_vae/tiling.py"}
"""Where decisions by machine are made or told of, and where the bytes of a computation are predicted."""


def test_networks_ask_the_switch_and_not_the_machine():
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    assert {name for name, text in files.items() if re.search(r"\bis_cpu\(", text)} <= ASKS
    for name, text in files.items():
        if "from mlx_video.cpu import forms" in text:
            assert "platform.cpu_forms()" in text, name


@pytest.mark.parametrize(("said", "wanted"), [("off", False), ("on", True), (None, True)])
def test_the_switch(monkeypatch, said, wanted):
    monkeypatch.setattr(platform, "is_cpu", lambda: True)
    monkeypatch.delenv("MLX_VIDEO_CPU_FORMS", raising=False)
    if said is not None:
        monkeypatch.setenv("MLX_VIDEO_CPU_FORMS", said)
    assert platform.cpu_forms() is wanted
    called = []
    monkeypatch.setattr(forms, "attend", lambda *given: called.append(given) or given[0])
    x = mx.zeros((1, 1, 4, 8))
    layers.attend(x, layers.KeysValues(x, x))
    assert bool(called) is wanted


def test_a_gpu_has_no_need_of_them(monkeypatch):
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    assert not platform.cpu_forms()
