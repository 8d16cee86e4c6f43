import math
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.denoise import blend, guided
from mlx_video.diffusion.samplers import RES_2S_FLOOR, SAMPLERS, ancestral_euler, euler, res_2s, res_2s_weights
from mlx_video.diffusion.schedules import shifted_sigmas
from mlx_video.types import Guidance, State
from tests.diffusion import cases

MEAN, DEVIATION = 0.6, 0.35
"""Of Gaussian data, for which the best prediction and the way from noise to it are known in closed form."""


def gaussian(x, sigma, step):
    signal = 1 - sigma
    gain = signal * DEVIATION**2 / ((signal * DEVIATION) ** 2 + sigma**2)
    return {m: MEAN + gain * (v - signal * MEAN) for m, v in x.items()}


def solution(x, before, after):
    spread = lambda sigma: math.hypot((1 - sigma) * DEVIATION, sigma)  # noqa: E731
    return (1 - after) * MEAN + spread(after) / spread(before) * (x - (1 - before) * MEAN)


def states(frozen_audio=False):
    made = {}
    for m in cases.SIZES:
        arrays = {name: mx.array(value) for name, value in cases.start(m).items()}
        if frozen_audio and m == "audio":
            arrays |= {"latent": arrays["clean"], "mask": mx.zeros_like(arrays["mask"])}
        made[m] = State(arrays["latent"], arrays["clean"], arrays["mask"], arrays["mask"])
    return made


def draw(k, modality):
    return mx.array(cases.noise(k, modality))


def last(steps):
    return list(steps)[-1].x


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ancestral_euler", 1), ("res_2s", 2)])
def test_order_of_convergence(name, order):
    # Without draws all of them follow the flow; the error falls with the step to the power of the order.
    start, first, final = mx.array([[[-1.5, -0.2, 0.4, 2.0]]]), 0.95, 0.2
    wanted = np.array(solution(start, first, final))
    errors = []
    for count in (8, 16, 32):
        sigmas = np.geomspace(first, final, count + 1).tolist()
        x = last(SAMPLERS[name].run({"video": start}, sigmas, gaussian))["video"]
        errors.append(np.abs(np.array(x) - wanted).max())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_loops_end_at_the_recorded_latents(name, sigmas):
    given = states()
    keep = blend(given)
    x = {m: s.latent for m, s in given.items()}
    denoise = lambda x, sigma, step: keep({m: cases.toy(x[m], sigma, m, mx.tanh, mx.array) for m in x})  # noqa: E731
    recorded = np.load(cases.FIXTURE)
    for m, value in last(SAMPLERS[name].run(x, cases.SIGMAS[sigmas], denoise, draw=draw, blend=keep)).items():
        wanted = recorded[f"loops/{name}/{sigmas}/{m}"]
        assert np.linalg.norm(np.array(value) - wanted) / np.linalg.norm(wanted) < 1e-6


@pytest.mark.parametrize("draws", [draw, None])
@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_kept_tokens_stay_bit_for_bit(name, sigmas, draws):
    given = states(frozen_audio=True)
    network = lambda x, sigma, passes: [{m: mx.sin(3 * x[m]) + i for m in x} for i, _ in enumerate(passes)]  # noqa: E731
    denoise = guided(network, given, {"video": Guidance(cfg_scale=3.0, rescale=0.7)})
    x = {m: s.latent for m, s in given.items()}
    count = 0
    for step in SAMPLERS[name].run(x, cases.SIGMAS[sigmas], denoise, draw=draws, blend=blend(given)):
        count += 1
        assert np.array_equal(np.array(step.x["audio"]).view(np.uint32), np.array(given["audio"].clean).view(np.uint32))
        assert mx.array_equal(step.x["video"][:, :3], given["video"].clean[:, :3])
        assert not mx.array_equal(step.x["video"][:, 5:], x["video"][:, 5:])
        x = step.x
    assert count == len(cases.SIGMAS[sigmas]) - 1


