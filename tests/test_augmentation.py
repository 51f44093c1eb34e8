"""Augmentation of raw slices, on boxes that can be counted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.aligned_dataset import VertebraSlices, epoch_batches
from data.augmentation import (
    KINDS,
    Augmentation,
    add_noise,
    augment,
    draw_augmentation,
    mirror,
    tint,
    white_noise,
)
from data.context_fracture import PROFILES, ContextFractures, column_losses, find_neighbours, press_neighbours
from data.slice_affine import turn_and_scale
from data.slice_cache import SliceStore
from data.slice_input import RawSlices, build_slice_input, build_slice_truth, inference_context
from util.geometry import GAP_ROWS

ROWS, COLUMNS, FRONT, BACK, BODY_ROWS = 256, 64, 16, 46, 24
BONE, TISSUE = 150, 80


def boxes(*gaps_and_heights: tuple[int, int], target: int = 24, outside: int = 0) -> RawSlices:
    """One slice: a target of `target` rows at row 128, boxes above it and the same below.

    Args:
        gaps_and_heights: rows of disc and of body, outwards from the target.
        target: rows of the target.
        outside: columns at the left edge that lie outside the scan.
    """
    body, neighbours = torch.zeros(2, 1, 1, ROWS, COLUMNS, dtype=torch.uint8)
    top = 128 - target // 2
    bottom = top + target
    body[:, :, top:bottom, FRONT:BACK] = 1
    above, below = top, bottom
    for gap, height in gaps_and_heights:
        neighbours[:, :, above - gap - height:above - gap, FRONT:BACK] = 1
        neighbours[:, :, below + gap:below + gap + height, FRONT:BACK] = 1
        above, below = above - gap - height, below + gap + height
    ct = (TISSUE + (BONE - TISSUE) * (body | neighbours)).to(torch.uint8)
    ct[:, :, :, :outside] = 0
    return RawSlices(ct, body, neighbours, torch.zeros_like(ct), torch.tensor([top]), torch.tensor([bottom]),
                     torch.tensor([0.25]))


def joined(*batches: RawSlices) -> RawSlices:
    """Batches as one."""
    return RawSlices(*(torch.cat(fields) for fields in zip(*batches, strict=True)))


def noisy(raw: RawSlices, seed: int = 0) -> RawSlices:
    """The slices with a texture in CT and heatmap."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(0, 40, raw.ct.shape, generator=generator, dtype=torch.uint8)
    return raw._replace(ct=torch.where(raw.ct > 0, raw.ct + texture, 0), heatmap=texture)


def spines(count: int = 4) -> RawSlices:
    """A batch of boxes of several heights, with texture."""
    return joined(*(noisy(boxes((6, 22 + i), (7, 24), target=20 + 3 * i, outside=3), i)
                    for i in range(count)))


def drawn(count: int, *kinds: str, plane: str = "sagittal", seed: int = 0) -> Augmentation:
    return draw_augmentation(count, kinds, plane, torch.Generator().manual_seed(seed))


def fractures(above: float, below: float, kind: str = "crush", **others: float) -> ContextFractures:
    """Fractures of one slice's neighbours."""
    values = {"near_share": 0.5, "compaction": 0.5, "heat": 0.9, "heat_place": 0.5} | others
    return ContextFractures(torch.tensor([[above, below]]), torch.full((1, 2), list(PROFILES).index(kind)),
                            **{name: torch.full((1, 2), value) for name, value in values.items()})


def heights(mask: torch.Tensor) -> np.ndarray:
    """Rows of a mask in every column of the boxes."""
    return mask[0, 0, :, FRONT:BACK].sum(0).numpy()


def assert_same(one: RawSlices, other: RawSlices) -> None:
    for name, first, second in zip(RawSlices._fields, one, other, strict=True):
        assert first.dtype == second.dtype, name
        assert torch.equal(first, second), name


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS])
def test_a_batch_equals_its_elements(kinds: tuple[str, ...], plane: str) -> None:
    raw, augmentation = spines(6), drawn(6, *kinds, plane=plane, seed=5)
    together = augment(raw, augmentation)
    changed = [not torch.equal(before, after) for before, after in zip(raw, together, strict=True)]
    assert any(changed)
    for index in range(6):
        alone = augment(RawSlices(*(field[index:index + 1] for field in raw)),
                        augmentation.map(lambda tensor, i=index: tensor[i:i + 1]))
        assert_same(alone, RawSlices(*(field[index:index + 1] for field in together)))


