"""What jobs need, phase by phase, and what could be asked instead: what `planning` chooses from.

Puts together the costs of the networks, which are theirs, and the weights of a checkpoint, from headers alone; phases
have the names and the order of a run's reports. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_video import platform
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion import guidance
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.schedules import SCHEDULES
from mlx_video.jobs.settings import Settings
from mlx_video.lending.loader import Loader
from mlx_video.lending.visits import Ways
from mlx_video.lending.weighing import is_quantized, weigh_component, weigh_text_encoder, weigh_upsampler
from mlx_video.media.video import ENCODED_BYTES
from mlx_video.models.family import Cost
from mlx_video.planning.plan import Change, Demand, Need
from mlx_video.results.preview import FRAMES, LENGTH
from mlx_video.types import SPACE_SCALE, TIME_SCALE, AudioShape, Modality, Pass, Phase
from mlx_video.types.recipes import Stage
from mlx_video.weights.quantize import BITS, Quantization
from mlx_video.weights.store import size_of
from mlx_video.weights.weigh import Weights

PASSED_FASTER = 50
"""Memory passes weights so many times as fast as the disk, taken low: 100 GB/s."""
ENCODER_BITS = 4
SMALLER_ENCODER = "a text encoder in 4 bit (such as --text-encoder-repo mlx-community/gemma-3-12b-it-4bit)"
SMALLER_OWN = "a text encoder in 4 bit (python -m mlx_video.convert --quantize-text-encoder 4 makes one)"
"""Where a checkpoint was trained with a text encoder that it alone has."""
SMALLER_WRITER = "a writer in 4 bit (such as --prompt-writer mlx-community/gemma-3-12b-it-4bit)"
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
class TextEncoder:
    """A text encoder by its sizes."""

    text: Any
    """Its family's module for texts."""
    config: Any
    weights: Weights

    def quantized(self, size: int) -> TextEncoder:
        """With weights, now of `size` bytes each, in few bits, about; itself where it is quantized."""
        share = 1.0 if self.config.quantization else Quantization.of(ENCODER_BITS).bytes_each(size) / size
        return replace(self, weights=self.weights.times(share))