@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_goes_on_after_any_step_bit_for_bit(name, sigmas):
    given = states()
    skipping = {"video": Guidance(skip_step=1), "audio": Guidance(skip_step=2)}

    def network(x, sigma, passes, still=()):
        return [{m: mx.sin(3 * x[m]) for m in x}]

    def run(x, repeated, **more):
        denoise = guided(network, given, skipping, repeated)
        return SAMPLERS[name].run(x, cases.SIGMAS[sigmas], denoise, draw=draw, blend=blend(given), **more)

    repeated, stops = {}, []
    for step in run({m: s.latent for m, s in given.items()}, repeated):
        stops.append((step, dict(repeated)))
    for step, repeated in stops[:-1]:
        rest = list(run(step.x, dict(repeated), begin=step.index + 1, memory=step.memory))
        assert [one.index for one in rest] == list(range(step.index + 1, step.total))
        assert all(mx.array_equal(rest[-1].x[m], stops[-1][0].x[m]) for m in given)
    end = stops[-1][0]
    assert list(run(end.x, {}, begin=end.total)) == []


@pytest.mark.parametrize("sigmas", cases.SIGMAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_and_draws_are_known_beforehand(name, sigmas):
    sigmas, calls, draws = cases.SIGMAS[sigmas], [], []

    def denoise(x, sigma, step):
        calls.append(sigma)
        return gaussian(x, sigma, step)

    def counted(k, modality):
        draws.append((k, modality))
        return draw(k, modality)

    x = {m: s.latent for m, s in states().items()}
    steps = list(SAMPLERS[name].run(x, sigmas, denoise, draw=counted))
    assert len(calls) == SAMPLERS[name].count(sigmas)
    assert [s.index for s in steps] == list(range(len(sigmas) - 1))
    assert {s.total for s in steps} == {len(sigmas) - 1}
    assert [s.sigma for s in steps] == sigmas[:-1]
    assert len(set(draws)) == len(draws)
    numbers = sorted({k for k, _ in draws})
    assert numbers == list(range(len(numbers)))
    # Ancestral Euler has nothing to draw on its way to 0.
    expected = SAMPLERS[name].draws * (len(sigmas) - 1) - (name == "ancestral_euler" and sigmas[-1] == 0)
    assert len(numbers) == expected


def test_the_length_of_a_progress_bar():
    assert SAMPLERS["euler"].count(shifted_sigmas(30)) == 30
    assert SAMPLERS["res_2s"].count(shifted_sigmas(15)) == 31
    assert SAMPLERS["res_2s"].count([0.9, 0.5, 0.2]) == 4


def test_a_sampler_stops_where_its_reader_does():
    calls = []

    def denoise(x, sigma, step):
        calls.append(step)
        return gaussian(x, sigma, step)

    for step in euler({"video": mx.ones((1, 1, 1))}, shifted_sigmas(30), denoise):
        if step.index == 2:
            break
    assert calls == [0, 1, 2]


def test_the_walk_ends_at_the_last_prediction():
    x = {"video": mx.array(cases.array("x", 1, 9, 6))}
    for name in ("ancestral_euler", "gradient_estimating_euler", "res_2s"):
        step = list(SAMPLERS[name].run(x, [0.9, 0.4, 0.0], gaussian))[-1]
        assert step.x["video"] is step.x0["video"]
    step = list(euler(x, [0.9, 0.4, 0.0], gaussian))[-1]
    np.testing.assert_allclose(step.x["video"], step.x0["video"], atol=1e-6)


def test_ancestral_euler_without_eta_is_euler():
    x = {"video": mx.array(cases.array("x", 2, 11, 6))}
    plain = last(euler(x, [0.9, 0.6, 0.3], gaussian))
    assert mx.array_equal(
        last(ancestral_euler(x, [0.9, 0.6, 0.3], gaussian, draw=draw, eta=0.0))["video"], plain["video"]
    )
    noisy = last(ancestral_euler(x, [0.9, 0.6, 0.3], gaussian, draw=draw))["video"]
    assert not mx.allclose(noisy, plain["video"], atol=0.1)


@pytest.mark.parametrize("name", ["ancestral_euler", "res_2s"])
def test_fresh_noise_keeps_the_noise_level(name):
    # From Gaussian data at sigma 0.9, what arrives at 0.3 is distributed as data at sigma 0.3.
    rng = np.random.default_rng(0)
    shape = (1, 400, 128)
    data = MEAN + DEVIATION * rng.standard_normal(shape)
    x = {"video": mx.array((0.1 * data + 0.9 * rng.standard_normal(shape)).astype(np.float32))}
    noise = lambda k, m: mx.array(np.random.default_rng(k + 1).standard_normal(shape).astype(np.float32))  # noqa: E731
    sigmas = np.geomspace(0.9, 0.3, 33).tolist()
    arrived = np.array(last(SAMPLERS[name].run(x, sigmas, gaussian, draw=noise))["video"])
    assert arrived.mean() == pytest.approx(0.7 * MEAN, abs=0.02)
    assert arrived.std() == pytest.approx(math.hypot(0.7 * DEVIATION, 0.3), rel=0.03)


def test_noise_is_brought_to_unit_deviation_before_res_2s_uses_it():
    x = {"video": mx.array(cases.array("x", 2, 11, 6))}
    plain = last(res_2s(x, [0.9, 0.4], gaussian, draw=draw))["video"]
    louder = last(res_2s(x, [0.9, 0.4], gaussian, draw=lambda k, m: 5 * draw(k, m) - 3))["video"]
    np.testing.assert_allclose(louder, plain, atol=2e-6)


@pytest.mark.parametrize("h", [1e-12, 1e-6, 0.99e-4, 1.01e-4, 1e-3, 0.3, 4.5])
def test_weights_of_res_2s(h):
    # Against the power series of phi1 and phi2.
    phi1 = sum((-h) ** k / math.factorial(k + 1) for k in range(40))
    phi2 = sum((-h) ** k / math.factorial(k + 2) for k in range(40))
    first, second = res_2s_weights(h)
    assert second == pytest.approx(2 * h * phi2, rel=1e-8)
    assert first == pytest.approx(h * (phi1 - 2 * phi2), rel=1e-8, abs=1e-8 * h)


@pytest.mark.parametrize(("sigma", "moved"), [(0.5, True), (0.031, True), (0.029, False)])
def test_res_2s_leaves_a_steps_origin_where_it_is_below_sigma_003(sigma, moved):
    # Towards a constant prediction the midpoint's noise counts only where the step's origin follows the midpoint.
    start, noise = {"video": mx.ones((1, 4, 8))}, mx.random.normal((2, 1, 4, 8), key=mx.random.key(0))

    def constant(x, sigma, step):
        return {"video": mx.zeros((1, 4, 8))}

    def run(sign):
        draws = (sign * noise[0], noise[1])
        return last(res_2s(start, [sigma, sigma / 1.2], constant, draw=lambda k, m: draws[k]))

    assert (np.abs(np.array(run(1)["video"]) - np.array(run(-1)["video"])).max() > 1e-4) == moved


def test_midpoints_of_res_2s_count_as_a_first_step_which_nothing_skips():
    asked = []

    def denoise(x, sigma, step):
        asked.append(step)
        return gaussian(x, sigma, step)

    last(res_2s({"video": mx.ones((1, 2, 128))}, [0.9, 0.6, 0.3, 0.0], denoise))
    assert asked == [0, 0, 1, 0, 2, 0, 3]


def test_res_2s_ends_with_a_prediction_near_0():
    sigmas = []

    def denoise(x, sigma, step):
        sigmas.append(sigma)
        return gaussian(x, sigma, step)

    list(res_2s({"video": mx.ones((1, 2, 2))}, [0.9, 0.4, 0.0], denoise))
    assert sigmas == pytest.approx([0.9, math.sqrt(0.9 * 0.4), 0.4, math.sqrt(0.4 * RES_2S_FLOOR), RES_2S_FLOOR])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [[0.5], [0.5, 0.7], [0.9, 0.0, 0.0], [0.9, -0.1]])
def test_sigmas_that_do_not_fall_are_refused(name, sigmas):
    with pytest.raises(ValueError, match="Sigmas fall"):
        list(SAMPLERS[name].run({"video": mx.ones((1, 1, 1))}, sigmas, gaussian))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_of_no_length_moves_nothing(name):
    # The shifted schedule has such steps at sizes where float32 runs out.
    x = {"video": mx.array(cases.array("x", 2, 11, 6))}
    step = next(iter(SAMPLERS[name].run(x, [1.0, 1.0, 0.5], gaussian, draw=draw)))
    np.testing.assert_allclose(step.x["video"], x["video"], atol=1e-6)
