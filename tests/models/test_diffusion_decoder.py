"""The diffusion decoder: its definitions, pieces and parts, mistakes that would be noticed, the published names."""

from __future__ import annotations

import copy
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.ltx_2.config import DiffusionDecoderConfig, VideoVAEConfig
from mlx_video.models.ltx_2.diffusion_decoder import DiffusionDecoder, attention, blocks, neighbourhood, plan
from mlx_video.models.ltx_2.diffusion_decoder.parts import margin, parts
from mlx_video.models.ltx_2.diffusion_decoder.plan import Pieces
from mlx_video.models.ltx_2.video_vae import VideoDecoder, VideoEncoder
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.models import diffusion_decoder_cases as cases
from tests.models.diffusion_decoder_cases import Plain
from tests.support import peaks

LIMIT = 2e-5
ROUNDING = 5e-6
"""Of the same numbers added up in another order, through 20 layers."""
GRID = (3, 4, 5)


def error(ours, wanted) -> float:
    a, b = np.array(ours, np.float64), np.array(wanted, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def official(path: str) -> str:
    path = path.replace("statistics.mean", "per_channel_statistics.mean-of-means")
    path = path.replace("statistics.std", "per_channel_statistics.std-of-means")
    return path if path.startswith("per_") else f"decoder.{path}"


def make(settings=cases.SETTINGS, *, gated: bool = False, **options):
    """Our network, and the tensors that it was given, by the names that the definitions use."""
    config = DiffusionDecoderConfig.read(settings, gated=gated)
    network = DiffusionDecoder(config, **options)
    tensors = cases.weights({official(path): shape for path, shape in names.shapes(network).items()})
    more = {"per_channel_statistics.channel": np.zeros(8), "decoder.coarse_out.weight": np.zeros((2, 2))}
    given = {name: mx.array(value.astype(np.float32)) for name, value in {**tensors, **more}.items()}
    names.assign(network, given, "diffusion decoder")
    return network, {name.removeprefix("decoder."): value for name, value in tensors.items()}


def drawn(network, grid=GRID, seed: int = 1, batch: int = 1):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((batch, *grid, network.config.latent_channels))
    noise = rng.standard_normal((batch, *network.canvas(grid).size, 3))
    return latent.astype(np.float32), noise.astype(np.float32)


@pytest.fixture(scope="module")
def decoded():
    """A network, its tensors, what it was given and what the definitions make of it."""
    network, tensors = make()
    latent, noise = drawn(network)
    return network, tensors, latent, noise, Plain(network.config, tensors)(latent[0], noise[0])


# ------------------------------------------------------------------------------------------ numbers


def test_decodes_as_defined(decoded):
    network, _, latent, noise, wanted = decoded
    pixels = network(mx.array(latent), mx.array(noise))
    assert pixels.shape == (1, 9, 32, 40, 3)
    assert error(pixels[0], wanted) < LIMIT


def test_plain_windows_where_they_are_asked_for():
    network, tensors = make(repeats_columns=False)
    latent, noise = drawn(network)
    wanted = Plain(network.config, tensors, "windows moved in space")(latent[0], noise[0])
    assert error(network(mx.array(latent), mx.array(noise))[0], wanted) < LIMIT


@pytest.mark.parametrize("mistake", cases.MISTAKES)
def test_every_mistake_would_be_noticed(decoded, mistake):
    network, tensors, latent, noise, wanted = decoded
    if mistake == "context cut":
        # It takes a clip that is shorter than the last window.
        settings = copy.deepcopy(cases.SETTINGS)
        settings["vae"]["decoder"]["stage5_kernel"] = [11, 5, 7]
        network, tensors = make(settings)
        latent, noise = drawn(network)
        wanted = Plain(network.config, tensors)(latent[0], noise[0])
        assert error(network(mx.array(latent), mx.array(noise))[0], wanted) < LIMIT
    wrong = Plain(network.config, tensors, mistake)(latent[0], noise[0])
    assert wrong.shape != wanted.shape or error(wrong, wanted) > 100 * LIMIT


def test_gates_of_files_that_have_them():
    network, tensors = make(gated=True)
    latent, noise = drawn(network)
    assert "diff_blocks.0.gate_ctx" in tensors
    wanted = Plain(network.config, tensors)(latent[0], noise[0])
    assert error(network(mx.array(latent), mx.array(noise))[0], wanted) < LIMIT


def test_a_latent_smaller_than_the_windows_is_continued(decoded):
    network, tensors, *_ = decoded
    assert network.config.least == (3, 3, 3)
    latent, noise = drawn(network, (1, 2, 1))
    assert noise.shape == (1, 9, 24, 24, 3)
    padded = np.pad(latent[0], [(0, 2), (0, 1), (1, 1), (0, 0)], mode="edge")
    wanted = Plain(network.config, tensors)(padded, noise[0])[:1, :16, 8:16]
    assert error(network(mx.array(latent), mx.array(noise))[0], wanted) < LIMIT


def test_a_batch_gives_what_each_clip_gives(decoded):
    network = decoded[0]
    latent, noise = (mx.array(x) for x in drawn(network, batch=2))
    each = [network(latent[i : i + 1], noise[i : i + 1]) for i in range(2)]
    assert error(network(latent, noise), mx.concatenate(each)) < ROUNDING


def test_computes_in_the_precision_of_its_weights(decoded):
    _, _, latent, noise, wanted = decoded
    network, _ = make()
    network.apply(lambda array: array.astype(mx.bfloat16))
    pixels = network(mx.array(latent), mx.array(noise))
    assert pixels.dtype == mx.bfloat16
    difference = np.array(pixels[0].astype(mx.float32)) - wanted
    assert np.linalg.norm(difference) / np.linalg.norm(wanted) < 0.05


def test_noise_of_another_size_is_refused(decoded):
    network, _, latent, noise, _ = decoded
    with pytest.raises(ValueError, match=r"noise for this latent is \(1, 9, 32, 40, 3\), not \(1, 8, 32, 40, 3\)"):
        network(mx.array(latent), mx.array(noise[:, 1:]))


# ------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("window", [(3, 3, 5), (3, 5, 7), (4, 2, 6), (1, 1, 1), (9, 9, 9)])
@pytest.mark.parametrize("block", [(4, 4, 4), (1, 2, 3), (2, 8, 3)])
@pytest.mark.parametrize("room", [1, 256 << 20])
def test_attention_to_the_neighbourhood(monkeypatch, window, block, room):
    monkeypatch.setattr(neighbourhood, "BLOCK", block)
    monkeypatch.setattr(neighbourhood, "LOT_BYTES", room)
    sides = (4, 5, 11)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((*sides, 2, 8)) for _ in range(3))
    reaches = [neighbourhood.reach(range(n), size, n) for n, size in zip(sides, window, strict=True)]
    given = (mx.array(np.ascontiguousarray(np.moveaxis(x, 3, 0)), mx.float32) for x in (q, k, v))
    found = neighbourhood.attend(*given, reaches, 1.0)
    assert error(found, np.moveaxis(cases.neighbourhood(q, k, v, window), 3, 0)) < ROUNDING


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_attention_as_a_gpu_computes_it(monkeypatch, dtype):
    monkeypatch.setenv("MLX_VIDEO_CPU_FORMS", "off")
    sides, window = (4, 5, 11), (3, 3, 5)
    q, k, v = (mx.random.normal((2, *sides, 8), key=mx.random.key(i)).astype(dtype) for i in range(3))
    reaches = [neighbourhood.reach(range(n), size, n) for n, size in zip(sides, window, strict=True)]
    found = neighbourhood.attend(q, k, v, reaches, 8**-0.5)
    given = (np.moveaxis(np.array(x.astype(mx.float32), np.float64), 0, 3) for x in (q * 8**-0.5, k, v))
    assert found.dtype == dtype
    wanted = np.moveaxis(cases.neighbourhood(*given, window), 3, 0)
    assert error(found.astype(mx.float32), wanted) < (2e-6 if dtype == mx.float32 else 2e-2)


