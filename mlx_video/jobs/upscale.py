"""Makes a picture or a video larger, or its motion finer: encode, upsample the latents, refine if asked, decode.

Whatever the source's size and length: it is padded to what the networks take (its edges and its last frame repeated)
and the result is cut back. Frames pass a few at a time; what stays in memory of a long clip is its latents, a 48th of
the result's bytes in float32. Knows sources, networks and the order of the steps; knows no flags.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import numpy as np

from mlx_video import platform
from mlx_video.checkpoints import demo
from mlx_video.checkpoints.checkpoint import Checkpoint
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.provenance import marks_of, model_of, parent_of
from mlx_video.diffusion.noise import draws
from mlx_video.diffusion.schedules import REFINE
from mlx_video.jobs.decode import Decoders
from mlx_video.jobs.demand import Networks, upscaling
from mlx_video.jobs.generate import Run
from mlx_video.jobs.stages import Inputs, upsample
from mlx_video.lending.finite import Origin
from mlx_video.lending.loader import Loader, parameter_bytes
from mlx_video.lending.visits import Ways
from mlx_video.media.files import check_input
from mlx_video.media.image import is_picture, read_image
from mlx_video.media.video import Film, frame_rate, read_video
from mlx_video.models.families import DEFAULT
from mlx_video.models.family import Facts
from mlx_video.planning.plan import Plan, make_plan
from mlx_video.request import Request, Upscaling
from mlx_video.results.clip import Clip
from mlx_video.results.look import Look
from mlx_video.results.outputs import check_outputs
from mlx_video.types import SPACE_SCALE, TIME_SCALE, Listener, Noise, Phase, Tree, UserError, VideoShape, Watch
from mlx_video.types.recipes import Recipe

if TYPE_CHECKING:
    from mlx_video.runner import Runner

PHASES = {"spatial x1.5": Phase.UPSCALE, "spatial x2": Phase.UPSCALE, "temporal x2": Phase.FPS}
MAX_SIDE = 8192
"""Pixels of the result: what H.264 encoders take."""
MAX_FPS = 60.0
"""Beyond this the transformer is told so many frames a second (reference: the temporal rounds of `DFRPipeline`)."""
STILL_FPS = Fraction(24)
"""What the transformer is told of a picture's rate."""


# ------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Still:
    """A picture, as a film of one frame."""

    path: Path
    pixels: np.ndarray
    fps: Fraction = STILL_FPS
    count: int = 1
    sound: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    def frames(self) -> Iterator[np.ndarray]:
        """The picture, (H, W, 3) uint8."""
        yield self.pixels


Source = Film | Still


def read_source(asked: Upscaling, report: Listener = lambda progress: None) -> Source:
    """The picture or video to upscale, read through; raises UserError where it cannot be, or is too large."""
    path = check_input(asked.input, "a picture or a video")
    source: Source = Still(path, read_image(path)) if is_picture(path) else _read_film(path, report)
    if asked.fps_scale > 1 and isinstance(source, Still):
        raise UserError(f"--fps-scale {asked.fps_scale} has no effect on a picture, and {path} is one.")
    for side in (source.height, source.width):
        if side * asked.scale > MAX_SIDE:
            raise UserError(
                f"{path} is {source.width}x{source.height}; {asked.scale:g} times that is more than {MAX_SIDE} pixels "
                f"a side, which is the most. Its longer side may have {int(MAX_SIDE / asked.scale)}."
            )
    frame_rate(source.fps * asked.fps_scale)
    return source


def _read_film(path: Path, report: Listener) -> Film:
    steps = platform.Steps(Phase.READ, 1, report)

    def told(done: int, stated: int) -> None:
        steps.total = max(stated, done + 1)  # it is over when the file is, whatever it says
        steps.tell(done)

    film = read_video(path, told)
    steps.total = film.count
    steps.tell(film.count)
    return film


# ------------------------------------------------------------------------------------------------ the job


