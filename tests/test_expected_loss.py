"""The loss that explains a measurement: losses and residuals whose weights can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.rhlv.expected_loss import LossPrior, believe, loss_prior, prevalence
from evaluation.rhlv.uncertainty import Calibration, Origin, fit_calibration
from util.vertebrae import Cohort

SD = 0.04


def calibration(sd: float = SD) -> Calibration:
    """Residuals of 400 healthy vertebrae: a vertebra's size moves its thirds alike."""
    rng = np.random.default_rng(0)
    size, own = rng.standard_normal((400, 1)), rng.standard_normal((400, 4))
    residuals = sd * (0.8 * size + 0.6 * own)
    origin = Origin("cohort.json", "", tuple(f"p{number // 10}_20" for number in range(400)))
    return fit_calibration(-np.expm1(-residuals), np.zeros((400, 4)), origin, 0.9)


@pytest.fixture(scope="module")
def healthy() -> Calibration:
    return calibration()


@pytest.fixture(scope="module")
def prior() -> LossPrior:
    return loss_prior(0.2)


def explain(rhlv: list[float], healthy: Calibration, prior: LossPrior):
    return believe(np.array(rhlv), float(healthy.scale.of(np.zeros(4))), healthy, prior)


def test_the_prior_is_a_distribution_of_losses(prior):
    assert prior.frequency.sum() == pytest.approx(1.0)
    assert prior.frequency[0] == pytest.approx(0.8) and not prior.losses[0].any()
    assert prior.losses.min() >= 0.0 and prior.losses.max() < 0.75
    assert np.array_equal(loss_prior(0.2).losses, prior.losses)  # the same seed, the same shapes


def test_two_conceivable_losses_are_weighed_by_bayes(healthy):
    """No loss at all or a crush of 0.2: at the middle of both residuals the frequencies alone decide."""
    two = LossPrior(np.array([[0.0] * 3, [0.2] * 3]), np.array([0.75, 0.25]))
    centre = healthy.centre[:3]
    halfway = 1 - np.exp(0.5 * np.log(0.8) - centre)
    assert explain(halfway.tolist(), healthy, two).expected == pytest.approx([0.05] * 3)  # 0.25 of 0.2
    assert explain([0.25] * 3, healthy, two).expected == pytest.approx([0.2] * 3, abs=0.01)
    assert explain([0.0] * 3, healthy, two).expected == pytest.approx([0.0] * 3, abs=0.01)


def test_a_vertebra_that_is_small_throughout_is_small_by_nature(healthy, prior):
    assert explain([0.06, 0.06, 0.06], healthy, prior).expected.max() < 0.03
    assert explain([-0.08, -0.08, -0.08], healthy, prior).expected.max() < 0.01


def test_a_severe_wedge_stays_what_it_is(healthy, prior):
    belief = explain([0.50, 0.33, 0.04], healthy, prior)
    assert belief.expected == pytest.approx([0.50, 0.33, 0.04], abs=0.06)
    assert belief.grade_probabilities[1] > 0.99


@settings(max_examples=40, deadline=None)
@given(rhlv=st.tuples(*[st.floats(-0.3, 0.7)] * 3))
def test_probabilities_fall_with_the_grade_and_losses_are_losses(healthy, prior, rhlv):
    belief = explain(list(rhlv), healthy, prior)
    assert (np.diff(belief.grade_probabilities) <= 1e-12).all()
    assert (belief.expected >= 0).all() and (belief.expected < 0.75).all()


def test_the_error_on_vertebrae_like_the_calibrations_is_smaller_than_rhlvs(healthy, prior):
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(prior.losses), size=300, p=prior.frequency)
    true = prior.losses[chosen]
    residual = SD * (0.8 * rng.standard_normal((300, 1)) + 0.6 * rng.standard_normal((300, 3)))
    rhlv = 1 - (1 - true) * np.exp(-residual)
    expected = np.array([explain(one.tolist(), healthy, prior).expected for one in rhlv])
    assert np.abs(expected - true).mean() < 0.5 * np.abs(rhlv - true).mean()


def test_undefined_stays_undefined(healthy, prior):
    belief = explain([0.1, float("nan"), 0.1], healthy, prior)
    assert np.isnan(belief.expected).all() and np.isnan(belief.grade_probabilities).all()


def test_prevalence_never_reads_the_hold_out(tmp_path):
    cohort = Cohort(tmp_path / "c.json", {"train": {"a_20": 0, "a_21": 2}, "test": {"b_20": 0, "b_21": 0},
                                          "val": {"c_20": 3}})
    assert prevalence(cohort) == pytest.approx((1 + 10) / (4 + 50))
    assert prevalence(Cohort(tmp_path / "c.json", {"val": {"c_20": 3}})) == 0.2


def test_no_fracture_among_few_grades_rules_none_out(healthy, tmp_path):
    cohort = Cohort(tmp_path / "c.json", {"test": {f"a_{label}": 0 for label in range(15, 25)}})
    belief = explain([0.50, 0.35, 0.05], healthy, loss_prior(prevalence(cohort)))
    assert belief.expected[0] == pytest.approx(0.5, abs=0.07)


def test_a_third_that_is_gone_is_the_largest_loss(healthy, prior):
    belief = explain([1.0, 0.8, 0.6], healthy, prior)
    assert belief.expected[0] > 0.6 and belief.grade_probabilities[2] > 0.99
