"""Sampling against the reference: schedules, positions, states, guidance, sampler loops, with cases of our own.

`python -m tests.parity.test_diffusion` records tests/fixtures/diffusion.npz from the installed reference.
"""

from __future__ import annotations

import inspect
import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion import schedules as ours_schedules
from mlx_video.diffusion.conditioning import AppendKeyframe, ReplaceFrame, initial_state, noised
from mlx_video.diffusion.denoise import blend
from mlx_video.diffusion.guidance import combine
from mlx_video.diffusion.samplers import SAMPLERS
from mlx_video.diffusion.tokens import patchify, positions, unpatchify
from mlx_video.types import AudioShape, Guidance, State, VideoShape
from tests.diffusion import cases
from tests.parity.reference import error, normal, torch

pytest.importorskip("ltx_pipelines")
from ltx_core.components import diffusion_steps, guiders, schedulers
from ltx_core.components.noisers import GaussianNoiser
from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
from ltx_core.conditioning import VideoConditionByKeyframeIndex, VideoConditionByLatentIndex
from ltx_core.tools import AudioLatentTools, VideoLatentTools
from ltx_core.types import AudioLatentShape, LatentState, VideoLatentShape, VideoPixelShape
from ltx_pipelines.utils import samplers as loops

pytestmark = pytest.mark.parity

SINGLE_FRAME_GUIDES = "num_pixel_frames" in inspect.signature(VideoConditionByKeyframeIndex.__init__).parameters
"""Since April 2026. Sources with it also mix noise with the latent before the mask (June 2026)."""


def theirs(shape: VideoShape | AudioShape, batch: int = 1):
    if isinstance(shape, AudioShape):
        return AudioLatentTools(AudioPatchifier(1), AudioLatentShape(batch, 8, shape.frames, 16))
    latent = VideoLatentShape.from_pixel_shape(VideoPixelShape(batch, *shape))
    return VideoLatentTools(VideoLatentPatchifier(1), latent, shape.fps)


# ------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("tokens", [None, 7, 384, 1536, 5000, 24576])
def test_shifted_sigmas(tokens):
    latent = None if tokens is None else torch.empty(1, 1, tokens, 1, 1)
    for steps in (2, 3, 5, 11, 28, 64, 101):
        reference = schedulers.LTX2Scheduler().execute(steps=steps, latent=latent)
        # Equal bit for bit where torch fuses multiply and add, as it does on current processors.
        assert error(ours_schedules.shifted_sigmas(steps, tokens or 4096), reference) < 1e-6


def test_shift_and_stretch_options():
    reference = schedulers.LTX2Scheduler().execute(steps=9, max_shift=1.7, base_shift=0.4, terminal=0.03)
    assert error(ours_schedules.shifted_sigmas(9, max_shift=1.7, base_shift=0.4, terminal=0.03), reference) < 1e-7
    reference = schedulers.LTX2Scheduler().execute(steps=9, stretch=False)
    assert error(ours_schedules.shifted_sigmas(9, terminal=None), reference) < 1e-7


@pytest.mark.parametrize("steps", [1, 2, 5, 13, 50])
def test_the_linear_quadratic_schedule(steps):
    reference = schedulers.LinearQuadraticScheduler().execute(steps=steps)
    assert error(ours_schedules.linear_quadratic_sigmas(steps), reference) < 1e-6


# --------------------------------------------------------------------------------------- tokens and conditioning


def test_positions_are_the_references_bit_for_bit():
    for frames, height, width, fps in [*cases.POSITIONS, (121, 64, 32, 24000 / 1001), (257, 32, 32, 12.5)]:
        clip = VideoShape(frames, height, width, fps)
        for shape in (clip, AudioShape.of(clip)):
            reference = theirs(shape, 2).create_initial_state("cpu", torch.float32).positions
            assert np.array_equal(np.array(positions(shape, 2)), reference.numpy())


