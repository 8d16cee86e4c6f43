"""Files packed for ComfyUI: whole numbers of 8 bit are what the published rule says, 4-bit floats are told."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import LTXPipeline, Request, UserError
from mlx_video.checkpoints.describe import describe
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.weights import comfy, widen
from mlx_video.weights.store import Tensors
from tests.support import foreign_25, small_pack

ONE = {"prompt": "a red ball", "height": 64, "width": 64, "num_frames": 9, "seed": 3}
INT8 = small_pack.TRANSFORMER.format("distilled").replace("bf16", "comfy-int8-convrot")
TEXT_INT8 = small_pack.TEXT_ENCODER.replace("bf16", "comfy-int8-convrot")
MARK = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16}


def mark(**said) -> mx.array:
    return mx.array(np.frombuffer(json.dumps(said).encode(), np.uint8))


def turned(weight: np.ndarray, group: int) -> np.ndarray:
    """Each row in groups by the regular Hadamard matrix, written out."""
    sign = np.array([[-1 if i + j == 3 else 1 for j in range(4)] for i in range(4)])
    whole = np.ones((1, 1))
    while len(whole) < group:
        whole = np.kron(whole, sign)
    grouped = weight.reshape(-1, group) @ (whole.T / np.sqrt(group))
    return grouped.reshape(weight.shape)


def layer(name: str, weight: mx.array, group: int = 16) -> dict[str, mx.array]:
    """As the converter writes a matrix: turned, then rounded by a scale for each row."""
    rows = turned(np.array(weight.astype(mx.float32), np.float64), group)
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    whole = np.clip(np.round(rows / scale), -127, 127).astype(np.int8)
    return {
        f"{name}.weight": mx.array(whole), f"{name}.weight_scale": mx.array(scale.astype(np.float32)),
        f"{name}.comfy_quant": mark(**MARK | {"convrot_groupsize": group}),
    }  # fmt: skip


def save(path, arrays, metadata=None) -> Tensors:
    mx.eval(arrays)
    mx.save_safetensors(str(path), arrays, metadata or {})
    return Tensors([path])


def widened(path, arrays, dtype=mx.float32):
    tensors = save(path, arrays)
    found = widen.widen(tensors.load(), tensors.entries, dtype)
    mx.eval(found)
    assert widen.shapes(tensors.entries, tensors.entries) == {name: array.shape for name, array in found.items()}
    return found


# ------------------------------------------------------------------------------------------------ the rule


def test_the_matrix_is_regular_symmetric_and_its_own_inverse():
    for size in (4, 16, 64, 256):
        matrix = comfy.hadamard(size)
        assert matrix.shape == (size, size)
        assert np.array_equal(matrix, matrix.T)
        assert np.allclose(matrix @ matrix, np.eye(size), atol=1e-6)
        assert np.allclose(matrix.sum(axis=0), 1.0, atol=1e-6)
    assert np.array_equal(comfy.hadamard(4) * 2, [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])


@pytest.mark.parametrize("group", [4, 16, 64])
def test_a_turned_weight_is_what_its_numbers_stand_for(group, tmp_path):
    weight = mx.random.normal((6, 128), key=mx.random.key(1))
    arrays = layer("a.to_q", weight, group) | {"a.to_q.bias": mx.ones(6)}
    whole, scale = np.array(arrays["a.to_q.weight"], np.float64), np.array(arrays["a.to_q.weight_scale"], np.float64)
    found = widened(tmp_path / "f.safetensors", arrays)
    assert set(found) == {"a.to_q.weight", "a.to_q.bias"}
    assert np.abs(np.array(found["a.to_q.weight"]) - turned(whole * scale, group)).max() < 1e-6
    assert np.abs(np.array(found["a.to_q.weight"]) - np.array(weight)).max() < 0.05


def test_what_is_not_turned_is_only_scaled(tmp_path):
    whole = mx.array(np.arange(-6, 6, dtype=np.int8).reshape(3, 4))
    for said, scale in (({}, mx.array(0.5)), ({"convrot": False}, mx.array([[0.5], [0.25], [2.0]]))):
        arrays = {"a.weight": whole, "a.weight_scale": scale, "a.comfy_quant": mark(format="int8_tensorwise", **said)}
        found = widened(tmp_path / "f.safetensors", arrays, mx.bfloat16)
        assert found["a.weight"].dtype == mx.bfloat16
        assert mx.array_equal(found["a.weight"], (whole.astype(mx.float32) * scale).astype(mx.bfloat16))


def test_keys_one_level_deeper_count_too(tmp_path):
    arrays = layer("a", mx.random.normal((4, 32), key=mx.random.key(2)))
    plain = widened(tmp_path / "f.safetensors", arrays)["a.weight"]
    arrays["a.comfy_quant"] = mark(format="int8_tensorwise", params={"convrot": True, "convrot_groupsize": 16})
    assert mx.array_equal(widened(tmp_path / "f.safetensors", arrays)["a.weight"], plain)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"a.comfy_quant": mark(format="convrot_w4a4")}, r"format is 'convrot_w4a4'; supported here: int8_tensorwise"),
        ({"a.comfy_quant": mark(**MARK | {"convrot_groupsize": 8})}, r"in groups of 8 for rows of 32; a group is"),
        ({"a.comfy_quant": mark(**MARK | {"convrot_groupsize": 64})}, r"groups of 64 for rows of 32"),
        ({"a.comfy_quant": mark(**MARK | {"convrot": "yes"})}, r"convrot = 'yes'"),
        ({"a.comfy_quant": mx.array(np.frombuffer(b"{", np.uint8))}, r"a.comfy_quant is"),
        ({"a.comfy_quant": mx.array(np.frombuffer(b"{]", np.uint8))}, r"is damaged: it is not JSON"),
        ({"a.comfy_quant": mx.array(np.frombuffer(b"[]", np.uint8))}, r"format is \[\]"),
        ({"a.comfy_quant": mx.zeros((3, 3))}, r"a.comfy_quant is F32 \[3, 3\]; it should be a row"),
        ({"a.weight_scale": mx.zeros((7,))}, r"weight_scale is F32 \[7\] for a tensor of shape \[4, 32\]"),
        ({"a.weight_scale": None}, r"without a.weight_scale and a.comfy_quant.*take the bf16 file"),
        ({"a.weight": mx.zeros((4, 32, 1), mx.int8)}, r"take the bf16 file"),
        ({"a.weight": mx.zeros((4, 16), mx.uint8), "a.weight_scale_2": mx.array(1.0)}, r"nvfp4.*--quantize 8 or 4"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_told(changed, expected, tmp_path):
    arrays = layer("a", mx.random.normal((4, 32), key=mx.random.key(2))) | changed
    tensors = save(tmp_path / "f.safetensors", {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=expected):
        widen.widen(tensors.load(), tensors.entries, mx.float32)


# ------------------------------------------------------------------------------------------------ whole files


@pytest.fixture(scope="module")
def both(small_folder, tmp_path_factory):
    """The small pack with its transformer and its text encoder in whole numbers, and a twin of what those stand for."""
    official, packed, plain = small_folder("2.5"), *(tmp_path_factory.mktemp(name) for name in ("packed", "plain"))
    for file in official.rglob("*.safetensors"):
        inside = str(file.relative_to(official))
        for place in (packed, plain):
            (place / inside).parent.mkdir(exist_ok=True)
            if "transformer" not in inside and "text_encoders" not in inside:
                (place / inside).symlink_to(file)
    for name, new, fits in (
        (small_pack.TRANSFORMER.format("distilled"), INT8, lambda n: ".attn" in n or ".ff.net" in n),
        (small_pack.TEXT_ENCODER, TEXT_INT8, foreign_25.TEXT_LAYERS.search),
    ):
        arrays, metadata = foreign_25.read(official / name)
        made = {}
        for key, array in arrays.items():
            whole = key.endswith(".weight") and array.ndim == 2 and array.shape[1] % 16 == 0 and fits(key)
            made |= layer(key.removesuffix(".weight"), array) if whole else {key: array}
        tensors = save(packed / new, made, metadata)
        assert sum(entry.dtype == "I8" for entry in tensors.entries.values()) > 20
        save(plain / name, widen.widen(tensors.load(), tensors.entries, mx.float32), metadata)
    return packed, plain


@pytest.mark.quick("options0")
@pytest.mark.parametrize("options", [{}, {"low_memory": True}, {"quantize": 8}])
def test_such_a_pack_gives_the_latents_of_its_plain_twin(both, options):
    found = []
    for folder in both:
        with LTXPipeline.from_pretrained(folder, dtype="float32", **options) as pipe:
            found.append(pipe.generate(**ONE).latents)
    assert all(mx.array_equal(found[0][modality], found[1][modality]) for modality in found[1])


def test_the_16_bit_file_is_taken_where_both_are(both, small_folder, tmp_path):
    for source in (both[0], small_folder("2.5")):
        for file in source.rglob("*.safetensors"):
            link = tmp_path / file.relative_to(source)
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(file)
    checkpoint = open_checkpoint(tmp_path, "distilled")
    assert checkpoint.source.name.endswith("bf16.safetensors")
    assert checkpoint.text_encoder.endswith("bf16.safetensors")


def test_info_and_plan_know_them(both, monkeypatch):
    lines = "\n".join(describe(both[0]))
    assert "int8, bfloat16" in lines or "bfloat16, int8" in lines
    assert "int8-convrot.safetensors" in lines
    monkeypatch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
    with LTXPipeline.from_pretrained(both[0]) as pipe:
        assert pipe.plan(Request(**ONE)) is not None


def test_a_whole_nvfp4_file_is_told_before_anything_is_read(both, tmp_path, monkeypatch):
    packed, _ = both
    name = small_pack.TRANSFORMER.format("distilled")
    arrays, metadata = foreign_25.read(packed / INT8)
    for key in [key for key in arrays if key.endswith(".comfy_quant")]:
        start = key.removesuffix("comfy_quant")
        rows, columns = arrays[f"{start}weight"].shape
        arrays |= {f"{start}weight": mx.zeros((rows, columns // 2), mx.uint8), f"{start}weight_scale_2": mx.array(1.0)}
        del arrays[key]
    folder = tmp_path / "nvfp4"
    (folder / "diffusion_models").mkdir(parents=True)
    for place in ("text_encoders", "vae", "latent_upscale_models"):
        (folder / place).symlink_to(packed / place)
    file = folder / name.replace("bf16", "nvfp4")
    save(file, arrays, metadata)
    monkeypatch.setattr(mx, "load", lambda *a, **k: pytest.fail("tensors were read"))
    told = pytest.raises(UserError, match=rf"{file.name}: .*packed as nvfp4.*take the bf16 file in its place")
    with LTXPipeline.from_pretrained(folder) as pipe, told:
        pipe.plan(Request(**ONE))
    assert describe(folder)
