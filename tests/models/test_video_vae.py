"""The video autoencoder: numbers from a recorded fixture, pieces, sizes, refusals, the real checkpoints' names."""

from __future__ import annotations

import dataclasses
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_video import platform
from mlx_video.cpu import forms, winograd
from mlx_video.models.layers import silu
from mlx_video.models.ltx_2.config import VideoVAEConfig
from mlx_video.models.ltx_2.video_vae import LatentStatistics, VideoDecoder, VideoEncoder, convolution
from mlx_video.models.ltx_2.video_vae.patches import depth_to_space, patchify, space_to_depth, unpatchify
from mlx_video.models.ltx_2.video_vae.stream import Stream
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.models import video_vae_cases as cases
from tests.support import peaks, real_keys, small

NETWORKS = {"decoder": VideoDecoder, "encoder": VideoEncoder, "statistics": LatentStatistics}
UNREAD = ("mean-of-stds", "channel", "mean-of-stds_over_std-of-means")
"""Statistics that LTX-2's file carries and nothing uses."""
generations = pytest.mark.parametrize("generation", cases.GENERATIONS)


def error(ours, reference) -> float:
    a, b = np.array(ours, np.float64), np.array(reference, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def make(name: str, generation: str, dtype: mx.Dtype = mx.float32):
    network = NETWORKS[name](VideoVAEConfig.read(small.config(generation)))
    tensors = small.tensors(generation, "distilled").items()
    names.assign(network, {k: v for k, v in tensors if k.startswith(tuple(network.prefixes))}, name, dtype=dtype)
    return network


def built(network: type, config: VideoVAEConfig, seed: int = 0):
    """A network with normal weights that keep activations near 1."""
    key = mx.random.key(seed)
    module = network(config)

    def draw(parameter: mx.array) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        if parameter.ndim == 1:
            return parameter + 0.1 * mx.random.normal(parameter.shape, key=own)
        return mx.random.normal(parameter.shape, key=own) * float(np.prod(parameter.shape[1:])) ** -0.5

    module.update(tree_map(draw, module.parameters()))
    return module


def settings(decoder: list, encoder: list = (("compress_all_res", 1),), **others) -> VideoVAEConfig:
    values = {"latent_channels": 16, "decoder_base_channels": 8, "timestep_conditioning": False, **others}
    return VideoVAEConfig.read({"vae": {"decoder_blocks": decoder, "encoder_blocks": list(encoder), **values}})


# ------------------------------------------------------------------------------------------ numbers


@generations
@pytest.mark.parametrize("case", cases.DECODE)
def test_decodes_as_recorded(case, generation):
    decoder = make("decoder", generation)
    f, h, w = cases.DECODE[case]
    pixels = decoder(mx.array(cases.latent((f, h, w))))
    assert pixels.shape == (1, 8 * f - 7, 32 * h, 32 * w, 3)
    recorded = np.load(cases.RECORDED)[f"{generation}/decode/{case}"]
    assert error(pixels.reshape(-1)[:: cases.STEP["decode"]], recorded) < 5e-6


@generations
@pytest.mark.parametrize("case", cases.ENCODE)
def test_encodes_as_recorded(case, generation):
    latent = make("encoder", generation)(mx.array(cases.pixels(cases.ENCODE[case])))
    f, h, w = cases.ENCODE[case]
    assert latent.shape == (1, (f - 1) // 8 + 1, h // 32, w // 32, 128)
    assert error(latent.reshape(-1), np.load(cases.RECORDED)[f"{generation}/encode/{case}"]) < 5e-6


@generations
def test_a_batch_gives_what_each_clip_gives(generation):
    for network, one, two in (
        (make("decoder", generation), cases.latent((2, 2, 2), 1), cases.latent((2, 2, 2), 2)),
        (make("encoder", generation), cases.pixels((9, 32, 32), 1), cases.pixels((9, 32, 32), 2)),
    ):
        both = network(mx.array(np.concatenate([one, two])))
        assert error(both, np.concatenate([network(mx.array(x)) for x in (one, two)])) < 2e-6


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_computes_in_the_precision_of_its_weights(name):
    x = mx.array(cases.latent((1, 2, 2)) if name == "decoder" else cases.pixels((1, 32, 32)))
    exact, coarse = (make(name, "2.3", dtype)(x) for dtype in (mx.float32, mx.bfloat16))
    assert coarse.dtype == mx.bfloat16
    assert error(coarse.astype(mx.float32), exact) < 0.05


@pytest.mark.parametrize("frames", [10, 16, 2])
def test_the_encoder_leaves_out_frames_beyond_the_last_1_plus_8k(frames, caplog):
    encoder, pixels = make("encoder", "2.3"), mx.array(cases.pixels((frames, 32, 32)))
    kept = (frames - 1) // 8 * 8 + 1
    assert mx.array_equal(encoder(pixels), encoder(pixels[:, :kept])).item()
    assert f"the last {frames - kept} are left out" in caplog.text


# ------------------------------------------------------------------------------------------ pieces


@generations
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pieces_give_what_the_whole_clip_gives(size, generation):
    decoder, latent = make("decoder", generation), mx.array(cases.latent((7, 2, 2)))
    pieces = list(decoder.pieces(latent, size))
    assert len(pieces) > 1
    assert max(piece.shape[1] for piece in pieces) <= 8 * size + 16
    assert error(mx.concatenate(pieces, axis=1), decoder(latent)) < 3e-6


def test_a_clip_is_cut_where_one_evaluation_would_take_too_long(monkeypatch):
    decoder, latent = make("decoder", "2"), mx.array(cases.latent((3, 2, 2)))
    whole = np.array(decoder(latent))
    assert len(list(decoder.pieces(latent))) == 1
    # Work for 5 frames of the last convolution, and for less than one of most layers before it.
    monkeypatch.setattr(platform, "flops_per_evaluation", lambda *_: 5.5 * 2 * decoder.conv_out.weight.size * 16 * 16)
    pieces = list(decoder.pieces(latent))
    assert max(piece.shape[1] for piece in pieces) <= 6
    assert error(mx.concatenate(pieces, axis=1), whole) < 3e-6
    assert error(decoder(latent), whole) < 3e-6


@pytest.mark.parametrize("size", [1, 3])
def test_pieces_of_a_causal_decoder(size):
    blocks = [["res_x", 2], ["compress_all", {"multiplier": 2, "residual": True}], ["res_x", 1], ["compress_time", 1]]
    decoder = built(VideoDecoder, settings(blocks, causal_decoder=True))
    latent = mx.random.normal((1, 5, 3, 2, 16), key=mx.random.key(1))
    pieces = list(decoder.pieces(latent, size))
    assert pieces[0].shape[1] == 4 * size - 3
    assert error(mx.concatenate(pieces, axis=1), decoder(latent)) < 3e-6


def test_the_encoder_takes_a_clip_in_pieces():
    encoder, pixels = make("encoder", "2"), mx.array(cases.pixels((33, 32, 32)))
    stream = encoder.in_pieces()
    latents = [encoder.encode(pixels[:, a:b], stream) for a, b in ((0, 9), (9, 17), (17, 33))]
    assert [latent.shape[1] for latent in latents] == [2, 1, 2]
    assert error(mx.concatenate(latents, axis=1), encoder(pixels)) < 3e-6


def test_strided_convolutions_take_a_clip_in_pieces():
    kinds = [["compress_time", 1], ["compress_space", 1], ["compress_all", 1], ["compress_all_x_y", {"multiplier": 2}]]
    encoder = built(VideoEncoder, settings([["res_x", 1]], kinds))
    assert encoder.scale == (8, 32, 32)
    pixels = mx.random.normal((1, 25, 32, 64, 3), key=mx.random.key(2))
    stream = encoder.in_pieces()
    latents = [encoder.encode(pixels[:, a:b], stream) for a, b in ((0, 1), (1, 17), (17, 25))]
    assert error(mx.concatenate(latents, axis=1), encoder(pixels)) < 3e-6


def test_blocks_that_mix_all_frames_are_not_cut():
    blocks = [["res_x", 1], ["res_x_y", {"multiplier": 2}], ["compress_time", {"multiplier": 1}]]
    decoder = built(VideoDecoder, settings(blocks))
    latent = mx.random.normal((1, 6, 2, 2, 16), key=mx.random.key(3))
    assert len(list(decoder.pieces(latent, 1))) == 1
    encoder = built(VideoEncoder, settings(blocks, [["res_x_y", 1], ["compress_time_res", 1]]))
    assert not encoder.takes_pieces
    with pytest.raises(ValueError, match="res_x_y"):
        encoder.in_pieces()


@pytest.mark.slow
@generations
def test_memory_does_not_grow_with_the_clip(generation):
    decoder = make("decoder", generation)

    def peak(frames: int) -> int:
        latent = mx.array(cases.latent((frames, 3, 3)))
        mx.eval(latent)
        with peaks.measured() as memory:
            for piece in decoder.pieces(latent, 1):
                mx.eval(piece)
                del piece
            return memory.peak

    assert peak(17) < 1.15 * peak(9)


# ------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pixels", [0, 1 << 30], ids=["winograd", "frame by frame"])
def test_convolution_against_its_definition(pixels, causal, padding, stride, monkeypatch):
    monkeypatch.setattr(forms, "COLUMNS_LIMIT", 0)
    monkeypatch.setattr(forms, "WINOGRAD_PIXELS", pixels)
    monkeypatch.setattr(forms, "WINOGRAD_FRAME", pixels)
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 7)
    monkeypatch.setattr(winograd, "OUTPUTS_AT_ONCE", 3)
    layer = convolution.Convolution(3, 4, padding=padding, causal=causal, stride=stride)
    draw = np.random.default_rng(0)
    layer.bias = mx.array(draw.standard_normal(4).astype(np.float32))
    x = draw.standard_normal((2, 4, 4, 5, 3)).astype(np.float32)
    ends = ((0, 0), (2, 0) if causal else (1, 1), (0, 0), (0, 0), (0, 0))
    around = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(np.pad(x, ends, "edge"), around, "constant" if padding == "zeros" else "reflect").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), (1, 2, 3))
    windows = windows[:, :: stride[0], :: stride[1], :: stride[2]]
    wanted = np.einsum("bfhwixyz,oxyzi->bfhwo", windows, np.array(layer.weight)) + np.array(layer.bias)
    assert error(layer(mx.array(x), Stream()), wanted) < 1e-6


