"""Virtual fractures of boxes beside a target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_boxes import BACK, BONE, COLUMNS, FRONT, boxes, heights, joined, noisy

from data.context_fracture import PROFILES, ContextFractures, column_losses, find_neighbours, press_neighbours
from data.slice_input import build_slice_input, inference_context


def fractures(above: float, below: float, kind: str = "crush", **others: float) -> ContextFractures:
    """Fractures of one slice's neighbours."""
    values = {"near_share": 0.5, "compaction": 0.5, "heat": 0.9, "heat_place": 0.5} | others
    return ContextFractures(torch.tensor([[above, below]]), torch.full((1, 2), list(PROFILES).index(kind)),
                            **{name: torch.full((1, 2), value) for name, value in values.items()})


def test_the_next_neighbours_are_found() -> None:
    raw = joined(boxes((6, 22), (7, 24)), boxes((9, 30)), boxes())
    found = find_neighbours(raw)
    assert found.found.tolist() == [[True, True], [True, True], [False, False]]
    assert found.near.tolist() == [[6, 6], [9, 9], [0, 0]]
    assert found.far.tolist() == [[28, 28], [39, 39], [0, 0]]
    assert found.first[:2].tolist() == [[FRONT] * 2] * 2 and found.last[:2].tolist() == [[BACK] * 2] * 2
    assert int(found.mask[0].sum()) == 2 * 22 * 30
    assert found.free.tolist() == [[5, 5], [0, 0], [0, 0]]  # of 7; beyond the only neighbour none is known
    assert not (found.mask & ~raw.neighbours).any()


def test_a_spur_and_a_second_body_do_not_mislead() -> None:
    raw = boxes((6, 22), (7, 24))
    raw.neighbours[0, 0, 60:82, 50:54] = 1            # further back, at the height of the second body
    raw.neighbours[0, 0, 88:90, FRONT - 3:FRONT] = 1  # a spur at the first
    found = find_neighbours(raw)
    assert (int(found.near[0, 0]), int(found.far[0, 0])) == (6, 28)
    assert (int(found.first[0, 0]), int(found.last[0, 0])) == (FRONT, BACK)


@pytest.mark.parametrize("kind", list(PROFILES))
def test_the_worst_third_loses_what_was_commanded(kind: str) -> None:
    raw = boxes((6, 30), (7, 24))
    lost = column_losses(find_neighbours(raw), fractures(0.4, 0.1, kind), COLUMNS)[0, :, FRONT:BACK]
    thirds = lost.unflatten(1, (3, 10)).mean(2)
    assert thirds.amax(1).tolist() == pytest.approx([0.4, 0.1], abs=0.005)
    assert int(thirds[0].argmax()) == {"wedge": 0, "biconcave": 1, "crush": 0}[kind]


@settings(max_examples=30, deadline=None)
@given(loss=st.floats(0.0, 0.19), kind=st.sampled_from(list(PROFILES)), share=st.floats(0, 1))
def test_every_column_has_the_rows_that_are_left_to_it(loss: float, kind: str, share: float) -> None:
    raw = boxes((6, 30), (7, 24))
    broken = fractures(loss, 0.0, kind, near_share=share)
    pressed = press_neighbours(raw, broken)
    assert (heights(pressed.neighbours[:, :, 140:]) == 54).all()
    left = 30 * (1 - column_losses(find_neighbours(raw), broken, COLUMNS)[0, 0, FRONT:BACK].numpy())
    assert (abs(heights(pressed.neighbours[:, :, :116]) - 24 - left) <= 1).all()  # whole rows


@settings(max_examples=30, deadline=None)
@given(above=st.floats(0, 0.6), below=st.floats(0, 0.6), kind=st.sampled_from(list(PROFILES)),
       share=st.floats(0, 1), gap=st.integers(0, 12))
