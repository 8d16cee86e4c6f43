"""Decisions that depend on the machine, on this machine and on machines that are only described."""

import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import pytest

from bench import chips
from mlx_video import UserError, platform
from mlx_video import info as info_command
from mlx_video.cpu import winograd
from mlx_video.models import layers
from mlx_video.models.ltx_2.video_vae import Tiling, convolution, plan_tiles
from mlx_video.models.ltx_2.video_vae.tiling import peak_bytes


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


# ------------------------------------------------------------------------------------------------ by chip

F16, B16, F32 = mx.float16, mx.bfloat16, mx.float32
LETTERS = {"g": (0.65, 0.9, 0.875, 1.075, 3.0), "s": (2.6, 3.4, 3.55, 4.6, 12.5), "d": (5.2, 6.8, 7.1, 9.2, 25.0)}
"""10^12 operations in one evaluation of M1, M2, ..., M5 by size; in float32 an M5 does what an M4 does."""
DECIDED = {
    f"applegpu_g{13 + i}{letter}": (
        F16 if i < 2 else B16, B16, F32, work * 1e12, LETTERS[letter][min(i, 3)] * 1e12,
        "matrix units" if i == 4 else "shader cores",
    )
    for letter, row in LETTERS.items()
    for i, work in enumerate(row)
} | {
    "applegpu_g17p": (B16, B16, F32, 0.45e12, 0.45e12, "shader cores"),
    "applegpu_g18p": (B16, B16, F32, 0.45e12, 0.45e12, "matrix units"),
    "applegpu_g18s": (B16, B16, F32, 12.5e12, 4.6e12, "matrix units"),
    "sm_90": (B16, B16, B16, 1e14, 1e14, "cuBLAS"),
    None: (F32, F32, F32, 1e12, 1e12, "BLAS"),
}  # fmt: skip


@pytest.mark.parametrize("architecture", DECIDED)
def test_decisions_by_chip(architecture):
    """Types of transformer, text encoder and autoencoders; bounds of an evaluation; where products go."""
    found, wanted = chips.decisions(architecture), DECIDED[architecture]
    assert found[:3] == wanted[:3]
    assert found[3:5] == pytest.approx(wanted[3:5])
    assert found.products == wanted[5]


@pytest.mark.parametrize("architecture", ["applegpu_g13g", "applegpu_g16s", "applegpu_g17s", "sm_90", None])
def test_autoencoders_are_in_float32_wherever_that_is_asked_of_all(architecture):
    with chips.machine(architecture):
        assert platform.autoencoder_dtype(F32) == F32
        for dtype in (F16, B16, None):
            assert platform.autoencoder_dtype(dtype) == (B16 if architecture == "sm_90" else F32)


@pytest.mark.parametrize("architecture", [*chips.APPLE.values(), "sm_90", None])
def test_attention_and_convolutions_take_the_form_of_the_machine(architecture, monkeypatch):
    """On a GPU MLX's own kernels, whatever the type; the forms of our own are the CPU's alone."""
    called = []
    monkeypatch.setattr(winograd, "convolve", lambda *given: called.append("ours") or given[0])
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda q, *_, **__: called.append("MLX's") or q)
    monkeypatch.setattr(mx, "conv3d", lambda x, *_: called.append("MLX's") or x)
    with chips.machine(architecture):
        x = mx.zeros((1, 1, 4, 8))
        layers.attend(x, layers.KeysValues(x, x))
        convolution.convolve(mx.zeros((1, 6, 32, 32, 1)), mx.zeros((1, 3, 3, 3, 1)), mx.zeros((1,)), 1)
    assert called == (["MLX's"] * 2 if architecture else ["ours"])


