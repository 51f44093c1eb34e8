"""The target's shape reconstructed from its neighbours' in a basis of shapes, by least squares.

After Sensale 2023, who gives L1 from T12 and L2 by plain SVD. Here shapes (`evaluation.baseline.body_shape`)
of all levels are pooled, each as its deviation from its level's mean. Three deviations, of the upper
neighbour, the target and the lower neighbour, are one vector x, and the N healthy triples of the fit are the
rows of
X / sqrt(N) = U S V^T.
With V_k the first k modes and V_known their rows for the neighbours that are there,

    a = argmin |V_known a - x_known|^2 + ridge * s_1^2 * sum_i (a_i / s_i)^2,    x_target = V_target a

so a mode is used the less, the less it varies. Modes and ridge are chosen by cross-validation over patients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from evaluation.baseline.body_shape import (
    BLOCK_STARTS,
    BLOCKS,
    SHAPE_SIZE,
    BodyShape,
    columns_of,
    shape_heights_mm,
    solid_columns,
)
from evaluation.baseline.reference import NO_NEIGHBOUR, Reference, restored_labels, undefined
from evaluation.baseline.surroundings import Surroundings, nearest_healthy
from util.errors import InputError
from util.vertebrae import label_name

# More modes change the error on the phantom by less than a hundredth, and the ridge tells the rest apart.
MODES = (1, 2, 3, 4, 6, 8, 12, 16)
RIDGES = (1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # of the first mode's variance
FOLDS = 5
LEAST_TRIPLES, LEAST_PATIENTS = 6, 3
PART = {place: slice((place + 1) * SHAPE_SIZE, (place + 2) * SHAPE_SIZE) for place in (-1, 0, 1)}  # of x


def block_scale(mean: np.ndarray) -> np.ndarray:
    """Return what a level's deviations are divided by, so that levels and blocks count alike: (SHAPE_SIZE,).

    Heights by their mean, walls by the mean depth, the width by itself; each times the root of the block's
    size, so that 120 heights weigh no more than one width.
    """
    heights, front, back, width = np.split(mean, BLOCK_STARTS)
    depth = float((front + back).mean())
    sizes = (float(heights.mean()), depth, depth, float(width[0]))
    return np.concatenate([np.full(count, size * np.sqrt(count))
                           for count, size in zip(BLOCKS, sizes, strict=True)])


@dataclass(frozen=True)
class ShapeBasis:
    """Modes of the stacked deviations, (3 * SHAPE_SIZE, K) orthonormal, and how each varies, (K,)."""

    modes: np.ndarray
    deviation: np.ndarray

    def first(self, count: int) -> "ShapeBasis":
        """Return the first modes alone."""
        return ShapeBasis(self.modes[:, :count], self.deviation[:count])

    def target(self, known: Mapping[int, np.ndarray], ridge: float) -> np.ndarray:
        """Return the target's deviation from its neighbours'.

        Args:
            known: (..., SHAPE_SIZE) by direction, -1 above and 1 below; one at least.
            ridge: above 0.

        Returns:
            (..., SHAPE_SIZE).
        """
        rows = np.concatenate([self.modes[PART[direction]] for direction in known])
        values = np.concatenate(list(known.values()), axis=-1)
        penalty = np.diag(ridge * (self.deviation[0] / self.deviation) ** 2)
        weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ values[..., None])[..., 0]
        return weights @ self.modes[PART[0]].T


@dataclass(frozen=True)
class ShapeBaseline:
    """The target's shape by least squares from those of its nearest healthy neighbours.

    Attributes:
        means: (SHAPE_SIZE,) mm by label.
        basis: the chosen modes.
        ridge: the chosen one.
    """

    means: dict[int, np.ndarray]
    basis: ShapeBasis
    ridge: float
    name: str = "shape"

    def reference(self, surroundings: Surroundings) -> Reference:
        """Return the reconstruction from the nearest healthy neighbours, one above and one below if any."""
        label = surroundings.label
        if label not in self.means:
            return undefined(f"no healthy {label_name(label)} in the fit")
        nearest = {direction: other for direction, (_, other) in nearest_healthy(surroundings).items()
                   if other in self.means}
        if not nearest:
            return undefined(NO_NEIGHBOUR)
        shapes = {direction: surroundings.bodies[other].shape for direction, other in nearest.items()}
        known = {direction: deviation(shapes[direction].values, self.means[other])
                 for direction, other in nearest.items()}
        mean = self.means[label]
        values = mean + block_scale(mean) * self.basis.target(known, self.ridge)
        mask = None if surroundings.labels is None else _restored(surroundings, values, list(shapes.values()))
        return Reference(shape_heights_mm(values), mask)

    def to_json(self) -> dict[str, Any]:
        """Return what is fitted as JSON."""
        return {"ridge": self.ridge, "deviation": self.basis.deviation.round(6).tolist(),
                "means": {label_name(label): mean.round(3).tolist() for label, mean in self.means.items()},
                "modes": self.basis.modes.T.round(5).tolist()}


def shape_from_json(content: dict[str, Any], labels: dict[str, int]) -> ShapeBaseline:
    """Undo `ShapeBaseline.to_json`; `labels` by name."""
    basis = ShapeBasis(np.array(content["modes"]).T, np.array(content["deviation"]))
    if basis.modes.shape != (3 * SHAPE_SIZE, len(basis.deviation)):
        raise ValueError(f"modes of shape {basis.modes.shape}")
    return ShapeBaseline({labels[name]: np.array(mean) for name, mean in content["means"].items()}, basis,
                         float(content["ridge"]))


def deviation(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the pooled deviation of shapes (..., SHAPE_SIZE) from their level's mean."""
    return (values - mean) / block_scale(mean)