def test_application_has_no_chance_and_leaves_its_input() -> None:
    raw, augmentation = spines(), drawn(4, *KINDS)
    kept = RawSlices(*(field.clone() for field in raw))
    first = augment(raw, augmentation)
    torch.manual_seed(99)
    assert_same(first, augment(raw, augmentation))
    assert_same(raw, kept)


def test_what_is_drawn_for_a_kind_does_not_depend_on_the_others() -> None:
    alone, among = drawn(50, "affine"), drawn(50, *KINDS)
    assert torch.equal(alone.angle_deg, among.angle_deg) and torch.equal(alone.scale, among.scale)
    assert not alone.fractures.loss.any() and among.fractures.loss.any()
    assert torch.equal(among.scale, drawn(50, *KINDS).scale)
    assert not torch.equal(among.scale, drawn(50, *KINDS, seed=1).scale)


def test_nothing_drawn_changes_nothing() -> None:
    raw = spines()
    assert_same(augment(raw, drawn(4)), raw)
    none = drawn(4)
    assert_same(turn_and_scale(raw, none.angle_deg, none.scale), raw)
    assert_same(press_neighbours(raw, none.fractures), raw)


def test_sagittal_slices_are_never_mirrored_but_change_sides() -> None:
    raw = spines(20)
    flipped = drawn(20, "flip")
    after = augment(raw, flipped)
    assert torch.equal(after.ct, raw.ct)
    assert 4 < flipped.mirror_distance.sum() < 16
    assert torch.equal(after.distance, torch.where(flipped.mirror_distance, -raw.distance, raw.distance))


def test_coronal_slices_are_mirrored_and_keep_their_distance() -> None:
    raw = spines(20)
    flipped = drawn(20, "flip", plane="coronal")
    after = augment(raw, flipped)
    assert torch.equal(after.distance, raw.distance)
    for index, mirrored in enumerate(flipped.mirror_columns):
        for name in ("ct", "body", "neighbours", "heatmap"):
            before = getattr(raw, name)[index]
            assert torch.equal(getattr(after, name)[index], before.flip(2) if mirrored else before)
    twice = mirror(after, flipped.mirror_columns, flipped.mirror_distance)
    assert torch.equal(twice.ct, raw.ct)


def test_gain_stretches_about_water() -> None:
    ct = torch.tensor([0, 1, 60, 70, 170, 255], dtype=torch.uint8).view(1, 1, 1, 6)
    stretched = tint(ct, torch.tensor([1.1]), torch.tensor([2.0]))
    assert stretched.flatten().tolist() == [0, 0, 61, 72, 182, 255]  # 69.5 + 1.1 (v - 69.5) + 2
    assert tint(ct, torch.tensor([0.85]), torch.tensor([8.0])).flatten()[0] == 0


def test_noise_is_normal_and_follows_its_seed() -> None:
    noise = white_noise(torch.tensor([3, 4, 3]), 65536)
    assert torch.equal(noise[0], noise[2])
    assert (noise.mean(1).abs() < 0.02).all() and ((noise.std(1) - 1).abs() < 0.02).all()
    assert abs(float(torch.corrcoef(noise[:2])[0, 1])) < 0.02
    lag = torch.stack([noise[0, :-1], noise[0, 1:]])
    assert abs(float(torch.corrcoef(lag)[0, 1])) < 0.02
    ct = torch.full((1, 1, 256, 256), 128, dtype=torch.uint8)
    ct[..., :100] = 0
    after = add_noise(ct, torch.tensor([10.0]), torch.tensor([7]))
    assert not after[..., :100].any()
    assert abs(float(after[..., 100:].float().std()) - 10.0) < 0.3


@pytest.mark.parametrize("kinds", [("intensity",), ("noise",), ("intensity", "noise", "fracture")])
def test_outside_the_scan_stays_zero(kinds: tuple[str, ...]) -> None:
    raw = spines(8)
    after = augment(raw, drawn(8, *kinds))
    assert not torch.equal(raw.ct, after.ct)
    assert not after.ct[:, :, :, :3].any()
    assert after.ct[:, :, 100:150, 4:].min() > 0