def test_scores_never_exceed_a_lot(monkeypatch):
    sides, seen = (4, 12, 40), []
    inner = neighbourhood._softmax

    def watched(queries, keys, *rest):
        seen.append(queries.shape[1] * queries.shape[2] * keys.shape[2] * len(queries) * 4)
        return inner(queries, keys, *rest)

    monkeypatch.setattr(neighbourhood, "_softmax", watched)
    monkeypatch.setattr(neighbourhood, "LOT_BYTES", 2 << 20)
    reaches = [neighbourhood.reach(range(n), 3, n) for n in sides]
    x = mx.random.normal((2, *sides, 8), key=mx.random.key(0))
    mx.eval(neighbourhood.attend(x, x, x, reaches, 1.0))
    assert len(seen) > 3
    assert max(seen) <= 2 << 20


def test_dimensions_of_a_head_by_axis():
    assert attention.axis_dims(64) == (16, 24, 24)
    assert attention.axis_dims(16) == (4, 6, 6)
    assert all(
        sum(attention.axis_dims(n)) == n and not any(d % 2 for d in attention.axis_dims(n)) for n in (8, 24, 128)
    )


# ------------------------------------------------------------------------------------------ pieces and parts


@pytest.mark.parametrize("step", [1, 2, 5])
def test_pieces_give_what_the_whole_clip_gives(decoded, step):
    network, _, latent, noise, wanted = decoded
    pieces = list(network.pieces(mx.array(latent), mx.array(noise), step))
    assert len(pieces) >= 9 // step
    assert error(mx.concatenate(pieces, axis=1)[0], wanted) < LIMIT


