"""The sample: what the generator sees says nothing about the vertebra that was taken out."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.slice_input import (
    INFERENCE_CONTEXT_ROWS,
    RawSlices,
    build_slice_input,
    build_slice_truth,
    draw_training_context,
    inference_context,
)
from util.geometry import GAP_ROWS, compose, gap_top

ROWS, COLUMNS = 256, 32


def raw_slices(top, bottom, seed=0):
    """Random slices with a full-width body in rows [top, bottom)."""
    random = torch.Generator().manual_seed(seed)
    batch = len(top)
    top, bottom = torch.tensor(top), torch.tensor(bottom)
    shape = (batch, 1, ROWS, COLUMNS)
    row = torch.arange(ROWS)[None, None, :, None]
    body = (row >= top[:, None, None, None]) & (row < bottom[:, None, None, None])
    neighbours = torch.randint(0, 2, shape, generator=random) * ~body
    ct, heatmap = (torch.randint(0, 256, shape, generator=random).byte() for _ in range(2))
    distance = torch.rand(batch, generator=random) * 2 - 1
    return RawSlices(ct, body.expand(shape).byte(), neighbours.byte(), heatmap, top, bottom, distance)


def build(raw):
    context = inference_context(len(raw.top))
    return build_slice_input(raw, context, context)


def test_nothing_of_the_target_is_visible():
    raw = raw_slices([110], [141])
    changed = raw._replace(ct=torch.where(raw.body.bool(), 255 - raw.ct, raw.ct),
                           heatmap=torch.where(raw.body.bool(), 255 - raw.heatmap, raw.heatmap))
    for before, after in zip(build(raw), build(changed), strict=True):
        assert torch.equal(before, after)


@settings(max_examples=20, deadline=None)
@given(st.integers(5, GAP_ROWS), st.integers(5, GAP_ROWS))
def test_height_is_not_readable(height, other_height):
    """The same surroundings around a vertebra of another height give the same input."""
    raw = raw_slices([112], [112 + height])
    pressed = pressed_to(raw, other_height)
    for before, after in zip(build(raw), build(pressed), strict=True):
        assert torch.equal(before, after)


def pressed_to(raw, height):
    """The slice with its target pressed or stretched to another height, what lies below moving along."""
    top, bottom = int(raw.top), int(raw.bottom)

    def move(image):
        above, below = image[:, :, :top], image[:, :, bottom:]
        target = torch.full((1, 1, height, COLUMNS), 7, dtype=image.dtype)
        return torch.cat([above, target, below], 2)[:, :, :ROWS] if height >= bottom - top else torch.cat(
            [above, target, below, image[:, :, :bottom - top - height]], 2)

    return raw._replace(ct=move(raw.ct), body=move(raw.body), neighbours=move(raw.neighbours),
                        heatmap=move(raw.heatmap), bottom=torch.tensor([top + height]))


def test_context_ends_where_it_is_told_to():
    seen = build(raw_slices([110], [140])).masked_ct[0, 0]
    first = gap_top(ROWS)
    blank = (seen == -1).all(1)
    assert blank[:first - INFERENCE_CONTEXT_ROWS].all() and blank[first:first + GAP_ROWS].all()
    assert not blank[first - INFERENCE_CONTEXT_ROWS:first].any()
    assert blank[first + GAP_ROWS + INFERENCE_CONTEXT_ROWS:].all()


def test_truth_composed_at_the_true_height_is_the_image():
    raw = raw_slices([100, 111], [125, 140])
    context = inference_context(2)
    truth = build_slice_truth(raw, context, context)
    empty = raw.body.float() * 0
    composed = compose(empty, truth.body, raw.top, raw.bottom, raw.bottom - raw.top)
    assert torch.equal(composed, raw.body.float())
    assert truth.height_mm.tolist() == [25, 29]
    assert not (truth.body * truth.neighbours).any()


def test_batch_of_two_equals_two_batches_of_one():
    raw = raw_slices([100, 111], [125, 140])
    together = build(raw)
    for i in range(2):
        alone = build(RawSlices(*(field[i:i + 1] for field in raw)))
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[i:i + 1], part)


def test_attention_is_the_complement_of_the_heatmap():
    raw = raw_slices([110], [140])._replace(heatmap=torch.full((1, 1, ROWS, COLUMNS), 51, dtype=torch.uint8))
    seen = build(raw)
    first = gap_top(ROWS)
    assert torch.allclose(seen.attention[0, 0, first - 1], torch.tensor(0.8))
    assert not seen.attention[0, 0, first:first + GAP_ROWS].any()


def test_training_context_is_drawn_by_the_given_generator():
    first, second = (draw_training_context(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], first[1])