def test_tiles_are_chosen_by_the_bytes_of_a_value():
    """1280 x 704: 5 GiB in float32, half of it in 16 bit."""
    grid, limit = (16, 22, 40), 4 << 30
    with chips.machine("applegpu_g16s"):
        assert plan_tiles("auto", grid, memory_limit=limit, size=4).tiled
        assert not plan_tiles("auto", grid, memory_limit=limit, size=2).tiled
        one = peak_bytes(Tiling(piece=1), grid)
        assert one == 2 * peak_bytes(Tiling(piece=1), grid, size=2) == 750 * 8 * 1280 * 704


def test_the_table_of_chips_has_a_row_for_each():
    table = chips.report().splitlines()
    assert len(table) == 2 + len(chips.APPLE) + len(chips.OTHERS)
    assert {line.count("|") for line in table} == {len(chips.HEAD) + 1}


# ------------------------------------------------------------------------------------------------ what a Mac lacks

WITHOUT, WITH, UNKNOWN = False, True, None


def test_a_virtual_macs_gpu_is_taken_for_the_smallest_chip():
    """As hosted Macs have it: macOS ends long work there as elsewhere."""
    assert chips.decisions("air64_v27") == chips.decisions("air64_v26") == chips.decisions("applegpu_g13g")


@pytest.mark.parametrize(
    ("architecture", "macos", "mlx", "kernels", "told"),
    [
        ("applegpu_g17s", "26.2", "0.32.4", WITH, []),
        ("applegpu_g17s", "26.2", "0.32.4", UNKNOWN, []),
        ("applegpu_g17s", "", "", UNKNOWN, []),
        ("applegpu_g17g", "27.0.1", "0.33.0", WITH, []),
        ("applegpu_g17s", "26.2", "0.32.4", WITHOUT, ["no kernels for them"]),
        ("applegpu_g17s", "26.1.1", "0.32.4", WITH, ["this is macOS 26.1.1"]),
        ("applegpu_g17s", "15.6", "0.32.4", WITHOUT, ["this is macOS 15.6"]),
        ("applegpu_g17s", "15.6", "0.32.1", WITHOUT, ["MLX 0.32.1 is older than 0.32.2", "this is macOS 15.6"]),
        ("applegpu_g17p", "15.6", "0.32.4", WITHOUT, []),
        ("applegpu_g18p", "26.2", "0.32.4", WITHOUT, ["no kernels for them"]),
        ("applegpu_g16s", "14.0", "0.32.4", WITHOUT, []),
        ("applegpu_g13g", "14.0", "0.32.1.dev20260101", UNKNOWN, ["is older than 0.32.2"]),
        ("applegpu_g13g", "14.0", "0.32.10", UNKNOWN, []),
    ],
)
def test_what_makes_a_mac_slower_is_told(architecture, macos, mlx, kernels, told):
    found = platform.find_shortcomings(platform.Chip.of(architecture), macos, mlx, kernels)
    assert len(found) == len(told)
    for sentence, part in zip(found, told, strict=True):
        assert part in sentence


def test_only_macs_lack_anything(monkeypatch):
    monkeypatch.setattr(platform.mx, "__version__", "0.1.0")
    for architecture, count in ((None, 0), ("sm_90", 0), ("applegpu_g14s", 1)):
        with chips.machine(architecture):
            assert len(platform.shortcomings()) == count


@pytest.mark.parametrize(
    ("tag", "kernels"),
    [
        ("py3-none-macosx_26_0_arm64", True),
        ("py3-none-macosx_27_1_arm64", True),
        ("py3-none-macosx_15_0_arm64", False),
        ("py3-none-macosx_14_0_arm64", False),
        ("py3-none-any", None),
    ],
)
def test_the_wheel_tells_whether_it_has_kernels_for_matrix_units(tag, kernels, monkeypatch):
    wheel = SimpleNamespace(read_text=lambda name: f"Wheel-Version: 1.0\nTag: {tag}\n" if name == "WHEEL" else None)
    monkeypatch.setattr(platform.metadata, "distribution", lambda name: wheel)
    assert platform.has_matrix_kernels() is kernels


