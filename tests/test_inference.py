"""Iterative inference on boxes: with a generator that draws a known box, every voxel can be counted."""

import numpy as np
import pytest
import torch
from box_scan import (
    BODY_COLUMNS,
    BODY_SLICES,
    BONE,
    DRAWN,
    SHAPE,
    Drawn,
    box_painter,
    box_scan,
    painter,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from data.slice_input import SliceInput
from models.gap_closing import shift_rows, solid_body
from models.implied_height import is_cut_off
from models.iterative_inference import restorable_neighbours, restore_vertebra, synthesize
from models.plane_model import PlaneModel
from models.shared_passes import run_alone
from models.slice_generation import Scan, generate_plane
from util.geometry import row_extent


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_a_crushed_box_is_restored_to_the_voxel(plane):
    scan = box_scan()
    result, step = run_alone(restore_vertebra(scan, 20, [painter(31, plane)]), 5)
    assert (step.height_mm, step.rows, step.original_height_mm, step.spread_mm) == (31, 31, 21, 0)
    assert row_extent(result.label == 20) == (107, 138)           # 21 rows from 112: five more either side
    assert row_extent(result.label == 19) == (75, 99) and row_extent(result.label == 21) == (146, 170)
    expected = box_scan({19: (75, 99), 20: (107, 138), 21: (146, 170)})
    inside = np.zeros(SHAPE, bool)
    inside[107:138] = True
    restored = result.label == 20
    assert np.array_equal(result.label[~inside], expected.label[~inside])
    assert np.array_equal(result.ct[~inside], expected.ct[~inside])
    core = np.zeros(SHAPE, bool)
    core[:, BODY_COLUMNS, BODY_SLICES] = True
    assert np.array_equal(restored & core, (expected.label == 20))
    assert (result.ct[restored & core] == DRAWN).all()
    assert not result.heatmap[restored].any()
    assert result.heatmap[75:99, BODY_COLUMNS, BODY_SLICES].all()  # the neighbour's heat moved with it


def test_no_row_of_the_gap_is_left_empty():
    result, _ = run_alone(restore_vertebra(box_scan(), 20, [painter(33), painter(33, "coronal")]), 64)
    assert (result.ct[30:226] > 0).all()


def test_columns_without_content_stay_empty():
    scan = box_scan()
    scan.ct[:, :10] = 0
    result, _ = run_alone(restore_vertebra(scan, 20, [painter(33)]), 64)
    assert not result.ct[:, :10].any()


def test_fusion_takes_the_mean_height_of_the_planes():
    models = [painter(30), painter(34, "coronal")]
    result, step = run_alone(restore_vertebra(box_scan(), 20, models), 64)
    assert step.height_mm == 32 and step.plane_heights_mm == {"sagittal": 30, "coronal": 34}
    assert step.spread_mm == pytest.approx(2.0, abs=0.1)
    top, bottom = row_extent(result.label == 21)
    assert (top, bottom) == (146, 170)                             # 21 rows became 32; half of 11, rounded


def test_slices_in_any_batches_give_the_same():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 2, 5, padding=2)

    def network(inputs: SliceInput) -> Drawn:
        distance = inputs.distance[:, None, None, None].expand_as(inputs.gap)
        both = layer(torch.cat([inputs.masked_ct, inputs.gap, distance * inputs.attention], 1))
        return Drawn(both[:, :1].tanh(), both[:, 1:].sigmoid(), 30 + both.mean((1, 2, 3)))

    model = PlaneModel(network, "sagittal", torch.device("cpu"))
    singles, pairs, whole = (run_alone(generate_plane(box_scan(), 20, model), size) for size in (1, 2, 64))
    for one, two, many in zip(singles, pairs, whole, strict=True):
        assert torch.allclose(one, two, atol=1e-5) and torch.allclose(one, many, atol=1e-5)


def test_generator_never_sees_the_target():
    seen = []

    def spy(inputs: SliceInput) -> Drawn:
        seen.append(inputs)
        return box_painter(30)(inputs)

    model = PlaneModel(spy, "sagittal", torch.device("cpu"))
    scan = box_scan()
    run_alone(generate_plane(scan, 20, model), 64)
    scan.ct[112:133] = np.random.default_rng(0).integers(0, 255, (21, *SHAPE[1:]))
    scan.heatmap[112:133] = 7
    run_alone(generate_plane(scan, 20, model), 64)
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))


def test_neighbours_come_first_upper_then_lower():
    result = run_alone(synthesize(box_scan(), 20, [painter(30)]), 64)
    assert [step.label for step in result.passes] == [19, 21, 20]
    assert [step.original_height_mm for step in result.passes] == [24, 24, 21]
    extents = [row_extent(result.scan.label == label) for label in (19, 20, 21)]
    assert [bottom - top for top, bottom in extents] == [30, 30, 30]
    (_, first_end), (top, bottom), (last_start, _) = extents
    assert (top - first_end, last_start - bottom) == (8, 8)        # the discs keep their heights
    assert top + bottom in (244, 245, 246)                         # the centre stays at (112 + 133) / 2


