"""Baselines that need no network, on boxes whose rows are counted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.baseline.body_shape import (
    SHAPE_SIZE,
    BodyShape,
    body_shape,
    cell_means,
    columns_of,
    shape_heights_mm,
    solid_columns,
)
from evaluation.baseline.classical import PosteriorBaseline, SixPointBaseline
from evaluation.baseline.models import load_baselines
from evaluation.baseline.ratio import Ratio, RatioBaseline, fit_ratio, stretched_body
from evaluation.baseline.reference import restored_labels
from evaluation.baseline.shape import ShapeBaseline, ShapeBasis, fit_shape
from evaluation.baseline.surroundings import MeasuredBody, Surroundings, measure_surroundings, nearest_healthy
from evaluation.heights import relative_loss
from util.body_heights import measure_body, own_body, third_heights_mm
from util.errors import InputError
from util.geometry import close_gap_maps, row_extent

T11, T12, L1, L2, L3 = 18, 19, 20, 21, 22
SHAPE = (256, 64, 32)
ONE = Ratio(np.ones(3), 9)
PAIRS = {(L1, T12): ONE, (L1, L2): ONE, (L1, T11): ONE, (L1, L3): ONE}


def spine(heights: dict[int, object], disc: int = 6, top: int = 60) -> np.ndarray:
    """Labels of boxes 30 columns deep, 16 slices wide; a height is a number of rows, or one of each third."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, height in heights.items():
        thirds = [height] * 3 if isinstance(height, int) else height
        bottom = top + max(thirds)
        for third, rows in enumerate(thirds):
            labels[bottom - rows:bottom, 17 + 10 * third:27 + 10 * third, 8:24] = label
        top = bottom + disc
    return labels


def seen(labels: np.ndarray, fractured: tuple[int, ...] = (), label: int = L1) -> Surroundings:
    healthy = set(np.unique(labels).tolist()) - set(fractured)
    return measure_surroundings(labels, label, healthy, np.ones(labels.shape, bool))


def unit_ratio(levels: dict[tuple[int, int], Ratio] = PAIRS) -> RatioBaseline:
    return RatioBaseline(levels, {})


def test_between_24_and_28_rows_lie_26_whatever_is_left_of_the_target():
    reference = unit_ratio().reference(seen(spine({T12: 24, L1: 10, L2: 28}), (L1,)))
    assert reference.heights_mm == pytest.approx([26.0] * 4) and reference.reason == ""
    other = unit_ratio().reference(seen(spine({T12: 24, L1: 19, L2: 28}), (L1,)))
    assert np.array_equal(other.heights_mm, reference.heights_mm)


def test_ratios_apply_per_third():
    levels = {(L1, T12): Ratio(np.array([1.0, 1.1, 1.2]), 9), (L1, L2): Ratio(np.array([1.0, 0.9, 0.8]), 9)}
    reference = unit_ratio(levels).reference(seen(spine({T12: 20, L1: 20, L2: 30})))
    assert reference.heights_mm == pytest.approx([25.0, 24.5, 24.0, 24.5])


def test_a_fractured_neighbour_is_skipped_for_the_next_healthy_one():
    labels = spine({T11: 22, T12: 24, L1: 10, L2: 28, L3: 30})
    assert nearest_healthy(seen(labels, (T12,))) == {-1: (2, T11), 1: (1, L2)}
    assert unit_ratio().reference(seen(labels, (T12,))).heights_mm == pytest.approx([25.0] * 4)
    assert unit_ratio().reference(seen(labels, (T12, T11))).heights_mm == pytest.approx([28.0] * 4)
    undefined = unit_ratio().reference(seen(labels, (T12, T11, L2, L3)))
    assert np.isnan(undefined.heights_mm).all() and undefined.mask is None
    assert "no healthy neighbour" in undefined.reason


def test_a_cut_off_neighbour_is_not_used():
    labels = spine({T12: 24, L1: 20, L2: 28})
    content = np.ones(SHAPE, bool)
    content[:61] = False                                           # the scan begins within T12
    cut = measure_surroundings(np.where(content, labels, 0), L1, {T12, L2}, content)
    assert cut.healthy == {L2}
    top = labels[60 + 3:]                                          # the volume itself does
    assert measure_surroundings(top, L1, {T12, L2}, np.ones(top.shape, bool)).healthy == {L2}


