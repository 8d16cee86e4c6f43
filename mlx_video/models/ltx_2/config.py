"""What a checkpoint's own metadata says of each network.

The `config` JSON of an official file is read into one frozen dataclass per network. The defaults here are the ones that
the format itself gives an absent key; generations differ only by what the file says. A value that the code does not
implement raises, naming key, value and what is supported. Knows no files and no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_video.types import AUDIO_TIME_SCALE, Modality, UserError

CONTEXT_TOKENS = 1024
"""Length of every text context: prompts are cut to it, and registers fill what a prompt leaves free."""


class Section:
    """One part of a config with its name, so that an error can say where a value stands."""

    def __init__(self, values: Mapping[str, Any], where: str):
        """`values` is the part itself; `where` its path in the config, such as "transformer"."""
        self.values, self.where = values, where

    def get(self, key: str, default: Any) -> Any:
        """The value of `key`, or `default` where the file does not have it."""
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        """The value of `key`, which must be there."""
        if self.values.get(key) is None:
            raise UserError(f"The checkpoint's config lacks {self.where}.{key}.")
        return self.values[key]

    def only(self, key: str, *supported: Any) -> Any:
        """The value of `key`, which must be one of `supported`; the first is what an absent key means."""
        value = self.values.get(key, supported[0])
        if value not in supported:
            listed = ", ".join(map(repr, supported))
            raise UserError(f"The checkpoint says {self.where}.{key} = {value!r}; supported here: {listed}.")
        return value

    def part(self, key: str) -> Section:
        """The section under `key`, which must be there."""
        value = self.need(key)
        if not isinstance(value, Mapping):
            raise UserError(f"The checkpoint's config has {self.where}.{key} = {value!r}, which should be a section.")
        return Section(value, f"{self.where}.{key}")


def section(config: Mapping[str, Any], key: str) -> Section:
    """The top-level section `key` of a checkpoint's config."""
    return Section(config, "config").part(key)


@dataclass(frozen=True)
class StreamConfig:
    """The geometry of one modality's stream through the transformer."""

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    context_dim: int
    max_positions: tuple[int, ...]
    feed_forward_bias: bool

    @property
    def dim(self) -> int:
        """Width of the stream."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The two-stream diffusion transformer. `audio` of None builds the video stream alone."""

    layers: int
    video: StreamConfig
    audio: StreamConfig | None
    norm_eps: float
    theta: float
    timestep_scale: float
    cross_timestep_scale: float
    gated_attention: bool
    text_adaln: bool
    """Text cross-attention with AdaLN on queries and prompt (LTX-2.3)."""
    caption_channels: int | None
    """Width of the connectors' output where the transformer projects captions itself (LTX-2), else None."""
    rope_float64: bool

    @property
    def streams(self) -> dict[Modality, StreamConfig]:
        """The streams that there are, video first."""
        return {"video": self.video} if self.audio is None else {"video": self.video, "audio": self.audio}

    @property
    def rows(self) -> int:
        """AdaLN vectors of a stream in a block: shift, scale and gate of self-attention, feed-forward and perhaps text."""
        return 9 if self.text_adaln else 6

    @classmethod
    def read(cls, config: Mapping[str, Any], *, audio: bool = True) -> TransformerConfig:
        """From a checkpoint's config; `audio` False leaves the audio stream out."""
        s = section(config, "transformer")
        for key, value in (
            ("activation_fn", "gelu-approximate"), ("attention_bias", True), ("av_cross_ada_norm", True),
            ("cross_attention_norm", True), ("double_self_attention", False), ("dropout", 0.0),
            ("norm_elementwise_affine", False), ("num_embeds_ada_norm", 1000), ("num_vector_embeds", None),
            ("only_cross_attention", False), ("positional_embedding_type", "rope"), ("qk_norm", "rms_norm"),
            ("rope_type", "split"), ("share_ff", False), ("standardization_norm", "rms_norm"),
            ("upcast_attention", False), ("use_audio_video_cross_attention", True),
            ("use_keyframes_abs_pos_embedding", False), ("use_linear_projection", False),
            ("use_middle_indices_grid", True), ("use_prompt_adaln_single", True),
        ):  # fmt: skip
            s.only(key, value)
        text_adaln = s.get("cross_attention_adaln", False)
        return cls(
            layers=s.get("num_layers", 48),
            video=_stream(s, "", 32, 128, 4096, (20, 2048, 2048), "ff_bias"),
            audio=_stream(s, "audio_", 32, 64, 2048, (20,), "audio_ff_bias") if audio else None,
            norm_eps=s.get("norm_eps", 1e-6),
            theta=s.get("positional_embedding_theta", 10000.0),
            timestep_scale=s.get("timestep_scale_multiplier", 1000),
            cross_timestep_scale=s.get("av_ca_timestep_scale_multiplier", 1),
            gated_attention=s.get("apply_gated_attention", False),
            text_adaln=text_adaln,
            caption_channels=None if s.get("caption_proj_before_connector", False) else s.get("caption_channels", 3840),
            rope_float64=s.only("frequencies_precision", "float32", "float64") == "float64",
        )


