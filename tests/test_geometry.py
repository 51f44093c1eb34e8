"""Rows: opening the gap and closing it are one operation and undo each other."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.errors import InputError
from util.geometry import (
    GAP_ROWS,
    NOTHING,
    close_gap_maps,
    compose,
    gap_top,
    gather_rows,
    open_gap_map,
    opened_body_map,
    row_extent,
)

ROWS = 256


@st.composite
def extents(draw):
    """Draw vertebral extents of at most 40 rows anywhere in the image, its edges included."""
    height = draw(st.integers(1, GAP_ROWS))
    top = draw(st.integers(0, ROWS - height))
    return torch.tensor([top]), torch.tensor([top + height])


def numbered_rows(rows: int = ROWS) -> torch.Tensor:
    """An image whose rows bear their numbers, (1, 1, rows, 2)."""
    return torch.arange(float(rows))[None, None, :, None].expand(1, 1, rows, 2)


def open_fully(image, top, bottom):
    """Open the gap with all context visible and put the vertebra itself into the gap's centre."""
    everything = torch.full_like(top, ROWS)
    surroundings = open_gap_map(top, bottom, ROWS, everything, everything)
    inside = opened_body_map(top, bottom, ROWS)
    return gather_rows(image, torch.maximum(surroundings, inside), -1.0)


def test_row_extent_is_half_open():
    mask = np.zeros((10, 4, 4), bool)
    mask[3:7, 1, 1] = True
    assert row_extent(mask) == (3, 7)


def test_row_extent_of_nothing_is_an_error():
    with pytest.raises(InputError, match="found none"):
        row_extent(np.zeros((4, 4, 4), bool))


def test_gap_by_hand():
    """A body in rows 100-130: the 40-row gap has row 99 just above it and row 130 just below."""
    context = torch.tensor([88])
    opened = open_gap_map(torch.tensor([100]), torch.tensor([130]), ROWS, context, context)[0]
    first = gap_top(ROWS)
    assert (opened[first:first + GAP_ROWS] == NOTHING).all()
    assert opened[first - 1] == 99 and opened[first + GAP_ROWS] == 130
    assert opened[first - 88] == 12 and opened[first - 89] == NOTHING
    assert opened[first + GAP_ROWS + 87] == 217 and opened[first + GAP_ROWS + 88] == NOTHING


@given(extents())
def test_closing_at_the_own_height_gives_the_image_back(extent):
    top, bottom = extent
    image = numbered_rows()
    assert torch.equal(compose(image, open_fully(image, top, bottom), top, bottom, bottom - top), image)


@given(extents(), st.integers(0, GAP_ROWS))
def test_closing_keeps_what_lies_outside(extent, height):
    """Whatever the height, the rows that survive outside are the original's, in order, next to the gap."""
    top, bottom = extent
    outside, inside = close_gap_maps(top, bottom, torch.tensor([height]), ROWS)
    kept = outside[0][outside[0] != NOTHING]
    assert ((kept < top) | (kept >= bottom)).all()
    assert (kept.diff()[kept[1:] != bottom] == 1).all()
    assert not ((outside != NOTHING) & (inside != NOTHING)).any()
    assert (inside != NOTHING).sum() <= height


def test_inner_rows_are_the_gaps_centre():
    _, inside = close_gap_maps(torch.tensor([100]), torch.tensor([121]), torch.tensor([30]), ROWS)
    rows = inside[0][inside[0] != NOTHING]
    assert rows.tolist() == list(range(gap_top(ROWS) + 5, gap_top(ROWS) + 35))


@given(st.lists(extents(), min_size=2, max_size=4), st.integers(0, 2**31))
def test_batch_equals_its_elements(drawn, seed):
    top, bottom = (torch.cat(part) for part in zip(*drawn, strict=True))
    random = torch.Generator().manual_seed(seed)
    original, generated = torch.rand(2, len(drawn), 1, ROWS, 3, generator=random)
    height = torch.randint(0, GAP_ROWS + 1, (len(drawn),), generator=random)
    together = compose(original, generated, top, bottom, height)
    alone = [compose(original[i:i + 1], generated[i:i + 1], top[i:i + 1], bottom[i:i + 1], height[i:i + 1])
             for i in range(len(drawn))]
    assert torch.equal(together, torch.cat(alone))


def test_composition_carries_gradients_to_the_generated_rows():
    generated = torch.zeros(1, 1, ROWS, 2, requires_grad=True)
    top, bottom = torch.tensor([100]), torch.tensor([130])
    compose(numbered_rows(), generated, top, bottom, bottom - top).sum().backward()
    assert generated.grad is not None
    assert generated.grad.sum() == 30 * 2