class Upscale:
    """A picture or video upscaled."""

    source: Source
    loader: Loader
    ways: Ways
    _plan: Plan | None = None
    _refining: Run | None = None
    _parents: tuple[dict[str, Any], ...] = ()

    def __init__(
        self,
        asked: Upscaling,
        output: str | Path | None = None,
        noise: Noise | Mapping[str, Any] | None = None,
    ):
        """output: where it will be saved, so that a place without room for it is refused before the work.

        noise: as `LTXPipeline.upscale` takes it.
        """
        self.asked, self._output, self._noise = asked, output, noise

    def check(self, watch: Watch) -> None:
        """What needs no model."""
        self.asked.check()
        self.source = read_source(self.asked, watch.report)
        self._parents = (parent_of(self.source.path),)  # as it is now: the run may take an hour
        if self._output is not None:
            check_outputs(self._output, self._look, inputs=self._inputs)

    def open(self, runner: Runner, outlines: Outlines) -> tuple[str, ...]:
        """Raises UserError where checkpoint, source and memory do not go together."""
        asked, source, take = self.asked, self.source, outlines.take
        checkpoint = runner.checkpoint(
            DEFAULT.refining["distilled"], text_encoder=asked.refine, upsamplers=asked.upsamplers, take=take
        )
        loader = self.loader = runner.loader(checkpoint)
        for component in ("video_encoder", "video_decoder", *(["latent_statistics"] if asked.upsamplers else [])):
            loader.check(component)
        for kind in asked.upsamplers:
            loader.check("upsampler", kind=kind)
        grid = latent_grid(asked, source, checkpoint)
        demand = upscaling(Networks(loader), grid, asked.tiling, asked.refine)
        self._plan = make_plan(demand, runner.memory)
        loader.ways = self.ways = self._plan.ways
        messages = [demo.ENLARGES, demo.advice(asked.prompt)] if runner.where == demo.NAME else []
        if asked.refine:
            request = _request(grid, asked, source)
            self._refining = Run.open(request, _recipe(checkpoint, asked.steps), runner, loader, take)
            messages += self._refining.messages
        return tuple(filter(None, messages))

    def run(self, watch: Watch) -> Clip:
        """The source upscaled, up to its latents; frames are decoded when asked for."""
        asked, source, loader, refining = self.asked, self.source, self.loader, self._refining
        if self._plan is not None:
            watch.expect(self._plan.expected)
        noise = draws(asked.seed, self._noise)
        if refining is None:
            noise.finish()
        contexts = refining.contexts(watch) if refining else {}
        latent = encode(asked, source, loader, watch.report).transpose(0, 4, 1, 2, 3).astype(mx.float32)
        for kind in asked.upsamplers:
            latent = upsample(latent, kind, loader, watch.report, PHASES[kind])
        mx.eval(latent)
        latents: Tree = {"video": latent}
        if refining is not None:
            made = (latent.shape[2], latent.shape[3], latent.shape[4])
            settings = replace(refining.settings, request=_request(made, asked, source))
            inputs = Inputs(contexts, latents=latents)
            *_, latents = replace(refining, settings=settings).denoise(inputs, noise, watch)
        metadata = {**asked.metadata, **model_of(loader.checkpoint), "parents": list(self._parents)}
        metadata["files"] = marks_of(loader.checkpoint, refining.encoder if refining else None)
        return Clip(latents, self._look, metadata, Decoders(loader), inputs=self._inputs)

    @property
    def _look(self) -> Look:
        asked, source, still = self.asked, self.source, isinstance(self.source, Still)
        # Half a pixel is left out, and of a video the last of an odd number, since 4:2:0 has even sizes alone.
        sides = [int(side * asked.scale) for side in (source.height, source.width)]
        height, width = sides if still else [max(2, side // 2 * 2) for side in sides]
        rate = source.fps * asked.fps_scale
        shape = VideoShape(asked.fps_scale * (source.count - 1) + 1, height, width, float(rate))
        sound: Literal["source"] | None = "source" if source.sound else None
        return Look(
            shape, rate=rate, tiling=asked.tiling, stream=True, sound=sound, source=str(source.path), still=still
        )

    @property
    def _inputs(self) -> dict[str, str]:
        return {f"--input {self.asked.input}": str(self.source.path)}


def _recipe(checkpoint: Checkpoint, steps: int | None) -> Recipe:
    """How a checkpoint refines, in the last `steps` steps of its schedule."""
    recipe = checkpoint.family.refining[checkpoint.variant or "distilled"]
    if steps is None:
        return recipe
    return replace(recipe, stages=tuple(replace(stage, start=REFINE[-steps - 1]) for stage in recipe.stages))


def _request(grid: tuple[int, int, int], asked: Upscaling, source: Source) -> Request:
    """What refining latents of `grid` asks for."""
    frames, rows, columns = grid
    fps = min(float(source.fps * asked.fps_scale), MAX_FPS)
    return Request(
        prompt=asked.prompt, num_frames=(frames - 1) * TIME_SCALE + 1, height=rows * SPACE_SCALE,
        width=columns * SPACE_SCALE, fps=fps, seed=asked.seed, audio=False,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ encoding


def encode(asked: Upscaling, source: Source, loader: Loader, report: Listener) -> mx.array:
    """Normalised latent (1, F, H, W, 128) of the source, padded to 1 + 8k frames and whole latents."""
    height, width = padded_size(asked, source, loader.checkpoint.facts)
    count = -(-(source.count - 1) // TIME_SCALE) * TIME_SCALE + 1
    grid = ((count - 1) // TIME_SCALE + 1, height // SPACE_SCALE, width // SPACE_SCALE)
    steps = platform.Steps(Phase.ENCODE, count, report)

    def pixels() -> Iterator[np.ndarray]:
        around = ((0, height - source.height), (0, width - source.width), (0, 0))
        for done, frame in enumerate(source.frames(), 1):
            if frame.shape[:2] != (source.height, source.width):
                raise UserError(
                    f"{source.path} begins with frames of {source.width}x{source.height}, but frame {done - 1} is "
                    f"{frame.shape[1]}x{frame.shape[0]}; a video has to keep its size."
                )
            last = np.pad(frame, around, mode="edge") / np.float32(127.5) - np.float32(1)
            steps.tell(min(done, count - 1))
            yield last
        yield from itertools.repeat(last, count - done)

    encoder: Any
    with loader.borrow("video_encoder") as encoder:
        config, room = loader.checkpoint.config, loader.ways.beside(parameter_bytes(encoder))
        plan = loader.checkpoint.family.costs().tiles(
            config, asked.tiling, grid, room, stream=True, size=loader.vae_dtype.size, encoding=True
        )
        latent = encoder.encode_frames(pixels(), plan, count)
        Origin.of(loader, "video_encoder").check("encoding the pictures", latent)
    steps.tell(count)
    return latent


def padded_size(asked: Upscaling, source: Source, facts: Facts) -> tuple[int, int]:
    """Height and width that the source is encoded at: whole latents, and two of them where fewer cannot be decoded."""
    least = 1
    if facts.reflects_encoding or (facts.reflects_decoding and asked.scale == 1):
        least = 2
    height, width = (max(least, -(-side // SPACE_SCALE)) * SPACE_SCALE for side in (source.height, source.width))
    return height, width


def latent_grid(asked: Upscaling, source: Source, checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Latent frames, rows and columns of the result, at most."""
    sides = padded_size(asked, source, checkpoint.facts)
    frames = -(-(source.count - 1) // TIME_SCALE) * asked.fps_scale + 1
    height, width = (-(-int(side * asked.scale) // SPACE_SCALE) for side in sides)
    return frames, height, width
