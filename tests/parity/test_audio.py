"""The networks of sound against the torch reference's own, built by its configurators and read from a file by our road.

`python -m tests.parity.test_audio` writes `fixtures/audio.npz` anew from the reference, and `fixtures/mel.npz` where
torchaudio can be imported.
"""

from __future__ import annotations

import copy
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import platform
from mlx_video.models.ltx_2.audio_vae import AudioDecoder, AudioEncoder, blocks, log_mel
from mlx_video.models.ltx_2.config import AudioVAEConfig, VocoderConfig
from mlx_video.models.ltx_2.vocoder import Vocoder, generator
from mlx_video.weights import names
from mlx_video.weights.store import Tensors
from tests.models import test_mel as front_end
from tests.models import test_vocoder as recorded
from tests.parity.reference import build, error, normal, randomize, save, torch
from tests.support import small

pytestmark = pytest.mark.parity
LIMIT = 5e-6
MEL_LIMIT = 1e-5

VAES = {
    "like the real one": {"ch": 32, "ch_mult": [1, 2, 4], "num_res_blocks": 2, "z_channels": 8, "mel_bins": 16},
    "other": {"ch": 24, "ch_mult": [2, 1, 1], "num_res_blocks": 1, "z_channels": 4, "mel_bins": 24},
}
REAL_BLOCKS = {"resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3}
HIFIGAN = {
    "like the real one": {"upsample_initial_channel": 64},
    "other": {
        "upsample_initial_channel": 48, "upsample_rates": [3, 4], "upsample_kernel_sizes": [6, 9],
        "resblock_kernel_sizes": [5, 9], "resblock_dilation_sizes": [[1, 2, 7], [2, 1, 4]], "use_tanh_at_final": False,
        "use_bias_at_final": False,
    },
}  # fmt: skip
EXTENDED = {
    "like the real one": ({"upsample_initial_channel": 128}, {"upsample_initial_channel": 64}),
    "other": (
        {
            "upsample_initial_channel": 48, "upsample_rates": [5, 7], "upsample_kernel_sizes": [11, 7],
            "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 3]],
            "use_tanh_at_final": True, "use_bias_at_final": True,
        },
        {
            "upsample_initial_channel": 32, "upsample_rates": [4, 5], "upsample_kernel_sizes": [8, 5], "n_fft": 64,
            "hop_length": 10, "output_sampling_rate": 32000, "resblock_kernel_sizes": [3], "num_mels": 64,
            "resblock_dilation_sizes": [[1, 3, 5]],
        },
    ),
}  # fmt: skip


def _assigned(network, prefixes, path, component, dtype=mx.float32):
    tensors = Tensors([path])
    names.assign(network, tensors.load(list(prefixes)), component, dtype=dtype)
    return network


def _vae_config(changes):
    config = small.config("2.3")
    config["audio_vae"]["model"]["params"]["ddconfig"].update(changes)
    return config


@pytest.fixture(scope="module", params=VAES)
def vae(request, tmp_path_factory):
    """(our decoder, our encoder, the reference's decoder and encoder, config) with the same weights."""
    from ltx_core.model.audio_vae import AudioDecoderConfigurator, AudioEncoderConfigurator

    config = _vae_config(VAES[request.param])
    decoder = randomize(build(AudioDecoderConfigurator, config), 1)
    encoder = randomize(build(AudioEncoderConfigurator, config), 2)
    encoder.per_channel_statistics.load_state_dict(decoder.per_channel_statistics.state_dict())
    statistics = decoder.per_channel_statistics.state_dict()
    parts = {
        f"audio_vae.{name}.": {k: v for k, v in part.state_dict().items() if "per_channel" not in k}
        for name, part in (("decoder", decoder), ("encoder", encoder))
    }
    # A file may hold statistics that nothing reads.
    parts["audio_vae.per_channel_statistics."] = {**statistics, "mean-of-stds": statistics["std-of-means"]}
    path = save(tmp_path_factory.mktemp("vae") / "audio.safetensors", parts, config)
    read = AudioVAEConfig.read(config)
    ours = (_assigned(cls(read), cls.prefixes, path, cls.__name__) for cls in (AudioDecoder, AudioEncoder))
    return *ours, decoder, encoder, read


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 2), (5, 1), (18, 2)])
def test_decoder(vae, frames, batch):
    decoder, _, reference, _, config = vae
    latent = normal(frames, batch, config.latent_channels, frames, config.latent_bins)
    ours = decoder(mx.array(latent.numpy()))
    assert ours.shape == (batch, 2, max(4 * frames - 3, 1), config.mel_bins)
    assert error(ours, reference(latent)) < LIMIT


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 1), (3, 2), (4, 1), (50, 1), (69, 2)])
def test_encoder(vae, frames, batch):
    _, encoder, _, reference, config = vae
    spectrogram = normal(frames, batch, 2, frames, config.mel_bins)
    assert error(encoder(mx.array(spectrogram.numpy())), reference(spectrogram)) < LIMIT


