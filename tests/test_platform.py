"""Decisions that depend on the machine, on this machine and on machines that are only described."""

import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_video import UserError, platform


def describe(monkeypatch, **info):
    """Makes MLX look as if it ran on another device."""
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    monkeypatch.setattr(platform.mx, "device_info", lambda *_: info)


def test_importing_does_nothing():
    code = (
        "import mlx.core as mx; before = mx.set_cache_limit(123); import mlx_video.platform; import sys;"
        "assert mx.set_cache_limit(before) == 123; assert 'scipy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="the CPU backend's answers")
def test_on_the_cpu_backend():
    assert platform.is_cpu()
    assert not platform.is_metal()
    assert platform.compute_dtype() == platform.compute_dtype(wide_range=True) == mx.float32
    assert 1e11 < platform.flops_per_evaluation() < 1e15
    assert 1 << 28 < platform.memory_limit() < 1 << 50


SIXTEEN_BIT = {
    "applegpu_g13g": mx.float16,
    "applegpu_g13s": mx.float16,
    "applegpu_g14s": mx.bfloat16,
    "applegpu_g16g": mx.bfloat16,
    "applegpu_g17s": mx.bfloat16,
    "sm_90": mx.bfloat16,
}


@pytest.mark.parametrize(("architecture", "dtype"), SIXTEEN_BIT.items())
def test_sixteen_bit_kind_follows_the_gpu(monkeypatch, architecture, dtype):
    describe(monkeypatch, architecture=architecture)
    assert platform.compute_dtype() == dtype
    assert platform.compute_dtype(wide_range=True) == mx.bfloat16


def test_work_per_evaluation_grows_with_the_chip(monkeypatch):
    rates = []
    for architecture in ("applegpu_g13g", "applegpu_g13s", "applegpu_g13d", "applegpu_g17d"):
        describe(monkeypatch, architecture=architecture)
        rates.append(platform.flops_per_evaluation())
    assert rates == sorted(set(rates))
    describe(monkeypatch, architecture="applegpu_g13s")
    # 5.2 TFLOP/s was measured on an M1 Max: the bound must be done well within a second there.
    assert platform.flops_per_evaluation() / 5.2e12 <= 0.5


@pytest.mark.parametrize("architecture", ["applegpu_g99x", "applegpu_g11p", "", "sm_120"])
def test_unknown_gpus_get_a_bound_too(monkeypatch, architecture):
    describe(monkeypatch, architecture=architecture)
    assert platform.flops_per_evaluation() > 0
    assert platform.compute_dtype() in (mx.bfloat16, mx.float16)


def test_memory_is_the_gpus_own_where_it_says_so(monkeypatch):
    describe(monkeypatch, memory_size=64 << 30)
    assert platform.memory_limit() == 64 << 30
    describe(monkeypatch, total_memory=80 << 30)
    assert platform.memory_limit() == 80 << 30
    describe(monkeypatch, architecture="sm_90")
    assert platform.memory_limit() > 0


def test_a_container_lowers_the_limit(monkeypatch):
    monkeypatch.setattr(platform, "is_cpu", lambda: True)
    monkeypatch.setattr(platform, "_container_limits", lambda: [123 << 20, 1 << 62])
    assert platform.memory_limit() == 123 << 20


def test_peak_memory_starts_anew_with_each_call():
    platform.peak_memory()
    big = mx.zeros((256, 1024, 4), dtype=mx.float32)
    mx.eval(big)
    size = big.nbytes
    del big
    assert platform.peak_memory() >= size
    assert platform.peak_memory() < size


def test_prepare_raises_the_cache_limit_once(monkeypatch):
    calls = []
    monkeypatch.setattr(platform.mx, "set_cache_limit", calls.append)
    monkeypatch.setattr(platform.linux_blas, "enable", lambda: calls.append("blas"))
    monkeypatch.setenv("MLX_VIDEO_BLAS", "on")
    platform.prepare.cache_clear()
    platform.prepare()
    platform.prepare()
    for word in ("", "off"):  # the library's own word: a host's MLX is left alone
        monkeypatch.setenv("MLX_VIDEO_BLAS", word)
        platform.prepare.cache_clear()
        platform.prepare()
    platform.prepare.cache_clear()
    del calls[-2:]
    assert calls[0] <= platform.CACHE_LIMIT
    assert calls[0] > 32 << 20
    assert calls[1:] == (["blas"] if platform.is_cpu() else [])


@pytest.mark.parametrize("name", ["TMPDIR", "TMP"])
def test_a_temporary_folder_that_is_gone_is_said_at_once(name, monkeypatch, tmp_path):
    for other in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path / "gone"))
    platform.prepare.cache_clear()
    if platform.is_cpu():
        with pytest.raises(UserError, match=rf"{name} names .*gone', which is no folder"):
            platform.prepare()
    (tmp_path / "gone").mkdir()
    platform.prepare()


def test_a_limit_holds_while_it_is_asked_for_and_no_longer():
    def allowed():
        values = mx.set_memory_limit(1 << 40), mx.set_cache_limit(1 << 30)
        mx.set_memory_limit(values[0])
        mx.set_cache_limit(values[1])
        return values

    before = allowed()
    with platform.computing(800 << 20):
        assert allowed() == (800 << 20, 100 << 20)
        with platform.computing():
            assert allowed() == (800 << 20, 100 << 20)
    with pytest.raises(ValueError, match="ended"), platform.computing(1 << 30):
        raise ValueError("ended")
    assert allowed() == before


def test_metal_wires_the_recommended_working_set(monkeypatch):
    describe(monkeypatch, architecture="applegpu_g16s", memory_size=64 << 30, max_recommended_working_set_size=48 << 30)
    wired = []
    monkeypatch.setattr(platform.mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(platform.mx, "set_wired_limit", wired.append)
    monkeypatch.setattr(platform.mx, "set_cache_limit", lambda limit: None)
    platform.prepare.cache_clear()
    platform.prepare()
    platform.prepare.cache_clear()
    assert wired == [48 << 30]
