"""MLX's matrix products through scipy's OpenBLAS: right, private, and switched off when told."""

import importlib.util
import json
import os
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_video.cpu import linux_blas

CODE = """
import json, sys
import numpy as np
import mlx.core as mx
from mlx_video.cpu import linux_blas

mx.set_default_device(mx.cpu)

def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

def worst():
    rng = np.random.default_rng(3)
    errors = []
    for m, k, n in [(1, 1, 1), (3, 5, 7), (64, 64, 64), (130, 257, 65), (1, 300, 200)]:
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        x, y = mx.array(a.astype(np.float32)), mx.array(b.astype(np.float32))
        for got in (x @ y, x.T.T @ mx.contiguous(y.T).T, mx.addmm(mx.zeros((m, n)), x, y), (x[None] @ y[None])[0]):
            errors.append(relative(np.array(got), a @ b))
    z = a[:, :3] + 1j * b[:3, :1].sum()
    got = mx.array(z.astype(np.complex64)) @ mx.array(z.T.astype(np.complex64))
    errors.append(relative(np.array(got), z @ z.T))
    return max(errors)

before = worst()
enabled = linux_blas.enable()
after = worst()
again = linux_blas.enable()
import scipy.linalg
a = np.random.default_rng(0).standard_normal((40, 40))
others = max(
    relative(np.linalg.inv(a) @ a, np.eye(40)),
    relative(scipy.linalg.blas.dgemm(1.0, a, a), np.einsum("ij,jk->ik", a, a)),
    relative(scipy.linalg.solve(a, a), np.eye(40)),
)
print(json.dumps(dict(before=before, enabled=enabled, after=after, again=again, twice=worst(), others=others)))
"""


def run(**environment):
    names = (*linux_blas.THREAD_VARIABLES, linux_blas.SWITCH)
    env = {key: value for key, value in os.environ.items() if key not in names} | environment
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["1", "2"])
def outcome(request):
    return run(OPENBLAS_NUM_THREADS=request.param)


def test_products_are_right_before_and_after(outcome):
    for when in ("before", "after", "twice"):
        assert outcome[when] < 1e-5


def test_numpy_and_scipy_are_right_afterwards(outcome):
    assert outcome["others"] < 1e-10


@pytest.mark.skipif(
    sys.platform != "linux" or mx.default_device() != mx.cpu or importlib.util.find_spec("scipy") is None,
    reason="acts on a Linux CPU with scipy",
)
def test_it_acts_here_and_twice_does_no_harm(outcome):
    assert outcome["enabled"]
    assert outcome["again"]


def test_the_switch_leaves_mlx_alone():
    outcome = run(MLX_VIDEO_BLAS="off")
    assert outcome["enabled"] is outcome["again"] is False
    assert outcome["twice"] < 1e-5


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("_mappings", lambda: []),
        ("_openblas", lambda: (_ for _ in ()).throw(OSError("cannot open shared object file"))),
        ("_relocations", lambda image, types: {}),
        ("_relocations", lambda image, types: {"cblas_sgemm": 1 << 40}),
        ("_relocations", lambda image, types: {"cblas_sgemm": 4}),
    ],
)
def test_the_unexpected_leaves_mlx_alone(monkeypatch, name, stand_in):
    written = []
    monkeypatch.delenv(linux_blas.SWITCH, raising=False)
    monkeypatch.setattr(linux_blas, name, stand_in)
    monkeypatch.setattr(linux_blas, "_write", written.append)
    assert linux_blas.enable() is False
    assert written == []


DAMAGED = {
    "empty": b"",
    "another format": b"MZ" * 100,
    "zeros": b"\x7fELF\x02\x01" + b"\0" * 58,
    "cut": b"\x7fELF\x02\x01",
    "ones": b"\x7fELF\x02\x01" + b"\xff" * 90,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_library_file_is_refused(monkeypatch, tmp_path, content):
    library = tmp_path / "libmlx.so"
    library.write_bytes(content)
    monkeypatch.delenv(linux_blas.SWITCH, raising=False)
    monkeypatch.setattr(linux_blas, "_mappings", lambda: [linux_blas._Mapping(0, 1 << 40, "r--p", 0, str(library))])
    monkeypatch.setattr(linux_blas, "_write", lambda values: pytest.fail("wrote into MLX"))
    assert linux_blas.enable() is False


def test_a_wrong_product_is_taken_back(monkeypatch):
    written = []
    monkeypatch.delenv(linux_blas.SWITCH, raising=False)
    monkeypatch.setattr(linux_blas, "_write", written.append)
    monkeypatch.setattr(linux_blas, "_multiplies", lambda: False)
    assert linux_blas.enable() is False
    if written:  # where the slots are found at all: first OpenBLAS, then what was there before
        assert len(written) == 2
        assert written[0].keys() == written[1].keys()


def test_processors_follow_the_containers_share(monkeypatch, tmp_path):
    real = linux_blas.Path
    share = tmp_path / "cpu.max"
    monkeypatch.setattr(linux_blas, "Path", lambda path: share if "cpu.max" in str(path) else real(path))
    free = linux_blas.processors()
    assert free >= 1
    share.write_text("100000 100000\n")
    assert linux_blas.processors() == 1
    share.write_text("50000 100000\n")
    assert linux_blas.processors() == 1
    share.write_text("max 100000\n")
    assert linux_blas.processors() == free
