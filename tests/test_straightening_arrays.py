"""Straightening works on whole arrays; each shortcut gives what the plain way gives, to the bit."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.stats import theilslopes

from straighten.curve_fit import curve_through
from straighten.endplates import STEEPEST_TILT, _mean_tilt
from straighten.morphology import dilate
from straighten.robust import quantile, theil_sen_slope
from straighten.sampling import (
    AIR_HU,
    COLUMNS,
    DISTANCE_LIMIT_MM,
    SLICES,
    LabelSurface,
    SampleGrid,
    sample_grey,
)
from util.mask_box import bounding_box
from util.volume import Volume, hu_to_uint8

small_masks = arrays(bool, st.tuples(*[st.integers(1, 7)] * 3))
MARGIN_ROWS = 160


@given(mask=small_masks, steps=st.integers(1, 4))
def test_dilation_is_the_libraries(mask, steps):
    assert np.array_equal(dilate(mask, steps), ndimage.binary_dilation(mask, iterations=steps))


@given(mask=small_masks)
def test_bounding_box_is_the_libraries(mask):
    found = ndimage.find_objects(mask.astype(np.uint8))
    assert bounding_box(mask) == (found[0] if found else None)


numbers = st.one_of(st.integers(-60, 60).map(float), st.just(np.nan), st.floats(-9, 9))


@given(values=arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=numbers),
       share=st.sampled_from([0.4, 0.5]), axis=st.sampled_from([0, 1]), least=st.integers(1, 3))
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_quantile_is_the_libraries(values, share, axis, least):
    expected = np.nanquantile(values, share, axis=axis)
    expected[np.isfinite(values).sum(axis=axis) < least] = np.nan
    assert np.array_equal(quantile(values, share, axis, least), expected, equal_nan=True)


@given(wall=arrays(float, st.integers(2, 30), elements=st.one_of(st.integers(0, 60).map(float),
                                                                 st.floats(0, 60), st.just(np.nan))))
def test_slope_is_the_libraries(wall):
    rows = np.flatnonzero(np.isfinite(wall))
    assume(rows.size >= 2)
    assert theil_sen_slope(wall) == theilslopes(wall[rows], rows)[0]


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.25])
def test_tilt_of_counted_points_is_that_of_the_points(slope):
    """A plate of 9 rows, tilted; points that stand for several count as often."""
    along, across = (grid.ravel().astype(float) for grid in np.mgrid[-11:12, 0:9])
    row, counts = across + np.rint(slope * along), 1 + (along.astype(int) % 3)
    tilt = _mean_tilt(row, along, counts)
    assert tilt == _mean_tilt(np.repeat(row, counts), np.repeat(along, counts))
    assert abs(tilt - slope) < 0.06
    assert abs(np.rad2deg(np.arctan(tilt))) <= STEEPEST_TILT


def tilted_scan(shape=(60, 50, 40), seed=0):
    """A CT of noise with a box of label 20, oblique in the world, and a curve through the box."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [1.0, 0.9, 2.0]
    affine[:3, 3] = random.normal(size=3) * 50
    mask = np.zeros(shape, np.uint8)
    mask[20:45, 10:40, 12:30] = 20
    ct = random.integers(-1000, 1500, shape).astype(np.int16)
    centre = affine[:3, :3] @ [32, 25, 20] + affine[:3, 3]
    curve = curve_through({20: centre, 21: centre - np.array([4.0, 9.0, 30.0])})
    return Volume(ct, affine), Volume(mask, affine), curve


WHOLE = (slice(None),) * 3
ROWS = slice(MARGIN_ROWS - 50, MARGIN_ROWS + 50)


@pytest.mark.parametrize("seed", range(4))
def test_ct_sampled_near_the_scan_alone_is_the_whole(seed):
    ct, _, curve = tilted_scan(seed=seed)
    coordinates = SampleGrid.of(curve, ROWS, ct.affine).coordinates(WHOLE)
    hu = ndimage.map_coordinates(ct.array, coordinates, output=np.float32, order=1, mode="constant",
                                 cval=AIR_HU)
    grey = sample_grey(ct, curve, ROWS)
    assert np.array_equal(grey, hu_to_uint8(hu)) and grey.any()


@pytest.mark.parametrize("seed", range(4))
def test_label_sampled_near_its_box_alone_is_the_whole(seed):
    _, mask, curve = tilted_scan(seed=seed)
    surface = LabelSurface.of(mask, ndimage.find_objects(mask.array)[19], 20)
    coordinates = SampleGrid.of(curve, ROWS, mask.affine).coordinates(WHOLE)
    coordinates -= surface.first.astype(np.float32)[:, None, None, None]
    distance_mm = ndimage.map_coordinates(surface.distance_mm, coordinates, order=1, mode="constant",
                                          cval=DISTANCE_LIMIT_MM)
    sampled = surface.sample(curve, ROWS)
    assert np.array_equal(sampled, distance_mm < 0) and sampled.sum() > 5000


@pytest.mark.parametrize("seed", range(4))
def test_the_window_leaves_out_most_of_what_lies_aside(seed):
    _, mask, curve = tilted_scan(seed=seed)
    grid = SampleGrid.of(curve, ROWS, mask.affine)
    coordinates = grid.coordinates(WHOLE)
    corner = np.array([20, 10, 12])
    upper = (corner + np.array([24, 29, 17]))[:, None, None, None]
    inside = ((coordinates >= corner[:, None, None, None]) & (coordinates <= upper)).all(axis=0)
    window = grid.window_on(corner, (25, 30, 18))
    assert inside[window].sum() == inside.sum() > 0
    assert inside[window].size < 0.6 * COLUMNS * SLICES * 100


def test_a_curve_past_the_scan_samples_nothing():
    ct, mask, curve = tilted_scan()
    far = slice(0, 20)
    away = Volume(ct.array, ct.affine + np.pad(np.full((3, 1), 900.0), ((0, 1), (3, 0))))
    assert not sample_grey(away, curve, far).any()
    box = (slice(20, 45), slice(10, 40), slice(12, 30))
    surface = LabelSurface.of(Volume(mask.array, away.affine), box, 20)
    assert surface.sample(curve, far).shape == (20, COLUMNS, SLICES) and not surface.sample(curve, far).any()