def _restored(surroundings: Surroundings, values: np.ndarray, neighbours: list[BodyShape]) -> np.ndarray:
    """Return the labels with the reconstructed body, placed across as the neighbours on average are."""
    assert surroundings.labels is not None
    shape = BodyShape(values, np.mean([one.centre for one in neighbours], axis=0),
                      np.mean([one.middle_mm for one in neighbours], axis=0))
    body = solid_columns(*columns_of(shape, *surroundings.labels.shape[1:]))
    return restored_labels(surroundings.labels, surroundings.label, body)


def fit_shape(healthy: Sequence[Surroundings], patients: Sequence[str]) -> ShapeBaseline:
    """Fit level means on all healthy bodies, modes on the targets between two healthy neighbours.

    Args:
        healthy: surroundings of healthy targets that have heights of their own.
        patients: whose each is.

    Raises:
        InputError: there are fewer than 6 such triples, or fewer than 3 patients with one.
    """
    means = level_means(healthy, patients)
    found = [(triple, one.label, patient) for one, patient in zip(healthy, patients, strict=True)
             if (triple := _triple(one, means)) is not None]
    owners = np.array([patient for _, _, patient in found])
    if len(found) < LEAST_TRIPLES or len(set(owners)) < LEAST_PATIENTS:
        raise InputError(f"shape baseline: expected {LEAST_TRIPLES} healthy vertebrae between healthy "
                         f"neighbours, of {LEAST_PATIENTS} patients, found {len(found)} of "
                         f"{len(set(owners))}; fit on more cases, or take a fitted model by --model")
    triples = np.array([triple for triple, _, _ in found])
    target_means = np.array([means[label] for _, label, _ in found])
    count, ridge = choose_modes(triples, target_means, owners)
    return ShapeBaseline(means, shape_basis(triples, count), ridge)


def level_means(healthy: Sequence[Surroundings], patients: Sequence[str]) -> dict[int, np.ndarray]:
    """Return the mean shape (SHAPE_SIZE,) mm of each level, every patient's vertebra counting once."""
    once = {(patient, label): one.bodies[label].shape.values
            for one, patient in zip(healthy, patients, strict=True) for label in (*one.healthy, one.label)}
    levels = sorted({label for _, label in once})
    return {level: np.mean([values for (_, label), values in once.items() if label == level], axis=0)
            for level in levels}


def _triple(one: Surroundings, means: dict[int, np.ndarray]) -> np.ndarray | None:
    """Return the stacked deviations of upper neighbour, target and lower neighbour, if both are adjacent."""
    nearest = nearest_healthy(one)
    adjacent = [other for steps, other in nearest.values() if steps == 1]
    if len(adjacent) < 2:
        return None
    stack = (adjacent[0], one.label, adjacent[1])
    return np.concatenate([deviation(one.bodies[label].shape.values, means[label]) for label in stack])


def shape_basis(triples: np.ndarray, count: int) -> ShapeBasis:
    """Return the first modes of triples (N, 3 * SHAPE_SIZE), at most `count`, none that does not vary."""
    _, deviations, modes = np.linalg.svd(triples / np.sqrt(len(triples)), full_matrices=False)
    kept = min(count, int((deviations > 1e-6 * deviations[0]).sum()))
    return ShapeBasis(modes[:kept].T, deviations[:kept])


def choose_modes(triples: np.ndarray, target_means: np.ndarray, owners: np.ndarray) -> tuple[int, float]:
    """Return number of modes and ridge that leave the smallest relative height error on patients left out.

    Args:
        triples: (N, 3 * SHAPE_SIZE).
        target_means: (N, SHAPE_SIZE) mean shape of each target's level.
        owners: (N,) patient of each.
    """
    fold = np.unique(owners, return_inverse=True)[1] % min(FOLDS, len(set(owners)))
    scales = np.array([block_scale(mean) for mean in target_means])
    bases = [shape_basis(triples[fold != number], max(MODES)) for number in range(fold.max() + 1)]

    def error(count: int, ridge: float) -> float:
        return float(np.mean([_height_error(basis.first(count), ridge, triples[fold == number],
                                            target_means[fold == number], scales[fold == number])
                              for number, basis in enumerate(bases)]))

    return min(product(MODES, RIDGES), key=lambda setting: error(*setting))


def _height_error(basis: ShapeBasis, ridge: float, triples: np.ndarray, means: np.ndarray,
                  scales: np.ndarray) -> float:
    """Return the mean absolute relative height error, given both neighbours and given each alone."""
    true = shape_heights_mm(means + triples[:, PART[0]] * scales)
    sides = {direction: triples[:, PART[direction]] for direction in (-1, 1)}
    given = (sides, {-1: sides[-1]}, {1: sides[1]})
    drawn = [shape_heights_mm(means + basis.target(known, ridge) * scales) for known in given]
    return float(np.abs(np.array(drawn) / true - 1.0).mean())
