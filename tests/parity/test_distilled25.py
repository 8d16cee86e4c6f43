"""LTX-2.5's distilled stages, the ancestral step and the places of generated keyframes against torch in float32.

This release of the reference ends before LTX-2.5: its transformer is made into 2.5's from outside, and what 2.5 samples
by is written out here from the formula. `python -m tests.parity.test_distilled25` records fixtures/distilled_25.npz.
"""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.conditioning import keyframe_places
from mlx_video.diffusion.noise import draw_tokens
from mlx_video.diffusion.samplers import ancestral_euler
from mlx_video.types import VideoShape
from tests.diffusion.cases import array
from tests.parity.reference import error, normal, torch
from tests.parity.test_transformer import reference, run_reference
from tests.support import distilled_25 as small
from tests.support import small_pack
from tests.support.small import DIT, config

pytest.importorskip("ltx_pipelines")
from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
from ltx_core.conditioning import VideoConditionByKeyframeIndex, VideoConditionByLatentIndex
from ltx_core.tools import AudioLatentTools, VideoLatentTools
from ltx_core.types import AudioLatentShape, VideoLatentShape, VideoPixelShape
from ltx_pipelines.utils import constants

pytestmark = pytest.mark.parity
LIMIT = 2e-5
"""Of whole stages. Measured: up to 2e-6."""
STEP_LIMIT = 1e-6


# ------------------------------------------------------------------------------------------------ the formula


def ancestral(x, x0, noise, sigma, after, eta=1.0):
    """One step from `sigma` to `after`, 0-d float32 tensors: down to a level below, and up again with noise."""
    if after == 0:
        return x0
    below = after * (1 + (after / sigma - 1) * eta)
    x = below / sigma * x + (1 - below / sigma) * x0
    if eta == 0:
        return x
    # In this order: steps of little length leave a difference of almost equal squares.
    fresh = after**2 - below**2 * (1 - after) ** 2 / (1 - below) ** 2
    return (1 - after) / (1 - below) * x + torch.sqrt(torch.clamp(fresh, min=0)) * noise


SCHEDULES = {
    "distilled": list(constants.DISTILLED_SIGMA_VALUES),
    "refine": list(constants.STAGE_2_DISTILLED_SIGMA_VALUES),
    "another": [0.999, 0.93, 0.5, 0.499, 0.03, 0.001, 0.0],
    "above 0": [0.8, 0.4, 0.39],
}


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_the_formulas(name, eta):
    for index, (sigma, after) in enumerate(pairwise(SCHEDULES[name])):
        x, x0, noise = (normal(10 * index + k, 1, 50, 128) for k in range(3))
        expected = ancestral(x, x0, noise, torch.tensor(sigma), torch.tensor(after), eta)
        run = ancestral_euler(
            {"video": mx.array(x.numpy())}, (sigma, after), lambda *_, x0=x0: {"video": mx.array(x0.numpy())},
            draw=lambda *_, noise=noise: mx.array(noise.numpy()), eta=eta,
        )  # fmt: skip
        assert error(next(run).x["video"], expected) < STEP_LIMIT, (sigma, after)


def test_keyframes_are_placed_where_linspace_has_them():
    wrong = {}
    for frames in (9, 17, 25, 33, 49, 97, 121, 161, 241, 257, 481, 513):
        for count in range(min(frames - 2, 130) + 1):
            expected = torch.linspace(0, frames - 1, count + 2).round().int().tolist()[1:-1]
            if keyframe_places(count, frames) != expected:
                wrong[count, frames] = expected
    assert not wrong


# ------------------------------------------------------------------------------------------------ whole stages


