"""Metrics of predicted classes against true ones, with intervals from resampling patients.

A class counts in the macro means if it occurs in the truth or in the prediction, as scikit-learn has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.metrics import bootstrap_patients


@dataclass(frozen=True)
class Resampling:
    """How often patients are drawn for an interval, and the seed of the draws."""

    draws: int = 1000
    seed: int = 0


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the (classes, classes) counts: rows are the truth, columns the prediction."""
    flat = np.asarray(truth, int) * classes + np.asarray(predicted, int)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def _per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return correct, predicted and true counts of the classes that occur in truth or prediction."""
    predicted, true = matrix.sum(axis=0), matrix.sum(axis=1)
    occurs = predicted + true > 0
    return matrix.diagonal()[occurs], predicted[occurs], true[occurs]


def macro_precision(matrix: np.ndarray) -> float:
    """Mean precision over classes that occur in truth or prediction; 0 for one never predicted."""
    correct, predicted, _ = _per_class(matrix)
    return float(np.mean(correct / np.maximum(predicted, 1)))


def macro_recall(matrix: np.ndarray) -> float:
    """Mean recall over classes that occur in truth or prediction; 0 for one that is never true."""
    correct, _, true = _per_class(matrix)
    return float(np.mean(correct / np.maximum(true, 1)))


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over classes that occur in truth or prediction."""
    correct, predicted, true = _per_class(matrix)
    return float(np.mean(2 * correct / (predicted + true)))


def weighted_kappa(matrix: np.ndarray) -> float:
    """Cohen's kappa with linear weights: a grade off by two counts twice; NaN where all is one class."""
    order = np.arange(len(matrix))
    weights = np.abs(order[:, None] - order[None])
    expected = np.outer(matrix.sum(axis=1), matrix.sum(axis=0)) / matrix.sum()
    disagreement = float((weights * expected).sum())
    return 1.0 - float((weights * matrix).sum()) / disagreement if disagreement else float("nan")


DEFAULT_RESAMPLING = Resampling()
METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "macro_precision": macro_precision, "macro_recall": macro_recall, "macro_f1": macro_f1,
    "weighted_kappa": weighted_kappa,
}


def evaluate(truth: np.ndarray, predicted: np.ndarray, patients: Sequence[str], classes: int,
             resampling: Resampling = DEFAULT_RESAMPLING) -> dict[str, Any]:
    """Return counts, confusion matrix and metrics, each with its 95 % interval from resampling patients.

    What is undefined (an interval of one patient, kappa of one class) is None, ready for JSON.
    """
    matrix = confusion(truth, predicted, classes)
    metrics = {}
    for name, metric in METRICS.items():
        low, high = bootstrap_patients(
            lambda true, guess, metric=metric: metric(confusion(true, guess, classes)),
            [truth, predicted], patients, resamples=resampling.draws, seed=resampling.seed)
        metrics[name] = {"value": _or_none(metric(matrix)), "low": _or_none(low), "high": _or_none(high)}
    return {"vertebrae": len(truth), "patients": len(set(patients)), "metrics": metrics,
            "confusion": matrix.tolist()}


def _or_none(value: float) -> float | None:
    """Return a finite value, or None."""
    return float(value) if np.isfinite(value) else None
