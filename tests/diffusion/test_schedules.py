import hashlib
from itertools import pairwise

import numpy as np
import pytest

from mlx_video.diffusion.schedules import DISTILLED, REFINE, SCHEDULES, _descend, shifted_sigmas
from mlx_video.types import UserError
from tests.diffusion import cases


@pytest.mark.parametrize(("steps", "tokens"), cases.SCHEDULES)
def test_shifted_sigmas_are_the_recorded_ones(steps, tokens):
    recorded = np.load(cases.FIXTURE)[f"schedules/{steps}_{tokens}"]
    np.testing.assert_allclose(shifted_sigmas(steps, tokens), recorded, rtol=1e-6, atol=0)


def test_even_steps_are_torchs_bit_for_bit():
    digest = hashlib.blake2b(digest_size=8)
    for steps in range(1, 201):
        digest.update(_descend(steps).tobytes())
    assert digest.hexdigest() == "61af06c4a1cd823e"  # of torch.linspace(1, 0, steps + 1), torch 2.13


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_falls_from_near_1_to_0(name):
    steps = None if name in ("distilled", "refine") else 12
    sigmas = SCHEDULES[name](steps, 4096)
    assert all(type(s) is float for s in sigmas)
    assert all(a > b for a, b in pairwise(sigmas))
    assert sigmas[-1] == 0.0
    assert sigmas[0] == pytest.approx(0.909375 if name == "refine" else 1.0, abs=1e-6)
    assert len(sigmas) == {"distilled": 9, "refine": 4}.get(name, 13)


def test_the_first_sigma_is_the_references_float32():
    assert shifted_sigmas(4)[0] == np.float32(0.9999998)


def test_the_stretch_ends_at_the_terminal_sigma():
    assert shifted_sigmas(20, 600)[-2] == pytest.approx(0.1, abs=1e-6)
    assert shifted_sigmas(20, 600, terminal=0.03)[-2] == pytest.approx(0.03, abs=1e-6)
    assert shifted_sigmas(20, 600, terminal=None)[-2] == pytest.approx(0.104681, abs=1e-6)


def test_more_tokens_stay_longer_in_the_noise():
    small, large = shifted_sigmas(10, 384), shifted_sigmas(10, 6144)
    assert all(b > a for a, b in zip(small[1:-2], large[1:-2], strict=True))


def test_a_single_step_starts_from_noise_where_the_reference_divides_0_by_0():
    assert shifted_sigmas(1, 384) == (1.0, 0.0)


def test_tables_are_float32_numbers():
    assert all(np.float32(s) == s for s in DISTILLED + REFINE)
    np.testing.assert_allclose(REFINE, [0.909375, 0.725, 0.421875, 0.0], rtol=1e-7)


@pytest.mark.parametrize("name", ["shifted", "linear-quadratic"])
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(name, steps):
    with pytest.raises(UserError, match=rf"{steps} steps.*at least 1"):
        SCHEDULES[name](steps, 4096)


def test_a_fixed_schedule_refuses_another_length():
    assert SCHEDULES["distilled"](8, 4096) == DISTILLED
    with pytest.raises(UserError, match=r"20 steps.*has 8"):
        SCHEDULES["distilled"](20, 4096)