def test_a_ratio_is_the_geometric_mean_and_falls_back_to_the_region():
    pairs = [seen(spine({T12: 20, L1: rows})) for rows in (20, 20, 20, 20, 40)]
    more = [seen(spine({L1: 30, L2: 24}), label=L2)] * 3
    fitted = fit_ratio([*pairs, *more])
    assert fitted.levels[L1, T12].thirds == pytest.approx([2 ** 0.2] * 3)
    assert fitted.ratio(L1, T12, -1)[1] == ""
    shared, remark = fitted.ratio(L2, L1, -1)
    assert shared.thirds == pytest.approx([(2 * 0.8 ** 3) ** (1 / 8)] * 3)
    assert remark == "ratio of the lumbar region for L2 to L1 (3 healthy pairs in the fit)"
    reference = fitted.reference(seen(spine({L1: 20, L2: 9}), (L2,), L2))
    assert reference.heights_mm[0] == pytest.approx(20 * shared.thirds[0]) and reference.reason == remark
    assert fitted.few_pairs() == [(L2, L1)]
    none, why = fitted.ratio(T12, T11, -1)
    assert none is None and why == "no ratio of T12 to T11: 0 healthy pairs in the fit"


def test_six_points_and_posterior_formula():
    wedge = seen(spine({T12: 24, L1: [12, 18, 24], L2: 28}))
    six, posterior = SixPointBaseline().reference(wedge), PosteriorBaseline().reference(wedge)
    assert six.heights_mm == pytest.approx([24.0] * 4)
    assert relative_loss(posterior.heights_mm, wedge.own_heights_mm) == pytest.approx([0.5, 0.25, 0.0, 0.25])
    swollen = seen(spine({T12: 24, L1: [27, 18, 24], L2: 28}))
    assert SixPointBaseline().reference(swollen).heights_mm == pytest.approx([27.0] * 4)
    assert relative_loss(PosteriorBaseline().reference(swollen).heights_mm,
                         swollen.own_heights_mm)[0] == pytest.approx(-0.125)
    thin = replace(wedge, bodies={}, own_reason="the vertebra's own body is cut off")
    for method in (SixPointBaseline(), PosteriorBaseline()):
        assert np.isnan(method.reference(thin).heights_mm).all()
        assert method.reference(thin).reason == thin.own_reason


@given(thirds=st.lists(st.floats(18.0, 34.0), min_size=3, max_size=3))
def test_a_stretched_body_measures_the_heights_it_was_stretched_to(thirds):
    body = stretched_body(spine({L1: [20, 22, 25]}) == L1, np.array(thirds))
    measured = third_heights_mm(measure_body(np.pad(body, ((1, 1), (0, 0), (0, 0)))))
    assert measured[:3] == pytest.approx(thirds, abs=0.5)


def test_the_mask_of_the_ratio_holds_its_own_reference_centred_on_the_target():
    levels = {(L1, T12): Ratio(np.array([1.02, 1.0, 0.97]), 9), (L1, L2): Ratio(np.array([1, 0.93, 0.9]), 9)}
    labels = spine({T12: 24, L1: [8, 9, 10], L2: 28})
    reference = unit_ratio(levels).reference(seen(labels, (L1,)))
    body = own_body(reference.mask, L1)
    assert third_heights_mm(measure_body(body)) == pytest.approx(reference.heights_mm, abs=0.5)
    assert sum(row_extent(body)) == pytest.approx(sum(row_extent(labels == L1)), abs=1)
    assert row_extent(body)[0] - row_extent(reference.mask == T12)[1] == 6       # the discs keep their rows
    assert row_extent(reference.mask == L2)[0] - row_extent(body)[1] == 6


@pytest.mark.parametrize("rows", [7, 20, 31])
def test_others_move_as_the_gap_closes(rows):
    labels = spine({T11: 22, T12: 24, L1: 10, L2: 28, L3: 30})
    top, bottom = (torch.tensor([row]) for row in row_extent(labels == L1))
    outside, inside = close_gap_maps(top, bottom, torch.tensor([rows]), len(labels))
    expected = np.where(outside.numpy()[0][:, None, None] >= 0, labels[outside.numpy()[0]], 0)
    expected[(inside >= 0).numpy()[0], 17:47, 8:24] = L1
    assert np.array_equal(restored_labels(labels, L1, box(rows)), expected)


def box(rows: int) -> np.ndarray:
    body = np.zeros((rows, *SHAPE[1:]), bool)
    body[:, 17:47, 8:24] = True
    return body


def test_a_neighbour_that_reaches_into_the_target_stays_whole():
    labels = spine({T12: 24, L1: 20, L2: 28})
    labels[84:95, 17:19, 8:24] = T12                               # a beak over the front of L1
    restored = restored_labels(labels, L1, box(30))
    for label in (T12, L2):
        assert (restored == label).sum() == (labels == label).sum()


@pytest.mark.parametrize(("count", "cells"), [(30, 12), (31, 12), (7, 10), (12, 12), (1, 3)])
def test_cell_means_keep_the_mean(count, cells):
    values = np.random.default_rng(0).normal(size=(count, 2))
    assert cell_means(values, cells).mean(axis=0) == pytest.approx(values.mean(axis=0))
    assert cell_means(np.full(count, 3.0), cells) == pytest.approx([3.0] * cells)


