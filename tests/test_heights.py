"""Heights and relative height loss, on boxes whose heights are counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.heights import (
    HeightLoss,
    central_profiles_mm,
    fracture_kind,
    genant_grade,
    height_loss,
    height_loss_map,
    relative_loss,
)
from util.body_heights import (
    UndefinedHeightError,
    body_measures,
    central_slices,
    measure_body,
    own_body,
    third_heights_mm,
)

SHAPE = (64, 64, 20)
DEPTH = 30
LABEL = 20


def body_of(heights, first_column=17, slices=(4, 16), bottom=50):
    """A mask whose columns stand on row `bottom` with the given heights."""
    mask = np.zeros(SHAPE, bool)
    for offset, height in enumerate(heights):
        mask[bottom - height:bottom, first_column + offset, slice(*slices)] = True
    return mask


def thirds(anterior, middle, posterior):
    return [anterior] * 10 + [middle] * 10 + [posterior] * 10


def loss_between(original, synthetic) -> HeightLoss:
    return height_loss(measure_body(original), measure_body(synthetic))


HEALTHY = [25] * DEPTH


@pytest.mark.parametrize(
    ("original", "synthetic", "expected"),
    [
        (thirds(25, 25, 25), [20] * DEPTH, (-0.25, -0.25, -0.25)),
        (thirds(13, 20, 25), HEALTHY, (0.48, 0.20, 0.00)),
        (thirds(14, 24, 24), [24] * DEPTH, (10 / 24, 0.00, 0.00)),
        (thirds(16, 24, 24), [24] * DEPTH, (8 / 24, 0.00, 0.00)),
        (thirds(25, 10, 25), HEALTHY, (0.00, 0.60, 0.00)),
        ([20] * 4 + [32] + [20] * 5 + [25] * 20, HEALTHY, (0.152, 0.00, 0.00)),
        (thirds(21, 21, 21), [30] * DEPTH, (0.30, 0.30, 0.30)),
        (thirds(3, 25, 25), HEALTHY, (0.88, 0.00, 0.00)),
    ],
    ids=["growth", "wedge", "front 14 of 24", "front 16 of 24", "biconcave", "spur", "30 to 21", "collapse"],
)
def test_loss_of_boxes(original, synthetic, expected):
    loss = loss_between(body_of(original), body_of(synthetic))
    assert loss.rhlv[:3] == pytest.approx(expected, abs=1e-9)
    assert loss.reason == ""


def test_a_hole_does_not_shorten():
    synthetic = body_of(HEALTHY)
    synthetic[35:41, 20:40, 6:14] = False
    assert loss_between(body_of(HEALTHY), synthetic).rhlv == pytest.approx([0.0] * 4)


def test_a_shifted_synthetic_body_is_measured_in_its_own_extent():
    loss = loss_between(body_of(thirds(18, 22, 25)), body_of(HEALTHY, first_column=22))
    assert loss.rhlv == pytest.approx([0.28, 0.12, 0.0, (7 + 3) / 75])


def test_overall_is_the_loss_of_the_mean_height():
    loss = loss_between(body_of(thirds(13, 20, 25)), body_of(HEALTHY))
    assert loss.original_mm[3] == pytest.approx((13 + 20 + 25) / 3)
    assert loss.rhlv[3] == pytest.approx(1 - 58 / 75)


def test_rows_are_measured_in_mm():
    assert third_heights_mm(measure_body(body_of(HEALTHY), row_mm=0.5)) == pytest.approx([12.5] * 4)


def test_depth_that_three_does_not_divide_shares_columns():
    body = measure_body(body_of([20] * 10 + [10] * 21))  # a third is 10 1/3 columns
    assert third_heights_mm(body)[:3] == pytest.approx([(200 + 10 / 3) / (31 / 3), 10, 10])


def test_measures_are_the_thirds_then_depth_and_width_without_lip_and_sliver():
    labels = body_of([4, *thirds(13, 20, 25)]).astype(np.uint8) * LABEL
    labels[30:34, 20:24, 16:19] = LABEL
    measures = body_measures(labels, [LABEL, 8])
    assert list(measures) == [LABEL]
    assert measures[LABEL] == pytest.approx([13, 20, 25, 30, 12])


def test_an_island_and_another_label_do_not_count():
    labels = body_of(HEALTHY).astype(np.uint8) * LABEL
    labels[2:6, 20:30, 6:10] = LABEL
    labels[52:62, 17:47, 4:16] = LABEL + 1
    assert measure_body(own_body(labels, LABEL)).rows == (25, 50)
    assert not own_body(labels, 8).any()


def test_a_narrow_low_rim_leaves_the_extent_and_a_long_low_run_stays():
    lip = measure_body(body_of([4, 4, 4, *HEALTHY, 5]))
    assert lip.depth[10].tolist() == [20, 50]
    collapse = measure_body(body_of([4] * 8 + [25] * 22))
    assert collapse.depth[10].tolist() == [17, 47]


def test_a_sliver_of_slices_does_not_widen_the_body():
    mask = body_of(HEALTHY)
    mask[30:34, 20:24, 16:19] = True
    assert measure_body(mask).slices == (4, 16)


@pytest.mark.parametrize(("slices", "expected"), [((4, 16), (8, 12)), ((0, 20), (6, 14)), ((5, 6), (5, 6)),
                                                  ((4, 6), (5, 6))])
def test_central_slices(slices, expected):
    assert central_slices(measure_body(body_of(HEALTHY, slices=slices))) == range(*expected)


def test_an_empty_cut_or_thin_body_is_undefined_with_its_reason():
    with pytest.raises(UndefinedHeightError, match="empty"):
        measure_body(np.zeros(SHAPE, bool))
    with pytest.raises(UndefinedHeightError, match="cut off"):
        measure_body(body_of(HEALTHY, bottom=25))
    with pytest.raises(UndefinedHeightError, match="3 columns"):
        measure_body(body_of([25, 25]))


def test_loss_of_nothing_is_undefined():
    loss = relative_loss(np.array([0.0, np.nan, 20.0]), np.array([10.0, 10.0, 0.0]))
    assert np.isnan(loss[:2]).all()
    assert loss[2] == 1.0


def test_the_map_shows_each_column_of_the_synthetic_body():
    original = body_of(thirds(13, 20, 25))
    loss = height_loss_map(measure_body(original), measure_body(body_of(HEALTHY, first_column=22)))
    assert np.isnan(loss[:22]).all() and np.isnan(loss[52:]).all() and np.isnan(loss[:, :4]).all()
    assert loss[22:32, 4:16] == pytest.approx(0.48)
    assert loss[42:52, 4:16] == pytest.approx(0.0)


def test_profiles_run_from_anterior_to_posterior():
    original, synthetic = central_profiles_mm(measure_body(body_of(thirds(13, 20, 25))),
                                              measure_body(body_of(HEALTHY)))
    assert original.shape == synthetic.shape == (4, 60)
    assert original[:, 0] == pytest.approx(13.0)
    assert original[:, -1] == pytest.approx(25.0)


@given(heights=st.lists(st.integers(8, 40), min_size=9, max_size=40), shift=st.integers(-5, 5))
@settings(max_examples=40, deadline=None)
def test_a_body_against_itself_has_lost_nothing_wherever_it_lies(heights, shift):
    loss = loss_between(body_of(heights, first_column=10), body_of(heights, first_column=10 + shift))
    assert loss.rhlv == pytest.approx([0.0] * 4, abs=1e-9)


@given(height=st.integers(5, 40), other=st.integers(5, 40))
@settings(max_examples=40, deadline=None)
def test_two_boxes_give_the_ratio_of_their_heights(height, other):
    loss = loss_between(body_of([height] * DEPTH), body_of([other] * DEPTH))
    assert loss.rhlv == pytest.approx([(other - height) / other] * 4)


@pytest.mark.parametrize(
    ("rhlv", "grade", "kind"),
    [
        ((0.19, 0.0, 0.0), 0, "none"),
        ((0.20, 0.0, 0.0), 1, "wedge"),
        ((0.1, 0.25, 0.1), 2, "biconcave"),
        ((0.40, 0.38, 0.38), 2, "crush"),
        ((0.18, 0.33, 0.17), 2, "biconcave"),
        ((0.27, 0.52, 0.33), 3, "biconcave"),
        ((0.45, 0.40, 0.22), 3, "wedge"),
        ((0.10, 0.20, 0.26), 2, "crush"),
        ((1.00, 1.00, 1.00), 3, "crush"),
        ((0.41, 0.2, 0.0), 3, "wedge"),
        ((-0.3, -0.1, 0.0), 0, "none"),
        ((np.nan, 0.5, 0.5), None, ""),
    ],
)
def test_grade_and_kind(rhlv, grade, kind):
    assert genant_grade(np.array(rhlv)) == grade
    assert fracture_kind(np.array(rhlv)) == kind