@pytest.mark.parametrize("size", [(1, 16, 64), (4, 16, 16), (1, 15, 64), (16, 8, 8)])
def test_large_clips_take_the_other_form_on_the_cpu_only(size, monkeypatch):
    taken = []
    monkeypatch.setattr(winograd, "convolve", lambda *a: taken.append(a) or mx.zeros((1, *size, 8)))
    layer = convolution.Convolution(8, 8, padding="zeros", causal=False)
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    layer(mx.zeros((1, *size, 8)), Stream())
    assert not taken
    monkeypatch.setattr(platform, "is_cpu", lambda: True)
    layer(mx.zeros((1, *size, 8)), Stream())
    assert len(taken) == (math.prod(size) >= 1024 and math.prod(size[1:]) >= 256)


def test_winograds_form_rounds_in_float32_only():
    mx.random.seed(0)
    x, weight, bias = (mx.random.normal(s).astype(mx.bfloat16) for s in ((1, 3, 6, 7, 8), (4, 3, 3, 3, 8), (4,)))
    wanted = winograd.convolve(*(a.astype(mx.float32) for a in (x, weight, bias)))
    found = winograd.convolve(x, weight, bias)
    assert found.dtype == mx.bfloat16
    assert mx.array_equal(found, wanted.astype(mx.bfloat16)).item()


