from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.denoise import blend, frozen, guided
from mlx_video.types import Guidance, Pass, State
from tests.diffusion import cases


def states(*modalities, frozen_audio=False):
    made = {}
    for m in modalities or cases.SIZES:
        arrays = {name: mx.array(value) for name, value in cases.start(m).items()}
        if frozen_audio and m == "audio":
            arrays |= {"latent": arrays["clean"], "mask": mx.zeros_like(arrays["mask"])}
        made[m] = State(arrays["latent"], arrays["clean"], arrays["mask"], arrays["mask"])
    return made


def tokens(of):
    return {m: s.latent for m, s in of.items()}


class Network:
    """Velocities that differ between passes; keeps what it was asked."""

    def __init__(self, dtype=mx.float32):
        self.calls: list[dict[str, Any]] = []
        self.dtype = dtype

    def __call__(self, x, sigma, passes, still=frozenset()):
        self.calls.append({"sigma": dict(sigma), "passes": list(passes), "still": still})
        return [{m: (0.1 * (i + 1) * x[m] + sigma[m]).astype(self.dtype) for m in x} for i, _ in enumerate(passes)]


def test_each_token_is_denoised_from_its_own_timestep():
    given, network = states(), Network()
    x0 = guided(network, given, {})(tokens(given), 0.8, 0)
    for m, s in given.items():
        x, mask, clean = (np.array(a, np.float64) for a in (s.latent, s.mask, s.clean))
        wanted = (x - (0.1 * x + 0.8) * mask * 0.8) * mask + clean * (1 - mask)
        np.testing.assert_allclose(x0[m], wanted, atol=1e-6)
        assert mx.array_equal(x0[m][:, :3], s.clean[:, :3])
    assert network.calls == [{"sigma": {"video": 0.8, "audio": 0.8}, "passes": [Pass()], "still": frozenset()}]


def test_a_half_precision_network_leaves_the_state_in_float32():
    given = states()
    x0 = guided(Network(mx.bfloat16), given, {})(tokens(given), 0.5, 0)
    assert all(v.dtype == mx.float32 for v in x0.values())


def test_a_missing_modality_is_a_missing_key():
    given, network = states("video"), Network()
    guidance = {"video": Guidance(cfg_scale=3.0, modality_scale=3.0), "audio": Guidance(cfg_scale=7.0)}
    x0 = guided(network, given, guidance)(tokens(given), 0.5, 0)
    assert set(x0) == {"video"}
    assert network.calls[0]["sigma"] == {"video": 0.5}
    assert len(network.calls[0]["passes"]) == 2


def test_guidance_is_combined_before_kept_tokens_are_put_back():
    given, network = states(), Network()
    x0 = guided(network, given, {"video": Guidance(cfg_scale=3.0), "audio": Guidance(cfg_scale=1.0)})(
        tokens(given), 0.8, 0
    )
    s = given["video"]
    x, mask, clean = (np.array(a, np.float64) for a in (s.latent, s.mask, s.clean))
    positive, negative = (x - (share * x + 0.8) * mask * 0.8 for share in (0.1, 0.2))
    np.testing.assert_allclose(
        x0["video"], (positive + 2 * (positive - negative)) * mask + clean * (1 - mask), atol=1e-5
    )
    assert mx.array_equal(x0["audio"], guided(Network(), given, {})(tokens(given), 0.8, 0)["audio"])


def test_a_frozen_modality_has_sigma_0_and_no_guidance_of_its_own():
    given, network = states(frozen_audio=True), Network()
    assert frozen(given) == {"audio"}
    loud = Guidance(cfg_scale=7.0, stg_scale=1.0, stg_blocks=(1,), modality_scale=3.0)
    x0 = guided(network, given, {"audio": loud, "video": Guidance(modality_scale=3.0)})(tokens(given), 0.6, 0)
    assert network.calls[0]["sigma"] == {"video": 0.6, "audio": 0.0}
    assert [p.cross_modal for p in network.calls[0]["passes"]] == [True, False]
    assert x0["audio"] is given["audio"].clean


def test_a_frozen_modality_survives_a_network_that_fails_on_it():
    given = states(frozen_audio=True)
    broken = lambda x, sigma, passes: [{m: x[m] * (float("nan") if m == "audio" else 0.1) for m in x}]  # noqa: E731
    x0 = guided(broken, given, {})(tokens(given), 0.6, 0)
    assert mx.array_equal(x0["audio"], given["audio"].clean)
    assert mx.array_equal(blend(given)({"audio": x0["audio"] * float("nan")})["audio"], given["audio"].clean)


@pytest.mark.parametrize(("every", "expected"), [(0, "111111"), (1, "101010"), (2, "100100")])
def test_steps_skipped_by_all_cost_nothing_and_repeat_the_prediction(every, expected):
    given, network = states("video"), Network()
    denoise = guided(network, given, {"video": Guidance(cfg_scale=2.0, skip_step=every)})
    results, calls = [], ""
    for step in range(6):
        before = len(network.calls)
        results.append(denoise(tokens(given), 1.0 - 0.1 * step, step)["video"])
        calls += str(len(network.calls) - before)
    assert calls == expected
    for step, ran in enumerate(expected):
        assert mx.array_equal(results[step], results[step - 1]) == (ran == "0")


def test_a_step_skipped_by_one_modality_leaves_it_to_be_seen_only():
    given, network = states(), Network()
    guidance = {"video": Guidance(cfg_scale=2.0, skip_step=1), "audio": Guidance(stg_scale=1.0, stg_blocks=(0,))}
    denoise = guided(network, given, guidance)
    first, second = (denoise(tokens(given), sigma, step) for step, sigma in enumerate((0.9, 0.5)))
    assert network.calls[0]["still"] == frozenset()
    assert network.calls[1]["still"] == {"video"}
    assert [len(call["passes"]) for call in network.calls] == [3, 2]
    assert mx.array_equal(second["video"], first["video"])
    assert not mx.array_equal(second["audio"], first["audio"])