def test_tokens_are_in_the_references_order():
    video, audio = normal(1, 2, 128, 4, 3, 5), normal(2, 2, 8, 7, 16)
    for latent, patchifier, shape in (
        (video, VideoLatentPatchifier(1), VideoShape(25, 96, 160, 24.0)),
        (audio, AudioPatchifier(1), AudioShape(7)),
    ):
        reference = patchifier.patchify(latent)
        tokens = patchify(mx.array(latent.numpy()))
        assert np.array_equal(np.array(tokens), reference.numpy())
        assert np.array_equal(np.array(unpatchify(tokens, shape)), latent.numpy())


def compare_states(state: State, reference: LatentState, latent: bool = True) -> None:
    pairs = [("clean", "clean_latent"), ("mask", "denoise_mask"), ("positions", "positions")]
    for mine, other in pairs + ([("latent", "latent")] if latent else []):
        assert np.array_equal(np.array(getattr(state, mine)), getattr(reference, other).numpy()), mine


@pytest.mark.parametrize("frame", [0, 5, 16])
def test_states_after_conditioning(frame):
    clip = VideoShape(25, 96, 64, 29.97)
    tools = theirs(clip, 2)
    initial, first, key = normal(3, 2, 128, 4, 3, 2), normal(4, 2, 128, 2, 3, 2), normal(5, 2, 128, 3, 3, 2)
    state = initial_state(clip, mx.array(initial.numpy()), batch=2)
    reference = tools.create_initial_state("cpu", torch.float32, initial)
    state = ReplaceFrame(mx.array(first.numpy()), latent_frame=1, strength=0.35).apply(state, clip)
    reference = VideoConditionByLatentIndex(first, 0.35, 1).apply_to(reference, tools)
    state = AppendKeyframe(mx.array(key.numpy()), frame, 0.9, single=False).apply(state, clip)
    more = {"num_pixel_frames": 17} if SINGLE_FRAME_GUIDES else {}
    reference = VideoConditionByKeyframeIndex(key, frame, 0.9, **more).apply_to(reference, tools)
    if SINGLE_FRAME_GUIDES:
        one = normal(6, 2, 128, 1, 3, 2)
        state = AppendKeyframe(mx.array(one.numpy()), frame, 0.5).apply(state, clip)
        reference = VideoConditionByKeyframeIndex(one, frame, 0.5).apply_to(reference, tools)
    compare_states(state, reference, latent=SINGLE_FRAME_GUIDES)
    assert np.array_equal(
        np.array(unpatchify(state.clean, clip)),
        tools.unpatchify(tools.clear_conditioning(reference)).clean_latent.numpy(),
    )


@pytest.mark.parametrize(("scale", "strength"), [(1.0, 0.4), (1.0, 1.0), (0.909375, 0.0), (0.3, 0.75)])
def test_first_noise(scale, strength):
    if strength and scale < 1 and not SINGLE_FRAME_GUIDES:
        pytest.skip("this release mixes noise, latent and mask in another way")
    clip = VideoShape(17, 64, 96, 24.0)
    tools = theirs(clip)
    initial, first = normal(7, 1, 128, 3, 2, 3), normal(8, 1, 128, 1, 2, 3)
    state = initial_state(clip, mx.array(initial.numpy()))
    reference = tools.create_initial_state("cpu", torch.float32, initial)
    if strength:
        state = ReplaceFrame(mx.array(first.numpy()), strength=strength).apply(state, clip)
        reference = VideoConditionByLatentIndex(first, strength, 0).apply_to(reference, tools)
    noise = torch.randn(*reference.latent.shape, generator=torch.Generator().manual_seed(9))
    reference = GaussianNoiser(torch.Generator().manual_seed(9))(reference, scale).latent
    assert error(noised(state, mx.array(noise.numpy()), scale).latent, reference) < 1e-6


# -------------------------------------------------------------------------------------------------- guidance


def reference_guidance(options: dict) -> np.ndarray:
    x0 = {name: torch.from_numpy(value) for name, value in cases.predictions().items()}
    names = {"rescale": "rescale_scale", "stg_blocks": "stg_blocks"}
    params = {names.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    guider = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(**params))
    return guider.calculate(x0["positive"], x0["negative"], x0["perturbed"], x0["isolated"]).numpy()


