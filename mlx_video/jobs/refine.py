"""Denoises an upscaled video a little, as a two-stage pipeline's last stage does: detail that fits what is there.

A long video goes through in chunks. Each begins with latents that the one before has finished, held as they are, so the
transformer goes on from what it sees and no seam has to be hidden. The sound is left out: the video keeps its own.
Knows the transformer and the schedule; knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_video import platform
from mlx_video.diffusion import conditioning
from mlx_video.diffusion.denoise import blend, guided
from mlx_video.diffusion.noise import NamedNoise
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.schedules import REFINE
from mlx_video.diffusion.tokens import unpatchify, video_positions
from mlx_video.lending.finite import Origin
from mlx_video.types import (
    SPACE_SCALE,
    TIME_SCALE,
    Context,
    Modality,
    Pass,
    Progress,
    Recipe,
    Stage,
    State,
    Tree,
    UserError,
    VideoShape,
)

RECIPES = {
    "distilled": Recipe(
        name="refine",
        summary="a few steps over what is there",
        variant="distilled",
        stages=(Stage(1.0, "refine"),),
        audio_from=0,
    ),
    "dev": Recipe(
        name="refine with the distilled LoRA",
        summary="a few steps over what is there",
        variant="dev",
        stages=(Stage(1.0, "refine", lora=1.0),),
        audio_from=0,
    ),
}
"""By the checkpoint's variant: the schedule is for distilled weights, which the LoRA makes of the others."""
CHUNK = 17
"""Latent frames at a time (129 frames), about what the models were trained with."""
HELD = 3
"""Latent frames (24 frames) that a chunk begins with at least, finished by the one before."""
MAX_FPS = 60.0
"""Beyond this the transformer is told so many frames a second (reference: the temporal rounds of `DFRPipeline`)."""


def sigmas_of(steps: int | None) -> tuple[float, ...]:
    """The last `steps` steps of the refining schedule, all three if None: fewer begin with less noise and change less.

    Raises UserError for a number that it does not have.
    """
    most = len(REFINE) - 1
    if steps is not None and not 1 <= steps <= most:
        raise UserError(
            f"--steps {steps} does not work with --refine: its schedule has {most} steps, of which the last 1 to "
            f"{most} can be taken (fewer stay closer to the source)."
        )
    return REFINE[-(steps or most) - 1 :]


def chunks(frames: int) -> list[tuple[int, int]]:
    """[start, stop) of each chunk of `frames` latent frames: of one size, CHUNK at most; HELD or more overlap."""
    if frames <= CHUNK:
        return [(0, frames)]
    count = -(-(frames - HELD) // (CHUNK - HELD))
    size = -(-(frames + (count - 1) * HELD) // count)
    starts = [i * (frames - size) // (count - 1) for i in range(count)]
    return [(start, start + size) for start in starts]


def refine(
    latent: mx.array,
    fps: float,
    transformer: nn.Module,
    contexts: Mapping[str, Context],
    sigmas: Sequence[float],
    noise: NamedNoise,
    report: Callable[[Progress], None],
    origin: Origin | None = None,
) -> mx.array:
    """A normalised latent (1, 128, F, H, W) -> the same shape, float32.

    Noise is drawn as refine/K/video for chunk K from 0, on that chunk's grid. origin: of the transformer's
    numbers. Reference: the second stage of
    `DistilledPipeline`, for the video alone.
    """
    spans = chunks(latent.shape[2])
    sampler = SAMPLERS[RECIPES["distilled"].stages[0].sampler]
    total, done = len(spans) * sampler.count(sigmas), 0
    platform.peak_memory()
    report(Progress("refine", 0, total))
    refined: list[mx.array] = []
    ready = 0
    for number, (start, stop) in enumerate(spans):
        before = mx.concatenate(refined, axis=2)[:, :, start:] if start else None
        shape, state = _start(latent[:, :, start:stop], before, fps, f"refine/{number}/video", sigmas[0], noise)
        states: dict[Modality, State] = {"video": state}
        network = _network(transformer, contexts, state)
        x: Tree = {"video": state.latent}
        for step in sampler.run(x, sigmas, guided(network, states, {}), draw=None, blend=blend(states)):
            x = step.x
            done += 1
            (origin or Origin()).check(f"refine, step {done} of {total},", x)
            if done < total:
                report(Progress("refine", done, total))
        refined.append(unpatchify(x["video"], shape)[:, :, ready - start :])
        mx.eval(refined)
        ready = stop
    noise.finish()
    report(Progress("refine", total, total, platform.peak_memory()))
    return mx.concatenate(refined, axis=2)


def _start(
    latent: mx.array, before: mx.array | None, fps: float, name: str, sigma: float, noise: NamedNoise
) -> tuple[VideoShape, State]:
    """A chunk as the sampler begins with it; `before`: finished latents that it begins with, None in the first."""
    _, _, frames, rows, columns = latent.shape
    fps = min(fps, MAX_FPS)
    shape = VideoShape((frames - 1) * TIME_SCALE + 1, rows * SPACE_SCALE, columns * SPACE_SCALE, fps)
    held = [] if before is None else [conditioning.ReplaceFrame(before)]
    state = conditioning.start(shape, noise, name, conditions=held, latent=latent, scale=sigma)
    if before is not None:
        # It does not begin with the one latent that stands for one frame: its time goes on after such a one.
        positions = video_positions((frames + 1, rows, columns), fps)[:, :, rows * columns :]
        state = state._replace(positions=positions)
    mx.eval(state)
    return shape, state


def _network(transformer: nn.Module, contexts: Mapping[str, Context], state: State) -> Callable[..., list[Tree]]:
    prepared = transformer.prepare(contexts, {"video": state.positions}, {"video": state.mask[..., 0]})

    def network(x: Tree, sigma: Mapping[str, float], passes: Sequence[Pass]) -> list[Tree]:
        return transformer(x, sigma, prepared, passes, batched=False)

    return network
