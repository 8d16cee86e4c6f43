"""What jobs need, phase by phase, and what could be asked instead: what `planning` chooses from.

Puts together the costs of the networks, which are theirs, and the weights of a checkpoint, from headers alone; phases
have the names and the order of a run's reports. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_video import platform
from mlx_video.diffusion import guidance
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.jobs.refine import CHUNK, RECIPES, sigmas_of
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.lending.weighing import EncoderSize, is_quantized, weigh_component, weigh_upsampler
from mlx_video.media.video import ENCODED_BYTES
from mlx_video.models.ltx_2 import costs
from mlx_video.models.ltx_2.config import CONTEXT_TOKENS
from mlx_video.models.ltx_2.costs import Cost
from mlx_video.planning.plan import Change, Demand, Need
from mlx_video.planning.settings import Settings
from mlx_video.types import SPACE_SCALE, TIME_SCALE, AudioShape, Modality, Pass, Phase, Stage
from mlx_video.weights.quantize import BITS, Quantization
from mlx_video.weights.store import size_of
from mlx_video.weights.weigh import Weights

CHARACTERS_PER_TOKEN = 3
"""Of a prompt, estimated low; English has four to five."""
CONVERSATION = 1024
"""Tokens of an idea with the instructions and a picture, estimated high."""
ENHANCED = 512
"""Tokens of an enhanced prompt at most, unless the user says otherwise."""
PASSED_FASTER = 50
"""Memory passes weights so many times as fast as the disk, taken low: 100 GB/s."""
ENCODER_BITS = 4
SMALLER_ENCODER = "a text encoder in 4 bit (such as --text-encoder-repo mlx-community/gemma-3-12b-it-4bit)"
LEAST_SIDE = 2 * SPACE_SCALE
"""Pixels; some decoders take no less."""
SILENT = 0.5
"""How much of a clip is left without its sound, beside one that has fewer frames or pixels."""
SEAMS = (
    "Near where they meet pixels differ a little from those of whole pictures: the decoder sees farther than 64 pixels."
)
"""Of 512 x 512 in tiles of 256 (the demo's decoder): PSNR 50 dB, at most 52 levels of 255."""

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Networks:
    """What a job's phases take with the networks that `loader` lends."""

    loader: Loader
    encoder: EncoderSize | None = None
    """None where no text is encoded."""
    loras: Sequence[int] = ()
    """Bytes of the user's own LoRA files."""
    quantization: Quantization | None = None
    """To be made while loading, other than the loader's own."""

    @classmethod
    def of(cls, loader: Loader, folder: Path | None, loras: Sequence[int] = ()) -> Networks:
        """With the text encoder in `folder`."""
        return cls(loader, None if folder is None else EncoderSize.of(folder, loader.text_dtype), loras)

    def weights(self, component: str, audio: bool = True) -> Weights:
        """The weights of a component; `audio` of False: of the transformer without its stream for sound."""
        return weigh_component(self.loader, component, audio=audio, quantization=self.quantization)

    def enhance(self, longest: int) -> Need:
        """Writing a prompt out. Resident: generation visits every layer for every token."""
        encoder, size = self._encoder, platform.compute_dtype(wide_range=True).size
        weights = encoder.weights.whole * size // encoder.dtype.size
        cost = costs.write_text(encoder.config, CONVERSATION, longest, size)
        read = encoder.weights.read + longest * weights // PASSED_FASTER
        return Need(Phase.ENHANCE, weights, round(cost.work), cost.flops, read)

    def texts(self, texts: Sequence[str], ways: Ways, longest: int = 0) -> Need:
        """Encoding `texts`, of which the first may become as many tokens as `longest`."""
        encoder, size = self._encoder, self.loader.dtype.size
        tokens = [min(CONTEXT_TOKENS, 2 + len(text) // CHARACTERS_PER_TOKEN) for text in texts]
        tokens[0] = max(tokens[0], min(CONTEXT_TOKENS, longest))
        connectors = self.weights("connectors")
        first = costs.encode_texts(encoder.config, tokens, size)
        then = costs.connect_texts(self.loader.checkpoint.config, encoder.config, tokens, size)
        read = connectors.read * (len(tokens) if ways.stream_text else 1)
        return _most(
            Need(
                Phase.TEXT, encoder.weights.held(ways.stream_text), round(first.work), first.flops, encoder.weights.read
            ),
            Need(Phase.TEXT, connectors.held(ways.stream_text), round(then.work), read=read),
        )

    def simple(self, phase: Phase, component: str, cost: Cost) -> Need:
        """One call of a network that is whole in memory."""
        weights = self.weights(component)
        return Need(phase, weights.whole, round(cost.work), cost.flops, weights.read, self.loader.dtype_of(component))

    def waveform(self, latents: int) -> Need:
        """From so many latents to sound."""
        mel = costs.decode_sound(self.loader.checkpoint.config, latents, self.loader.vae_dtype.size)
        sound = costs.make_waveform(self.weights("vocoder").whole, latents)
        return _most(self.simple(Phase.WAVEFORM, "audio_decoder", mel), self.simple(Phase.WAVEFORM, "vocoder", sound))

    def denoise(
        self, phase: str, tokens: dict[Modality, int], passes: Sequence[Pass], calls: int, ways: Ways,
        *, batched: bool = False, distilled: bool = False,
    ) -> Need:  # fmt: skip
        """A stage of so many calls. distilled: with the distilled LoRA added."""
        loader, streamed = self.loader, ways.stream_transformer
        size, file = loader.dtype.size, loader.checkpoint.distilled_lora
        cost = costs.denoise(
            loader.checkpoint.config, tokens, passes, calls, batched=batched, keep_text=ways.keep_text, size=size
        )
        weights = self.weights("transformer", "audio" in tokens)
        loras = sum(self.loras) + (size_of(file) if distilled and file is not None else 0)
        held = weights.held(streamed) + costs.adapt(loader.checkpoint.config, loras, streamed)
        return Need(phase, held, round(cost.work), cost.flops, weights.read * (calls if streamed else 1), loader.dtype)

    def upsample(self, settings: Settings, ways: Ways) -> Need:
        """Between two stages: beside the transformer and the texts, which stay for the next one."""
        loader, kind = self.loader, "spatial x2"
        own, transformer = weigh_upsampler(loader, kind), self.weights("transformer", "audio" in settings.modalities)
        beside = transformer.rest if ways.stream_transformer else transformer.whole
        config = loader.checkpoint.upsamplers[kind].settings
        cost = costs.upsample(config, settings.shape.grid, loader.vae_dtype.size)
        texts = costs.contexts(loader.checkpoint.config, len(settings.prompts), loader.dtype.size)
        return Need(Phase.UPSAMPLE, own.whole + beside, round(cost.work + texts), read=own.read)

    def decode(self, grid: Grid, tiling: str, ways: Ways, stream: bool) -> Need:
        """Decoding a video of latent `grid` (F, H, W)."""
        config, size = self.loader.checkpoint.config, self.loader.vae_dtype.size
        outside = ENCODED_BYTES * grid[1] * grid[2] * SPACE_SCALE**2
        room = ways.beside(self.weights("video_decoder").whole, outside)
        tiles = costs.tiles(config, tiling, grid, room, stream=stream, size=size)
        need = self.simple(Phase.DECODE, "video_decoder", costs.decode_video(config, tiles, grid, size))
        need = need._replace(outside=outside)
        if not tiles.tiled:
            return need
        if tiling != "auto":
            return need._replace(told=f"--tiling {tiling} decodes the video in overlapping tiles. {SEAMS}")
        whole = costs.tiles(config, "none", grid, room, stream=stream, size=size)
        told = f"The video is decoded in overlapping tiles: whole pictures would take {{without}}. {SEAMS}"
        return need._replace(told=told, without=round(costs.decode_video(config, whole, grid, size).work))

    @property
    def _encoder(self) -> EncoderSize:
        assert self.encoder is not None
        return self.encoder

    def with_encoder(self, bits: int) -> Networks:
        """The same with a text encoder of so many bits, as quantizers make them; itself where there is none to make."""
        if self.encoder is None or self.encoder.config.quantization is not None:
            return self
        return replace(self, encoder=self.encoder.quantized(Quantization.of(bits)))


def _most(*one_by_one: Need) -> Need:
    """A phase of several steps, each of which begins when the one before has gone."""
    worst = max(one_by_one, key=lambda need: need.peak)
    return worst._replace(flops=sum(n.flops for n in one_by_one), read=sum(n.read for n in one_by_one))


# ------------------------------------------------------------------------------------------------ clips


def generating(networks: Networks, settings: Settings) -> Demand:
    """A clip from a prompt."""

    def change(words: str, kept: float, asked: Settings, of: Networks = networks) -> Change:
        return Change(words, kept, lambda ways: list(_phases(of, asked, ways)))

    def faster() -> Iterator[Change]:
        for bits in () if is_quantized(networks.loader) else sorted(BITS, reverse=True):
            packed = replace(networks, quantization=Quantization.of(bits))
            yield change(f" Faster: --quantize {bits}, which stays in memory.", 1.0, settings, packed)

    return Demand(
        change("", 1.0, settings).needs,
        faster=faster,
        smaller=lambda: _smaller(networks, settings, change),
        least=change("the smallest clip", 0.0, _sized(_plain(settings)[1], LEAST_SIDE, LEAST_SIDE, 1)),
    )


def _phases(networks: Networks, settings: Settings, ways: Ways) -> Iterator[Need]:
    request, used, config = settings.request, settings.components, networks.loader.checkpoint.config
    shape, size = settings.shape, networks.loader.vae_dtype.size
    if networks.encoder is not None:
        longest = (request.max_tokens or ENHANCED) if request.enhance_prompt else 0
        if longest:
            yield networks.enhance(longest)
        yield networks.texts(list(settings.prompts.values()), ways, longest)
    if "video_encoder" in used:
        cost = costs.encode_picture(config, shape.height, shape.width, size)
        yield networks.simple(Phase.IMAGES, "video_encoder", cost)
    latents = AudioShape.of(request.shape).frames
    if "audio_encoder" in used:
        yield networks.simple(Phase.SOUND, "audio_encoder", costs.encode_sound(config, latents, size))
    scale = settings.recipe.stages[0].scale
    for number, stage in enumerate(settings.recipe.stages, 1):
        if stage.scale != scale:
            yield networks.upsample(settings, ways)
        yield _stage(networks, number, stage, settings, ways)
        scale = stage.scale
    if "vocoder" in used:
        yield networks.waveform(latents)
    yield networks.decode(shape.grid, request.tiling, ways, request.stream)


def _stage(networks: Networks, number: int, stage: Stage, settings: Settings, ways: Ways) -> Need:
    shape = settings.shape.scaled(stage.scale)
    pictures = len(settings.request.image) * shape.tokens // shape.grid[0]
    tokens: dict[Modality, int] = {"video": shape.tokens + pictures}
    if "audio" in settings.modalities:
        tokens["audio"] = AudioShape.of(shape).frames
    passes = guidance.plan(settings.guidance if stage.guided else {}, settings.modalities)
    calls = SAMPLERS[stage.sampler].count(settings.sigmas(stage, shape.tokens))
    return networks.denoise(
        Phase.STAGE.numbered(number), tokens, list(passes.values()), calls, ways,
        batched=settings.batched, distilled=settings.lora_strengths[number - 1] != 0,
    )  # fmt: skip


def _smaller(networks: Networks, settings: Settings, change: Any) -> Iterator[list[Change]]:
    yield [change(SMALLER_ENCODER, 2.0, settings, networks.with_encoder(ENCODER_BITS))]
    yield from ([change(words, 1.0, asked)] for words, asked in _costly(settings))
    if settings.request.audio_file is None and "audio" in settings.modalities:
        silent = replace(_asking(settings, audio=False), modalities=("video",))
        yield [change("--no-audio", SILENT, silent)]
    request = settings.request
    height, width, frames = request.height, request.width, request.num_frames
    longer, unit = max(height, width), settings.recipe.size_unit
    yield [
        change(f"--num-frames {count}", count / frames, _asking(settings, num_frames=count))
        for count in range(1, frames, TIME_SCALE)
    ]
    names, plain = _plain(settings)
    smaller, both = [], []
    for side in range(LEAST_SIDE, longer, unit):
        rows, columns = (max(LEAST_SIDE, round(one * side / longer / unit) * unit) for one in (height, width))
        words, kept = f"--height {rows} --width {columns}", rows * columns / (height * width)
        smaller.append(change(words, kept, _sized(settings, rows, columns, frames)))
        count = round((frames - 1) * side / longer / TIME_SCALE) * TIME_SCALE + 1
        words = ", ".join([*names, f"{words} --num-frames {count}"])
        # What is left out counts for more than any size.
        both.append(change(words, kept * count / frames - len(names), _sized(plain, rows, columns, count)))
    yield smaller
    yield both


def _asking(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, request=replace(settings.request, **changes))


def _sized(settings: Settings, height: int, width: int, frames: int) -> Settings:
    return _asking(settings, height=height, width=width, num_frames=frames)


def _costly(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """What was asked for at the cost of memory, and the settings without it."""
    for words, changed in (
        ("--tiling auto", _asking(settings, tiling="auto")),
        ("no --enhance-prompt", _asking(settings, enhance_prompt=False)),
        ("no --guidance-batch", replace(settings, batched=False)),
    ):
        if changed != settings:
            yield words, changed


def _plain(settings: Settings) -> tuple[list[str], Settings]:
    """What was asked for at the cost of memory, and the settings without any of it."""
    names = []
    while found := next(_costly(settings), None):
        names.append(found[0])
        settings = found[1]
    return names, settings


# ------------------------------------------------------------------------------------------------ other jobs


def encoding(networks: Networks, texts: Sequence[str]) -> Demand:
    """Texts alone."""
    smaller = networks.with_encoder(ENCODER_BITS)
    change = Change(SMALLER_ENCODER, 1.0, lambda ways: [smaller.texts(texts, ways)])
    return Demand(lambda ways: [networks.texts(texts, ways)], "Encoding", smaller=lambda: [[change]])


def decoding(networks: Networks, grid: Grid, tiling: str, stream: bool) -> Demand:
    """Latents of `grid`, to frames."""
    change = Change("tiling='auto'", 1.0, lambda ways: [networks.decode(grid, "auto", ways, stream)])
    return Demand(
        lambda ways: [networks.decode(grid, tiling, ways, stream)], "Decoding", smaller=lambda: [[change]], strict=True
    )


def upscaling(networks: Networks, grid: Grid, tiling: str, refined: bool) -> Demand:
    """A film whose result has latents of `grid`; refined: by a transformer that sees a chunk of it at a time."""

    def needs(ways: Ways, mode: str = tiling) -> list[Need]:
        found = [networks.decode(grid, mode, ways, stream=True)]
        if refined:
            tokens: dict[Modality, int] = {"video": min(grid[0], CHUNK) * grid[1] * grid[2]}
            calls = SAMPLERS[RECIPES["distilled"].stages[0].sampler].count(sigmas_of(None))
            found.append(networks.denoise(Phase.REFINE, tokens, [Pass()], calls, ways))
        return found

    change = Change("--tiling auto", 1.0, lambda ways: needs(ways, "auto"))
    what = "The upscaling" if refined else "Decoding the result"
    return Demand(needs, what, smaller=lambda: [[change]], strict=not refined)
