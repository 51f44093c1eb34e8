"""Rotation and scaling of boxes: the extent stays the truth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_boxes import BACK, FRONT, ROWS, boxes, heights

from data.slice_affine import turn_and_scale
from data.slice_input import build_slice_truth, inference_context
from util.geometry import GAP_ROWS


@pytest.mark.parametrize(("scale", "height"), [(26 / 24, 26), (0.9, 22), (1.1, 26), (23 / 24, 23), (2.0, 40)])
def test_a_box_scales_to_whole_rows(scale: float, height: int) -> None:
    raw = boxes((6, 24), target=24)
    after = turn_and_scale(raw, torch.zeros(1), torch.tensor([scale]))
    top, bottom = int(after.top), int(after.bottom)
    assert bottom - top == height
    assert abs(top + bottom - 256) <= 1
    assert set(heights(after.body).tolist()) - {0} == {height}
    assert torch.equal(torch.nonzero(after.body[0, 0].any(1)).squeeze(1), torch.arange(top, bottom))
    context = inference_context(1)
    truth = build_slice_truth(after, context, context)
    assert truth.height_mm.item() == height
    assert truth.body.sum() == after.body.sum()
    width = int(after.body[0, 0, top].sum())
    assert width == pytest.approx(30 * height / 24, abs=1)
    disc = after.neighbours[0, 0, :top, FRONT + 4].flip(0).int().argmax()
    assert disc == pytest.approx(6 * height / 24, abs=1)


def test_a_slice_lower_than_its_vertebra_keeps_its_margins() -> None:
    raw = boxes(target=24)
    raw = raw._replace(top=raw.top - 4, bottom=raw.bottom + 2)                     # 30 rows over all slices
    after = turn_and_scale(raw, torch.zeros(1), torch.tensor([1.1]))               # 33
    first, last = torch.nonzero(after.body[0, 0].any(1)).squeeze(1)[[0, -1]].tolist()
    assert int(after.bottom - after.top) == 33
    assert first - int(after.top) == 4 and int(after.bottom) - last - 1 == 2       # 4.4 and 2.2
    tilted = turn_and_scale(raw, torch.tensor([3.0]), torch.ones(1))
    rows = torch.nonzero(tilted.body[0, 0].any(1)).squeeze(1)
    assert rows[0] - tilted.top == 4 and tilted.bottom - rows[-1] - 1 == 2


def test_a_tilt_is_the_commanded_one_and_shows_in_the_extent() -> None:
    raw = boxes((6, 24), target=24)
    after = turn_and_scale(raw, torch.tensor([3.0]), torch.ones(1))
    columns = np.arange(FRONT + 3, BACK - 3)
    edge = after.body[0, 0].int().argmax(0).numpy()[columns]
    slope = np.polyfit(columns, edge, 1)[0]
    assert slope == pytest.approx(-np.tan(np.radians(3.0)), abs=0.01)  # the first goes down
    assert int(after.bottom - after.top) == pytest.approx(24 + 30 * np.sin(np.radians(3.0)), abs=1)


@settings(max_examples=60, deadline=None)
@given(target=st.integers(8, 40), angle=st.floats(-10, 10), scale=st.floats(0.8, 1.4),
       margins=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_every_extent_holds_its_body_and_fits_the_gap(target: int, angle: float, scale: float,
                                                      margins: tuple[int, int]) -> None:
    raw = boxes((6, 24), target=target)
    top, bottom = int(raw.top) - margins[0], int(raw.bottom) + margins[1]
    if bottom - top > GAP_ROWS:
        top, bottom = int(raw.top), int(raw.bottom)
    raw = raw._replace(top=torch.tensor([top]), bottom=torch.tensor([bottom]))
    after = turn_and_scale(raw, torch.tensor([angle]), torch.tensor([scale]))
    assert 0 <= after.top < after.bottom <= ROWS
    assert after.bottom - after.top <= GAP_ROWS
    rows = torch.nonzero(after.body[0, 0].any(1)).squeeze(1)
    assert after.top <= rows[0] and rows[-1] < after.bottom
