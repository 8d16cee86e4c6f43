"""The way back from a model folder to training: its weights as the files that the parts of training keep.

They go into a folder of their own, `start`, beside what training writes: a part that has no state of its own yet begins
from there (`first_weights`), and what is packed is what was trained, or else what was there before (`newest`).

The codec is in no model folder. It is fitted again, unless the training folder has its codec.pt already, and has to be the
one that the weights were trained with: the VAE's statistics tell. A component's sign is free, and fits on other kinds of
CPU have found the other one, so it is set here.
"""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file

from . import configs, device
from .bank import make_audio, save
from .codec import COLOUR_CHANNELS, PARTS, fit
from .pack import PREFIX, below
from .reference import build, set_statistics

TOLERANCE = 0.02  # of a component's scale; the shipped weights' statistics come back within 0.005


def align(state: dict, mean: torch.Tensor, scale: torch.Tensor) -> dict:
    """A fitted codec with the statistics, and so the signs, of a trained VAE.

    Raises ValueError where the components are other ones, which no change of sign can mend.
    """
    shape = (3, PARTS)
    fitted, wanted = (m[:COLOUR_CHANNELS].view(shape) for m in (state["mean"], mean))
    sign = torch.where((fitted * wanted).sum(0) < 0, -1.0, 1.0)
    off = (fitted * sign - wanted).abs() / scale[:COLOUR_CHANNELS].view(shape)
    ratio = (state["scale"] / scale - 1).abs()[:COLOUR_CHANNELS]
    if off.max() > TOLERANCE or ratio.max() > TOLERANCE:
        raise ValueError(
            f"the codec fitted here is not the one of these weights: scales differ by {float(ratio.max()):.1%} "
            f"(at most {TOLERANCE:.0%} may be); train from nothing, or start from a folder made on this kind of machine"
        )
    return dict(block_mean=state["block_mean"], basis=state["basis"] * sign, mean=mean, scale=scale)


def _audio(checkpoint: dict) -> tuple[dict, dict]:
    """The three audio networks' weights, and the bank of sounds with the statistics that they were trained with."""
    parts = {n: below(checkpoint, PREFIX[n]) for n in ("audio_encoder", "audio_decoder", "vocoder")}
    statistics = below(checkpoint, "audio_vae.per_channel_statistics.")
    encoder = build("audio_encoder")
    set_statistics(encoder, torch.zeros(128), torch.ones(128))
    encoder.load_state_dict({**encoder.state_dict(), **parts["audio_encoder"]})
    bank = make_audio(encoder)
    mean, scale = statistics["mean-of-means"], statistics["std-of-means"]
    raw = bank["latents"] * bank["scale"] + bank["mean"]
    return parts, dict(latents=(raw - mean) / scale, mean=mean, scale=scale)


def unpack(model: str, folder: str) -> None:
    """Write `folder`/start from a model folder as pack.py makes them, and `folder`/codec.pt."""
    start = os.path.join(folder, "start")
    os.makedirs(start, exist_ok=True)
    file = lambda key: os.path.join(model, configs.FILES[key])
    checkpoint = {k: v.float() for k, v in load_file(file("dev")).items()}
    put = lambda value, name: save(value, os.path.join(start, name + ".pt"))

    statistics = below(checkpoint, "vae.per_channel_statistics.")
    path = os.path.join(folder, "codec.pt")
    codec = align(
        device.read(path) if os.path.exists(path) else fit(), statistics["mean-of-means"], statistics["std-of-means"]
    )
    for half in ("encoder", "decoder"):
        weights = below(checkpoint, PREFIX[f"video_{half}"])
        weights.update({"per_channel_statistics." + k: v for k, v in statistics.items()})
        put(dict(averaged=weights), f"video_{half}")

    parts, bank = _audio(checkpoint)
    for name, kept in (("audio_encoder", "autoencoder"), ("audio_decoder", "audio_decoder"), ("vocoder", "vocoder")):
        weights = {f"{name}.{k}": v for k, v in parts[name].items()}
        if name != "vocoder":
            weights |= {
                f"{name}.per_channel_statistics.mean-of-means": bank["mean"],
                f"{name}.per_channel_statistics.std-of-means": bank["scale"],
            }
        put(dict(networks=weights), kept)
    put(bank, "bank-audio")

    network = {
        f"transformer.{k}": v for k, v in below(checkpoint, PREFIX["transformer"]).items() if "_connector" not in k
    }
    for name in ("video_connector", "audio_connector", "features"):
        network |= {f"text.{name}.{k}": v for k, v in below(checkpoint, PREFIX[name]).items()}
    gemma = load_file(os.path.join(file("gemma"), "model.safetensors"))
    network |= {f"text.gemma.{k}": v.float() for k, v in below(gemma, "language_model.model.").items()}
    put(dict(average=network), "transformer")
    changes = {}
    for key, value in load_file(file("lora")).items():
        name, half = key.removeprefix("diffusion_model.").removesuffix(".weight").rsplit(".lora_", 1)
        changes[f"{name}.weight|{half}"] = value.float()
    put(dict(average=changes), "distilled")
    put(dict(network={k: v.float() for k, v in load_file(file("upsampler")).items()}), "upsampler")
    save(codec, path)
