"""The height prior: what the other vertebrae imply, on spines whose law is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.height_prior import HeightPrior, fit_height_prior, level_means

LEVELS = (17, 18, 19, 20, 21, 22, 23)
TABLE_MM = {label: np.array([20.0, 19.0, 21.0]) + number for number, label in enumerate(LEVELS)}


def spine(rng: np.random.Generator, person_sd: float = 0.06, own_sd: float = 0.03) -> dict[int, np.ndarray]:
    person = person_sd * rng.standard_normal()
    return {label: table * np.exp(person + own_sd * rng.standard_normal(3))
            for label, table in TABLE_MM.items()}


@pytest.fixture(scope="module")
def prior() -> HeightPrior:
    rng = np.random.default_rng(0)
    fitted = fit_height_prior([spine(rng) for _ in range(60)])
    assert fitted is not None
    return fitted


def test_the_spread_of_persons_and_of_vertebrae_is_found(prior):
    assert np.sqrt(prior.person.diagonal()) == pytest.approx([0.06] * 3, rel=0.35)
    assert np.sqrt(prior.own.diagonal()) == pytest.approx([0.03] * 3, rel=0.15)
    assert prior.memory <= 0.2  # the law has none


def test_a_correlation_of_adjacent_levels_is_found():
    rng = np.random.default_rng(1)

    def chained() -> dict[int, np.ndarray]:
        noise, heights = rng.standard_normal(3), {}
        for label in LEVELS:
            noise = 0.8 * noise + 0.6 * rng.standard_normal(3)
            heights[label] = TABLE_MM[label] * np.exp(0.04 * noise)
        return heights

    fitted = fit_height_prior([chained() for _ in range(60)])
    assert fitted is not None and fitted.memory >= 0.6


@given(seed=st.integers(0, 1000), scale=st.floats(0.85, 1.15))
@settings(max_examples=25, deadline=None)
def test_a_larger_person_has_a_larger_vertebra(prior, seed, scale):
    heights = {label: table * scale for label, table in TABLE_MM.items()}
    label = LEVELS[seed % len(LEVELS)]
    mean, _ = prior.predict(label, heights)
    typical, _ = prior.predict(label, TABLE_MM)
    share = float(np.mean(mean - typical)) / np.log(scale) if abs(scale - 1) > 0.01 else 1.0
    assert 0.8 < share <= 1.02  # shrunk a little towards the mean, never beyond


def test_prediction_is_better_than_the_level_alone_and_its_spread_is_honest(prior):
    rng = np.random.default_rng(2)
    errors, spreads = [], []
    for _ in range(60):
        heights = spine(rng)
        for label in LEVELS:
            mean, covariance = prior.predict(label, heights)
            errors.append(np.log(heights[label]) - mean)
            spreads.append(np.sqrt(covariance.diagonal()))
    assert np.std(errors) == pytest.approx(float(np.mean(spreads)), rel=0.1)
    assert np.std(errors) < 0.04  # the level alone: 0.067


def test_the_size_of_the_others_tells_what_their_heights_leave_open():
    """Heights vary by 4 % in a vertebra, depth and width by 1 %: one neighbour's size says who this is."""
    rng = np.random.default_rng(8)
    own_sd = np.array([0.04, 0.04, 0.04, 0.01, 0.01])

    def sized(person: float) -> dict[int, np.ndarray]:
        return {label: np.append(table, [30.0, 40.0]) * np.exp(person + own_sd * rng.standard_normal(5))
                for label, table in TABLE_MM.items()}

    spines = [sized(0.06 * rng.standard_normal()) for _ in range(80)]
    with_sizes = fit_height_prior(spines)
    heights_alone = fit_height_prior([{label: mm[:3] for label, mm in spine.items()} for spine in spines])
    assert with_sizes is not None and heights_alone is not None
    assert with_sizes.own_variance == pytest.approx(heights_alone.own_variance, rel=0.2)
    errors: list[tuple[HeightPrior, list[float]]] = [(with_sizes, []), (heights_alone, [])]
    for spine in (sized(0.06 * rng.standard_normal()) for _ in range(80)):
        for prior, found in errors:
            mean, covariance = prior.predict(20, {19: spine[19]})
            assert mean.shape == (3,) and covariance.shape == (3, 3)
            found.append(np.abs(np.log(spine[20][:3]) - mean).mean())
    assert np.mean(errors[0][1]) < 0.9 * np.mean(errors[1][1])


