"""The networks of sound and the mel front end against recorded numbers of the torch reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.models.ltx_2.audio_vae import AudioDecoder, AudioEncoder, log_mel, mel
from mlx_video.models.ltx_2.config import AudioVAEConfig, VocoderConfig
from mlx_video.models.ltx_2.vocoder import Vocoder, bandwidth
from mlx_video.weights import names
from mlx_video.weights.store import Tensors

NETWORK_LIMIT, MEL_LIMIT, RESAMPLING_LIMIT = 2e-5, 1e-5, 1e-6


def compare(folder: Path, reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Case -> (||ours - ref|| / ||ref||, limit)."""
    tensors = Tensors([_checkpoint(folder)])
    settings = tensors.metadata["config"]
    config = AudioVAEConfig.read(settings)

    def load(network, component):
        names.assign(network, tensors.load(list(network.prefixes)), component, dtype=mx.float32)
        return network

    encoder, decoder = load(AudioEncoder(config), "audio encoder"), load(AudioDecoder(config), "audio decoder")
    vocoder = load(Vocoder(VocoderConfig.read(settings)), "vocoder")
    if vocoder.sample_rate != int(reference["audio/decode/sampling_rate"]):
        raise ValueError(f"the vocoder says {vocoder.sample_rate} samples a second, the reference another rate")
    return {
        **_front_end(reference, config),
        **_networks(reference, "wav", encoder, "mel", "latent"),
        **_networks(reference, "decode", decoder, "latent", "mel"),
        **_networks(reference, "decode", vocoder, "mel", "waveform"),
        **_networks(reference, "vocoder", vocoder, "mel", "waveform"),
        **_whole_way(reference, config, encoder, decoder, vocoder),
        **(_extension(reference, vocoder) if "bwe_generator" in vocoder else {}),
    }


def _checkpoint(folder: Path) -> Path:
    for path in sorted(folder.glob("*.safetensors")):
        if any(name.startswith("vocoder.") for name in Tensors([path]).entries):
            return path
    raise FileNotFoundError(f"no file in {folder} holds vocoder.*")


def _front_end(reference: Mapping[str, np.ndarray], config: AudioVAEConfig) -> dict[str, tuple[float, float]]:
    result = {}
    for key in sorted(name for name in reference if name.startswith("audio/resample/") and name.endswith("_in")):
        case = key.removesuffix("_in")
        ours = mel.resample(reference[key][0], int(case.rsplit("/", 1)[1]), config.sample_rate)
        result[case] = (_error(ours, reference[f"{case}_out"][0]), RESAMPLING_LIMIT)
    ours = log_mel(reference["audio/mel/waveform_16k"][0], 16_000, config)
    result["audio/mel/log_mel"] = (_error(ours, reference["audio/mel/log_mel"][0]), MEL_LIMIT)
    ours = log_mel(reference["audio/wav/waveform"][0], int(reference["audio/wav/sampling_rate"]), config)
    result["audio/wav/mel"] = (_error(ours, reference["audio/wav/mel"][0]), MEL_LIMIT)
    return result


def _networks(
    reference: Mapping[str, np.ndarray], part: str, network: Callable, given: str, wanted: str
) -> dict[str, tuple[float, float]]:
    # Every recorded pair audio/<part>/.../<given>, .../<wanted>.
    result = {}
    for key in sorted(reference):
        case = key.removesuffix(f"/{given}")
        if key.startswith(f"audio/{part}/") and case != key and f"{case}/{wanted}" in reference:
            ours = network(mx.array(reference[key]))
            result[f"{case}/{wanted}"] = (_error(ours, reference[f"{case}/{wanted}"]), NETWORK_LIMIT)
    return result


def _whole_way(
    reference: Mapping[str, np.ndarray], config: AudioVAEConfig, encoder: Callable, decoder: Callable, vocoder: Callable
) -> dict[str, tuple[float, float]]:
    # Each network fed with what our own gave before it.
    spectrum = log_mel(reference["audio/wav/waveform"][0], int(reference["audio/wav/sampling_rate"]), config)
    latent = encoder(mx.array(spectrum)[None])
    waveform = vocoder(decoder(mx.array(reference["audio/decode/t18/latent"])))
    return {
        "audio/wav to latent": (_error(latent, reference["audio/wav/latent"]), NETWORK_LIMIT),
        "audio/latent to waveform": (_error(waveform, reference["audio/decode/t18/waveform"]), NETWORK_LIMIT),
    }


def _extension(reference: Mapping[str, np.ndarray], vocoder: Vocoder) -> dict[str, tuple[float, float]]:
    low = mx.array(reference["audio/vocoder/low_rate"])
    batch, channels, samples = low.shape
    flat = low.reshape(batch * channels, samples)
    spectrum = vocoder.mel_stft(flat).reshape(batch, channels, -1, 64)
    parts = {
        "low_rate": vocoder.vocoder(mx.array(reference["audio/vocoder/mel"])),
        "bwe_mel": spectrum,
        "residual": vocoder.bwe_generator(spectrum),
        "skip": bandwidth.resample(flat, vocoder.ratio).reshape(batch, channels, -1),
    }
    return {f"audio/vocoder/{k}": (_error(v, reference[f"audio/vocoder/{k}"]), NETWORK_LIMIT) for k, v in parts.items()}


def _error(ours: mx.array | np.ndarray, reference: np.ndarray) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shape {a.shape}, the reference's is {b.shape}")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
