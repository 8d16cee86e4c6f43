"""What a checkpoint says of its audio autoencoder and its vocoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.ltx_2.config.section import Section, section
from mlx_video.types import AUDIO_TIME_SCALE, UserError


@dataclass(frozen=True)
class AudioVAEConfig:
    """The mel-spectrogram autoencoder, both halves, and the mel front end."""

    channels: int
    multipliers: tuple[int, ...]
    res_blocks: int
    latent_channels: int
    in_channels: int
    out_channels: int
    mel_bins: int
    sample_rate: int
    hop: int
    fft: int

    @property
    def latent_bins(self) -> int:
        """Frequency bins of a latent: each level but the last halves them."""
        return self.mel_bins // AUDIO_TIME_SCALE

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> AudioVAEConfig:
        """From a checkpoint's config; attention inside the autoencoder is refused by name, no released file has it."""
        s = section(config, "audio_vae")
        params = s.part("model").part("params")
        d, pre = params.part("ddconfig"), Section(s.get("preprocessing", {}), "audio_vae.preprocessing")
        stft, mel = Section(pre.get("stft", {}), "stft"), Section(pre.get("mel", {}), "mel")
        d.only("norm_type", "pixel")
        d.only("causality_axis", "height")
        d.only("double_z", True)
        d.only("resamp_with_conv", True)
        multipliers = tuple(d.get("ch_mult", (1, 2, 4)))
        resolutions = {d.get("resolution", 256) // 2**i for i in range(len(multipliers))}
        if d.get("mid_block_add_attention", True) or resolutions & set(d.get("attn_resolutions", (8, 16, 32))):
            raise UserError("The checkpoint's audio_vae has attention blocks; supported here: none.")
        if 2 ** (len(multipliers) - 1) != AUDIO_TIME_SCALE:
            raise UserError(f"The checkpoint's audio_vae has {len(multipliers)} levels (ch_mult); supported here: 3.")
        variables = Section(s.get("variables", {}), "audio_vae.variables")
        found = cls(
            channels=d.get("ch", 128),
            multipliers=multipliers,
            res_blocks=d.get("num_res_blocks", 2),
            latent_channels=d.get("z_channels", 8),
            in_channels=d.get("in_channels", 2),
            out_channels=d.get("out_ch", 2),
            mel_bins=d.get("mel_bins", None) or mel.get("n_mel_channels", None) or variables.get("mel_bins", 64),
            sample_rate=params.get("sampling_rate", 16_000),
            hop=stft.get("hop_length", 160),
            fft=stft.get("filter_length", 1024),
        )
        if found.channels != found.latent_channels * found.latent_bins or found.mel_bins % AUDIO_TIME_SCALE:
            # The reference takes the statistics' width, which is a token's, from ch.
            raise UserError(
                f"The checkpoint says audio_vae ch = {found.channels}; with {found.latent_channels} latent channels "
                f"and {found.mel_bins} mel bins it must be {found.latent_channels * found.latent_bins}."
            )
        return found


@dataclass(frozen=True)
class GeneratorConfig:
    """One waveform generator: HiFi-GAN (LTX-2) or its anti-aliased snake-beta kin (LTX-2.3)."""

    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    res_kernels: tuple[int, ...]
    res_dilations: tuple[tuple[int, ...], ...]
    anti_aliased: bool
    final_bias: bool
    final_activation: str
    """"tanh", "clamp" or "none"."""


@dataclass(frozen=True)
class BandwidthConfig:
    """Bandwidth extension: its generator and the causal STFT that feeds it."""

    generator: GeneratorConfig
    input_rate: int
    output_rate: int
    hop: int
    fft: int
    mel_bins: int


@dataclass(frozen=True)
class VocoderConfig:
    """Mel to waveform. `bandwidth` of None: the generator's own rate is the output's."""

    generator: GeneratorConfig
    bandwidth: BandwidthConfig | None
    sample_rate: int
    """Of the generator's output; with bandwidth extension the shipped rate is `bandwidth.output_rate`."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VocoderConfig:
        """From a checkpoint's config: flat (LTX-2, 24 kHz) or nested `vocoder` + `bwe` (LTX-2.3, 16 to 48 kHz)."""
        s = section(config, "vocoder")
        if "bwe" not in s.values:
            return cls(_generator(s, final=True), None, s.get("output_sampling_rate", 24_000))
        bwe = s.part("bwe")
        extension = BandwidthConfig(
            generator=_generator(bwe, final=False),
            input_rate=bwe.get("input_sampling_rate", 16_000),
            output_rate=bwe.get("output_sampling_rate", 48_000),
            hop=bwe.get("hop_length", 80),
            fft=bwe.get("n_fft", 512),
            mel_bins=bwe.only("num_mels", 64),
        )
        rates = extension.generator.rates
        ratio, rest = divmod(extension.output_rate, extension.input_rate)
        if rest or math.prod(rates) != extension.hop * ratio:
            raise UserError(
                f"The checkpoint says vocoder.bwe.upsample_rates = {list(rates)}; their product must be hop_length "
                f"{extension.hop} times the whole number {extension.output_rate} / {extension.input_rate}."
            )
        return cls(_generator(s.part("vocoder"), final=True), extension, extension.input_rate)


def _generator(s: Section, *, final: bool) -> GeneratorConfig:
    s.only("stereo", True)
    kind = s.only("resblock", "1", "AMP1")
    if kind == "AMP1":
        s.only("activation", "snakebeta")
    found = GeneratorConfig(
        channels=s.get("upsample_initial_channel", 1024),
        rates=tuple(s.get("upsample_rates", (6, 5, 2, 2, 2))),
        kernels=tuple(s.get("upsample_kernel_sizes", (16, 15, 8, 4, 4))),
        res_kernels=tuple(s.get("resblock_kernel_sizes", (3, 7, 11))),
        res_dilations=tuple(map(tuple, s.get("resblock_dilation_sizes", ((1, 3, 5),) * 3))),
        anti_aliased=kind == "AMP1",
        final_bias=s.get("use_bias_at_final", True),
        final_activation=("tanh" if s.get("use_tanh_at_final", True) else "clamp") if final else "none",
    )
    if any(size % 2 == 0 for size in found.res_kernels):
        sizes = list(found.res_kernels)
        raise UserError(f"The checkpoint says {s.where}.resblock_kernel_sizes = {sizes}; supported here: odd sizes.")
    if any(kernel < rate for kernel, rate in zip(found.kernels, found.rates, strict=True)):
        raise UserError(
            f"The checkpoint says {s.where}.upsample_kernel_sizes = {list(found.kernels)}; none may be less than its "
            f"rate in upsample_rates = {list(found.rates)}."
        )
    return found
