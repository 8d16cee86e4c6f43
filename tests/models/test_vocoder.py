"""The vocoders: numbers from a recorded fixture, fast forms against plain ones, the real checkpoints' names.

`fixtures/audio.npz` holds what the torch reference computes from the small checkpoints' weights for `given`;
`tests/parity/test_audio.py` records it and compares more.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import platform
from mlx_video.cpu import forms
from mlx_video.models.ltx_2.config import VocoderConfig
from mlx_video.models.ltx_2.tiles import in_tiles
from mlx_video.models.ltx_2.vocoder import Vocoder, bandwidth, convolution, generator, snake
from mlx_video.types import UserError
from mlx_video.weights import names
from tests.support import real_keys, small

RECORDED = Path(__file__).parents[1] / "fixtures" / "audio.npz"
GENERATIONS = ("2", "2.3")
SHAPES = {"decoder": (2, 8, 3, 16), "encoder": (2, 2, 10, 64), "vocoder": (2, 2, 4, 64)}


def given(name: str) -> np.ndarray:
    """The recorded cases' inputs, two samples each."""
    return np.random.default_rng(len(name)).standard_normal(SHAPES[name]).astype(np.float32)


def error(ours: mx.array, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    difference = np.asarray(ours, np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def make(generation: str, dtype: mx.Dtype = mx.float32) -> Vocoder:
    vocoder = Vocoder(VocoderConfig.read(small.config(generation)))
    tensors = {k: v for k, v in small.tensors(generation, "distilled").items() if k.startswith("vocoder.")}
    names.assign(vocoder, tensors, "vocoder", dtype=dtype)
    return vocoder


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_recorded_numbers_in_float32_whatever_it_is_given(generation, dtype):
    vocoder = make(generation, dtype)
    waveform = vocoder(mx.array(given("vocoder")))
    assert waveform.dtype == mx.float32
    assert error(waveform, np.load(RECORDED)[f"{generation}/vocoder"]) < 1e-5
    assert vocoder.sample_rate == {"2": 24_000, "2.3": 48_000}[generation]
    assert waveform.shape[-1] == 4 * 160 * vocoder.sample_rate // 16_000
    assert mx.abs(waveform).max() <= 1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_form_for_gpus_gives_the_same(generation, monkeypatch):
    vocoder, mel = make(generation), mx.array(given("vocoder"))[:1]
    whole = vocoder(mel)
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    assert error(vocoder(mel), np.array(whole)) < 1e-5


@pytest.mark.parametrize("generation", GENERATIONS)
def test_real_names_and_shapes_map_one_to_one_without_allocating(generation):
    before = mx.get_active_memory()
    vocoder = Vocoder(VocoderConfig.read(real_keys.config(generation)))
    found = {k: t.shape for k, t in real_keys.load(generation).items() if k.startswith("vocoder.")}
    pairs = names.match(vocoder, found, "vocoder")
    unread = {name for name, path in pairs.items() if path is None} | (set(found) - set(pairs))
    assert unread == ({"vocoder.mel_stft.stft_fn.inverse_basis"} if generation == "2.3" else set())
    assert mx.get_active_memory() - before < 1 << 20


def test_only_one_prefix_is_taken_away():
    assert names.module_path(Vocoder, "vocoder.conv_pre.weight") == "vocoder.conv_pre.weight"
    assert names.module_path(Vocoder, "vocoder.vocoder.conv_pre.weight") == "vocoder.conv_pre.weight"
    assert names.module_path(Vocoder, "vocoder.bwe_generator.conv_pre.weight") == "bwe_generator.conv_pre.weight"
    filters = "vocoder.vocoder.resblocks.0.acts1.2."
    assert names.module_path(Vocoder, filters + "downsample.lowpass.filter").endswith("acts1.2.down_filter")
    assert names.module_path(Vocoder, filters + "upsample.filter").endswith("acts1.2.up_filter")


@pytest.mark.parametrize("tile", [1, 7, 40])
def test_tiles_give_what_the_whole_gives_and_see_no_more_than_they_need(tile):
    convolve = convolution.Conv1d(3, 3, 5, dilation=2)
    x, seen = normal(2, 83, 3), []

    def function(y):
        seen.append(y.shape[1])
        return convolve(y)

    tiled = in_tiles(function, x, tile=tile, before=4, after=4)
    assert error(tiled, np.array(convolve(x))) < 1e-6
    assert max(seen) <= tile + 8
    assert len(seen) == -(-83 // tile)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_work_of_one_evaluation_is_bounded(generation, monkeypatch):
    vocoder, mel, lengths = make(generation), normal(1, 2, 40, 64), []
    whole = np.array(vocoder(mel))

    def counted(function, x, **sizes):
        lengths.append((x.shape[1], sizes["tile"]))
        return in_tiles(function, x, **sizes)

    monkeypatch.setattr(generator, "in_tiles", counted)
    monkeypatch.setattr(platform, "flops_per_evaluation", lambda *_: 1e6)
    assert error(vocoder(mel), whole) < 1e-5
    assert any(tile < length for length, tile in lengths)


@pytest.mark.parametrize("fast", [forms.conv1d, convolution.filled_up])
@pytest.mark.parametrize("sizes", [(24, 24, 7, 3), (3, 40, 11, 1), (17, 2, 3, 5), (16, 16, 1, 1)])
def test_convolutions(fast, sizes):
    channels, out, kernel, dilation = sizes
    x, weight = normal(2, 31, channels), normal(out, kernel, channels, seed=1)
    padding = convolution.reach(kernel, dilation)
    plain = mx.conv1d(x, weight, padding=padding, dilation=dilation)
    assert error(fast(x, weight, padding, dilation), np.array(plain)) < 1e-6


@pytest.mark.parametrize("sizes", [(16, 6), (15, 5), (11, 5), (12, 6), (4, 2), (3, 3), (5, 2), (7, 4), (2, 1)])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_transposed_convolution_in_phases(sizes, length):
    kernel, rate = sizes
    layer = convolution.TransposedConv1d(4, 3, kernel, rate)
    layer.bias = normal(3, seed=2)
    x = normal(2, length, 4)
    plain = mx.conv_transpose1d(x, layer.weight, rate, (kernel - rate) // 2) + layer.bias
    assert error(layer(x), np.array(plain)) < 1e-6


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 50])
def test_anti_aliased_snake_against_its_definition(length):
    layer = snake.AntiAliasedSnake(3)
    layer.alpha, layer.beta = normal(3, seed=3), normal(3, seed=4)
    layer.up_filter, layer.down_filter = normal(1, 1, 12, seed=5), normal(1, 1, 12, seed=6)
    x = normal(2, length, 3)
    up, down = (np.array(kernel, np.float64).ravel() for kernel in (layer.up_filter, layer.down_filter))
    alpha, beta = (np.exp(np.array(v, np.float64)) for v in (layer.alpha, layer.beta))
    expected = np.zeros(x.shape)
    for sample, channel in np.ndindex(2, 3):
        signal = np.pad(np.array(x[sample, :, channel], np.float64), 5, mode="edge")
        stuffed = np.zeros(2 * len(signal))
        stuffed[::2] = signal
        doubled = 2 * np.convolve(stuffed, up)[15 : 15 + 2 * length]
        curved = doubled + np.sin(alpha[channel] * doubled) ** 2 / beta[channel]
        expected[sample, :, channel] = np.correlate(np.pad(curved, (5, 6), mode="edge"), down, "valid")[::2]
    assert error(layer(x), expected) < 2e-6


def test_sine_squared():
    x = np.random.default_rng(0).uniform(-1000, 1000, 20_000).astype(np.float32)
    x = np.concatenate([x, x / 1000, np.float32(np.pi / 2) * np.arange(-40, 40, dtype=np.float32), [0.0]])
    assert np.abs(np.array(snake.sine_squared(mx.array(x))) - np.sin(x.astype(np.float64)) ** 2).max() < 4e-7


def test_resampling_keeps_a_tone():
    time = np.arange(600) / 16_000
    low = mx.array(np.stack([np.sin(2 * np.pi * 1000 * time), np.cos(2 * np.pi * 300 * time)]).astype(np.float32))
    high = np.array(bandwidth.resample(low, 3))
    time = np.arange(1800) / 48_000
    assert high.shape == (2, 1800)
    middle = slice(60, -60)
    assert np.abs(high[0] - np.sin(2 * np.pi * 1000 * time))[middle].max() < 5e-3
    assert np.abs(high[1] - np.cos(2 * np.pi * 300 * time))[middle].max() < 5e-3


def test_extension_sees_no_later_sample():
    stft = make("2.3").mel_stft
    early, late = normal(1, 800), normal(1, 800, seed=1)
    changed = mx.concatenate([early[:, :400], late[:, 400:]], axis=1)
    assert mx.array_equal(stft(early)[:, :5], stft(changed)[:, :5])
    assert not mx.array_equal(stft(early)[:, 5], stft(changed)[:, 5])
    assert stft(early).shape == (1, 10, 64)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vocoder", "resblock", "2"),
        ("vocoder", "activation", "snake"),
        ("vocoder", "stereo", False),
        ("bwe", "num_mels", 80),
        ("bwe", "resblock_kernel_sizes", [3, 4]),
        ("bwe", "output_sampling_rate", 44_100),
        ("bwe", "upsample_rates", [2, 2, 2, 2, 2]),
        ("vocoder", "upsample_kernel_sizes", [11, 4, 4, 4, 4, 1]),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(part, key, value):
    config = small.config("2.3")
    config["vocoder"][part][key] = value
    with pytest.raises(UserError, match=key if key != "output_sampling_rate" else str(value)):
        VocoderConfig.read(config)
