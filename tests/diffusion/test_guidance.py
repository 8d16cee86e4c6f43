import mlx.core as mx
import numpy as np
import pytest

from mlx_video.diffusion.guidance import combine, plan, project
from mlx_video.types import Guidance, Pass
from tests.diffusion import cases

BOTH = ("video", "audio")
DEFAULT = Guidance(cfg_scale=3.0, stg_scale=1.0, stg_blocks=(28,), modality_scale=3.0, rescale=0.7)
CFG, STG, MODALITY = Guidance(cfg_scale=2.0), Guidance(stg_scale=1.0, stg_blocks=(3, 5)), Guidance(modality_scale=2.0)


def x0():
    return {name: mx.array(value) for name, value in cases.predictions().items()}


@pytest.mark.parametrize(
    ("guidance", "present", "expected"),
    [
        ({}, BOTH, ["positive"]),
        ({"video": Guidance(), "audio": Guidance(rescale=0.7)}, BOTH, ["positive"]),
        ({"video": CFG, "audio": Guidance()}, BOTH, ["positive", "negative"]),
        ({"video": Guidance(), "audio": CFG}, BOTH, ["positive", "negative"]),
        ({"video": DEFAULT, "audio": DEFAULT}, BOTH, ["positive", "negative", "perturbed", "isolated"]),
        ({"video": STG, "audio": MODALITY}, BOTH, ["positive", "perturbed", "isolated"]),
        ({"video": DEFAULT}, ("video",), ["positive", "negative", "perturbed"]),
        ({"video": CFG, "audio": DEFAULT}, ("video",), ["positive", "negative"]),
        ({"video": MODALITY}, BOTH, ["positive", "isolated"]),
        ({"video": Guidance(stg_scale=1.0)}, BOTH, ["positive"]),
        ({"video": Guidance(stg_blocks=(3,))}, BOTH, ["positive"]),
    ],
)
def test_only_passes_that_a_scale_uses(guidance, present, expected):
    assert list(plan(guidance, present)) == expected


def test_what_each_pass_asks_of_the_network():
    passes = plan({"video": DEFAULT, "audio": STG}, BOTH)
    assert passes["positive"] == Pass()
    assert passes["negative"] == Pass(context="negative")
    assert passes["perturbed"] == Pass(
        skip_self_attention=(("video", frozenset({28})), ("audio", frozenset({3, 5}))),
    )
    assert passes["isolated"] == Pass(cross_modal=False)


@pytest.mark.parametrize("name", cases.GUIDERS)
def test_guided_predictions_are_the_recorded_ones(name):
    recorded = np.load(cases.FIXTURE)[f"guiders/{name}"]
    ours = np.array(combine(Guidance(**cases.GUIDERS[name]), x0()))
    assert np.linalg.norm(ours - recorded) / np.linalg.norm(recorded) < 1e-6


def test_no_guidance_gives_the_prediction_itself():
    predictions = x0()
    assert combine(Guidance(rescale=0.7), predictions) is predictions["positive"]


def test_a_pass_that_was_not_run_adds_nothing():
    predictions = {name: value for name, value in x0().items() if name in ("positive", "negative")}
    assert mx.array_equal(combine(DEFAULT, predictions), combine(Guidance(cfg_scale=3.0, rescale=0.7), predictions))


def test_full_rescale_restores_the_deviation():
    guided = np.array(combine(Guidance(cfg_scale=9.0, rescale=1.0), x0()), np.float64)
    assert guided.std() == pytest.approx(cases.predictions()["positive"].astype(np.float64).std(), rel=1e-6)


def test_projection_is_of_each_batch_item():
    vector, onto = (cases.array(name, 2, 9, 128) for name in ("vector", "onto"))
    parallel = np.array(project(mx.array(vector), mx.array(onto)))
    for i in range(2):
        share = (vector[i] * onto[i]).sum() / (onto[i] ** 2).sum()
        np.testing.assert_allclose(parallel[i], share * onto[i], atol=1e-5)
        assert abs(((vector[i] - parallel[i]) * onto[i]).sum()) < 0.05


def test_projected_guidance_without_the_parallel_part():
    predictions = cases.predictions()
    positive, negative = predictions["positive"], predictions["negative"]
    guided = np.array(combine(Guidance(cfg_scale=4.0, apg_eta=0.0), x0()))
    for i in range(2):
        moved = guided[i] - positive[i]
        assert abs((moved * positive[i]).sum()) / np.linalg.norm(moved) / np.linalg.norm(positive[i]) < 1e-5
        straight = 3.0 * (positive[i] - negative[i])
        assert (moved * straight).sum() == pytest.approx((moved**2).sum(), rel=1e-4)


def test_projected_guidance_is_cut_at_the_threshold():
    positive = cases.predictions()["positive"]
    guided = np.array(combine(Guidance(cfg_scale=3.0, apg_threshold=2.0), x0()))
    for i in range(2):
        assert np.linalg.norm(guided[i] - positive[i]) == pytest.approx(2 * 2.0, rel=1e-4)
    loose = combine(Guidance(cfg_scale=3.0, apg_threshold=1e9), x0())
    np.testing.assert_allclose(loose, combine(Guidance(cfg_scale=3.0), x0()), atol=1e-6)


def test_cfg_star_ignores_the_length_of_the_negative_prediction():
    longer = x0() | {"negative": 3.0 * x0()["negative"]}
    guidance = Guidance(cfg_scale=3.0, cfg_star=True)
    np.testing.assert_allclose(combine(guidance, longer), combine(guidance, x0()), atol=1e-5)