def test_nothing_of_the_target_changes(above: float, below: float, kind: str, share: float, gap: int) -> None:
    raw = noisy(boxes((gap, 22), (7, 24)))
    after = press_neighbours(raw, fractures(above, below, kind, near_share=share))
    inside = slice(int(raw.top), int(raw.bottom))
    for name in ("ct", "body", "neighbours", "heatmap"):
        assert torch.equal(getattr(after, name)[:, :, inside], getattr(raw, name)[:, :, inside]), name
    assert torch.equal(after.body, raw.body)
    assert (after.top, after.bottom, after.distance) == (raw.top, raw.bottom, raw.distance)


@settings(max_examples=30, deadline=None)
@given(loss=st.floats(0.2, 0.6), kind=st.sampled_from(list(PROFILES)), disc=st.integers(1, 8),
       share=st.floats(0, 1))
def test_the_second_neighbour_keeps_its_form(loss: float, kind: str, disc: int, share: float) -> None:
    raw = boxes((6, 25), (disc, 24))
    broken = fractures(loss, 0.0, kind, near_share=share)
    after = press_neighbours(raw, broken)
    above = after.neighbours[0, 0, :116, FRONT:BACK].int()
    assert (above.sum(0) == 24).all()
    assert (above.argmax(0) == above.argmax(0)[0]).all()  # still level
    if disc == 1:  # nothing yields to a hollow
        lost = column_losses(find_neighbours(raw), broken, COLUMNS)[0, 0]
        assert torch.allclose(lost, torch.tensor(loss))


def test_what_lies_beyond_moves_along_in_its_form() -> None:
    raw = boxes((6, 25), (6, 24))
    after = press_neighbours(raw, fractures(0.4, 0.0, "crush", near_share=0.0))
    column = after.neighbours[0, 0, :116, FRONT + 15].nonzero().squeeze(1)  # the second body
    assert len(column) == 24
    moved = int(column[-1]) - (116 - 6 - 25 - 6 - 1)
    assert moved == round(25 * 0.4 * 0.88)                    # the column that loses least, at the very back
    wedge = press_neighbours(raw, fractures(0.4, 0.0, "wedge"))
    assert torch.equal(wedge.neighbours[:, :, :79], raw.neighbours[:, :, :79])  # the back keeps its height


def test_a_pressed_neighbour_is_healthy_below_a_fifth_only() -> None:
    raw = boxes((6, 25), (6, 24))
    mild, fractured = (press_neighbours(raw, fractures(loss, 0.0)) for loss in (0.19, 0.2))
    assert not mild.heatmap.any()
    assert heights(mild.neighbours[:, :, 80:116]).min() >= 20
    assert not fractured.neighbours[:, :, 86:116].any()
    assert torch.equal(fractured.neighbours[:, :, 140:], raw.neighbours[:, :, 140:])
    assert int(fractured.heatmap.max()) == pytest.approx(0.9 * 255, abs=4)
    hottest = divmod(int(fractured.heatmap.argmax()), COLUMNS)
    assert 88 < hottest[0] < 110 and FRONT + 12 < hottest[1] < BACK - 12
    assert not fractured.heatmap[:, :, 116:].any()
    before = build_slice_input(raw, inference_context(1), inference_context(1)).attention
    after = build_slice_input(fractured, inference_context(1), inference_context(1)).attention
    assert float((before - after).max()) > 0.8


def test_pressed_bone_is_denser() -> None:
    raw = boxes((6, 25), (6, 24))
    after = press_neighbours(raw, fractures(0.5, 0.0, compaction=1.0, near_share=0.0))
    middle = after.ct[0, 0, 102:108, FRONT + 3]               # crush: this column loses half
    assert middle.float().mean() == pytest.approx(60.3 + (BONE - 60.3) * 2, rel=0.06)
    same = press_neighbours(raw, fractures(0.5, 0.0, compaction=0.0, near_share=0.0))
    assert (same.ct[0, 0, 102:108, FRONT + 3] == BONE).all()