@dataclass(frozen=True)
class Networks:
    """What a job's phases take with the networks that `loader` lends."""

    loader: Loader
    encoder: TextEncoder | None = None
    """None where no text is encoded."""
    loras: Sequence[int] = ()
    """Bytes of the user's own LoRA files."""
    quantization: Quantization | None = None
    """To be made while loading, other than the loader's own."""
    writer: TextEncoder | None = None
    """What writes a prompt out."""

    @classmethod
    def of(
        cls, loader: Loader, source: TextSource | None, loras: Sequence[int] = (), writer: TextSource | None = None
    ) -> Networks:
        """With a text encoder and what writes a prompt out, where there are such."""
        reads, writes = (
            TextEncoder(one.text, one.config, weigh_text_encoder(one, loader.text_dtype)) if one is not None else None
            for one in (source, writer)
        )
        return cls(loader, reads, loras, writer=writes)

    @property
    def costs(self) -> Any:
        """What calls cost, by the checkpoint's family."""
        return self.loader.checkpoint.family.costs()

    @property
    def smaller(self) -> Networks:
        """With its texts' networks in few bits."""
        size = self.loader.text_dtype.size
        encoder, writer = (one and one.quantized(size) for one in (self.encoder, self.writer))
        return replace(self, encoder=encoder, writer=writer)

    @property
    def smaller_words(self) -> str:
        """For messages: what `smaller` is."""
        if self.encoder is None or self.encoder.config.gemma_version is None:
            return SMALLER_ENCODER
        return SMALLER_OWN if self.writer is None else f"{SMALLER_OWN} and {SMALLER_WRITER}"

    def weights(self, component: str, audio: bool = True) -> Weights:
        """The weights of a component; `audio` of False: of the transformer without its stream for sound."""
        return weigh_component(self.loader, component, audio=audio, quantization=self.quantization)

    def simple(self, phase: Phase, component: str, cost: Cost) -> Need:
        """One call of a network that is whole in memory."""
        weights = self.weights(component)
        return Need(phase, weights.whole, round(cost.work), cost.flops, weights.read, self.loader.dtype_of(component))

    def enhance(self, encoder: TextEncoder, longest: int) -> Need:
        """Writing a prompt of so many tokens. Resident: generation visits every layer for every token."""
        size = platform.compute_dtype(wide_range=True).size
        weights = encoder.weights.whole * size // self.loader.text_dtype.size
        cost = self.costs.write_text(encoder.config, longest, size)
        read = encoder.weights.read + longest * weights // PASSED_FASTER
        return Need(Phase.ENHANCE, weights, round(cost.work), cost.flops, read)

    def texts(self, encoder: TextEncoder, texts: Sequence[str], ways: Ways, longest: int = 0) -> Need:
        """Encoding `texts`, of which the first may become as many tokens as `longest`."""
        size, streamed = self.loader.dtype.size, ways.stream_text
        tokens = self.costs.prompt_tokens(texts, longest)
        first = self.costs.encode_texts(encoder.config, tokens, size)
        then = self.costs.connect_texts(self.loader.checkpoint.config, encoder.config, tokens, size)
        own, connectors = encoder.weights, self.weights("connectors")
        read = connectors.read * (len(tokens) if streamed else 1)
        return _one_by_one(
            Need(Phase.TEXT, own.held(streamed), round(first.work), first.flops, own.read),
            Need(Phase.TEXT, connectors.held(streamed), round(then.work), read=read),
        )

    def denoise(
        self, phase: str, tokens: dict[Modality, int], passes: Sequence[Pass], calls: int, ways: Ways,
        *, batched: bool = False, distilled: bool = False, audio: bool = False,
    ) -> Need:  # fmt: skip
        """A stage of so many calls. distilled: with the distilled LoRA added; audio: in a run with sound."""
        loader, config, streamed = self.loader, self.loader.checkpoint.config, ways.stream_transformer
        keep, size = ways.keep_text, loader.dtype.size
        cost = self.costs.denoise(config, tokens, passes, calls, batched=batched, keep_text=keep, size=size)
        weights, loras = self.weights("transformer", audio or "audio" in tokens), self._loras(distilled)
        part = self._part(weights, loras) if streamed else 0
        held = weights.held(streamed) + ways.kept * part + self.costs.adapt(config, loras, streamed)
        stay = ways.kept / weights.parts if part else 1.0
        read = round(weights.read * (stay + calls * (1 - stay)))
        return Need(phase, held, round(cost.work), cost.flops, read, loader.dtype, part=part, parts=weights.parts)

    def _loras(self, distilled: bool) -> int:
        """Bytes of the LoRAs of a stage; distilled: with the distilled one."""
        file = self.loader.checkpoint.distilled_lora
        return sum(self.loras) + (size_of(file) if distilled and file is not None else 0)

    def _part(self, weights: Weights, loras: int) -> int:
        """Bytes of a block of the transformer that stays in memory: beside weights in few bits LoRAs stay, too."""
        packed = loras and (self.quantization is not None or is_quantized(self.loader))
        return weights.part + (loras // weights.parts if packed else 0)

    def upsample(self, settings: Settings, ways: Ways, kind: str, grid: Grid) -> Need:
        """Between two stages: beside the transformer and the texts, which stay for the next one.

        grid: latent frames, rows and columns of the result.
        """
        loader = self.loader
        own, transformer = weigh_upsampler(loader, kind), self.weights("transformer", "audio" in settings.modalities)
        stays = ways.stream_transformer and not ways.step_aside
        part = self._part(transformer, self._loras(distilled=any(settings.lora_strengths))) if stays else 0
        kept = transformer.rest + ways.kept * part if ways.stream_transformer else transformer.whole
        beside, again = (0, transformer.read) if ways.step_aside else (kept, 0)
        cost = self.costs.upsample(loader.upsampler(kind).settings, grid, loader.vae_dtype.size)
        texts = self.costs.contexts(loader.checkpoint.config, len(settings.prompts), loader.dtype.size)
        held, read = own.whole + beside, own.read + again
        return Need(Phase.UPSAMPLE, held, round(cost.work + texts), read=read, part=part, parts=transformer.parts)

    def decode(self, grid: Grid, tiling: str, ways: Ways, stream: bool, decoder: str = "conv") -> Need:
        """Decoding a video of latent `grid` (F, H, W)."""
        if decoder == "diffusion":
            return self._diffuse(grid, tiling, ways)
        config, size = self.loader.checkpoint.config, self.loader.vae_dtype.size
        outside = ENCODED_BYTES * grid[1] * grid[2] * SPACE_SCALE**2
        room = ways.beside(self.weights("video_decoder").whole, outside)

        def cost(mode: str) -> tuple[bool, Cost]:
            tiles = self.costs.tiles(config, mode, grid, room, stream=stream, size=size)
            return tiles.tiled, self.costs.decode_video(config, tiles, grid, size)

        tiled, taken = cost(tiling)
        need = self.simple(Phase.DECODE, "video_decoder", taken)._replace(outside=outside)
        if tiled and tiling == "auto":
            told = f"The video is decoded in overlapping tiles: whole pictures would take {{without}}. {SEAMS}"
            return need._replace(told=told, without=round(cost("none")[1].work))
        return need._replace(told=f"--tiling {tiling} decodes the video in overlapping tiles. {SEAMS}" if tiled else "")

    def _diffuse(self, grid: Grid, tiling: str, ways: Ways) -> Need:
        settings, size = self.loader.checkpoint.part("diffusion_decoder").settings, self.loader.vae_dtype.size
        outside = ENCODED_BYTES * grid[1] * grid[2] * SPACE_SCALE**2
        room = ways.beside(self.weights("diffusion_decoder").whole, outside)
        pieces = self.costs.diffuse_pieces(settings, tiling, grid, room, size)
        cost = self.costs.diffuse_video(settings, pieces, grid, size)
        need = self.simple(Phase.DECODE, "diffusion_decoder", cost)._replace(outside=outside)
        count = pieces.rows * pieces.columns
        if count == 1:
            return need
        at_once = self.costs.diffuse_pieces(settings, "none", grid, room, size)
        whole = self.costs.diffuse_video(settings, at_once, grid, size)
        told = (
            f"The video is decoded in {count} parts of the picture, without seams: whole ones would take {{without}}."
        )
        return need._replace(told=told, without=round(whole.work))


def _one_by_one(*steps: Need) -> Need:
    """A phase of steps, each of which begins when the one before has gone."""
    worst = max(steps, key=lambda need: need.peak)
    return worst._replace(flops=sum(need.flops for need in steps), read=sum(need.read for need in steps))


# ------------------------------------------------------------------------------------------------ clips


def generating(networks: Networks, settings: Settings) -> Demand:
    """A clip from a prompt."""

    def change(words: str, kept: float, asked: Settings, of: Networks = networks) -> Change:
        return Change(words, kept, lambda ways: list(_phases(of, asked, ways)))

    def faster() -> Iterator[Change]:
        for bits in () if is_quantized(networks.loader) else sorted(BITS, reverse=True):
            packed = replace(networks, quantization=Quantization.of(bits))
            yield change(f" Faster: --quantize {bits}, which stays in memory.", 1.0, settings, packed)

    def smaller() -> Iterator[list[Change]]:
        yield [change(networks.smaller_words, 2.0, settings, networks.smaller)]
        for ladder in _smaller(settings):
            yield [change(*step) for step in ladder]

    least = change(
        "the smallest clip", 0.0, _asking(_plain(settings)[0], settings.recipe.least_frames, LEAST_SIDE, LEAST_SIDE)
    )
    return Demand(change("", 1.0, settings).needs, "This run", faster, smaller, least)


def _phases(networks: Networks, settings: Settings, ways: Ways) -> Iterator[Need]:
    request, used, config = settings.request, settings.components, networks.loader.checkpoint.config
    costs = networks.costs
    shape, size, latents = settings.shape, networks.loader.vae_dtype.size, AudioShape.of(settings.shape).frames
    if networks.encoder is not None:
        longest = 0
        if networks.writer is not None and request.enhance_prompt:
            longest = request.max_tokens or networks.writer.text.MAX_TOKENS
            yield networks.enhance(networks.writer, longest)
        yield networks.texts(networks.encoder, list(settings.prompts.values()), ways, longest)
    if "video_encoder" in used:
        cost = costs.encode_picture(config, shape.height, shape.width, size)
        yield networks.simple(Phase.IMAGES, "video_encoder", cost)
    if "audio_encoder" in used:
        yield networks.simple(Phase.SOUND, "audio_encoder", costs.convert_sound(config, latents, size, decoding=False))
    if request.skip_vae:
        yield _fitting(networks, ways)
    for number, stage in enumerate(settings.recipe.stages, 1):
        for kind in stage.upsample:
            yield networks.upsample(settings, ways, kind, stage.of(shape).grid)
        yield _stage(networks, number, stage, settings, ways)
    if "vocoder" in used:
        wave = costs.make_waveform(networks.weights("vocoder").whole, latents)
        yield _one_by_one(
            networks.simple(Phase.WAVEFORM, "audio_decoder", costs.convert_sound(config, latents, size, decoding=True)),
            networks.simple(Phase.WAVEFORM, "vocoder", wave),
        )
    if request.skip_vae:
        return
    yield networks.decode(settings.decoded.grid, request.tiling, ways, request.stream, request.video_decoder or "conv")


def _fitting(networks: Networks, ways: Ways) -> Need:
    """Fitting the map that shows latents: what counts where nothing larger is decoded."""
    encoding = networks.costs.encode_picture(
        networks.loader.checkpoint.config, FRAMES * LENGTH, LENGTH, networks.loader.vae_dtype.size
    )
    cells, latents = LENGTH // SPACE_SCALE, (FRAMES - 1) // TIME_SCALE + 1
    decoding = networks.decode((latents, cells, cells), "none", ways, stream=False)
    return _one_by_one(
        networks.simple(Phase.PREVIEW, "video_encoder", encoding), decoding._replace(name=Phase.PREVIEW, outside=0)
    )


def _stage(networks: Networks, number: int, stage: Stage, settings: Settings, ways: Ways) -> Need:
    shape, tiles = stage.of(settings.shape), settings.tiles(stage)
    made = settings.request.num_generated_keyframes if number == 1 else 0
    # Of a stage in tiles, as if each were as long as the longest.
    latents = max((tile.span[1] - tile.span[0] + tile.beside for tile in tiles), default=shape.grid[0])
    beside = len(settings.request.image) + made
    tokens: dict[Modality, int] = {"video": (latents + beside) * shape.tokens // shape.grid[0]}
    if "audio" in settings.modalities and not stage.silent:
        tokens["audio"] = AudioShape.of(shape).frames
    passes = list(guidance.plan(settings.guidance if stage.guided else {}, settings.modalities).values())
    sampler, guided = SAMPLERS[stage.sampler], settings.guidance.values() if stage.guided else ()
    calls = sampler.count(settings.sigmas(stage, shape.tokens)) * max(len(tiles), 1)
    if sampler.evaluations == 1:  # midpoints are never skipped
        calls = -(-calls // (1 + min((one.skip_step for one in guided), default=0)))
    name, distilled = Phase.STAGE.numbered(number), settings.lora_strengths[number - 1] != 0
    how = {"batched": settings.batched, "distilled": distilled, "audio": "audio" in settings.modalities}
    return networks.denoise(name, tokens, passes, calls, ways, **how)


Step = tuple[str, float, Settings]
"""What could be asked instead: words, the share that it keeps, and the settings."""


def _smaller(settings: Settings) -> Iterator[list[Step]]:
    """What could be asked instead: in each list, more and more."""
    (plain, costly), request = _plain(settings), settings.request
    if costly:
        yield [(", ".join(costly), 1.0, plain)]
    if request.audio_file is None and "audio" in settings.modalities:
        silent = replace(settings, request=replace(request, audio=False), modalities=("video",))
        yield [("--no-audio", SILENT, silent)]
    height, width, frames, unit = request.height, request.width, request.num_frames, settings.recipe.size_unit
    longer = max(height, width)
    yield [
        (f"--num-frames {count}", count / frames, _asking(settings, count, height, width))
        for count in range(settings.recipe.least_frames, frames, TIME_SCALE)
    ]
    pictures: list[Step] = []
    clips: list[Step] = []
    for side in range(LEAST_SIDE, longer, unit):
        rows, columns = (max(LEAST_SIDE, round(one * side / longer / unit) * unit) for one in (height, width))
        words, kept = f"--height {rows} --width {columns}", rows * columns / (height * width)
        pictures.append((words, kept, _asking(settings, frames, rows, columns)))
        count = round((frames - 1) * side / longer / TIME_SCALE) * TIME_SCALE + 1
        count = max(count, settings.recipe.least_frames)
        words = ", ".join([*costly, f"{words} --num-frames {count}"])
        # What is left out counts for more than any size.
        clips.append((words, kept * count / frames - len(costly), _asking(plain, count, rows, columns)))
    yield pictures
    yield clips


def _asking(settings: Settings, frames: int, height: int, width: int) -> Settings:
    return replace(settings, request=replace(settings.request, num_frames=frames, height=height, width=width))


def _plain(settings: Settings) -> tuple[Settings, list[str]]:
    """Without what costs memory, and what of that was asked for."""
    request = settings.request
    costly = {
        "--tiling auto": request.tiling != "auto",
        "no --enhance-prompt": request.enhance_prompt,
        "no --guidance-batch": settings.batched,
    }
    plain = replace(settings, request=replace(request, tiling="auto", enhance_prompt=False), batched=False)
    return plain, [words for words, asked in costly.items() if asked]


# ------------------------------------------------------------------------------------------------ other jobs


def encoding(networks: Networks, texts: Sequence[str]) -> Demand:
    """Texts alone."""

    def needs(ways: Ways, of: Networks = networks) -> list[Need]:
        return [of.texts(of.encoder, texts, ways)] if of.encoder is not None else []

    smaller = Change(networks.smaller_words, 1.0, lambda ways: needs(ways, networks.smaller))
    return Demand(needs, "Encoding", smaller=lambda: [[smaller]])


def decoding(networks: Networks, grid: Grid, tiling: str, stream: bool, decoder: str = "conv") -> Demand:
    """Latents of `grid`, to frames."""

    def needs(ways: Ways, mode: str = tiling) -> list[Need]:
        return [networks.decode(grid, mode, ways, stream, decoder)]

    tiled = Change("tiling='auto'", 1.0, lambda ways: needs(ways, "auto"))
    return Demand(needs, "Decoding", smaller=lambda: [[tiled]], strict=True)


def upscaling(networks: Networks, grid: Grid, tiling: str, refined: bool) -> Demand:
    """A film whose result has latents of `grid`; refined: by a transformer that sees a chunk of it at a time."""

    def needs(ways: Ways, mode: str = tiling) -> list[Need]:
        found = [networks.decode(grid, mode, ways, stream=True)]
        if refined:
            (stage,) = networks.loader.checkpoint.family.refining["distilled"].stages
            frames = min(grid[0], stage.window.chunk if stage.window else grid[0])
            tokens: dict[Modality, int] = {"video": frames * grid[1] * grid[2]}
            calls = SAMPLERS[stage.sampler].count(SCHEDULES[stage.schedule]())
            found.append(networks.denoise(Phase.REFINE, tokens, [Pass()], calls, ways))
        return found

    tiled = Change("--tiling auto", 1.0, lambda ways: needs(ways, "auto"))
    what = "The upscaling" if refined else "Decoding the result"
    return Demand(needs, what, smaller=lambda: [[tiled]], strict=not refined)