def test_a_long_clip_goes_through_a_few_frames_at_a_time(decoded):
    network = decoded[0]
    latent, noise = (mx.array(x) for x in drawn(network, (9, 3, 4)))
    whole = network(latent, noise)
    pieces = list(network.pieces(latent, noise, 2))
    assert whole.shape[1] == 33
    assert pieces[0].shape[1] <= 2
    assert error(mx.concatenate(pieces, axis=1), whole) < ROUNDING


def test_bands_of_rows_change_nothing(decoded, monkeypatch):
    network, _, latent, noise, wanted = decoded
    monkeypatch.setattr(blocks, "BAND_BYTES", 1)
    assert error(network(mx.array(latent), mx.array(noise))[0], wanted) < LIMIT


def test_parts_of_a_picture_give_what_the_whole_gives():
    network, _ = make()
    grid = (3, 3, 18)
    latent, noise = (mx.array(x) for x in drawn(network, grid))
    whole, canvas = np.array(network(latent, noise)), network.canvas(grid)
    assert margin(network.config, 2) == 1 * 2 + 3
    found = np.zeros_like(whole)
    for part in parts(network.config, canvas, 1, 3):
        rows, columns = part.place(canvas)
        assert part.columns.stop - part.columns.start < 30
        pixels = mx.concatenate(list(network.pieces(latent, noise, 4, part)), axis=1)
        found[:, :, rows, columns] = np.array(pixels)
    assert error(found, whole) < ROUNDING


def test_parts_of_a_canvas_that_is_larger_than_the_clip(decoded):
    network = decoded[0]
    grid = (2, 2, 3)
    latent, noise = (mx.array(x) for x in drawn(network, grid))
    whole, canvas = np.array(network(latent, noise)), network.canvas(grid)
    found = np.zeros_like(whole)
    for part in parts(network.config, canvas, 2, 2):
        rows, columns = part.place(canvas)
        found[:, :, rows, columns] = np.array(mx.concatenate(list(network.pieces(latent, noise, None, part)), axis=1))
    assert error(found, whole) < ROUNDING


# ------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("pieces", [Pieces(2), Pieces(4, 1, 2), Pieces(3, 2, 2)])
def test_frames_of_a_clip_are_the_same_whatever_the_pieces(decoded, pieces):
    network, _, latent, noise, wanted = decoded
    chunks = list(network.decode_frames(mx.array(latent), mx.array(noise).transpose(0, 4, 1, 2, 3), pieces))
    assert len(chunks) > 1
    assert error(mx.concatenate(chunks), wanted) < LIMIT


def test_one_clip_at_a_time(decoded):
    with pytest.raises(ValueError, match="one clip at a time, not 2"):
        list(decoded[0].decode_frames(mx.zeros((2, *GRID, 8)), mx.zeros((2, 3, 9, 32, 40)), Pieces()))


PUBLISHED = (16, 16, 24)
"""The latent of 768 x 512 with 121 frames."""