def test_what_two_vertebrae_share_falls_with_their_distance_across_the_optional_ones():
    mean = {label: np.log([25.0] * 3) for label in (18, 19, 20, 21, 28)}
    chain = HeightPrior(mean, np.zeros((3, 3)), np.eye(3), 0.5)
    def shares(first, second):
        return chain._covariance([first], [second])[0, 0]
    assert shares(19, 20) == shares(18, 19) == shares(20, 21) == 0.5   # T12 and L1 are adjacent
    assert shares(19, 28) == shares(28, 20) == pytest.approx(0.5**0.5)


def test_the_target_itself_is_never_used(prior):
    heights = spine(np.random.default_rng(3))
    crushed = heights | {20: heights[20] / 2}
    assert np.array_equal(prior.predict(20, heights)[0], prior.predict(20, crushed)[0])


def test_fractured_vertebrae_are_left_out_without_being_named(prior):
    heights = spine(np.random.default_rng(4))
    wedge = heights[19] * np.array([0.65, 0.8, 1.0])
    crush = heights[20] * 0.6
    assert set(prior.healthy(heights)) == set(LEVELS)
    assert set(prior.healthy(heights | {19: wedge, 20: crush})) == set(LEVELS) - {19, 20}


def test_of_two_the_fractured_one_is_left_out_and_one_alone_is_held_against_its_level(prior):
    biconcave = TABLE_MM[22] * np.array([0.8, 0.55, 0.75])
    assert set(prior.healthy({22: biconcave, 23: TABLE_MM[23]})) == {23}
    assert prior.healthy({22: biconcave}) == {}


def test_doubt_is_what_an_error_leaves_beyond_a_vertebras_own_spread(prior):
    own = prior.own.diagonal().mean()
    assert prior.doubt(0.05) == pytest.approx((1.2533 * 0.05) ** 2 - own)
    assert prior.doubt(0.01) == 1e-4  # no head is surer than the vertebra's own spread allows


def test_a_higher_vertebra_is_no_fracture(prior):
    heights = spine(np.random.default_rng(5))
    assert 19 in prior.healthy(heights | {19: heights[19] * 1.2})


def test_without_neighbours_the_level_speaks_and_unknown_levels_do_not(prior):
    mean, covariance = prior.predict(20, {})
    assert np.exp(mean) == pytest.approx(TABLE_MM[20], rel=0.04)
    assert covariance == pytest.approx(prior.person + prior.own)
    assert prior.predict(1, TABLE_MM) is None
    known = prior.predict(20, TABLE_MM)[0]
    assert np.array_equal(prior.predict(20, TABLE_MM | {1: np.ones(3)})[0], known)


def test_level_means_do_not_take_a_level_of_tall_people_for_a_tall_level():
    small = {label: table * 0.9 for label, table in TABLE_MM.items() if label != 23}
    tall = {label: table * 1.1 for label, table in TABLE_MM.items()}
    mean = level_means([small, tall])
    assert np.exp(mean[23] - mean[22]) == pytest.approx(TABLE_MM[23] / TABLE_MM[22], rel=1e-3)


def test_few_patients_give_none():
    rng = np.random.default_rng(6)
    assert fit_height_prior([spine(rng) for _ in range(4)]) is None
    assert fit_height_prior([{20: TABLE_MM[20]}] * 30) is None


def test_it_survives_json(prior):
    again = HeightPrior.from_json(prior.as_json())
    heights = spine(np.random.default_rng(7))
    for first, second in zip(prior.predict(20, heights), again.predict(20, heights), strict=True):
        assert np.array_equal(first, second)