@pytest.mark.parametrize(("scale", "height"), [(26 / 24, 26), (0.9, 22), (1.1, 26), (23 / 24, 23), (2.0, 40)])
def test_a_box_scales_to_whole_rows(scale: float, height: int) -> None:
    raw = boxes((6, 24), target=24)
    after = turn_and_scale(raw, torch.zeros(1), torch.tensor([scale]))
    top, bottom = int(after.top), int(after.bottom)
    assert bottom - top == height
    assert abs(top + bottom - 256) <= 1
    assert (heights(after.body) == height).all()
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
    assert slope == pytest.approx(-np.tan(np.radians(3.0)), abs=0.01)              # the first column goes down
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


def test_the_next_neighbours_are_found() -> None:
    raw = joined(boxes((6, 22), (7, 24)), boxes((9, 30)), boxes())
    found = find_neighbours(raw)
    assert found.found.tolist() == [[True, True], [True, True], [False, False]]
    assert found.near.tolist() == [[6, 6], [9, 9], [0, 0]]
    assert found.far.tolist() == [[28, 28], [39, 39], [0, 0]]
    assert found.first[:2].tolist() == [[FRONT] * 2] * 2 and found.last[:2].tolist() == [[BACK] * 2] * 2
    assert int(found.mask[0].sum()) == 2 * 22 * 30
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
    pressed = press_neighbours(raw, fractures(0.19, 0.0, kind))
    below = heights(pressed.neighbours[:, :, 140:])
    assert (below == 54).all()
    above = heights(pressed.neighbours[:, :, :116]).reshape(3, 10).mean(1) - 24
    commanded = column_losses(find_neighbours(raw), fractures(0.19, 0.0, kind), COLUMNS)[0, 0, FRONT:BACK]
    assert above.tolist() == pytest.approx((30 * (1 - commanded.unflatten(0, (3, 10)).mean(1))).tolist(),
                                           abs=0.35)


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


def test_what_lies_beyond_moves_along_in_its_form() -> None:
    raw = boxes((6, 25), (6, 24))
    after = press_neighbours(raw, fractures(0.4, 0.0, "crush", near_share=0.0))
    column = after.neighbours[0, 0, :116, FRONT + 15].nonzero().squeeze(1)  # what is left above: the second body
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


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_every_batch_is_a_valid_sample(plane: str) -> None:
    raw = spines(40)
    after = augment(raw, drawn(40, *KINDS, plane=plane))
    assert all(getattr(after, name).dtype == torch.uint8 for name in ("ct", "body", "neighbours", "heatmap"))
    assert int(after.body.max()) == int(after.neighbours.max()) == 1
    assert not (after.body & after.neighbours).any()
    assert ((after.bottom - after.top) <= GAP_ROWS).all()
    assert set(drawn(200, *KINDS, plane=plane).fractures.kind.flatten().tolist()) == (
        {0, 1, 2} if plane == "sagittal" else {1, 2})


def test_an_epoch_draws_the_same_slices_with_and_without() -> None:
    images, distance = np.zeros((3, 2, 1, 1), np.uint8), np.array([-0.5, 0.0, 0.5], np.float32)
    store = SliceStore([VertebraSlices(str(number), images, distance, 0, 1) for number in range(7)])
    plain = list(epoch_batches(store, 3, 0, 5))
    changed = list(epoch_batches(store, 3, 0, 5, KINDS, "coronal"))
    whole, = epoch_batches(store, 7, 0, 5, KINDS, "coronal")
    assert all(batch.augmentation is None for batch in plain)
    for one, other in zip(plain, changed, strict=True):
        assert all(torch.equal(first, second) for first, second in zip(one[:4], other[:4], strict=True))
    assert torch.equal(torch.cat([batch.augmentation.gain for batch in changed]), whole.augmentation.gain)
    again = next(epoch_batches(store, 3, 0, 6, KINDS, "coronal"))
    assert not torch.equal(again.augmentation.gain, changed[0].augmentation.gain)
