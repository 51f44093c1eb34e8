"""The curve: rigid bodies, frames without twist, no fold, and points that come back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from straighten.curve_fit import curve_through
from straighten.endplates import endplate_axis
from util.errors import InputError

LABELS = tuple(range(17, 25))


def arc(radius_mm=220.0, spacing_mm=33.0, shift_mm=None):
    """Centres on an arc in the sagittal plane, cranial first; `shift_mm` (n,) displaces them to and fro."""
    angle = np.arange(len(LABELS)) * spacing_mm / radius_mm
    radius = radius_mm + (np.zeros(len(LABELS)) if shift_mm is None else np.asarray(shift_mm))
    points = np.stack([np.zeros_like(angle), radius * np.cos(angle), -radius * np.sin(angle)], axis=1)
    return dict(zip(LABELS, points, strict=True))


def rows_of(curve):
    """The rows between the outermost bodies."""
    rows = [centre[0] for centre in curve.centres.values()]
    return np.arange(int(min(rows)), int(max(rows)))


def test_frames_are_rotations_and_do_not_twist():
    curve = curve_through(arc())
    product = curve.frames.transpose(0, 2, 1) @ curve.frames
    assert np.allclose(product, np.eye(3), atol=1e-9)
    assert np.allclose(curve.frames[:, 0, 1], 0.0, atol=1e-9)  # the second axis stays in the sagittal plane


def test_centres_lie_on_the_curve_of_an_even_arc():
    curve = curve_through(arc())
    for label, centre in arc().items():
        assert np.linalg.norm(curve.to_world(curve.centres[label]) - centre) < 0.01
        assert np.linalg.norm(curve.centres[label][1:]) < 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-2.5, 2.5), min_size=len(LABELS), max_size=len(LABELS)),
       st.floats(120.0, 600.0), st.floats(24.0, 38.0))
def test_no_cross_section_meets_another_within_a_body(shift_mm, radius_mm, spacing_mm):
    """Walking down the curve 15 mm before or behind it, every step leads on."""
    curve = curve_through(arc(radius_mm, spacing_mm, shift_mm))
    rows = rows_of(curve)
    for posterior_mm in (-15.0, 15.0):
        points = np.stack([rows, np.full(len(rows), posterior_mm), np.zeros(len(rows))], axis=1)
        steps = np.diff(curve.to_world(points), axis=0)
        onward = np.einsum("ni,ni->n", steps, curve.frames[rows[:-1], :, 0])
        assert onward.min() > 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_points_come_back(seed):
    random = np.random.default_rng(seed)
    curve = curve_through(arc())
    rows = rows_of(curve)
    points = np.stack([random.uniform(rows[0], rows[-1], 50), random.uniform(-20, 20, 50),
                       random.uniform(-25, 25, 50)], axis=1)
    assert np.abs(curve.from_world(curve.to_world(points)) - points).max() < 0.5


def test_the_curve_runs_on_straight_past_both_ends():
    curve = curve_through(arc())
    first, last = (round(curve.centres[label][0]) for label in (LABELS[0], LABELS[-1]))
    assert first >= 128 and len(curve.positions_mm) - last >= 128
    for end in (curve.positions_mm[:first - 20], curve.positions_mm[last + 20:]):
        assert np.abs(np.diff(end, n=2, axis=0)).max() < 1e-9


def test_a_single_vertebra_follows_its_own_axis():
    axis = np.array([0.0, 0.3, -1.0]) / np.hypot(0.3, 1.0)
    curve = curve_through({20: np.array([5.0, -10.0, 40.0])}, axes={20: axis})
    assert np.allclose(curve.frames[:, :, 0], axis)


def test_no_centre_and_two_in_one_place_are_errors():
    with pytest.raises(InputError, match="found none"):
        curve_through({})
    with pytest.raises(InputError, match="one place"):
        curve_through({19: np.zeros(3), 20: np.zeros(3)})


@pytest.mark.parametrize("posterior_degrees", [-20, -5, 0, 8, 25])
@pytest.mark.parametrize("left_degrees", [0, 6])
def test_endplates_tell_the_tilt_of_a_box(posterior_degrees, left_degrees):
    """A sheared box of 26 rows whose endplates lean by known angles."""
    row, column, left = np.indices((90, 60, 60))
    lean = (np.tan(np.deg2rad(posterior_degrees)) * (column - 30)
            + np.tan(np.deg2rad(left_degrees)) * (left - 30))
    body = (np.abs(row - 45 - lean) < 13) & (np.abs(column - 30) < 17) & (np.abs(left - 30) < 21)
    axis = endplate_axis(body)
    assert np.linalg.norm(axis) == pytest.approx(1.0)
    found = np.rad2deg(np.arctan(-axis[1:] / axis[0]))
    assert np.abs(found - [posterior_degrees, left_degrees]).max() <= 2.0


@pytest.mark.parametrize(("upper_degrees", "lower_degrees"), [(0, 20), (16, -4), (-18, 0)])
def test_a_wedge_stands_midway_between_its_endplates(upper_degrees, lower_degrees):
    row, column, left = np.indices((90, 60, 60))
    upper, lower = (np.tan(np.deg2rad(degrees)) * (column - 30) for degrees in (upper_degrees, lower_degrees))
    body = (row > 32 + upper) & (row < 58 + lower) & (np.abs(column - 30) < 17) & (np.abs(left - 30) < 21)
    axis = endplate_axis(body)
    tilt_degrees = np.rad2deg(np.arctan(-axis[1] / axis[0]))
    assert tilt_degrees == pytest.approx((upper_degrees + lower_degrees) / 2, abs=1.5)