def transformer(folder):
    """The reference's with the weights of the pack's file, made into LTX-2.5's."""
    section = {**config("2.3")["transformer"], "ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    model = reference({"transformer": section})
    tensors = mx.load(str(folder / small_pack.TRANSFORMER.format("distilled")))
    inside = {n.removeprefix(DIT): a.astype(mx.float32) for n, a in tensors.items() if n.startswith(DIT)}
    state = {n: torch.from_numpy(np.array(a)) for n, a in inside.items() if "_embeddings_connector." not in n}
    model.load_state_dict(state)
    return model


def tools_of(shape):
    """The reference's geometry of a stage's video or sound."""
    if isinstance(shape, VideoShape):
        latent = VideoLatentShape.from_pixel_shape(VideoPixelShape(1, *shape))
        return VideoLatentTools(VideoLatentPatchifier(1), latent, shape.fps)
    return AudioLatentTools(AudioPatchifier(1), AudioLatentShape(1, 8, shape.frames, 16))


def beside(state, tools, frame, latent, strength):
    """A latent frame of tokens beside the clip, which start from nothing and span the one pixel frame `frame`; in this
    release they span eight, and start from the picture.
    """
    state = VideoConditionByKeyframeIndex(latent, frame, strength).apply_to(state, tools)
    begin, end = state.positions[:, 0, -latent.shape[-1] * latent.shape[-2] :].unbind(-1)
    end.copy_(begin + 1 / tools.fps)
    state.latent[:, -begin.shape[-1] :] = 0
    return state


def begin(case, number):
    """The reference's state of each modality before the noise, and the video's marks (1, T, 1)."""
    states, given = {}, small.latents(number)
    for m, shape in small.shapes(number).items():
        tools = tools_of(shape)
        latent = torch.from_numpy(given[m]) if m in given else None
        states[m] = tools.create_initial_state("cpu", torch.float32, latent)
        if m == "audio":
            continue
        frames, rows, columns = shape.grid
        marks = [1.0] * rows * columns + [0.0] * (frames - 1) * rows * columns
        for frame, strength in case.pictures:
            picture = torch.from_numpy(small.picture(number, frame))
            if frame == 0:
                states[m] = VideoConditionByLatentIndex(picture, strength, 0).apply_to(states[m], tools)
            else:
                states[m] = beside(states[m], tools, frame, picture, strength)
                marks += [0.0] * rows * columns
        for frame in torch.linspace(0, shape.frames - 1, case.slots + 2).round().int().tolist()[1:-1]:
            states[m] = beside(states[m], tools, frame, torch.zeros(1, 128, 1, rows, columns), 0.0)
            marks += [1.0] * rows * columns
    return states, np.array(marks, np.float32).reshape(1, -1, 1)


def stage(model, case, number):
    """Final latents of a stage by modality, as it is without guidance: eight ancestral steps, or three of Euler's."""
    states, marks = begin(case, number)
    sigmas = torch.tensor(SCHEDULES["distilled" if number == 1 else "refine"])

    def drawn(name, m):
        tokens = draw_tokens(lambda n, s: mx.array(array(n, *s)), name, small.shapes(number)[m], x[m].shape[1])
        return torch.from_numpy(np.array(tokens))

    x = {m: state.latent for m, state in states.items()}
    kept = {m: (state.clean_latent, state.denoise_mask) for m, state in states.items()}
    for m, (clean, mask) in kept.items():
        mixed = torch.lerp(x[m], drawn(f"stage{number}/{m}", m), float(sigmas[0]))
        x[m] = torch.lerp(clean, mixed, mask)
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        data = {m: {"latent": x[m].numpy(), "positions": states[m].positions.numpy()} for m in x}
        for m, text in small.texts().items():
            data[m]["positive"] = text
        data["video"]["keyframes"] = marks
        masks = {m: mask for m, (_, mask) in kept.items()}
        velocity = run_reference(model, data, dict.fromkeys(x, sigma), masks)
        for m, (clean, mask) in kept.items():
            x0 = (x[m] - velocity[m] * mask * sigma) * mask + clean * (1 - mask)
            if number == 2:
                x[m] = x[m] + (x[m] - x0) / sigma * (after - sigma)
            elif after > 0:
                x[m] = ancestral(x[m], x0, drawn(f"stage1/sde/{index}/{m}", m), sigma, after)
                x[m] = x[m] * mask + clean * (1 - mask)
            else:
                x[m] = x0
    return {m: unpatchified(x[m], shape) for m, shape in small.shapes(number).items()}


def unpatchified(tokens, shape):
    """The clip's own tokens on their grid."""
    tools = tools_of(shape)
    count = shape.tokens if isinstance(shape, VideoShape) else shape.frames
    return tools.patchifier.unpatchify(tokens[:, :count], tools.target_shape)


def record(folder):
    """{case/stage/modality: latents} of the reference."""
    model = transformer(folder)
    return {
        f"{name}/stage{number}/{m}": latent.numpy()
        for name, case in small.CASES.items()
        for number in case.stages
        for m, latent in stage(model, case, number).items()
    }


@pytest.fixture(scope="module")
def found(small_folder):
    return record(small_folder("2.5"))


@pytest.mark.parametrize("name", small.CASES)
def test_stages(small_folder, found, name):
    for key, latent in small.run(small_folder("2.5"), small.CASES[name]).latents.items():
        assert error(latent, found[f"{name}/{key}"]) < LIMIT, key


def test_the_fixture_is_what_the_reference_gives(found):
    recorded = np.load(small.RECORDED)
    assert set(recorded.files) == set(found)
    for key, value in found.items():
        assert error(recorded[key], value) < 1e-5, key


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        np.savez_compressed(small.RECORDED, **record(small_pack.make(Path(place))))
