"""Stretching what was drawn: boxes and wedges whose heights can be counted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.agreed_height import (
    DRAWN,
    DrawnGap,
    HeadHeight,
    ImpliedHeight,
    agree,
    fit_height,
    measure_drawn,
)
from util.geometry import GAP_ROWS

COLUMNS, SLICES = 64, 32
FRONT, BACK = 16, 46   # thirty columns deep
BONE, AROUND = 0.5, -0.5


NO_HEAD = HeadHeight(24.0)  # never validated: it has no say


def sure(heights_mm) -> ImpliedHeight:
    return ImpliedHeight(np.log(heights_mm), np.zeros(3))


def drawn(probability: torch.Tensor) -> DrawnGap:
    return DrawnGap(torch.where(probability > 0.5, BONE, AROUND), probability)


def box(top: int = 8, bottom: int = 32) -> DrawnGap:
    probability = torch.zeros(GAP_ROWS, COLUMNS, SLICES)
    probability[top:bottom, FRONT:BACK, 6:26] = 1.0
    return drawn(probability)


def thirds_mm(gap: DrawnGap) -> np.ndarray:
    return measure_drawn(gap.probability)[1]


def body() -> DrawnGap:
    """Endplates that are neither flat nor level, with a soft edge of two rows: no two columns end alike."""
    row, column, index = (torch.arange(size) + 0.5 for size in (GAP_ROWS, COLUMNS, SLICES))
    hollow = ((column - 31) / 15).square()[:, None] + ((index - 16) / 12).square()        # (C, Z)
    top = 9.3 - 1.3 * hollow + 0.02 * column[:, None] + 0.03 * index
    bottom = 31.2 + 1.1 * hollow - 0.03 * index
    inside = torch.minimum(row[:, None, None] - top, bottom - row[:, None, None])         # (G, C, Z)
    probability = (inside / 2 + 0.5).clamp(0, 1) * (hollow < 1.6)
    return drawn(probability)


@given(heights=st.tuples(*[st.floats(19.0, 30.0)] * 3))
@settings(max_examples=25, deadline=None)
def test_thirds_get_the_wanted_heights(heights):
    gap, rows, agreed_mm = fit_height(body(), sure(heights), NO_HEAD)
    assert agreed_mm == pytest.approx(heights)
    assert thirds_mm(gap) == pytest.approx(heights, abs=0.3)
    occupied = np.flatnonzero((gap.probability > 0.5).numpy().any(axis=(1, 2)))
    assert rows == occupied[-1] + 1 - occupied[0] and occupied[0] == (GAP_ROWS - rows) // 2


def test_equal_thirds_give_a_box_at_the_gaps_centre():
    gap, rows, _ = fit_height(box(2, 26), sure([30.0] * 3), NO_HEAD)
    assert rows == 30
    occupied = np.flatnonzero((gap.probability > 0.5).numpy().any(axis=(1, 2)))
    assert (occupied[0], occupied[-1]) == (5, 34)  # (40 - 30) / 2
    inside = (gap.probability > 0.9)
    assert (gap.ct[inside] > 0.4).all()  # the image moves with the body


def test_a_wedge_keeps_its_back():
    gap, *_ = fit_height(body(), sure([16.0, 20.0, 24.0]), NO_HEAD)
    assert thirds_mm(gap) == pytest.approx((16, 20, 24), abs=0.3)


def test_as_drawn_moves_by_whole_rows_alone():
    gap, rows, agreed_mm = fit_height(box(3, 27), DRAWN, NO_HEAD)
    assert rows == 24 and agreed_mm == ()
    assert torch.equal(gap.probability, box(8, 32).probability)


def test_a_second_smaller_piece_has_no_say():
    gap = box(8, 30)
    gap.probability[34:38, 20:30, 8:20] = 1.0
    wanted = sure([26.0] * 3)
    fitted, alone = (fit_height(each, wanted, NO_HEAD) for each in (gap, box(8, 30)))
    assert thirds_mm(fitted.gap) == pytest.approx([26.0] * 3, abs=0.3)
    assert fitted.rows == alone.rows and fitted.agreed_mm == alone.agreed_mm


def test_the_head_decides_where_nothing_is_wanted_or_drawn():
    nothing = DrawnGap(torch.zeros(GAP_ROWS, COLUMNS, SLICES), torch.zeros(GAP_ROWS, COLUMNS, SLICES))
    for gap, wanted in ((box(), None), (nothing, sure([25.0] * 3)), (nothing, DRAWN)):
        fitted = fit_height(gap, wanted, HeadHeight(27.4))
        assert fitted.gap is gap and fitted.rows == 27 and fitted.agreed_mm == ()
    assert fit_height(box(), None, HeadHeight(55.0)).rows == GAP_ROWS


def test_what_was_hardly_drawn_is_left_to_the_head():
    bridge = box().probability.clone()
    bridge[:19, FRONT + 10:BACK - 10] = 0.0                        # a middle third of 2 rows
    bridge[21:, FRONT + 10:BACK - 10] = 0.0
    for gap in (drawn(bridge), box(19, 21)):
        assert fit_height(gap, sure([24.0] * 3), HeadHeight(25.0)).agreed_mm == ()


def test_two_witnesses_are_weighed_by_their_doubts():
    """The box of 24 rows, with the head's extent of 30, says 30; the other vertebrae say 20."""
    level = measure_drawn(box().probability)
    implied = ImpliedHeight(np.log([20.0] * 3), np.full(3, 0.002))
    assert agree(implied, *level, HeadHeight(30.0)) == pytest.approx([20.0] * 3)        # never validated
    assert agree(implied, *level, HeadHeight(30.0, 0.002)) == pytest.approx([600**0.5] * 3)
    certain = ImpliedHeight(implied.log_mm, np.zeros(3))
    assert agree(certain, *level, HeadHeight(30.0, 0.002)) == pytest.approx([20.0] * 3)