@pytest.mark.parametrize("name", cases.GUIDERS)
def test_guiders(name):
    options = cases.GUIDERS[name]
    x0 = {key: mx.array(value) for key, value in cases.predictions().items()}
    assert error(combine(Guidance(**options), x0), reference_guidance(options)) < 1e-6


@pytest.mark.parametrize(
    ("scale", "eta", "threshold"), [(3.0, 0.0, 0.0), (5.0, 0.4, 2.5), (2.0, 1.5, 1e6), (4.0, 1.0, 9.0)]
)
def test_projected_guidance(scale, eta, threshold):
    # The reference's projection takes one batch item only.
    x0 = {key: value[:1] for key, value in cases.predictions().items()}
    positive, negative = torch.from_numpy(x0["positive"]), torch.from_numpy(x0["negative"])
    reference = positive + guiders.LtxAPGGuider(scale, eta, threshold).delta(positive, negative)
    guidance = Guidance(cfg_scale=scale, apg_eta=eta, apg_threshold=threshold)
    assert error(combine(guidance, {k: mx.array(v) for k, v in x0.items()}), reference) < 1e-6
    reference = positive + guiders.CFGStarRescalingGuider(scale).delta(positive, negative)
    guidance = Guidance(cfg_scale=scale, cfg_star=True)
    assert error(combine(guidance, {k: mx.array(v) for k, v in x0.items()}), reference) < 1e-6


# --------------------------------------------------------------------------------------------------- samplers


def reference_states() -> dict[str, LatentState]:
    states = {}
    for modality in cases.SIZES:
        arrays = {name: torch.from_numpy(value) for name, value in cases.start(modality).items()}
        states[modality] = LatentState(
            latent=arrays["latent"],
            denoise_mask=arrays["mask"],
            positions=arrays["mask"],
            clean_latent=arrays["clean"],
        )
    return states


def reference_loop(sampler: str, sigmas: list[float], monkeypatch, **options) -> dict[str, np.ndarray]:
    """One of the reference's loops around the stand-in network, in either of its interfaces, with our draws."""
    loop = {
        "euler": "euler_denoising_loop",
        "gradient_estimating_euler": "gradient_estimating_euler_denoising_loop",
        "ancestral_euler": "euler_ancestral_denoising_loop",
        "res_2s": "res2s_audio_video_denoising_loop",
    }[sampler]
    if not hasattr(loops, loop):
        pytest.skip(f"this release has no {loop}")
    loop = getattr(loops, loop)
    stepper = {"res_2s": "Res2sDiffusionStep", "ancestral_euler": "EulerAncestralDiffusionStep"}
    stepper = getattr(diffusion_steps, stepper.get(sampler, "EulerDiffusionStep"))
    states = reference_states()
    if sampler in ("res_2s", "ancestral_euler"):
        options["model_dtype"] = torch.float32
        # Each of the loop's generators is asked for video, then audio; ours count both kinds of draw in turn.
        injections = 2 if sampler == "res_2s" else 1
        calls = ((k, modality) for k in itertools.count() for modality in cases.SIZES)

        def draw(latent, generator):
            noise = torch.from_numpy(cases.noise(*next(calls))).double()
            if injections == 2:
                noise = (noise - noise.mean()) / noise.std()
                return loops._channelwise_normalize(noise)
            return noise.float()

        options["new_noise_fn"] = draw

    def predict(video_state, audio_state, sigmas, step_index):
        sigma = float(sigmas[step_index])
        return tuple(
            cases.toy(state.latent, sigma, modality, torch.tanh, torch.from_numpy).to(state.latent.dtype)
            for modality, state in (("video", video_state), ("audio", audio_state))
        )

    if "denoise_fn" in inspect.signature(loop).parameters:
        options["denoise_fn"] = predict
    else:
        from ltx_pipelines.utils.types import DenoisedLatentResult

        options["transformer"] = None
        options["denoiser"] = lambda transformer, video_state, audio_state, sigmas, step_index: tuple(
            DenoisedLatentResult(denoised=x) for x in predict(video_state, audio_state, sigmas, step_index)
        )
    settings = options.pop("step", {})
    monkeypatch.setattr(loops, "tqdm", lambda x: x)
    results = loop(
        sigmas=torch.tensor(sigmas),
        video_state=states["video"],
        audio_state=states["audio"],
        stepper=stepper(**settings),
        **options,
    )
    return {modality: state.latent.numpy() for modality, state in zip(cases.SIZES, results, strict=True)}


