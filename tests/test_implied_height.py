"""Which height a vertebra is restored to, on boxes: what the others imply, never the target itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from box_scan import CANDIDATES, Drawn, box_painter, box_scan, painter

from data.slice_input import SliceInput
from models.height_prior import HeightPrior
from models.implied_height import implied_height, measure_whole_bodies
from models.iterative_inference import synthesize
from models.plane_model import PlaneModel
from models.shared_passes import run_alone
from models.slice_generation import Scan
from util.geometry import row_extent


def level_prior(height_mm: float) -> HeightPrior:
    """Every level is as high as every other in a person; persons differ by 10 %, levels by 1 %."""
    mean = {label: np.log(np.full(3, height_mm)) for label in (18, 19, 20, 21, 22)}
    return HeightPrior(mean, 0.1**2 * np.ones((3, 3)), 0.01**2 * np.eye(3), 0.0)


def rows_of(scan: Scan, label: int) -> int:
    top, bottom = row_extent(scan.label == label)
    return bottom - top


def test_agreed_heights_follow_the_other_vertebrae_not_the_networks():
    result = run_alone(synthesize(box_scan(), 20, [painter(30)], heights="agreed",
                                  prior=level_prior(26)), 64)
    assert [rows_of(result.scan, label) for label in (19, 20, 21)] == [24, 24, 24]   # the neighbours have 24
    assert result.passes[-1].height_mm == 30                                         # what the networks said
    assert result.passes[-1].agreed_mm == pytest.approx((24, 24, 24), abs=0.2)


def test_agreed_heights_do_not_follow_a_crushed_neighbour():
    crushed = {18: (56, 80), 19: (88, 100), 20: (112, 133), 21: (141, 165), 22: (173, 197)}
    result = run_alone(synthesize(box_scan(crushed), 20, [painter(30)], heights="agreed",
                                  prior=level_prior(26)), 64)
    assert [rows_of(result.scan, label) for label in (19, 20, 21)] == [24, 24, 24]


@pytest.mark.parametrize(("heights", "rows"), [("head", 33), ("drawn", 30)])
def test_without_agreement_the_head_or_the_drawn_body_decides(heights, rows):
    def draw(inputs: SliceInput) -> Drawn:
        return box_painter(30)(inputs)._replace(height_mm=torch.full((len(inputs.gap),), 33.0))

    model = PlaneModel(draw, "sagittal", torch.device("cpu"))
    result = run_alone(synthesize(box_scan(), 20, [model], iterative=False, heights=heights,
                                  prior=level_prior(26)), 64)
    assert result.passes[-1].rows == rows


def test_a_level_that_the_prior_does_not_know_gets_the_heads_height():
    prior = replace(level_prior(26), mean={19: np.log(np.full(3, 24.0))})
    result = run_alone(synthesize(box_scan(), 20, [painter(30)], iterative=False, heights="agreed",
                                  prior=prior), 64)
    assert result.passes[-1].rows == 30 and result.passes[-1].agreed_mm == ()


def test_the_target_has_no_say_in_its_own_height_nor_in_its_neighbours():
    """Its height changes within what is no outlier; what the others imply stays the same."""
    prior = level_prior(26)
    found = []
    for bottom in (136, 137):                                      # a target of 24 or of 25 rows
        bodies = CANDIDATES | {20: (112, bottom)}
        heights = measure_whole_bodies(box_scan(bodies), 20)
        assert set(heights) == {19, 21}
        found.append([implied_height(label, heights, prior).log_mm for label in (19, 20, 21)])
    assert np.array_equal(*found)
