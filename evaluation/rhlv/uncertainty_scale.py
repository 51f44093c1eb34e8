"""The scale of a vertebra's residual, from how much its synthesis disagrees with itself.

    scale^2 = base^2 + (weight_1 disagreement_1)^2 + ...

Weights are never negative, so more disagreement never narrows an interval. They are fitted by the likelihood
of Laplace's distribution, in which a single wild residual weighs little, and taken only if they foretell the
residuals of other patients better than a constant does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DISAGREEMENTS = ("planes", "slices", "passes", "missing_neighbours")
LEAST_FITTED = 40          # vertebrae; with fewer, five parameters are not to be told from chance
LEAST_PATIENTS = 4
FOLDS = 5
SMALLEST = 1e-4            # of a scale: a hundredth of a per cent of the height
DECIMALS = 6


@dataclass(frozen=True)
class Scale:
    """Scale of a residual.

    Attributes:
        base: where nothing disagrees.
        weights: of the `DISAGREEMENTS`; all 0 for a constant scale.
        typical: medians of the disagreements, for a vertebra of which they are unknown.
    """

    base: float
    weights: tuple[float, ...]
    typical: tuple[float, ...]

    def of(self, disagreement: np.ndarray) -> np.ndarray:
        """Return the scale, (...), for disagreements (..., 4); unknown (NaN) ones count as typical."""
        known = np.where(np.isfinite(disagreement), disagreement, self.typical)
        return np.sqrt(self.base**2 + ((np.array(self.weights) * known)**2).sum(axis=-1))

    @property
    def is_constant(self) -> bool:
        """Whether disagreement plays no part."""
        return not any(self.weights)

    def content(self) -> dict[str, Any]:
        """Return the scale as JSON holds it."""
        return {"base": self.base, "weights": dict(zip(DISAGREEMENTS, self.weights, strict=True)),
                "typical": dict(zip(DISAGREEMENTS, self.typical, strict=True))}

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Scale":
        """Undo `content`."""
        weights, typical = (tuple(float(content[key][name]) for name in DISAGREEMENTS)
                            for key in ("weights", "typical"))
        return cls(float(content["base"]), weights, typical)


def fit_scale(size: np.ndarray, disagreement: np.ndarray,
              patients: Sequence[str]) -> tuple[Scale, np.ndarray]:
    """Fit the scale of residuals.

    Args:
        size: (N,) absolute residuals.
        disagreement: (N, 4), NaN where unknown.
        patients: (N,) who each belongs to.

    Returns:
        The scale for new vertebrae; and the scale (N,) of each of these, as fitted on other patients. A
        constant one where there are few, or where varying it is not better by more than chance (one standard
        error over patients).
    """
    typical = _typical(disagreement)
    known = np.where(np.isfinite(disagreement), disagreement, typical)
    constant = Scale(max(float(size.mean().round(DECIMALS)), SMALLEST), (0.0,) * len(DISAGREEMENTS), typical)
    alone = constant, np.full(len(size), constant.base)
    if len(size) < LEAST_FITTED or len(set(patients)) < LEAST_PATIENTS:
        return alone
    varying, same = _out_of_fold(size, known, patients)
    gain = _cost(same, size) - _cost(varying, size)
    of_patient = np.array([gain[[other == patient for other in patients]].mean()
                           for patient in dict.fromkeys(patients)])
    if of_patient.mean() <= of_patient.std(ddof=1) / np.sqrt(len(of_patient)):
        return alone
    base, *weights = np.sqrt(_fit(size, known)).round(DECIMALS).tolist()
    return Scale(max(base, SMALLEST), tuple(weights), typical), varying


def _typical(disagreement: np.ndarray) -> tuple[float, ...]:
    """Return the median of each column, 0 where nothing of it is known."""
    columns = (column[np.isfinite(column)] for column in disagreement.T)
    return tuple(float(np.median(column).round(DECIMALS)) if len(column) else 0.0 for column in columns)


def _cost(scale: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the negative logarithm of Laplace's likelihood, (N,), without its constant."""
    return np.log(scale) + size / scale


def _out_of_fold(size: np.ndarray, known: np.ndarray,
                 patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the varying and the constant scale, (N,) each, of vertebrae as fitted on other patients."""
    order = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
    fold = np.array([order[patient] % FOLDS for patient in patients])
    varying, same = np.empty(len(size)), np.empty(len(size))
    for number in np.unique(fold):
        held = fold == number
        varying[held] = np.sqrt(_variances(known[held]) @ _fit(size[~held], known[~held]))
        same[held] = size[~held].mean()
    return np.maximum(varying, SMALLEST), np.maximum(same, SMALLEST)


def _variances(known: np.ndarray) -> np.ndarray:
    """Return what the squared weights are multiplied with, (N, 5): one, and the squared disagreements."""
    return np.column_stack([np.ones(len(known)), known**2])


def _fit(size: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the squares of base and weights (5,) that make the absolute residuals (N,) likeliest."""
    from scipy.optimize import minimize

    terms = _variances(known)
    mean = terms.mean(axis=0)
    inverse = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)  # what is always 0 gets no weight
    unit = size.mean()**2 * inverse                                          # all others start alike
    terms = terms * unit
    least = (SMALLEST / max(size.mean(), SMALLEST))**2

    def cost(shares: np.ndarray) -> tuple[float, np.ndarray]:
        square = terms @ shares
        scale = np.sqrt(square)
        slope = 0.5 / square - 0.5 * size / (square * scale)
        return float(_cost(scale, size).mean()), terms.T @ slope / len(size)

    start = np.full(terms.shape[1], 1.0 / terms.shape[1])
    limits = [(least, None), *[(0.0, None)] * len(DISAGREEMENTS)]
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=limits).x
    return np.asarray(found * unit)
