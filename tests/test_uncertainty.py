"""Intervals of height loss: their coverage, their quantiles counted by hand, and what scales them."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.rhlv.uncertainty import (
    Calibration,
    Origin,
    conformal_limits,
    fit_calibration,
    least_vertebrae,
    read_calibration,
)
from evaluation.rhlv.uncertainty_scale import Scale, fit_scale
from util.errors import InputError

UNKNOWN = np.full(4, np.nan)
CALM = np.zeros(4)


def origin_of(count: int, patients: int = 10) -> Origin:
    return Origin("cohort.json", "abc", tuple(f"p{index % patients}_{20 + index // patients % 4}-{index}"
                                              for index in range(count)))


def calibrated_on(residuals: np.ndarray, disagreement: np.ndarray | None = None,
                  level: float = 0.9) -> Calibration:
    """A calibration on residuals log(H_syn / H_ori), (N, 4)."""
    if disagreement is None:
        disagreement = np.zeros((len(residuals), 4))
    return fit_calibration(1.0 - np.exp(-residuals), disagreement, origin_of(len(residuals)), level)


def drawn_residuals(rng: np.random.Generator, count: int, spread: float = 0.04) -> np.ndarray:
    """Skewed and correlated residuals, as of bodies that are a little too high, (count, 4)."""
    thirds = spread * (rng.gumbel(size=(count, 1)) + 0.5 * rng.normal(size=(count, 3))) + 0.02
    return np.column_stack([thirds, thirds.mean(axis=1)])


def test_quantiles_of_few_counted_by_hand():
    scores = np.arange(1.0, 20.0)[:, None]                              # 1 to 19
    assert [float(limit[0]) for limit in conformal_limits(scores, 0.9)] == [1.0, 19.0]
    assert [float(limit[0]) for limit in conformal_limits(scores[::-1], 0.8)] == [2.0, 18.0]
    assert [float(limit[0]) for limit in conformal_limits(scores[:18], 0.9)] == [-np.inf, np.inf]
    assert [float(limit[0]) for limit in conformal_limits(scores, 0.875)] == [1.0, 19.0]  # rank 1.25


def test_how_many_vertebrae_a_level_needs():
    assert [least_vertebrae(level) for level in (0.5, 0.9, 0.95, 0.99)] == [20, 20, 39, 199]
    with pytest.raises(ValueError, match="19 healthy vertebrae, expected 20"):
        calibrated_on(np.zeros((19, 4)))


def test_intervals_cover_what_they_promise_and_no_more():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        calibration = calibrated_on(drawn_residuals(rng, 60))
        loss = rng.uniform(0.0, 0.6, (60, 4))
        measured = 1.0 - (1.0 - loss) * np.exp(-drawn_residuals(rng, 60))
        low, high = (np.array(limits) for limits in
                     zip(*(calibration.interval(rhlv, CALM) for rhlv in measured), strict=True))
        covered.append((low <= loss) & (loss <= high))
    # of 60, the limits are the 3rd and the 58th: (58 - 3) / 61
    assert np.mean(covered) == pytest.approx(55 / 61, abs=0.012)


def test_a_fracture_scales_its_interval_by_the_height_that_is_left():
    calibration = calibrated_on(drawn_residuals(np.random.default_rng(1), 40))
    healthy_low, healthy_high = calibration.interval(np.zeros(4), CALM)
    low, high = calibration.interval(np.full(4, 0.4), CALM)
    np.testing.assert_allclose(1.0 - low, 0.6 * (1.0 - healthy_low))
    np.testing.assert_allclose(1.0 - high, 0.6 * (1.0 - healthy_high))
    np.testing.assert_allclose(high - low, 0.6 * (healthy_high - healthy_low))


def test_a_synthesis_that_is_always_five_per_cent_too_high_is_corrected_exactly():
    calibration = calibrated_on(np.full((30, 4), np.log(1.05)))
    measured = 1.0 - 0.7 / 1.05                                          # true loss 0.3
    judged = calibration.judge(np.full(4, measured), CALM)
    np.testing.assert_allclose(judged.calibrated, 0.3, atol=1e-5)
    np.testing.assert_allclose([judged.low, judged.high], 0.3, atol=1e-5)


@settings(max_examples=60)
@given(st.lists(st.floats(-0.5, 0.9), min_size=4, max_size=4),
       st.lists(st.floats(0, 0.3), min_size=4, max_size=4), st.integers(0, 5),
       st.sampled_from([0.5, 0.8, 0.9]))
def test_the_interval_holds_the_calibrated_loss_and_higher_grades_are_no_likelier(rhlv, apart, seed, level):
    rng = np.random.default_rng(seed)
    apartness = np.abs(rng.normal(0.0, 0.02, (80, 4)))
    residuals = drawn_residuals(rng, 80) * (1.0 + 40.0 * apartness[:, :1])
    judged = calibrated_on(residuals, apartness, level).judge(np.array(rhlv), np.array(apart))
    assert (judged.low <= judged.calibrated).all() and (judged.calibrated <= judged.high).all()
    first, second, third = judged.grade_probabilities
    assert 1.0 > first >= second >= third > 0.0


def test_grade_probabilities_counted_by_hand():
    residuals = np.zeros((20, 4))
    residuals[:5, 0] = -0.1                                              # 5 of 20: anterior 10 % too low
    residuals[5:10, 2] = 0.1
    calibration = calibrated_on(residuals)
    rhlv = np.array([0.22, 0.0, 0.0, 0.07])
    # median 0: 15 leave 0.22 as it is, grade 1; 5 find 1 - 0.78 exp(-0.1) = 0.294, grade 2
    np.testing.assert_allclose(calibration.grade_probabilities(rhlv, CALM), np.array([20.5, 5.5, 0.5]) / 21)
    at_limit = calibrated_on(np.zeros((20, 4)))
    exactly = at_limit.grade_probabilities(np.array([0.25, 0.1, 0.1, 0.15]), CALM)
    np.testing.assert_allclose(exactly, np.array([20.5, 20.5, 0.5]) / 21)


def test_an_undefined_loss_stays_undefined():
    judged = calibrated_on(drawn_residuals(np.random.default_rng(2), 30)).judge(UNKNOWN, CALM)
    assert all(np.isnan(values).all() for values in (judged.low, judged.high, judged.calibrated,
                                                     judged.grade_probabilities))


def test_the_threshold_gives_the_specificity_counted_by_hand():
    residuals = np.repeat(-np.log1p(-np.arange(-10, 10) / 100.0)[:, None], 4, axis=1)  # losses -10 % to 9 %
    calibration = calibrated_on(residuals)
    assert calibration.threshold(20 / 21) == pytest.approx(0.09, abs=1e-5)
    assert calibration.threshold(0.5) == pytest.approx(0.0, abs=1e-5)   # ceil(21 / 2) = 11th of -10 % to 9 %
    assert np.isnan(calibration.threshold(0.97))


def test_disagreement_widens_where_it_foretells_the_error():
    rng = np.random.default_rng(3)
    apart = np.column_stack([rng.uniform(0.0, 0.1, 200), rng.uniform(0.0, 0.1, (200, 2)), np.zeros(200)])
    residuals = np.repeat(rng.normal(size=(200, 1)) * (0.01 + apart[:, :1]), 4, axis=1)
    calibration = calibrated_on(residuals, apart)
    assert not calibration.scale.is_constant
    assert calibration.scale.weights[0] > 3 * max(calibration.scale.weights[1:])
    widths = [np.subtract(*calibration.interval(np.zeros(4), np.array([planes, 0.05, 0.05, 0.0]))[::-1])[0]
              for planes in (0.0, 0.05, 0.1)]
    assert widths[0] < widths[1] < widths[2] and widths[2] > 3 * widths[0]
    typical = calibration.interval(np.zeros(4), np.array(calibration.scale.typical))
    np.testing.assert_array_equal(calibration.interval(np.zeros(4), UNKNOWN), typical)


def test_widened_intervals_keep_their_coverage():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(40):
        apart = rng.exponential(0.03, (160, 4))
        residuals = np.repeat(rng.normal(size=(160, 1)) * np.hypot(0.02, apart[:, :1]), 4, axis=1)
        calibration = calibrated_on(residuals[:80], apart[:80])
        for rhlv, found in zip(1.0 - np.exp(-residuals[80:]), apart[80:], strict=True):
            low, high = calibration.interval(rhlv, found)
            covered.append(low[0] <= 0.0 <= high[0])
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)


@pytest.mark.parametrize(("count", "patients"), [(30, 10), (80, 3)])
def test_few_vertebrae_or_patients_get_one_width(count, patients):
    rng = np.random.default_rng(5)
    apart = rng.uniform(0.0, 0.1, (count, 4))
    size = np.abs(rng.normal(size=count)) * apart[:, 0]
    scale, scales = fit_scale(size, apart, [f"p{index % patients}" for index in range(count)])
    assert scale.is_constant and set(scales) == {scale.base}
    assert scale.base == pytest.approx(size.mean(), abs=1e-6)


def test_disagreement_that_foretells_nothing_is_left_out():
    constant = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size = np.abs(rng.normal(size=120))
        patients = [f"p{index % 12}" for index in range(120)]
        scale, _ = fit_scale(size, rng.uniform(0.0, 0.1, (120, 4)), patients)
        constant += scale.is_constant
    assert constant >= 17


def test_a_disagreement_that_was_never_seen_has_no_weight():
    rng = np.random.default_rng(6)
    apart = np.column_stack([np.zeros(200), rng.uniform(0.0, 0.1, 200), np.zeros((200, 2))])
    size = np.abs(rng.normal(size=200)) * (0.01 + apart[:, 1])
    scale, _ = fit_scale(size, apart, [f"p{index % 12}" for index in range(200)])
    assert scale.weights[1] > 0.0 and (scale.weights[0], *scale.weights[2:]) == (0.0, 0.0, 0.0)


def test_a_file_gives_back_the_same_calibration(tmp_path):
    rng = np.random.default_rng(7)
    apart = rng.uniform(0.0, 0.1, (200, 4))
    residuals = np.repeat(rng.normal(size=(200, 1)) * (0.01 + apart[:, :1]), 4, axis=1)
    calibration = calibrated_on(residuals, apart)
    calibration.save(tmp_path / "calibration.json")
    again = read_calibration(tmp_path / "calibration.json")
    assert (again.origin, again.scale, again.level) == (calibration.origin, calibration.scale, 0.9)
    for before, after in zip(*(dataclasses.astuple(one.judge(np.full(4, 0.3), np.full(4, 0.04)))
                               for one in (calibration, again)), strict=True):
        np.testing.assert_array_equal(before, after)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert (content["vertebrae"], content["patients"], content["recipe"]) == (200, 10, "abc")


@pytest.mark.parametrize("damage", [lambda content: content.pop("residuals"),
                                    lambda content: content["cases"].pop(),
                                    lambda content: content["scale"]["weights"].pop("planes")])
def test_another_file_is_refused(tmp_path, damage):
    path = tmp_path / "calibration.json"
    calibrated_on(drawn_residuals(np.random.default_rng(8), 30)).save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected a calibration of RHLV_quantification"):
        read_calibration(path)


def test_the_scale_of_hand_made_weights():
    scale = Scale(0.03, (0.0, 2.0, 0.0, 0.0), (0.0, 0.01, 0.0, 0.0))
    assert scale.of(np.array([9.0, 0.02, 9.0, 9.0])) == pytest.approx(0.05)
    assert scale.of(UNKNOWN) == pytest.approx(np.hypot(0.03, 0.02))
