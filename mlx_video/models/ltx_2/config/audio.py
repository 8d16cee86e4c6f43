"""What a checkpoint says of its audio autoencoder and its vocoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.models.section import MAX_BLOCKS, MAX_LAYERS, MAX_WIDTH, Section, Stacks, are_integers, section
from mlx_video.reading import shown
from mlx_video.types import AUDIO_TIME_SCALE, UserError

RATES = 1000, 192_000
"""Samples a second, from telephones to studios."""
MAX_WINDOW, MAX_BINS = 1 << 14, 1024
"""Samples of a Fourier transform; bins of a spectrogram."""


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

    @property
    def encoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        return self._stacks("down", 0)

    @property
    def decoder_stacks(self) -> Stacks:
        """See `Stacks`."""
        return self._stacks("up", 1)

    def _stacks(self, path: str, more: int) -> Stacks:
        key, levels = "audio_vae.model.params.ddconfig.num_res_blocks", range(len(self.multipliers))
        return {f"{path}.{i}.block": (key, self.res_blocks + more) for i in levels}

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> AudioVAEConfig:
        """From a checkpoint's config; attention inside the autoencoder is refused by name, no released file has it."""
        s = section(config, "audio_vae")
        params = s.part("model").part("params")
        d, pre = params.part("ddconfig"), s.part("preprocessing", optional=True)
        stft, mel = pre.part("stft", optional=True), pre.part("mel", optional=True)
        d.only("norm_type", "pixel")
        d.only("causality_axis", "height")
        d.only("double_z", True)
        d.only("resamp_with_conv", True)
        multipliers = d.integers("ch_mult", (1, 2, 4), 1, 64)
        resolutions = {d.integer("resolution", 256) // 2**i for i in range(len(multipliers))}
        attended = _resolutions(d, "attn_resolutions", (8, 16, 32))
        if d.flag("mid_block_add_attention", True) or resolutions & set(attended):
            raise UserError(f"{s.whose} has an audio_vae with attention blocks; supported here: none.")
        if 2 ** (len(multipliers) - 1) != AUDIO_TIME_SCALE:
            raise UserError(f"{s.whose} has an audio_vae with {len(multipliers)} levels (ch_mult); supported here: 3.")
        bins = s.part("variables", optional=True).integer("mel_bins", 64, 1, MAX_BINS)
        bins = mel.integer("n_mel_channels", bins, 1, MAX_BINS)
        found = cls(
            channels=d.integer("ch", 128),
            multipliers=multipliers,
            res_blocks=d.integer("num_res_blocks", 2, 0, MAX_LAYERS),
            latent_channels=d.integer("z_channels", 8),
            in_channels=d.only("in_channels", 2),
            out_channels=d.only("out_ch", 2),
            mel_bins=d.integer("mel_bins", bins, 1, MAX_BINS),
            sample_rate=params.integer("sampling_rate", 16_000, *RATES),
            hop=stft.integer("hop_length", 160, 1, MAX_WINDOW),
            fft=stft.integer("filter_length", 1024, 16, MAX_WINDOW),
        )
        if found.channels != found.latent_channels * found.latent_bins or found.mel_bins % AUDIO_TIME_SCALE:
            # The reference takes the statistics' width, which is a token's, from ch.
            raise UserError(
                f"{s.whose} says audio_vae ch = {found.channels}; with {found.latent_channels} latent channels "
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
            return cls(_generator(s, final=True), None, s.integer("output_sampling_rate", 24_000, *RATES))
        bwe = s.part("bwe")
        extension = BandwidthConfig(
            generator=_generator(bwe, final=False),
            input_rate=bwe.integer("input_sampling_rate", 16_000, *RATES),
            output_rate=bwe.integer("output_sampling_rate", 48_000, *RATES),
            hop=bwe.integer("hop_length", 80, 1, MAX_WINDOW),
            fft=bwe.integer("n_fft", 512, 16, MAX_WINDOW),
            mel_bins=bwe.only("num_mels", 64),
        )
        rates = extension.generator.rates
        ratio, rest = divmod(extension.output_rate, extension.input_rate)
        if rest or math.prod(rates) != extension.hop * ratio:
            raise UserError(
                f"{s.whose} says vocoder.bwe.upsample_rates = {list(rates)}; their product must be hop_length "
                f"{extension.hop} times the whole number {extension.output_rate} / {extension.input_rate}."
            )
        return cls(_generator(s.part("vocoder"), final=True), extension, extension.input_rate)


def _generator(s: Section, *, final: bool) -> GeneratorConfig:
    s.only("stereo", True)
    kind = s.only("resblock", "1", "AMP1")
    if kind == "AMP1":
        s.only("activation", "snakebeta")
    found = GeneratorConfig(
        channels=s.integer("upsample_initial_channel", 1024),
        rates=s.integers("upsample_rates", (6, 5, 2, 2, 2), 1, 64),
        kernels=s.integers("upsample_kernel_sizes", (16, 15, 8, 4, 4), 1, 256),
        res_kernels=s.integers("resblock_kernel_sizes", (3, 7, 11), 1, 63),
        res_dilations=_dilations(s, "resblock_dilation_sizes", ((1, 3, 5),) * 3),
        anti_aliased=kind == "AMP1",
        final_bias=s.flag("use_bias_at_final", True),
        final_activation=("tanh" if s.flag("use_tanh_at_final", True) else "clamp") if final else "none",
    )
    for one, first, other, second in (
        ("upsample_rates", found.rates, "upsample_kernel_sizes", found.kernels),
        ("resblock_kernel_sizes", found.res_kernels, "resblock_dilation_sizes", found.res_dilations),
    ):
        if len(first) != len(second):
            raise UserError(
                f"{s.whose} says {s.where}.{one} for {len(first)} layers and {other} for {len(second)}; "
                f"the two must list as many."
            )
    if found.channels % 2 ** len(found.rates):
        raise UserError(
            f"{s.whose} says {s.where}.upsample_initial_channel = {found.channels}, which is halved with each of "
            f"the {len(found.rates)} upsample_rates; it must be a multiple of {2 ** len(found.rates)}."
        )
    if any(size % 2 == 0 for size in found.res_kernels):
        sizes = list(found.res_kernels)
        raise UserError(f"{s.whose} says {s.where}.resblock_kernel_sizes = {sizes}; supported here: odd sizes.")
    if any(kernel < rate for kernel, rate in zip(found.kernels, found.rates, strict=True)):
        raise UserError(
            f"{s.whose} says {s.where}.upsample_kernel_sizes = {list(found.kernels)}; none may be less than its "
            f"rate in upsample_rates = {list(found.rates)}."
        )
    return found


def _dilations(s: Section, key: str, default: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    found = s.values.get(key)
    if found is None:
        return default
    lists = isinstance(found, list | tuple) and 1 <= len(found) <= MAX_BLOCKS
    if not lists or not all(are_integers(one, 1, 256) for one in found):
        raise UserError(
            f"{s.whose} says {s.where}.{key} = {shown(found)}; it should be a list of lists of whole numbers "
            f"from 1 to 256."
        )
    return tuple(map(tuple, found))


def _resolutions(s: Section, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    # Alone among the lists it is empty in the published files.
    return () if s.values.get(key) == [] else s.integers(key, default, 1, MAX_WIDTH)