def test_patches_are_column_major_and_blocks_row_major():
    picture = mx.arange(2 * 4 * 4 * 3).reshape(1, 2, 4, 4, 3)
    patches = np.array(patchify(picture, 2))
    grid = np.array(picture)
    for channel, column, row in np.ndindex(3, 2, 2):
        assert (patches[..., (channel * 2 + column) * 2 + row] == grid[:, :, row::2, column::2, channel]).all()
    assert mx.array_equal(unpatchify(patchify(picture, 2), 2), picture).item()
    deep = np.array(space_to_depth(picture, (2, 2, 1)))
    for channel, frame, row in np.ndindex(3, 2, 2):
        assert (deep[..., (channel * 2 + frame) * 2 + row] == grid[:, frame::2, row::2, :, channel]).all()
    assert mx.array_equal(depth_to_space(space_to_depth(picture, (2, 2, 1)), (2, 2, 1)), picture).item()


@pytest.mark.parametrize("cpu", [True, False])
def test_silu(cpu, monkeypatch):
    monkeypatch.setattr(platform, "is_cpu", lambda: cpu)
    x = np.concatenate([np.linspace(-40, 40, 4001), [0.0, 1e-6, -1e-6]]).astype(np.float32)
    wanted = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    ours = np.array(silu(mx.array(x)), np.float64)
    assert np.abs(ours - wanted).max() < 5e-6
    assert np.abs((ours - wanted) / np.maximum(np.abs(x), 1e-9)).max() < 3e-7
    assert silu(mx.array(x).astype(mx.bfloat16)).dtype == mx.bfloat16