def test_a_shape_has_the_body_s_heights_and_becomes_the_body_again():
    mask = own_body(spine({L1: [20, 22, 25]}), L1)
    shape = body_shape(mask)
    assert shape_heights_mm(shape.values) == pytest.approx(third_heights_mm(measure_body(mask)))
    assert shape.centre.tolist() == [32.0, 16.0] and shape.values[-1] == 16
    rebuilt = solid_columns(*columns_of(shape, *SHAPE[1:]))
    assert np.array_equal(rebuilt.any(axis=0), mask.any(axis=0))
    assert third_heights_mm(measure_body(np.pad(rebuilt, ((1, 1), (0, 0), (0, 0))))) == pytest.approx(
        shape_heights_mm(shape.values), abs=0.5)


def family(sizes: np.ndarray, label: int = L1) -> tuple[dict[str, Surroundings], np.ndarray]:
    """Patients whose bodies are all `size` times a template of their level, and the target's template."""
    rng = np.random.default_rng(3)
    templates = {other: rng.uniform(15.0, 30.0, SHAPE_SIZE) for other in (label - 1, label, label + 1)}
    return {f"p{number}": surroundings_of({other: size * template for other, template in templates.items()},
                                          label) for number, size in enumerate(sizes)}, templates[label]


def surroundings_of(values: dict[int, np.ndarray], label: int) -> Surroundings:
    centre, middle_mm = np.array([32.0, 16.0]), np.zeros((10, 12))
    bodies = {other: MeasuredBody(shape_heights_mm(one), BodyShape(one, centre, middle_mm))
              for other, one in values.items()}
    return Surroundings(label, bodies, frozenset(set(values) - {label}))


@pytest.mark.parametrize("missing", [(), (T12,), (L2,)])
def test_the_shape_basis_recovers_an_exactly_linear_family(missing):
    cases, template = family(np.linspace(0.85, 1.15, 12))
    fitted = fit_shape(list(cases.values()), list(cases))
    assert len(fitted.basis.deviation) == 1
    asked, _ = family(np.array([1.21]))
    unseen = replace(asked["p0"], bodies={label: body for label, body in asked["p0"].bodies.items()
                                          if label not in (L1, *missing)},
                     healthy=asked["p0"].healthy - set(missing))
    assert fitted.reference(unseen).heights_mm == pytest.approx(1.21 * shape_heights_mm(template), rel=1e-4)


def test_a_shape_without_neighbours_or_level_is_undefined():
    cases, _ = family(np.linspace(0.85, 1.15, 12))
    fitted = fit_shape(list(cases.values()), list(cases))
    alone = replace(cases["p0"], healthy=frozenset())
    assert np.isnan(fitted.reference(alone).heights_mm).all()
    assert "no healthy neighbour" in fitted.reference(alone).reason
    assert fitted.reference(replace(cases["p0"], label=L3)).reason.startswith("no healthy L3")
    with pytest.raises(InputError, match="found 2 of 2"):
        fit_shape(list(cases.values())[:2], ["a", "b"])


def test_more_ridge_draws_the_target_to_its_level_s_mean():
    basis = ShapeBasis(np.eye(3 * SHAPE_SIZE)[:, :1] + np.eye(3 * SHAPE_SIZE)[:, [SHAPE_SIZE]], np.ones(1))
    known = {-1: np.eye(SHAPE_SIZE)[0]}
    assert basis.target(known, 1e-9)[0] == pytest.approx(1.0)
    assert basis.target(known, 1.0)[0] == pytest.approx(0.5)


def test_the_mask_of_a_shape_measures_its_reference():
    labels = spine({T12: 24, L1: 12, L2: 28})
    surroundings = seen(labels, (L1,))
    means = {label: body.shape.values for label, body in surroundings.bodies.items()}
    means[L1] = 0.5 * (means[T12] + means[L2])
    basis = ShapeBasis(np.eye(3 * SHAPE_SIZE)[:, :1], np.ones(1))
    reference = ShapeBaseline(means, basis, 1.0).reference(surroundings)
    assert reference.heights_mm == pytest.approx([26.0] * 4)
    assert third_heights_mm(measure_body(own_body(reference.mask, L1))) == pytest.approx([26.0] * 4, abs=0.5)


def test_the_shipped_model_gives_average_neighbours_an_average_vertebra():
    shipped = load_baselines(Path(__file__).parents[1] / "weights" / "phantom_baselines.json")
    assert sorted(shipped.shape.means) == list(range(15, 25)) and not shipped.ratio.few_pairs()
    average = surroundings_of({label: shipped.shape.means[label] for label in (T12, L1, L2)}, L1)
    for baseline, share in ((shipped.shape, 1e-6), (shipped.ratio, 0.02)):
        assert baseline.reference(average).heights_mm == pytest.approx(average.own_heights_mm, rel=share)