def test_the_second_pass_sees_the_result_of_the_first():
    brightest = []

    def spy(inputs: SliceInput) -> Drawn:
        brightest.append(round(float(inputs.masked_ct.max() + 1) * 127.5))
        return box_painter(30)(inputs)

    run_alone(synthesize(box_scan(), 20, [PlaneModel(spy, "sagittal", torch.device("cpu"))]), 64)
    assert brightest == [BONE, BONE, DRAWN, DRAWN]  # first of all the target's height alone is asked for


def test_skipping_neighbours():
    alone = synthesize(box_scan(), 20, [painter(30)], iterative=False)
    assert [step.label for step in run_alone(alone, 64).passes] == [20]
    only_lower = run_alone(synthesize(box_scan(), 20, [painter(30)], restorable={21}), 64)
    assert [step.label for step in only_lower.passes] == [21, 20]


def test_missing_and_cut_off_neighbours_are_left():
    assert restorable_neighbours(box_scan({20: (112, 133), 21: (141, 165)}), 20) == [21]
    cut = box_scan()
    cut.ct[:84] = 0                                                # the scan begins within T12
    cut.label[:84] = 0
    assert is_cut_off(cut, 19) and not is_cut_off(cut, 20)
    assert restorable_neighbours(cut, 20) == [21]
    assert restorable_neighbours(box_scan({19: (0, 24), 20: (30, 50), 21: (60, 256)}), 20) == []


def test_a_neighbour_that_is_not_drawn_stays_as_it_was():
    def blank(inputs: SliceInput) -> Drawn:
        return Drawn(inputs.masked_ct, inputs.gap * 0, torch.full((len(inputs.gap),), 30.0))

    result = run_alone(synthesize(box_scan(), 20, [PlaneModel(blank, "sagittal", torch.device("cpu"))]), 64)
    assert [step.voxels for step in result.passes] == [0, 0, 0]
    assert row_extent(result.scan.label == 19)[1] - row_extent(result.scan.label == 19)[0] == 24
    assert not (result.scan.label == 20).any()


def test_a_neighbour_that_reaches_into_the_removed_rows_stays_whole():
    scan = box_scan()
    scan.label[104:115, 48:52, 16:20] = 19                         # a spur of T12, three rows past L1's top
    scan.ct[104:115, 48:52, 16:20] = BONE
    result, _ = run_alone(restore_vertebra(scan, 20, [painter(31)]), 64)
    moved = np.zeros(SHAPE, bool)
    moved[:-5] = (scan.label == 19)[5:]
    assert np.array_equal(result.label == 19, moved)
    assert (result.ct[moved] == BONE).all()


@settings(max_examples=20, deadline=None)
@given(heights=st.tuples(*[st.integers(8, 24)] * 3), discs=st.tuples(*[st.integers(1, 6)] * 2),
       height_mm=st.floats(10.0, 36.0))
def test_neighbours_and_discs_keep_their_rows_whatever_the_height(heights, discs, height_mm):
    label = np.zeros((160, 12, 8), np.uint8)
    row = 40
    for number, rows, disc in zip((19, 20, 21), heights, (*discs, 0), strict=True):
        label[row:row + rows, 3:9, 2:6] = number
        row += rows + disc
    scan = Scan(label + 1, label, label)
    model = PlaneModel(box_painter(height_mm, slice(3, 9)), "sagittal", torch.device("cpu"))
    result, step = run_alone(restore_vertebra(scan, 20, [model]), 64)
    extents = [row_extent(result.label == number) for number in (19, 20, 21)]
    assert [bottom - top for top, bottom in extents] == [heights[0], step.rows, heights[2]]
    assert (extents[1][0] - extents[0][1], extents[2][0] - extents[1][1]) == discs
    assert step.rows == round(height_mm)


def test_solid_body_keeps_the_largest_piece_and_fills_it():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:10, 2:10, 2:10] = True
    whole = mask.copy()
    mask[5, 5, 5] = False
    mask[15, 15, 15] = True
    assert np.array_equal(solid_body(mask), whole)
    assert not solid_body(np.zeros((4, 4, 4), bool)).any()


def test_shifting_rows_is_undone_by_shifting_back():
    scan = box_scan()
    moved = shift_rows(scan, 7)
    assert row_extent(moved.label == 20) == (119, 140)
    assert np.array_equal(shift_rows(moved, -7).label, scan.label)
    assert not moved.ct[:7].any()