def test_statistics_undo_each_other():
    statistics = make("statistics", "2")
    found = small.tensors("2", "distilled")
    latent = mx.random.normal((2, 3, 2, 2, 128), key=mx.random.key(0))
    wanted = (latent - found["vae.per_channel_statistics.mean-of-means"].astype(mx.float32)) / found[
        "vae.per_channel_statistics.std-of-means"
    ].astype(mx.float32)
    assert error(statistics.normalize(latent), wanted) < 1e-7
    assert error(statistics.denormalize(statistics.normalize(latent)), latent) < 1e-6
    assert statistics.normalize(latent.astype(mx.bfloat16)).dtype == mx.bfloat16


# ------------------------------------------------------------------------------------------ refusals


def test_a_decoder_that_reflects_refuses_a_single_row():
    with pytest.raises(UserError, match=r"1 x 3 .*2 or more \(64 pixels\)"):
        make("decoder", "2")(mx.zeros((1, 1, 1, 3, 128)))
    assert make("decoder", "2.3")(mx.zeros((1, 1, 1, 3, 128))).shape == (1, 1, 32, 96, 3)


@pytest.mark.parametrize(
    ("size", "said"), [((40, 32), "not 40; nearest are 32 and 64"), ((32, 16), "not 16; nearest are 32 and 64")]
)
def test_the_encoder_refuses_sides_that_are_not_multiples(size, said):
    with pytest.raises(UserError, match=f"multiples of 32 pixels from 32 on, {said}"):
        make("encoder", "2.3")(mx.zeros((1, 1, *size, 3)))


def test_padding_of_both_halves_follows_the_same_keys_as_in_the_reference():
    def paddings(**said) -> tuple[str, str]:
        config = settings([["res_x", 1]], **said)
        return config.encoder_padding, config.decoder_padding

    assert paddings() == ("zeros", "reflect")
    assert paddings(spatial_padding_mode="reflect") == ("reflect", "reflect")
    assert paddings(encoder_spatial_padding_mode="reflect") == ("reflect", "reflect")
    assert paddings(encoder_spatial_padding_mode="reflect", spatial_padding_mode="zeros") == ("zeros", "zeros")
    with pytest.raises(UserError, match=r"vae\.spatial_padding_mode = 'circular'; supported here"):
        paddings(spatial_padding_mode="circular")
    encoder = built(VideoEncoder, settings([["res_x", 1]], spatial_padding_mode="reflect"))
    with pytest.raises(UserError, match="multiples of 8 pixels from 16 on, not 8; nearest are 16 and 24"):
        encoder(mx.zeros((1, 1, 16, 8, 3)))


@pytest.mark.parametrize(
    ("half", "block", "said"),
    [
        ("decoder", ["attn_res_x", {"num_layers": 1}], "'attn_res_x'; supported here: res_x"),
        ("decoder", ["res_x", {"num_layers": 1, "inject_noise": True}], "inject_noise = True; supported here: False"),
        ("encoder", ["attn", 1], "'attn'; supported here: res_x"),
    ],
)
def test_unknown_blocks_are_refused_by_name(half, block, said):
    config = settings([["res_x", 1]])
    config = dataclasses.replace(
        config, **{f"{half}_blocks": ((block[0], dict(block[1]) if isinstance(block[1], dict) else {}),)}
    )
    with pytest.raises(UserError, match=said):
        NETWORKS[half](config)


# ------------------------------------------------------------------------------------------ real names


@generations
@pytest.mark.parametrize("name", NETWORKS)
def test_real_names_and_shapes_map_one_to_one_without_allocating(name, generation):
    before = mx.get_active_memory()
    network = NETWORKS[name](VideoVAEConfig.read(real_keys.config(generation)))
    prefixes = tuple(network.prefixes)
    found = {k: t.shape for k, t in real_keys.load(generation).items() if k.startswith(prefixes)}
    unread = {f"vae.per_channel_statistics.{leaf}" for leaf in UNREAD} if generation == "2" else set()
    assert found.keys() - names.match(network, found, name).keys() == unread
    assert mx.get_active_memory() - before < 1 << 20