def _stream(
    s: Section, prefix: str, heads: int, head_dim: int, context: int, positions: tuple, bias: str
) -> StreamConfig:
    return StreamConfig(
        heads=s.get(f"{prefix}num_attention_heads", heads),
        head_dim=s.get(f"{prefix}attention_head_dim", head_dim),
        in_channels=s.get(f"{prefix}in_channels", 128),
        out_channels=s.get(f"{prefix}out_channels", 128),
        context_dim=s.get(f"{prefix}cross_attention_dim", context),
        max_positions=tuple(s.get(f"{prefix}positional_embedding_max_pos", positions)),
        feed_forward_bias=s.get(bias, True),
    )


@dataclass(frozen=True)
class ConnectorConfig:
    """One modality's connector: a small transformer over text features and learned registers."""

    heads: int
    head_dim: int
    layers: int
    max_position: int
    gated_attention: bool
    feed_forward_bias: bool
    registers: int
    rope_float64: bool

    @property
    def dim(self) -> int:
        """Width of the features it takes and gives."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TextConfig:
    """From the text encoder's hidden states to both contexts."""

    per_token_norm: bool
    """LTX-2.3: RMS per token and two projections; LTX-2: range per layer and one projection."""
    features: int
    """Values of one token over all hidden states: width x (layers + 1) of the text encoder that belongs to it."""
    video: ConnectorConfig
    audio: ConnectorConfig

    @classmethod
    def read(cls, config: Mapping[str, Any], *, features: int) -> TextConfig:
        """From a checkpoint's config; the feature extractor follows from which caption keys are present.

        features: the only size that no config states; `connectors.feature_width` reads it from the tensors' shapes.
        """
        s = section(config, "transformer")
        s.only("rope_type", "split")
        keys = (
            "caption_proj_before_connector", "caption_projection_first_linear",
            "caption_proj_input_norm", "caption_projection_second_linear",
        )  # fmt: skip
        said = tuple(s.values.get(key) for key in keys)
        if said not in ((None,) * 4, (True, False, False, False)):
            raise UserError(
                f"The checkpoint says {dict(zip(keys, said, strict=True))}; supported: all absent (LTX-2) or "
                f"true, false, false, false (LTX-2.3)."
            )
        video = ConnectorConfig(
            heads=s.get("connector_num_attention_heads", 30),
            head_dim=s.get("connector_attention_head_dim", 128),
            layers=s.get("connector_num_layers", 2),
            max_position=s.get("connector_positional_embedding_max_pos", [1])[0],
            gated_attention=s.get("connector_apply_gated_attention", False),
            feed_forward_bias=s.get("connector_ff_bias", True),
            registers=s.get("connector_num_learnable_registers", 128),
            rope_float64=s.get("frequencies_precision", "float32") == "float64",
        )
        audio = replace(
            video,
            heads=s.get("audio_connector_num_attention_heads", video.heads),
            head_dim=s.get("audio_connector_attention_head_dim", video.head_dim),
            layers=s.get("audio_connector_num_layers", video.layers),
        )
        found = cls(said[0] is True, features, video, audio)
        if video.registers < 1 or CONTEXT_TOKENS % video.registers:
            raise UserError(
                f"The checkpoint says transformer.connector_num_learnable_registers = {video.registers}; "
                f"supported: a divisor of {CONTEXT_TOKENS}."
            )
        if not found.per_token_norm and audio.dim != video.dim:
            raise UserError(
                f"The checkpoint's connectors are {video.dim} (video) and {audio.dim} (audio) wide, but "
                f"its one text projection (LTX-2) feeds both; supported: equal widths."
            )
        return found

    def check_encoder(self, width: int, layers: int) -> None:
        """Raises UserError where a text encoder of `layers` layers, `width` wide, is not the checkpoint's own."""
        if width * (layers + 1) != self.features:
            raise UserError(
                f"The text encoder has {layers} layers of width {width}, which gives {width * (layers + 1)} features a "
                f"token, but the checkpoint takes {self.features}: use the one that it was trained with "
                f"(LTX-2 and LTX-2.3: Gemma 3 12B, 48 layers of width 3840, 188160 features)."
            )