def test_long_spectrograms_in_tiles(vae, monkeypatch):
    decoder, encoder, reference_decoder, reference_encoder, config = vae
    monkeypatch.setattr(blocks, "TILE_ELEMENTS", 1)
    latent = normal(3, 1, config.latent_channels, 70, config.latent_bins)
    spectrogram = normal(4, 1, 2, 277, config.mel_bins)
    assert error(decoder(mx.array(latent.numpy())), reference_decoder(latent)) < LIMIT
    assert error(encoder(mx.array(spectrogram.numpy())), reference_encoder(spectrogram)) < LIMIT


def _vocoder_config(generation, name):
    config = copy.deepcopy(small.CONFIGS[generation])
    if generation == "2":
        config["vocoder"].update({**REAL_BLOCKS, **HIFIGAN[name]})
    else:
        for part, changes in zip(("vocoder", "bwe"), EXTENDED[name], strict=True):
            config["vocoder"][part].update({**REAL_BLOCKS, **changes})
    return config


def _with_bases(reference):
    """Bases that the reference would leave at zero, and a beta and an alpha away from it."""
    if hasattr(reference, "mel_stft"):
        for name, tensor in reference.mel_stft.named_buffers():
            value = small.value(f"mel_stft.{name}", tuple(tensor.shape), 0)
            tensor.copy_(torch.from_numpy(value.astype(np.float32)))
    return reference


@pytest.fixture(scope="module", params=[(g, n) for g, c in (("2", HIFIGAN), ("2.3", EXTENDED)) for n in c])
def vocoders(request, tmp_path_factory):
    """(ours, the reference's) with the same weights, rounded to bfloat16 as in the official files."""
    from ltx_core.model.audio_vae import VocoderConfigurator

    config = _vocoder_config(*request.param)
    reference = _with_bases(randomize(build(VocoderConfigurator, config), 3, scale=0.7))
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in reference.state_dict().items()}
    reference.load_state_dict(rounded)
    path = save(tmp_path_factory.mktemp("vocoder") / "vocoder.safetensors", {"vocoder.": rounded}, config)
    # bfloat16 on purpose: the network computes in float32 whatever it is given.
    ours = _assigned(Vocoder(VocoderConfig.read(config)), Vocoder.prefixes, path, "vocoder", mx.bfloat16)
    return ours, reference


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 1), (9, 2), (14, 1)])
def test_vocoder(vocoders, frames, batch):
    ours, reference = vocoders
    spectrogram = normal(frames, batch, 2, frames, 64)
    waveform = ours(mx.array(spectrogram.numpy()))
    assert waveform.dtype == mx.float32
    assert ours.sample_rate == getattr(reference, "output_sampling_rate", 24000)
    assert error(waveform, reference(spectrogram)) < LIMIT