def our_loop(sampler: str, sigmas: list[float], **options) -> dict[str, mx.array]:
    arrays = {m: {k: mx.array(v) for k, v in cases.start(m).items()} for m in cases.SIZES}
    states = {m: State(a["latent"], a["clean"], a["mask"], a["mask"]) for m, a in arrays.items()}
    keep = blend(states)
    x = {m: s.latent for m, s in states.items()}
    run = SAMPLERS[sampler].run(
        x,
        sigmas,
        lambda x, sigma, step: keep({m: cases.toy(x[m], sigma, m, mx.tanh, mx.array) for m in x}),
        draw=lambda k, m: mx.array(cases.noise(k, m)),
        blend=keep,
        **options,
    )
    return list(run)[-1].x


@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("sampler", cases.SAMPLERS)
def test_loops(sampler, sigmas, monkeypatch):
    reference = reference_loop(sampler, cases.SIGMAS[sigmas], monkeypatch)
    for modality, x in our_loop(sampler, cases.SIGMAS[sigmas]).items():
        assert error(x, reference[modality]) < 1e-6


@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_ancestral_loop(eta, sigmas, monkeypatch):
    reference = reference_loop("ancestral_euler", cases.SIGMAS[sigmas], monkeypatch, step={"eta": eta})
    for modality, x in our_loop("ancestral_euler", cases.SIGMAS[sigmas], eta=eta).items():
        assert error(x, reference[modality]) < 1e-6


def test_float32_holds_the_limit_over_many_steps(monkeypatch):
    # The reference computes this one in float64, which Metal does not have.
    sigmas = list(ours_schedules.shifted_sigmas(60))
    reference = reference_loop("res_2s", sigmas, monkeypatch)
    for modality, x in our_loop("res_2s", sigmas).items():
        assert error(x, reference[modality]) < 1e-6


# ---------------------------------------------------------------------------------------------------- fixture


def record(monkeypatch) -> dict[str, np.ndarray]:
    """What the fixture holds, from the installed reference; left out where a release lacks it."""
    data = {}
    for steps, tokens in cases.SCHEDULES:
        sigmas = schedulers.LTX2Scheduler().execute(steps=steps, latent=torch.empty(1, 1, tokens, 1, 1))
        data[f"schedules/{steps}_{tokens}"] = sigmas.numpy()
    for frames, height, width, fps in cases.POSITIONS:
        clip = VideoShape(frames, height, width, fps)
        for kind, shape in (("video", clip), ("audio", AudioShape.of(clip))):
            state = theirs(shape).create_initial_state("cpu", torch.float32)
            data[f"positions/{kind}_{frames}_{height}_{width}_{fps}"] = state.positions.numpy()
    for name, options in cases.GUIDERS.items():
        data[f"guiders/{name}"] = reference_guidance(options)
    samplers = [*cases.SAMPLERS, *(["ancestral_euler"] if hasattr(loops, "euler_ancestral_denoising_loop") else [])]
    for sampler, sigmas in itertools.product(samplers, cases.SIGMAS):
        for modality, latent in reference_loop(sampler, cases.SIGMAS[sigmas], monkeypatch).items():
            data[f"loops/{sampler}/{sigmas}/{modality}"] = latent
    return data


def test_the_fixture_is_what_the_reference_gives(monkeypatch):
    recorded = np.load(cases.FIXTURE)
    for name, value in record(monkeypatch).items():
        assert error(recorded[name], value) < 1e-6, name


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        np.savez_compressed(cases.FIXTURE, **record(patch))
