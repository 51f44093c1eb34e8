"""Intervals from resampling patients, for many measures at once.

Most measures are functions of sums over vertebrae. A patient's share in each sum is made once; a draw of
patients is then a row of counts, and all draws together are one matrix product. Draw for draw the result is
that of `evaluation.metrics.bootstrap_patients`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """Draws of patients, the same for every measure and method, so that differences are paired.

    Attributes:
        patients: their names, sorted.
        counts: (1 + draws, patients) how often each patient is in a draw; the first row is the sample itself.
    """

    patients: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, patients: Sequence[str], draws: int = 1000, seed: int = 0) -> "Sample":
        """Draw patients with replacement; of fewer than two there are no draws."""
        names = tuple(sorted(set(patients)))
        draws = draws if len(names) > 1 else 0
        chosen = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
        counts = np.ones((1 + draws, len(names)))
        for row, places in enumerate(chosen, 1):
            counts[row] = np.bincount(places, minlength=len(names))
        return cls(names, counts)

    def by_patient(self, table: "pd.DataFrame", terms: np.ndarray) -> np.ndarray:
        """Return each patient's sum of what the table's rows (N, k) add, (patients, k)."""
        owner = np.searchsorted(self.patients, table["patient"].to_numpy(str))
        sums = np.zeros((len(self.patients), terms.shape[1]))
        np.add.at(sums, owner, terms)
        return sums


Measure = Callable[["pd.DataFrame", Sample], np.ndarray]  # of rows: the value, then that of every draw


def from_sums(terms: Callable[["pd.DataFrame"], np.ndarray],
              finish: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """Return the measure that is a function of sums over rows.

    Args:
        terms: what each row of a table adds, (N, k).
        finish: the value of sums (draws, k): (draws,); NaN where undefined.
    """
    return lambda table, sample: finish(sample.counts @ sample.by_patient(table, terms(table)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def with_interval(values: np.ndarray) -> dict[str, float | None]:
    """Return a value and its 95 % percentile interval, None where undefined, ready for JSON.

    Args:
        values: (1 + draws,) as a measure returns them; undefined draws are left out.
    """
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(defined) else (np.nan, np.nan)
    return {"value": _or_none(values[0]), "low": _or_none(low), "high": _or_none(high)}


def _or_none(value: Any) -> float | None:
    """Return a finite number rounded to six digits, or None."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