@dataclass(frozen=True)
class VideoVAEConfig:
    """The convolutional video autoencoder, both halves."""

    in_channels: int
    out_channels: int
    latent_channels: int
    patch_size: int
    encoder_blocks: tuple[tuple[str, Mapping[str, Any]], ...]
    decoder_blocks: tuple[tuple[str, Mapping[str, Any]], ...]
    decoder_base_channels: int
    causal_decoder: bool
    encoder_padding: str
    decoder_padding: str

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VideoVAEConfig:
        """From a checkpoint's config; the diffusion decoder of LTX-2.5 and timestep conditioning are refused by name."""
        s = section(config, "vae")
        s.only("_class_name", "CausalVideoAutoencoder")
        s.only("dims", 3)
        s.only("norm_layer", "pixel_norm")
        s.only("latent_log_var", "uniform")
        if s.get("timestep_conditioning", True):
            raise UserError("The checkpoint says vae.timestep_conditioning = True; supported here: False.")
        own = s.only("encoder_spatial_padding_mode", "zeros", "reflect")
        return cls(
            in_channels=s.get("in_channels", 3),
            out_channels=s.get("out_channels", 3),
            latent_channels=s.get("latent_channels", 128),
            patch_size=s.get("patch_size", 4),
            encoder_blocks=_blocks(s, "encoder_blocks"),
            decoder_blocks=_blocks(s, "decoder_blocks"),
            decoder_base_channels=s.get("decoder_base_channels", 128),
            causal_decoder=s.get("causal_decoder", False),
            # Where both are said the encoder, too, follows the plain key, as in the reference.
            encoder_padding=s.only("spatial_padding_mode", own, "zeros", "reflect"),
            decoder_padding=s.only("spatial_padding_mode", "reflect", "zeros"),
        )


def _blocks(s: Section, key: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    # A bare number stands for {"num_layers": number}.
    return tuple((name, {"num_layers": what} if isinstance(what, int) else dict(what)) for name, what in s.need(key))


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


@dataclass(frozen=True)
class UpsamplerConfig:
    """The latent upsampler: space by 2 (plain), by 1.5, 2, 4 or 0.75 (rational), time by 2, or space and time by 2."""

    in_channels: int
    mid_channels: int
    blocks: int
    """Residual blocks before the resampling, and as many after it."""
    spatial: bool
    temporal: bool
    scale: float
    """Of height and width; 1.0 where only time is upsampled."""
    rational: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UpsamplerConfig:
        """From an upsampler file's own flat config."""
        s = Section(config, "config")
        s.only("dims", 3)
        spatial, temporal = s.get("spatial_upsample", True), s.get("temporal_upsample", False)
        if not spatial and not temporal:
            raise UserError(
                "The upsampler's config has spatial_upsample and temporal_upsample both off; one must be on."
            )
        channels = s.get("mid_channels", 512)
        if channels % UPSAMPLER_GROUPS:
            raise UserError(
                f"The checkpoint says config.mid_channels = {channels}; supported: multiples of {UPSAMPLER_GROUPS}."
            )
        rational = spatial and not temporal and s.get("rational_resampler", False)
        # The plain resampler doubles whatever spatial_scale says, so the key is read for the rational one alone.
        scale = float(s.only("spatial_scale", *UPSAMPLER_RATIOS)) if rational else 2.0 if spatial else 1.0
        return cls(
            s.get("in_channels", 128), channels, s.get("num_blocks_per_stage", 4), spatial, temporal, scale, rational
        )

    @property
    def ratio(self) -> tuple[int, int]:
        """`scale` as a fraction: up by the first, then down by the second."""
        return UPSAMPLER_RATIOS[self.scale] if self.rational else (round(self.scale), 1)

    def grid(self, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns that a latent of the given size is upsampled to."""
        up, down = self.ratio
        return (2 * frames - 1 if self.temporal else frames), -(-rows * up // down), -(-columns * up // down)


UPSAMPLER_RATIOS = {2.0: (2, 1), 1.5: (3, 2), 4.0: (4, 1), 0.75: (3, 4)}
"""Scales of the rational resampler; the first is what an absent key means."""
UPSAMPLER_GROUPS = 32
"""Groups of its normalisation."""