@pytest.mark.parametrize(
    ("content", "kernels"),
    [
        (b"\0steel_gemm_fused_nt_float16\0steel_gemm_fused_nax_nt_float16\0", True),
        (b"\0steel_gemm_fused_nt_float16\0", False),
        (b"\0only_what_cannot_be_compiled_later\0", None),
        (b"", None),
        (None, None),
    ],
)
def test_without_a_wheel_the_library_of_kernels_tells(content, kernels, monkeypatch, tmp_path):
    """Homebrew's MLX is no wheel."""

    def absent(name):
        raise platform.metadata.PackageNotFoundError(name)

    if content is not None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "mlx.metallib").write_bytes(content)
    monkeypatch.setattr(platform.metadata, "distribution", absent)
    monkeypatch.setattr(platform.mx, "__file__", str(tmp_path / "core.so"))
    assert platform.has_matrix_kernels() is kernels


def test_it_is_told_once_and_info_tells_it_too(monkeypatch, caplog, capsys):
    info = {"architecture": "applegpu_g17s", "device_name": "Apple M5 Max", "memory_size": 64 << 30}
    describe(monkeypatch, **info, max_recommended_working_set_size=48 << 30)
    monkeypatch.setattr(platform.mx, "set_cache_limit", lambda limit: None)
    monkeypatch.setattr(platform, "has_matrix_kernels", lambda: False)
    platform.prepare.cache_clear()
    for _ in range(2):
        platform.prepare()
    platform.prepare.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no kernels for them" in caplog.text
    caplog.clear()
    monkeypatch.setattr(platform, "prepare", lambda: None)
    assert info_command.main(["demo"]) == 0
    shown = capsys.readouterr().out
    assert "Apple M5 Max, applegpu_g17s" in shown
    assert "transformer in bfloat16, autoencoders in float32" in shown
    assert "without kernels for matrix units" in shown
    assert "no kernels for them" in shown


# ------------------------------------------------------------------------------------------------ float32 is float32

FIRST_OPERATION = """
import os, sys
os.environ.pop("MLX_ENABLE_TF32", None)
if given := sys.argv[1]:
    os.environ["MLX_ENABLE_TF32"] = given
import mlx.core as mx
def end(*_, **__):
    print(os.environ.get("MLX_ENABLE_TF32"), flush=True)
    os._exit(0)
for name in ("eval", "async_eval", "matmul", "addmm", "conv1d", "conv2d", "conv3d", "quantized_matmul"):
    setattr(mx, name, end)
mx.array.__matmul__ = mx.fast.scaled_dot_product_attention = end
"""
WAYS = {
    "command": "from mlx_video import generate; assert generate.main(['--model-repo', 'demo', '-p', 'a red ball', "
    "'-n', '1', '--no-audio', '--height', '64', '--width', '64', '-o', sys.argv[2], '--quiet']) == 0",
    "class": "from mlx_video import LTXPipeline; LTXPipeline.from_pretrained('demo').generate(prompt='a red ball', "
    "num_frames=1, audio=False, height=64, width=64)",
    "one network": "from mlx_video.models.ltx_2 import load; from mlx_video.checkpoints import demo; "
    "mx.eval(load('audio_decoder', demo.folder()).parameters())",
}


@pytest.mark.parametrize("way", WAYS)
def test_products_of_float32_are_whole_from_the_first_operation_on(way, tmp_path):
    """MLX reads the variable once; an M5 would multiply float32 with 10 bits."""
    for given, wanted in (("", "0"), ("1", "1")) if way == "one network" else (("", "0"),):
        code = f"{FIRST_OPERATION}\n{WAYS[way]}"
        done = subprocess.run(
            [sys.executable, "-c", code, given, str(tmp_path / "clip.mp4")], capture_output=True, text=True
        )
        assert done.stdout == f"{wanted}\n", done.stderr


# ------------------------------------------------------------------------------------------------ work and memory


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