def test_long_sounds_in_tiles(vocoders, monkeypatch):
    ours, reference = vocoders
    monkeypatch.setattr(generator, "TILE_ELEMENTS", {"cpu": 1, "gpu": 1})
    monkeypatch.setattr(generator, "TILE_REACHES", 4)
    spectrogram = normal(5, 1, 2, 13, 64)
    assert error(ours(mx.array(spectrogram.numpy())), reference(spectrogram)) < LIMIT


def test_form_for_gpus(vocoders, monkeypatch):
    ours, reference = vocoders
    monkeypatch.setattr(platform, "is_cpu", lambda: False)
    spectrogram = normal(6, 1, 2, 3, 64)
    assert error(ours(mx.array(spectrogram.numpy())), reference(spectrogram)) < LIMIT


def _torch_log_mel(waveform, config):
    """By torch's transform and librosa's filters, which are as torchaudio's."""
    librosa = pytest.importorskip("librosa")
    window = torch.hann_window(config.fft)
    spectrum = torch.stft(waveform, config.fft, config.hop, config.fft, window, return_complex=True).abs()
    filters = librosa.filters.mel(sr=config.sample_rate, n_fft=config.fft, n_mels=config.mel_bins, fmin=0)
    return torch.log(torch.clamp(torch.from_numpy(filters) @ spectrum, min=1e-5)).transpose(1, 2)


@pytest.mark.parametrize("samples", [513, 8000, 16001])
def test_log_mel(samples):
    config = AudioVAEConfig.read(small.config("2"))
    waveform = normal(samples, 2, samples) * 0.1
    assert error(log_mel(waveform.numpy(), 16_000, config), _torch_log_mel(waveform, config)) < MEL_LIMIT


def record() -> None:
    """Writes what the reference computes from the small checkpoints' weights for the inputs of tests/models."""
    from ltx_core.model.audio_vae import AudioDecoderConfigurator, AudioEncoderConfigurator, VocoderConfigurator

    found = {}
    for generation in small.CONFIGS:
        config = small.config(generation)
        tensors = small.tensors(generation, "distilled")
        weights = {name: torch.from_numpy(np.array(tensor.astype(mx.float32))) for name, tensor in tensors.items()}
        for name, configurator, prefix in (
            ("decoder", AudioDecoderConfigurator, "audio_vae.decoder."),
            ("encoder", AudioEncoderConfigurator, "audio_vae.encoder."),
            ("vocoder", VocoderConfigurator, "vocoder."),
        ):
            module = build(configurator, config)
            state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            if name != "vocoder":
                start = "audio_vae.per_channel_statistics."
                state |= {k.removeprefix("audio_vae."): v for k, v in weights.items() if k.startswith(start)}
            module.load_state_dict(state)
            given = torch.from_numpy(recorded.given(name))
            found[f"{generation}/{name}"] = module(given).numpy()
    np.savez_compressed(recorded.RECORDED, **found)


def record_front_end() -> None:
    """Writes what torchaudio itself computes for the sounds of tests/models/test_mel.py; its Python part is enough."""
    from torchaudio.functional import resample
    from torchaudio.transforms import MelSpectrogram

    found = {
        f"resample/{rate}": resample(torch.from_numpy(front_end.noise(rate)), rate, 16_000) for rate in front_end.RATES
    }
    transform = MelSpectrogram(
        16_000, 1024, 1024, 160, 0.0, 8000.0, n_mels=64, power=1.0, center=True, pad_mode="reflect",
        mel_scale="slaney", norm="slaney",
    )  # fmt: skip
    spectrum = transform(torch.from_numpy(front_end.noise(16_000)))
    found["log_mel"] = torch.log(torch.clamp(spectrum, min=1e-5)).transpose(1, 2)
    np.savez_compressed(front_end.RECORDED, **{name: array.numpy() for name, array in found.items()})


if __name__ == "__main__":
    record()
    if sys.modules["torchaudio"].__version__ != "0":
        record_front_end()