def test_memory_is_planned_and_does_not_grow_with_the_clip():
    from tests.support import published_25

    config = DiffusionDecoderConfig.read(published_25.part("vae/ltx-2.5-video-vae-bf16")[0])
    noise = 12 * (8 * 15 + 1) * 512 * 768
    short, long = (plan.peak_bytes(config, (frames, 16, 24), Pieces(4), 4) for frames in (16, 160))
    assert short < 7.5 * 2**30
    assert long - short == 12 * 8 * 144 * 512 * 768  # the noise alone
    assert plan.plan_pieces(config, PUBLISHED, 16 << 30, 4) == Pieces(8)
    smaller = plan.plan_pieces(config, PUBLISHED, 5 << 30, 4)
    assert smaller.rows * smaller.columns > 1
    assert noise < plan.peak_bytes(config, PUBLISHED, smaller, 4) <= 5 << 30
    # What cannot fit gets the smallest there is; the plan of the run then refuses.
    assert plan.plan_pieces(config, PUBLISHED, 1, 4).step == 1
    whole, parted = (plan.operations(config, PUBLISHED, pieces) for pieces in (Pieces(8), Pieces(8, 2, 2)))
    assert 1.3e14 < whole < parted < 3 * whole


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [Pieces(8), Pieces(2)])
def test_the_peak_is_about_what_is_planned(monkeypatch, pieces):
    # Lots and bands as small beside the activations as they are at full size.
    monkeypatch.setattr(neighbourhood, "LOT_BYTES", 4 << 20)
    monkeypatch.setattr(blocks, "BAND_BYTES", 6 << 20)
    settings = copy.deepcopy(cases.SETTINGS)
    settings["vae"]["decoder"]["stage_channels"] = [128, 128, 64, 64, 64]
    network, _ = make(settings)
    mx.eval(network.parameters())
    grid = (4, 8, 10)
    latent, noise = (mx.array(x) for x in drawn(network, grid))
    mx.eval(latent, noise)
    with peaks.measured() as memory:
        for pixels in network.pieces(latent, noise, pieces.step):
            mx.eval(pixels)
        measured = memory.peak + noise.nbytes
    planned = plan.peak_bytes(network.config, grid, pieces, 4)
    # 0.93 in every run of these; at the published windows and an eighth of the width 1.1 to 1.4 (`bench.run --only
    # diffusion`).
    assert 0.7 < planned / measured < 1.5


# ------------------------------------------------------------------------------------------ configs


def changed(path: str, value: object) -> dict:
    settings = copy.deepcopy(cases.SETTINGS)
    inner = settings["vae"]
    *way, last = path.split(".")
    for key in way:
        inner = inner[key]
    inner[last] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_output_type", "v"), ("decoder.default_num_inference_steps", 2), ("decoder.resampler_kind", "conv"),
        ("decoder.head_dim", 12), ("decoder.stage_channels", [32, 32, 16, 16]), ("decoder.stage_depths", None),
        ("decoder.stage_channels", [32, 32, 16, 16, 17]), ("decoder.stage_kernels", [[3, 3, 3]] * 4),
        ("decoder.stage_kernels", [[3, 3, 0]] * 5), ("decoder.upsamples", [[[1, 2, 2], 4]] * 4),
        ("decoder.upsamples", [[[3, 2, 2], 1]] * 4), ("decoder.upsamples", [[2, 2, 2]] * 4),
        ("decoder.stage5_kernel", [11, 11]), ("decoder.timestep_scale_multiplier", "1000"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(path, value):
    with pytest.raises(UserError, match=path.rpartition(".")[2]):
        DiffusionDecoderConfig.read(changed(path, value))


def test_the_encoder_beside_it_is_the_convolutional_one():
    config = VideoVAEConfig.read(cases.SETTINGS)
    assert (config.latent_channels, config.encoder_padding, config.decoder_blocks) == (8, "zeros", ())
    assert VideoEncoder(config).conv_out.weight.shape[0] == 9
    with pytest.raises(UserError, match="has a diffusion decoder"):
        VideoDecoder(config)


def test_the_published_file_fits_one_to_one():
    from tests.support import published_25

    settings, tensors = published_25.part("vae/ltx-2.5-video-vae-bf16")
    config = DiffusionDecoderConfig.read(settings)
    assert (config.least, config.growth, config.appended) == ((3, 7, 7), (8, 8, 8), 2)
    network = DiffusionDecoder(config)
    own = {name: shape for name, shape in tensors.items() if not name.startswith("encoder.")}
    found = names.match(network, own, "diffusion decoder")
    assert len(found) == len(own) - 1 == 311
    assert sum(math.prod(shape) for name, shape in own.items() if name.startswith("decoder.")) > 4e8
    assert names.match(VideoEncoder(VideoVAEConfig.read(settings)), _full(tensors), "video encoder")


def _full(tensors: dict) -> dict:
    """Under the names of a file that holds everything."""
    return {f"vae.{name}": shape for name, shape in tensors.items() if not name.startswith("decoder.")}
